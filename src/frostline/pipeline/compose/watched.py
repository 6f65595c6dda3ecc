"""Paths that a study's data sets read beside those in params.yaml, and whether DVC watches them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from frostline import schema
from frostline.base import project
from frostline.base.formats import read_yaml
from frostline.console.errors import FrostlineError
from frostline.data.reading.tables import root_of
from frostline.data.reading.test_sets import further_tests

PARAMS = "params.yaml"
WATCHED = "data"
"""The key of params.yaml that is no choice of conf/: the paths that DVC watches, as dvc.yaml reads them."""
PACKAGES = ("requirements.lock", f"{project.LOCK}/packages")
"""The paths that DVC watches for data and weights that come with packages: in a clone, in other projects."""
WATCHES = {
    "source": ("source.file", "source.path", "source.root"),
    "target": ("dataset.file", "dataset.path", "dataset.root"),
    "weights": ("weights.path",),
}
"""Key below `data` → the keys of an experiment that may have the path; the first that exists has it."""
PIPELINE, STAGE = "dvc.yaml", "prepare"


def check_watched(dataset: schema.Dataset, data: Mapping[str, Any], root: Path) -> None:
    """Refuse a table whose images DVC does not watch, and such a further test set.

    Args:
        data: the paths that params.yaml lets DVC watch.
        root: the folder of dvc.yaml; without one, nothing is refused.

    Raises:
        FrostlineError: names the path, and the line that dvc.yaml lacks.
    """
    if not (root / PIPELINE).is_file():
        return
    stages = (read_yaml(root / PIPELINE) or {}).get("stages") or {}
    watched = [absolute(path) for path in (*map(str, data.values()), *_texts(stages.get(STAGE)))]
    for key, path in _read(dataset):
        if not any(_covers(place, path) for place in watched):
            raise FrostlineError(
                f"{key}: found {path}, which DVC does not watch, so that it would miss changes; add the "
                f"line `- {path}` to the deps of {STAGE} in {PIPELINE}"
            )


def _read(dataset: schema.Dataset) -> Iterator[tuple[str, str]]:
    """Yield the key and the path of each test set, and of the folders of tables' images."""
    if isinstance(dataset, schema.Table):
        yield "dataset.root", str(root_of(dataset))
    for name, test in further_tests(dataset).items():
        key = f"dataset.test_sets.{name}"
        yield f"{key}.{test.location}", getattr(test, test.location)
        if isinstance(test, schema.Table):
            yield f"{key}.root", str(root_of(test))


def _covers(place: Path, path: str) -> bool:
    """Return whether watching `place` watches `path`, or a folder in it, where a table's images may be."""
    read = absolute(path)
    return read.is_relative_to(place) or (place.is_dir() and place.is_relative_to(read))


def _texts(content: Any) -> Iterator[str]:
    """Yield the texts in nested content but for those that DVC fills in."""
    if isinstance(content, str):
        if "${" not in content:
            yield content
    elif isinstance(content, Mapping):
        for value in content.values():
            yield from _texts(value)
    elif isinstance(content, list):
        for value in content:
            yield from _texts(value)


def absolute(path: str) -> Path:
    """Return the absolute path that a config's path means, links resolved."""
    return Path(path).expanduser().resolve()
