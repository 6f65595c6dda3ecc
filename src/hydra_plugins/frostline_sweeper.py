"""Hydra sweeper of frostline, where Hydra looks for plug-ins; it calls `frostline.sweeps.sweeper`."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

PACKAGES = {
    "hydra_plugins.hydra_submitit_launcher": ("submitit", "hydra-submitit-launcher"),
    "hydra_plugins.frostline_ray": ("ray", "ray"),
}
"""Launcher's module → module that it imports, package to install."""


class FrostlineSweeper(Sweeper):
    """Runs a sweep as trials of a study, in workers that Hydra's launchers start."""

    task: Any

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store what `sweep` needs."""
        self.hydra_context, self.config, self.task = hydra_context, config, task_function

    def sweep(self, arguments: list[str]) -> Any:
        """Run the sweep, and return the trials' results."""
        from frostline.sweeps import sweeper

        assert self.config is not None
        launcher = str(self.config.hydra.launcher._target_)
        _check_installed(launcher, str(self.config.hydra.runtime.choices["hydra/launcher"]))
        launch = None if launcher.endswith(".BasicLauncher") else self._launch
        return [sweeper.sweep(self.task, arguments, launch, launcher.rpartition(".")[2])]

    def _launch(self, work: Any, overrides: Sequence[str], workers: int) -> None:
        """Start the workers with a launcher, and wait for them; raise the error of one."""
        from hydra.core.plugins import Plugins

        from frostline.base import processes
        from frostline.console import signals
        from frostline.sweeps.sweeper import WorkersLostError

        assert self.hydra_context is not None
        assert self.config is not None
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self.hydra_context, task_function=_Numbered(work), config=self.config
        )
        try:
            with signals.before_interrupt(processes.interrupt_workers):
                jobs = launcher.launch([[*overrides]] * workers, initial_job_idx=0)
        except Exception as error:
            # Not a worker's own error: those are in the returned jobs.
            raise WorkersLostError(error) from error
        for job in jobs:
            _ = job.return_value


def _check_installed(launcher: str, name: str) -> None:
    from frostline.console.errors import FrostlineError

    for module, (imported, package) in PACKAGES.items():
        if launcher.startswith(f"{module}.") and not all(map(_is_installed, (module, imported))):
            raise FrostlineError(
                f"hydra/launcher: {name} needs the package {package}; pip install {package}, or choose"
                " another, such as joblib"
            )


def _is_installed(module: str) -> bool:
    return find_spec(module) is not None


class _Numbered:
    """A worker as a launcher calls it, with its number."""

    def __init__(self, work: Any) -> None:
        self.work = work

    def __call__(self, config: DictConfig) -> None:
        self.work(HydraConfig.get().job.num)


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="frostline",
    node={"_target_": f"{__name__}.{FrostlineSweeper.__name__}"},
    provider="frostline",
)
