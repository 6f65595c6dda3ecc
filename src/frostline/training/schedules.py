"""Loads freeze schedules by name or file, without composing an experiment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from frostline import schema
from frostline.base import project
from frostline.base.formats import read_yaml
from frostline.console.errors import FrostlineError, allowed
from frostline.freezing.curves import Curve, build_curve
from frostline.schema.validation import validated


def load(schedule: str | Path | Mapping[str, Any] | schema.Freeze) -> schema.Freeze:
    """Return a schedule.

    Args:
        schedule: the name of a ready-made schedule, such as "gradual"; a YAML file; its groups and phases; or
            a schedule.

    Raises:
        FrostlineError: it does not exist or is invalid; the message names the key.
    """
    if isinstance(schedule, schema.Freeze):
        return schedule
    if isinstance(schedule, Mapping):
        return validated(schema.Freeze, dict(schedule), "freeze")
    path = Path(schedule)
    if path.suffix not in (".yaml", ".yml"):
        path = _ready(str(schedule))
    return validated(schema.Freeze, _read(path), str(schedule))


def load_lr_schedule(given: Mapping[str, Any]) -> Curve:
    """Return the curve that the argument `lr_schedule` describes, with the keys of a phase's `schedule`.

    Raises:
        FrostlineError: it is invalid; the message names the key.
    """
    return build_curve(validated(schema.Rate, {"warmup": 0.0, "final": 0.0, **given}, "lr_schedule"))


def _read(path: Path) -> Any:
    """Return the content of a file; the error for a missing one suggests a name."""
    if path.exists():
        return read_yaml(path)
    if path.stem in _names():
        hint = f"the ready schedule is called {path.stem!r}, without {path.suffix}"
    else:
        names = [near.name for near in path.parent.glob("*.y*ml")]
        hint = allowed(path.name, names) if names else "name another"
    raise FrostlineError(f"{path}: there is no such file; {hint}")


def _ready(name: str) -> Path:
    if name not in _names():
        raise FrostlineError(f"no freeze schedule {name!r}; {allowed(name, _names())}")
    return project.conf_files("freeze")[name]


def _names() -> list[str]:
    """Return the names of the ready-made schedules."""
    return list(project.conf_files("freeze"))
