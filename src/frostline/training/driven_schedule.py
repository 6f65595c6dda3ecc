"""A freeze schedule for frostline's own module, which takes several optimizer steps per Lightning batch."""

from typing import Any

import pytorch_lightning as pl

from frostline.freezing.plan import PhasePlan
from frostline.training.freeze_callback import FreezeSchedule


class ManualStepFreezeSchedule(FreezeSchedule):
    """For a module that takes several steps per Lightning batch and calls `before_step` itself."""

    selection_split = "val"
    """The split whose metrics end phases early and choose their best epochs."""

    def monitored(self, phase: PhasePlan) -> str:
        """Return the metric that a phase monitors, on the selection images."""
        return f"{self.selection_split}/{phase.monitor.partition('/')[2]}"

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Apply the first phase, unless it would change the network before epoch 0 is measured."""
        if not self.starts and self.plan.phases and self.plan.phases[0].bn != "recalibrate":
            self._enter(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Do nothing: the module calls `before_step`."""

    def after_step(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Do nothing after a step."""
