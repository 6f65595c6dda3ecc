"""In which file of a study the key of an error is: params.yaml, the experiment, or an option of conf/."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from frostline.base import project
from frostline.base.formats import read_yaml
from frostline.config.overrides import PRETRAIN_GROUPS
from frostline.console.errors import FrostlineError
from frostline.pipeline.compose.watched import PACKAGES, PARAMS, WATCHED, WATCHES


@contextmanager
def located(
    params: Mapping[str, Any], choices: Mapping[str, str], stage: str = "", arm: str = ""
) -> Iterator[None]:
    """Prefix errors of the block with the file of a study that their key is in, and the arm.

    Args:
        params: the content of params.yaml.
        choices: the option chosen in each group; empty: nothing is composed yet.
        stage: pretrain: keys of the run are below the key pretrain.
    """
    try:
        yield
    except FrostlineError as error:
        text = str(error)
        key = match[1] if (match := re.match(r"([A-Za-z_][\w.@/-]*): ", text)) else ""
        if not key or key.endswith((".yaml", ".yml")):
            raise
        text = _for_study(text, params)
        parts = key.split(".")
        if stage == "pretrain" and parts[0] in PRETRAIN_GROUPS:
            parts, text = ["pretrain", *parts], f"pretrain.{text}"
        for name, read in WATCHES.items():
            watched = params[WATCHED][name] if _has_value(params, [WATCHED, name]) else PACKAGES[0]
            is_unknown = text.startswith(f"{key}: unknown key")  # so the path below `data` is not at fault
            if key in read and watched not in PACKAGES and not is_unknown:
                parts, text = [WATCHED, name], f"{WATCHED}.{name}{text.removeprefix(key)}"
        about = f"arm {arm}: " if arm else ""
        raise FrostlineError(f"{_file_of(parts, params, choices)}: {about}{text}") from None


def _for_study(sentence: str, params: Mapping[str, Any]) -> str:
    """Reword the fix of an error that is written for the command line."""
    if missing := re.fullmatch(r"(\S+): needs a value; add \1=…", sentence):
        group, _, name = missing[1].rpartition(".")
        experiment = _experiment_file(params, {})
        return (
            f"{missing[1]}: needs a value; add `{group}: {{{name}: …}}` to conf/experiment/"
            f"{experiment.name if experiment else 'NAME.yaml, an experiment'}"
        )
    several = r"to run several, add -m and write (\S+)$"
    return re.sub(several, r"to run several, dvc exp run --queue -S '\1', then dvc queue start", sentence)


def _experiment_file(params: Mapping[str, Any], choices: Mapping[str, str]) -> Path | None:
    """Return the file of the experiment that a selection names; None: it names none."""
    return project.conf_files("experiment").get(str(params.get("experiment") or choices.get("experiment")))


def _file_of(key: Sequence[str], params: Mapping[str, Any], choices: Mapping[str, str]) -> str:
    """Return the file that gives a key its value, as far as that can be told from outside Hydra."""
    if _has_value(params, key) and not (key[0] == "freeze" and len(key) > 1):
        return PARAMS
    experiment = _experiment_file(params, choices)
    content = read_yaml(experiment) if experiment else None
    if experiment and (_has_value(content, key) or _chooses(content, key)):
        return f"conf/experiment/{experiment.name}"
    package = key[:2] if key[0] == "pretrain" else key[:1]
    group = "dataset" if package == ["source"] else package[-1]
    option = choices.get(group if list(package) == [group] else f"{group}@{'.'.join(package)}")
    if not choices and list(package) == [group]:  # nothing is composed yet
        option = params[group] if isinstance(params.get(group), str) else None
    return f"conf/{group}/{option}.yaml" if option else "conf/config.yaml"


def _chooses(content: Any, key: Sequence[str]) -> bool:
    """Return whether the defaults list of an experiment chooses the option of a group."""
    defaults = content.get("defaults") or [] if isinstance(content, Mapping) else []
    names = {name for item in defaults if isinstance(item, Mapping) for name in map(str, item)}
    return f"override /{key[0]}" in names and len(key) == 1


def _has_value(content: Any, key: Sequence[str]) -> bool:
    """Return whether nested content has a value for `key`."""
    if not key:
        is_group = isinstance(content, Mapping) and len(content) > 0
        return any(_has_value(value, []) for value in content.values()) if is_group else content is not None
    if isinstance(content, list):
        return key[0].isdigit() and int(key[0]) < len(content) and _has_value(content[int(key[0])], key[1:])
    if not isinstance(content, Mapping):
        return False
    # A name, such as that of a metric, may contain dots.
    heads = ((".".join(key[:count]), key[count:]) for count in range(1, len(key) + 1))
    return any(head in content and _has_value(content[head], rest) for head, rest in heads)
