"""A freeze schedule for frostline's own module, which takes several optimizer steps per Lightning batch."""

from typing import Any

import pytorch_lightning as pl

from frostline.training.freeze_callback import FreezeSchedule


class DrivenFreezeSchedule(FreezeSchedule):
    """For a module that takes several steps for a batch of Lightning's, and tells of each step itself."""

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Apply the first phase, unless it changes the network whose start is about to be measured."""
        if not self.starts and self.plan.phases and self.plan.phases[0].bn != "recalibrate":
            self._enter(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Wait for the module."""

    def after_step(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """A step leaves nothing to put right."""
