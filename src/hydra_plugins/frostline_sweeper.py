"""Frostline's sweeper, where Hydra looks for plug-ins; `frostline.sweep.sweeper` is what it does."""

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class FrostlineSweeper(Sweeper):
    """Runs a sweep as trials of a study, by workers that Hydra's launchers send off."""

    task: Any

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what `sweep` needs."""
        self.hydra_context, self.config, self.task = hydra_context, config, task_function

    def sweep(self, arguments: list[str]) -> Any:
        """Run it, and return what the trials came to."""
        from frostline.sweep import sweeper

        assert self.config is not None
        launcher = self.config.hydra.launcher._target_
        launch = None if launcher.endswith(".BasicLauncher") else self._launch
        return [sweeper.sweep(self.task, arguments, launch)]

    def _launch(self, work: Any, overrides: Sequence[str], workers: int) -> None:
        """Let a launcher send off so many workers, and wait for them."""
        from hydra.core.plugins import Plugins

        assert self.hydra_context is not None
        assert self.config is not None
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self.hydra_context, task_function=_Numbered(work), config=self.config
        )
        for job in launcher.launch([[*overrides]] * workers, initial_job_idx=0):
            _ = job.return_value  # raises what the worker raised


class _Numbered:
    """A worker as a launcher calls it."""

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
