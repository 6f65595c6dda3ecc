"""Where the data set of a finished run is now: paths in its config start at a folder that may have moved."""

from pathlib import Path

from frostline.base import project
from frostline.schema import Dataset

PATHS = ("root", "file", "path")
"""The keys of a data set that may be paths."""


def located(dataset: Dataset, run_folder: Path, home: Path | None = None) -> Dataset:
    """Return a run's data set with paths that are found from the current folder.

    Args:
        home: the folder that relative paths start at; None: the current one. If nothing is there, they start
            at the run's project.
    """
    homes = [home or Path.cwd(), project.find_root(run_folder)]
    found = {}
    for key in PATHS:
        path = getattr(dataset, key, None)
        if path and (homes[0] != Path.cwd() or not Path(path).expanduser().exists()):
            places = [folder / Path(path).expanduser() for folder in homes]
            found[key] = str(next((place for place in places if place.exists()), places[0]))
    return dataset.model_copy(update=found)
