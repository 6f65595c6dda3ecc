"""Applies a freeze plan to a network that Lightning trains; all decisions are `core.freeze`'s."""

from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from frostline.adapters.lit_module import Classifier
from frostline.core.freeze import FreezePlan, score


class FreezeCallback(pl.Callback):
    """Freezes, thaws and sets rates before each step; keeps the phases' `starts` and this one's past."""

    def __init__(self, plan: FreezePlan) -> None:
        self.plan = plan
        self.starts: tuple[int, ...] = ()
        self.history: list[float] = []
        """The plateau's metric after each epoch of the current phase."""
        self.best: tuple[float, dict[str, Tensor]] | None = None
        """For `restore: best`: the current phase's best score, and the weights that gave it."""

    @property
    def phase(self) -> int:
        """The current phase, 0 the first."""
        return len(self.starts) - 1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Apply the phase that the run is in, whether it begins or goes on."""
        assert isinstance(pl_module, Classifier)
        self._enter(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Enter the next phase where the current one is over, and set this step's rates."""
        assert isinstance(pl_module, Classifier)
        self._enter(trainer, pl_module)
        step = trainer.global_step
        base = pl_module.optimizer_config.lr
        for slot, group in zip(pl_module.slots, trainer.optimizers[0].param_groups, strict=True):
            group["lr"] = base * self.plan.factor(self.starts, step, slot.group, slot.depth)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the metric that a plateau or `restore: best` waits for."""
        if trainer.sanity_checking or not self.starts:
            return
        assert isinstance(pl_module, Classifier)
        phase = self.plan.phases[self.phase]
        value = float(trainer.callback_metrics[phase.monitor])
        if phase.plateau:
            self.history.append(value)
        if phase.restore and (self.best is None or score(phase.monitor, value) > self.best[0]):
            weights = {k: v.detach().clone() for k, v in pl_module.network.state_dict().items()}
            self.best = (score(phase.monitor, value), weights)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"starts": self.starts, "history": self.history, "best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.starts = tuple(state_dict["starts"])
        self.history = list(state_dict["history"])
        self.best = state_dict["best"]

    def _enter(self, trainer: pl.Trainer, module: Classifier) -> None:
        """Move to the phase of the coming step, and make the network be as the phase says."""
        rule = self.plan.phases[self.phase].plateau if self.starts else None
        plateaued = rule is not None and rule.reached(self.history)
        starts = self.plan.advanced(self.starts, trainer.global_step, plateaued)
        if starts != self.starts:
            if self.best is not None:
                module.network.load_state_dict(self.best[1])
            self.starts, self.history, self.best = starts, [], None
        if module.phase != self.phase:
            module.enter(self.phase)
