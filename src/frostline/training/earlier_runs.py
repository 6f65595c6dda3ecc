"""Where checkpoints and finished runs are in the scratch folder, so that no run is trained twice."""

import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from frostline.base import project
from frostline.base.code import code_versions
from frostline.base.files import is_intact
from frostline.base.hashes import content_key
from frostline.base.locks import exclusive
from frostline.base.processes import forced_by_dvc
from frostline.base.run_folder import WEIGHTS
from frostline.schema import Run
from frostline.training.inputs import TrainingInputs
from frostline.training.services import Services

DONE = "done"
"""Subfolder of the checkpoint folder. It holds a finished run's files until `EarlierRuns.store`."""


def run_key(run: Run, inputs: TrainingInputs) -> str:
    """Return the hash of config, data, weights and code: all that a result depends on, but for hardware."""
    config = run.model_dump(exclude={"study", "arm"})
    parts = [inputs.initial.sha256, inputs.index.fingerprint, inputs.spec.to_dict()]
    return content_key([config, parts, code_versions(run.stage)])[:24]


def checkpoint_folder(run: Run, inputs: TrainingInputs, services: Services) -> Path:
    """Return the folder of a run's checkpoints, named by its `run_key`."""
    return services.scratch / "resume" / run_key(run, inputs)


def lock_of(checkpoints: Path) -> Path:
    """Return the lock of a run, given the folder of its checkpoints."""
    return checkpoints.parents[1] / "locks" / f"run-{checkpoints.name}.lock"


def _remove_checkpoints(
    run: Run, inputs: TrainingInputs, services: Services, results_to: Path | None = None
) -> None:
    """Remove the checkpoints of a run whose results are published.

    Args:
        results_to: the folder that the results are moved to, for `_restore_results`; None: they are removed.
    """
    checkpoints = checkpoint_folder(run, inputs, services)
    with exclusive(lock_of(checkpoints)):
        if results_to is not None and is_intact(checkpoints / DONE):
            results_to.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(results_to, ignore_errors=True)
            (checkpoints / DONE).rename(results_to)
        shutil.rmtree(checkpoints, ignore_errors=True)


def _restore_results(run: Run, inputs: TrainingInputs, services: Services, folder: Path) -> None:
    """Move results back that `_remove_checkpoints` moved to `folder`, if any are there; `train` uses them."""
    checkpoints = checkpoint_folder(run, inputs, services)
    with exclusive(lock_of(checkpoints)):
        if folder.is_dir() and not (checkpoints / DONE).exists():
            checkpoints.mkdir(parents=True, exist_ok=True)
            folder.rename(checkpoints / DONE)


class EarlierRuns:
    """The results of finished runs in a scratch folder, by `run_key`; this class keeps none.

    The files are hard links to those of the runs, and need no further space while these exist.
    """

    def __init__(self, services: Services, folder: Path | None = None) -> None:
        self._services, self._folder = services, folder

    def restore(self, runs: Iterable[Run], inputs: TrainingInputs) -> None:
        """Give the kept results of these runs to `training.run.train`, which then does not train them."""
        if self._folder is not None:
            for run in runs:
                _restore_results(run, inputs, self._services, self._folder / run_key(run, inputs))

    def store(self, runs: Iterable[Run], inputs: TrainingInputs) -> None:
        """Keep the results of these runs, which are published; remove the runs' checkpoints."""
        for run in runs:
            kept = None if self._folder is None else self._folder / run_key(run, inputs)
            _remove_checkpoints(run, inputs, self._services, kept)


class RunsOfStage(EarlierRuns):
    """The runs of a stage's last execution, since DVC removes a stage's outputs before it runs the stage.

    If seeds or folds are added, only the added runs train. If the stage was interrupted after its last run,
    before DVC had recorded the outputs, none does. `dvc repro --force` trains all again. In DVC's temporary
    copies of a project, no results are kept.

    Args:
        out: the folder of the stage's outputs.
    """

    def __init__(self, services: Services, out: Path) -> None:
        folder = services.scratch / "earlier-runs" / content_key(str(out.resolve()))[:16]
        super().__init__(services, folder if project.find_root() == project.home() else None)

    def restore(self, runs: Iterable[Run], inputs: TrainingInputs) -> None:
        """Restore them, unless DVC was told to repeat the stage by force."""
        if not forced_by_dvc():
            super().restore(runs, inputs)

    def store(self, runs: Iterable[Run], inputs: TrainingInputs) -> None:
        """Keep the results of these runs, and of no others."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        super().store(runs, inputs)


class FinishedTrials(EarlierRuns):
    """The trials of all sweeps: another sweep with the same runs does not train them."""

    def __init__(self, services: Services) -> None:
        folder = services.scratch / "finished"
        super().__init__(services, folder)
        # Without another link, the run's own folder was deleted: its user wants the space.
        for results in (weights.parent for weights in folder.glob(f"*/{WEIGHTS}") if _is_only_link(weights)):
            with exclusive(lock_of(services.scratch / "resume" / results.name)):
                if _is_only_link(results / WEIGHTS):  # Still, since another trial may have used it meanwhile.
                    shutil.rmtree(results)


def _is_only_link(file: Path) -> bool:
    with suppress(FileNotFoundError):
        return file.stat().st_nlink == 1
    return False
