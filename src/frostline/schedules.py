"""Freeze schedules by name or file, without composing an experiment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from frostline import project, schema
from frostline.core.freeze import curve
from frostline.core.rates import Curve
from frostline.errors import FrostlineError, allowed
from frostline.validate import validated


def load(schedule: str | Path | Mapping[str, Any] | schema.Freeze) -> schema.Freeze:
    """Return a schedule.

    Args:
        schedule: the name of a ready one, such as "gradual"; a YAML file; its groups and phases; or itself.

    Raises:
        FrostlineError: there is none of that name, or it is not a schedule; the sentence names the key.
    """
    if isinstance(schedule, schema.Freeze):
        return schedule
    if isinstance(schedule, Mapping):
        return validated(schema.Freeze, dict(schedule), "freeze")
    path = Path(schedule)
    if path.suffix not in (".yaml", ".yml"):
        path = _ready(str(schedule))
    return validated(schema.Freeze, read(path), str(schedule))


def load_rate(rate: Mapping[str, Any]) -> Curve:
    """Return the curve that `rate` describes, with the keys of a phase's `schedule`.

    Raises:
        FrostlineError: it describes none; the sentence names the key.
    """
    return curve(validated(schema.Rate, {"warmup": 0.0, "final": 0.0, **rate}, "rate"))


def read(path: Path) -> Any:
    """Return what a YAML file holds; a key that is given twice is refused.

    Raises:
        FrostlineError: the file can't be read, or isn't YAML.
    """
    import yaml

    try:
        return yaml.load(path.read_text(encoding="utf-8"), _unique_keys())  # a SafeLoader
    except FileNotFoundError:
        if path.stem in _names():
            hint = f"the ready schedule is called {path.stem!r}, without {path.suffix}"
        else:
            names = [near.name for near in path.parent.glob("*.y*ml")]
            hint = allowed(path.name, names) if names else "name another"
        raise FrostlineError(f"{path}: there is no such file; {hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise FrostlineError(f"{path}: can't be read ({reason}); name another file") from None
    except yaml.YAMLError as error:
        raise FrostlineError(f"{path}: {' '.join(str(error).split())}; mend it") from None


def _ready(name: str) -> Path:
    if name not in _names():
        raise FrostlineError(f"no freeze schedule {name!r}; {allowed(name, _names())}")
    return project.conf_dir() / "freeze" / f"{name}.yaml"


def _names() -> list[str]:
    """Of the ready schedules."""
    return [path.stem for path in (project.conf_dir() / "freeze").glob("*.yaml")]


def _unique_keys() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses what YAML forbids and PyYAML lets pass: the same key twice."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: set[Any] = set()
            for key, _ in node.value:
                name = self.construct_object(key, deep=True)
                if name in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{name} is given twice", key.start_mark
                    )
                seen.add(name)
            return super().construct_mapping(node, deep)

    return Loader
