"""Checks of untrusted YAML before it is loaded: size, depth, tags and interpolations."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from frostline.console.errors import FrostlineError

BYTES = 1 << 20
"""The largest YAML file that is read; configs are a hundredth of it."""
NODES = 20_000
"""The most values that a file may expand to, with aliases expanded."""
DEPTH = 40
"""The most levels of nested lists and mappings."""
DIGITS = 1000
"""The longest number; Python refuses to read those of more than 4,300 digits."""
RESOLVERS = frozenset({"fitting_threads", "fitting_monitor"})
"""Allowed resolvers ``${name:…}``; OmegaConf's own read the environment or create configs from text."""
_CALL = re.compile(r"\$\{\s*([^\s{}$:']*)\s*:")
REFERENCE = re.compile(r"\$\{([^{}]*)\}")
"""An interpolation that contains no other one."""
_OTHER_BASE = re.compile(r"[-+]?(0[0-7_]+|[1-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
"""Text that YAML 1.1 reads as an octal number (010: 8) or in the base 60 (1:30: 90), but DVC does not."""
_NUMBER = re.compile(r"[-+]?(0x[0-9a-fA-F_]+|(0[bo])?[0-9._:]+)")


def read_checked(path: Path) -> str:
    """Return the text of the YAML file at `path`, after `check`.

    Raises:
        FrostlineError: it can't be read, is too large, or fails the check.
    """
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise FrostlineError(f"{path} is not a regular file; name a YAML file")
        with path.open("rb") as stream:
            content = stream.read(BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, FrostlineError):
            raise
        reason = getattr(error, "strerror", None) or "not a path"
        raise FrostlineError(f"{path} can't be read ({reason}); name another file") from None
    if len(content) > BYTES:
        raise FrostlineError(f"{path}: larger than {BYTES >> 20} MiB, which no config is; name another file")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise FrostlineError(f"{path} can't be read (not UTF-8); name another file") from None
    check(text, str(path))
    return text


def check(text: str, name: str) -> None:
    """Raise an error for YAML that takes long to load or is more than plain data.

    Args:
        text: the file's content.
    """
    import yaml

    sizes: dict[str, int] = {}  # anchor → number of values, with aliases expanded
    open_anchors: list[tuple[str | None, int]] = []
    count = 0
    try:
        for event in _events(text):
            line = f"{name}: line {event.start_mark.line + 1}"
            if isinstance(event, yaml.AliasEvent):
                if any(anchor == event.anchor for anchor, _ in open_anchors):
                    raise FrostlineError(
                        f"{line}: *{event.anchor} refers to the value that it is part of; write it out"
                    )
                count += sizes.get(str(event.anchor), 1)
            elif isinstance(event, yaml.NodeEvent):
                count += 1
                _check_node(event, line)
                if isinstance(event, yaml.ScalarEvent):
                    sizes |= {event.anchor: 1} if event.anchor else {}
                else:
                    open_anchors.append((event.anchor, count))
                    if len(open_anchors) > DEPTH:
                        raise FrostlineError(f"{line}: more than {DEPTH} levels deep; write it flatter")
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, before = open_anchors.pop()
                sizes |= {anchor: count - before + 1} if anchor else {}
            if count > NODES:
                raise FrostlineError(f"{line}: expands to more than {NODES:,} values; make it smaller")
    except yaml.YAMLError:
        return


def check_calls(text: str, where: str) -> None:
    """Raise an error for interpolations such as ``${oc.env:NAME}``, which would leak secrets into records."""
    names = [match[1] for match in _CALL.finditer(text)]
    while "${" in text:  # names that are interpolations, ${${a}:b}
        names += [body.partition(":")[0].strip() for body in REFERENCE.findall(text) if ":" in body]
        before, text = text, REFERENCE.sub("…", text)
        if text == before:
            break
    for name in names:
        if name not in RESOLVERS:
            name = name[:40] or "…"
            raise FrostlineError(
                f"{where}: ${{{name}:…}} is not available in configs; write the value itself, or refer to"
                " another key as ${key}"
            )


def _check_node(event: Any, line: str) -> None:
    """Raise an error for tags and for numbers too long to read; untagged nodes have an implicit flag set."""
    import yaml

    implicit = event.implicit
    if event.tag is not None and not (any(implicit) if isinstance(implicit, tuple) else implicit):
        tag = event.tag.replace("tag:yaml.org,2002:", "!!")[:60]
        raise FrostlineError(f"{line}: found the tag {tag}; configs are plain data, so remove it")
    if not isinstance(event, yaml.ScalarEvent):
        return
    if len(event.value) > DIGITS and _NUMBER.fullmatch(event.value):
        raise FrostlineError(f"{line}: found a number of {len(event.value)} characters; give a shorter one")
    if implicit[0] and _OTHER_BASE.fullmatch(event.value):  # unquoted
        raise FrostlineError(
            f"{line}: found {event.value}, which YAML reads as an octal number or in the base 60; write a"
            " decimal number, or text in quotes"
        )
    check_calls(event.value, line)


def _events(text: str) -> Iterator[Any]:
    """Return PyYAML's events, from libyaml if available: the pure-Python parser takes 40 times as long."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return iter(yaml.parse(text, Loader=loader))
