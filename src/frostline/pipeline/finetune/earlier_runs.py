"""Copies of an arm's runs from the last execution of its stage: of more folds or seeds, only new runs train.

DVC removes a stage's outputs before it runs the stage.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

from frostline.base import project
from frostline.base.hashes import content_key
from frostline.schema import Run
from frostline.training.material import Material
from frostline.training.run import forget, recall, scratch_key
from frostline.training.services import Services


class EarlierRuns:
    """The results of a stage's last execution, one folder per run.

    The files are hard links to the stage's outputs and need no further space while those exist. In DVC's
    temporary copies of a project, no results are stored.

    Args:
        out: the folder of the stage's outputs.
        services: their scratch folder has the results.
    """

    def __init__(self, out: Path, services: Services) -> None:
        self._folder = services.scratch / "earlier-runs" / content_key(str(out.resolve()))[:16]
        self._services = services
        self._is_temporary = project.find_root() != project.home()

    def recall(self, runs: Iterable[Run], material: Material) -> None:
        """Reuse the stored results of these runs, which are then not trained again.

        If the stored runs are exactly these, they are deleted: the stage was forced to train anew.
        """
        keys = {scratch_key(run, material): run for run in runs}
        stored = {path.name: path for path in self._folder.glob("*/")}
        if keys.keys() == stored.keys():
            shutil.rmtree(self._folder, ignore_errors=True)
            return
        for key in keys.keys() & stored.keys():
            recall(keys[key], material, self._services, stored[key])

    def store(self, runs: Iterable[Run], material: Material) -> None:
        """Store the results of these runs, and no others; remove the runs' checkpoints."""
        shutil.rmtree(self._folder, ignore_errors=True)
        for run in runs:
            folder = None if self._is_temporary else self._folder / scratch_key(run, material)
            forget(run, material, self._services, folder)
