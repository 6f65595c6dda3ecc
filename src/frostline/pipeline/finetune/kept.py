"""Results of an arm's runs that are kept for its stage: with more folds or seeds, only the new ones train.

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


class KeptRuns:
    """The results that the last execution of a stage kept, one folder per run.

    The files are hard links to the stage's outputs and need no further space while those exist. In DVC's
    temporary copies of a project, nothing is kept.

    Args:
        out: the folder of the stage's outputs.
        services: their scratch folder has the results.
    """

    def __init__(self, out: Path, services: Services) -> None:
        self._folder = services.scratch / "kept" / content_key(str(out.resolve()))[:16]
        self._services = services
        self._is_temporary = project.find_root() != project.home()

    def recall(self, runs: Iterable[Run], material: Material) -> None:
        """Let the runs that are kept not be trained again.

        If these are all the runs that are kept, they are forgotten: the stage was forced to train anew.
        """
        keys = {scratch_key(run, material): run for run in runs}
        kept = {path.name: path for path in self._folder.glob("*/")}
        if keys.keys() == kept.keys():
            shutil.rmtree(self._folder, ignore_errors=True)
            return
        for key in keys.keys() & kept.keys():
            recall(keys[key], material, self._services, kept[key])

    def keep(self, runs: Iterable[Run], material: Material) -> None:
        """Keep the results of these runs, and no others; remove the runs' checkpoints."""
        shutil.rmtree(self._folder, ignore_errors=True)
        for run in runs:
            folder = None if self._is_temporary else self._folder / scratch_key(run, material)
            forget(run, material, self._services, folder)
