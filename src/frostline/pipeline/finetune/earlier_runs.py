"""Keep the results of an arm's runs: if seeds or folds are added, only the added runs train.

DVC removes a stage's outputs before it runs the stage.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

from frostline.base import project
from frostline.base.hashes import content_key
from frostline.schema import Run
from frostline.training.inputs import TrainingInputs
from frostline.training.run import remove_checkpoints, restore_results, run_key
from frostline.training.services import Services


class EarlierRuns:
    """The results of a stage's last execution, one folder per run.

    The files are hard links to the stage's outputs and need no further space while those exist. In DVC's
    temporary copies of a project, no results are stored.

    Args:
        out: the folder of the stage's outputs.
        services: the results are stored in their scratch folder.
    """

    def __init__(self, out: Path, services: Services) -> None:
        self._folder = services.scratch / "earlier-runs" / content_key(str(out.resolve()))[:16]
        self._services = services
        self._is_temporary = project.find_root() != project.home()

    def restore(self, runs: Iterable[Run], inputs: TrainingInputs) -> None:
        """Reuse the stored results of these runs, which are then not trained again.

        If the stored runs are exactly these, delete them: DVC repeats the stage although no run was added, so
        a dependency has changed or `--force` asks for new training.
        """
        keys = {run_key(run, inputs): run for run in runs}
        stored = {path.name: path for path in self._folder.glob("*/")}
        if keys.keys() == stored.keys():
            shutil.rmtree(self._folder, ignore_errors=True)
            return
        for key in keys.keys() & stored.keys():
            restore_results(keys[key], inputs, self._services, stored[key])

    def store(self, runs: Iterable[Run], inputs: TrainingInputs) -> None:
        """Store the results of these runs, and no others; remove the runs' checkpoints."""
        shutil.rmtree(self._folder, ignore_errors=True)
        for run in runs:
            folder = None if self._is_temporary else self._folder / run_key(run, inputs)
            remove_checkpoints(run, inputs, self._services, folder)
