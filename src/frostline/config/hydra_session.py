"""Guarded use of Hydra on `conf/`: what configs and overrides may set, and its exceptions as sentences."""

import copy
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigIndexError,
    ConfigTypeError,
    InterpolationKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from frostline.base import project
from frostline.base.formats import yaml_error
from frostline.base.hashes import identity
from frostline.base.yaml_guard import NODES, REFERENCE, check_calls, read_checked
from frostline.config import conf_files, hints, resolvers
from frostline.config.open_keys import check_hydra, check_override, not_open, short
from frostline.config.overrides import FREE_KEYS, from_hydra, options
from frostline.console.errors import FrostlineError, allowed
from frostline.schema import Phase, Plateau, Rate
from frostline.schema.validation import unknown_key

# conf/hydra/launcher/ reuses names of plug-ins, whose stored configs Hydra takes for schemas.
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")

resolvers.register()

OVERRIDE_LENGTH = 20_000
PLAIN_WORD = re.compile(r"[\w./ -]*", re.ASCII)
"""A word of a list that needs no quotes in an override."""
OPTIONAL_KEYS = frozenset(
    name
    for model in (Phase, Plateau, Rate)
    for name, field in model.model_fields.items()
    if not field.is_required()
)
"""Keys of a schedule that may be absent from conf/."""


@contextmanager
def session() -> Iterator[None]:
    """Initialize Hydra on the project's configs and frostline's during the block; may be nested."""
    singleton = GlobalHydra.instance()
    before = singleton.hydra
    singleton.clear()
    try:
        *own, packaged = project.conf_dirs()
        with initialize_config_dir(str(packaged), version_base="1.3", job_name="frostline"):
            repository: Any = _loader().repository
            repository.sources = [
                *(_CheckedFiles("project", f"file://{folder}") for folder in own),
                *(
                    _CheckedFiles(source.provider, source.path) if source.scheme() == "file" else source
                    for source in repository.sources
                ),
            ]
            yield
    finally:
        GlobalHydra.instance().hydra = before


_loaded: dict[tuple[str, str, tuple[int, ...]], ConfigResult] = {}
"""The files that this process has parsed, which takes a fifth of a composition."""


class _CheckedFiles(FileConfigSource):
    """Hydra's config source for a folder, which checks each file before loading it."""

    def load_config(self, config_path: str) -> ConfigResult:
        path = Path(os.path.realpath(Path(self.path) / self._normalize_file_name(config_path)))
        if not path.exists():
            return super().load_config(config_path)
        known = self.path, config_path, identity(path)
        if known not in _loaded:
            conf_files.check_text(path, read_checked(path))
            result = super().load_config(config_path)
            conf_files.check_loaded(path, config_path, result)
            config = result.config
            if isinstance(config, DictConfig) and OmegaConf.select(config, "hydra.searchpath") is not None:
                raise not_open("hydra.searchpath", f"{path}: ")
            _loaded[known] = result
        return copy.deepcopy(_loaded[known])  # Hydra changes it


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """Parse overrides in Hydra's syntax.

    Raises:
        FrostlineError: one can't be parsed, or sets a key of Hydra that is not open to overrides.
    """
    loader = _loader() if GlobalHydra.instance().hydra else None
    parser = OverridesParser.create(loader)
    parsed = []
    for text in overrides:
        if len(text) > OVERRIDE_LENGTH:
            raise FrostlineError(
                f"{short(text)}: {len(text)} characters, an override takes {OVERRIDE_LENGTH}; use a file"
                " in conf/"
            )
        check_calls(text, from_hydra(text.partition("=")[0].lstrip("+~")))
        try:
            (override,) = parser.parse_overrides([text])
            override.value()
        except Exception as error:
            # The parser and its functions raise exceptions of any class.
            raise FrostlineError(_parse_error(text, error)) from None
        check_override(override)
        parsed.append(override)
    return parsed


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """Compose `overrides` in Hydra's syntax, within a `session`; the result contains Hydra's own part.

    Raises:
        FrostlineError: they don't compose, or set a key of Hydra that is not open.
    """
    parse_overrides(overrides)
    with readable_errors(overrides):
        try:
            config = hydra_compose("config", [*overrides], return_hydra_config=True)
        except (HydraException, OmegaConfBaseException, yaml.YAMLError, FrostlineError):
            raise
        except (ValueError, TypeError, LookupError, AttributeError, AssertionError, RecursionError) as error:
            # Hydra does not check all that it assumes about keys and options.
            if isinstance(error, ValueError) and (key := _key_of_list(str(error), overrides)):
                raise FrostlineError(f"{key}: found keys where a list is; give it as [a,b]") from None
            raise FrostlineError(
                f"conf/ and {' '.join(map(short, overrides)) or 'no overrides'} don't compose"
                f" ({short(str(error)) or type(error).__name__}); undo the last change"
            ) from None
        check_hydra(config)
    return config


def check_expansion(data: Any) -> None:
    """Raise an error for interpolations that are circular or expand to too many values.

    Args:
        data: plain data with unresolved interpolations.
    """
    known: dict[str, int] = {}

    def of_text(text: str, path: list[str]) -> int:
        size = 1 + len(text) // 100
        while bodies := REFERENCE.findall(text):
            for body in bodies:
                if ":" not in body:
                    size += of_reference(body.strip(), path)
            text = REFERENCE.sub("", text)
        return size

    def of_reference(name: str, path: list[str]) -> int:
        steps = [step for step in re.split(r"[.\[\]]", name.lstrip(".")) if step]
        above = len(name) - len(name.lstrip("."))
        target = [*(path[:-above] if above else []), *steps]
        value = data
        for step in target:
            if isinstance(value, Mapping):
                value = next((inner for key, inner in value.items() if str(key) == step), None)
            elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
                value = value[int(step)]
            else:
                return 1
        return of_value(value, target)

    def of_value(value: Any, path: list[str]) -> int:
        key = ".".join(path)
        if key in known:
            if known[key] < 0:
                raise FrostlineError(f"{key}: refers to itself; give it a value")
            return known[key]
        known[key] = -1
        size = 1
        if isinstance(value, Mapping):
            size += sum(of_value(inner, [*path, str(name)]) for name, inner in value.items())
        elif isinstance(value, list):
            size += sum(of_value(inner, [*path, str(place)]) for place, inner in enumerate(value))
        elif isinstance(value, str):
            size = of_text(value, path)
        if size > NODES:
            raise FrostlineError(
                f"{key or 'config'}: expands to more than {NODES:,} values; refer to fewer keys"
            )
        known[key] = size
        return size

    of_value(data, [])


@contextmanager
def readable_errors(overrides: Sequence[str]) -> Iterator[None]:
    """Convert exceptions of Hydra, OmegaConf and YAML into sentences; `overrides` are being composed."""
    try:
        yield
    except MissingConfigException as error:
        group, _, option = (error.missing_cfg_file or "").rpartition("/")
        known = [str(known) for known in error.options or []]
        raise FrostlineError(f"{group or 'config'}: no option {option!r}; {allowed(option, known)}") from None
    except MissingMandatoryValue as error:
        raise FrostlineError(f"{error.full_key}: needs a value; add {error.full_key}=…") from None
    except OverrideParseException as error:
        raise FrostlineError(_parse_error(str(error.override), error)) from None
    except InterpolationKeyError as error:
        missing = re.search(r"key '(.*)' not found", str(error))
        refers = f"refers to {missing[1]}, which" if missing else "refers to a key that"
        raise FrostlineError(f"{error.full_key}: {refers} is not in the config; name another key") from None
    except (HydraException, OmegaConfBaseException) as error:
        raise FrostlineError(_composition_error(error, overrides)) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise FrostlineError(yaml_error(error, mark.name if mark else "config")) from None


def _loader() -> Any:
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    return hydra.config_loader


# ── exceptions as sentences ─────────────────────────────────────────────────────────────────────────────────


def _with_quotes(text: str) -> str | None:
    """Return an override with the quotes that words of its list need in Hydra; None: it needs none."""
    key, equals, value = text.partition("=")
    if not equals or not (value.startswith("[") and value.endswith("]")) or re.search("['\"{}]", value):
        return None
    words = [word.strip() for word in value[1:-1].split(",")]
    quoted = [word if PLAIN_WORD.fullmatch(word) else f"'{word}'" for word in words]
    return f"{key}=[{','.join(quoted)}]" if all(words) and quoted != words else None


def _parse_error(text: str, error: Exception) -> str:
    if isinstance(error, RecursionError):
        return f"{short(text)}: nested too deeply; write it flatter"
    if quoted := _with_quotes(text):
        return f'{short(text)}: words of this list need quotes; write "{quoted}"'
    reason = re.search(r"Error while evaluating '[^\n]*?': (?:\w+: )?([^\n]*)", str(error))
    why = f" ({short(reason[1])})" if reason else ""
    return f"{short(text)!r} is not an override{why}; write key=value, such as seed=1"


def _composition_error(error: Exception, overrides: Sequence[str]) -> str:
    """Return a sentence for a failed composition."""
    text = str(error)
    if match := re.search(r"Ambiguous value for argument '(.*?)=(.*)'", text):
        key = from_hydra(match[1])
        return (
            f"{key}: found several values, {match[2]}; to run each, add -m (finetune and pretrain have it);"
            f" a list is written [{match[2]}]"
        )
    if match := re.match(r"Sweep parameters '(.*?)=.* requires --multirun", text):
        return f"{from_hydra(match[1])}: found several values; add -m to run each"
    if match := re.match(r"(\S+) appears more than once", text):
        return f"{from_hydra(match[1])}: already chosen; remove the plus"
    if match := re.match(r"Could not append to config\. An item is already at '(.*?)'", text):
        return f"{from_hydra(match[1])}: already in the config; remove the plus"
    if match := re.match(r"Could not (?:override|append|delete).*?'([^']+)'", text):
        inner = re.search(r"full_key: (\S+)", str(error.__cause__))
        key = re.sub(r"\[(\d+)\]", r".\1", from_hydra(inner[1] if inner else match[1]))
        if hint := hints.of_key(key, overrides):
            return hint
        *_, above, last = ["", *key.split(".")]
        if above in FREE_KEYS or last in OPTIONAL_KEYS:
            return f"{key}: not in the config yet; add it with a plus, +{key}=…"
        return unknown_key(key, key, _known_keys(key, overrides))
    if match := re.match(r"Error merging override \+{0,2}(.*?)=", text):
        return _merge_error(match[1], error.__cause__)
    if sentence := conf_files.defaults_error(text):
        return sentence
    if not text.strip():
        return _of_cause(error.__cause__)
    return re.sub(r"\s+", " ", text).strip()


def _of_cause(cause: BaseException | None) -> str:
    """Return a sentence for an error without a text of its own, such as an interpolation without an end."""
    reason, *_ = [*str(cause).splitlines(), ""]
    key = re.search(r"full_key: (\S+)", str(cause))
    return f"{key[1] if key else 'conf/'}: does not compose ({short(reason)}); undo the last change"


def _key_of_list(sentence: str, overrides: Sequence[str]) -> str | None:
    """Return the key of the list for which an override gives a key in place of a number, as `seeds.a=1`."""
    wrong = re.match(r"invalid literal for int\(\) with base 10: '(.*)'$", sentence)
    keys = (from_hydra(override).partition("=")[0].lstrip("+~") for override in overrides)
    return next((key.rpartition(".")[0] for key in keys if wrong and key.endswith(f".{wrong[1]}")), None)


def _merge_error(key: str, cause: BaseException | None) -> str:
    """Return a sentence for an override that does not match the config: a list for keys, a missing item."""
    (reason, *_) = [*str(cause).splitlines(), ""]
    fix = "give the form that frostline finetune --cfg job shows"
    if isinstance(cause, ConfigTypeError) and "DictConfig with ListConfig" in reason:
        return f"{from_hydra(key)}: found a list where keys with values are; give it as {{KEY: VALUE, …}}"
    if isinstance(cause, ConfigIndexError):
        return f"{from_hydra(key)}: the list has no such item; give the whole list"
    return f"{from_hydra(key)}: does not fit the rest of the config ({short(reason)}); {fix}"


def _known_keys(key: str, overrides: Sequence[str]) -> list[str]:
    """Return the keys of the deepest existing level on the path of `key`, under the chosen options."""
    choices = [o for o in overrides if options(from_hydra(o).partition("=")[0].rpartition(".")[2])]
    compose: Callable[..., DictConfig] = hydra_compose
    try:
        config: Any = compose("config", choices)
    except Exception:  # the choices may be invalid
        config = compose("config")
    path: list[str] = []
    for part in key.split(".")[:-1]:
        inner = (
            OmegaConf.select(config, part, throw_on_missing=False) if isinstance(config, DictConfig) else None
        )
        if not isinstance(inner, DictConfig):
            break
        config, path = inner, [*path, part]
    return [".".join([*path, str(name)]) for name in config]
