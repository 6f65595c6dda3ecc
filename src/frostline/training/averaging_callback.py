"""Averages a network's weights during training; validation measures the average."""

import copy
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from frostline import schema
from frostline.features.tensors import may_change
from frostline.training import trainable
from frostline.training.averaging import Ema, Swa, copied
from frostline.training.freeze_callback import FreezeSchedule
from frostline.training.module import Classifier


class Averaging(pl.Callback):
    """Validates an average of the weights instead of the weights. Must follow `FreezeSchedule`."""

    def __init__(self, freezing: FreezeSchedule) -> None:
        self.freezing = freezing
        self.measured: dict[str, Tensor] | None = None
        """The averaged weights that the last validation measured; None: it measured the network's own."""
        self._trained: dict[str, Tensor] | None = None
        """The network's own weights during validation of the average."""

    def average(self, trainer: pl.Trainer, module: Classifier) -> Mapping[str, Tensor] | None:
        """Return the weights to measure; None: the network's own."""
        raise NotImplementedError

    def before_step(self, trainer: pl.Trainer, module: Classifier) -> None:
        """Prepare the next step."""

    def after_step(self, trainer: pl.Trainer, module: Classifier) -> None:
        """Process the result of the step."""

    # Validation runs in inference mode, whose tensors training could not use.
    @torch.inference_mode(False)
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Load the average into the network."""
        assert isinstance(pl_module, Classifier)
        self.measured = None
        if trainer.sanity_checking or (average := self.average(trainer, pl_module)) is None:
            return
        self._trained = copied(pl_module.network.state_dict())
        self.measured = copied(average)
        pl_module.network.load_state_dict(average)

    @torch.inference_mode(False)
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Load the network's own weights again."""
        assert isinstance(pl_module, Classifier)
        if self._trained is not None:
            pl_module.network.load_state_dict(self._trained)
            self._trained = None


class EmaAveraging(Averaging):
    """`training.averaging.Ema`; the freeze schedule says which tensors are trained."""

    def __init__(self, freezing: FreezeSchedule, config: schema.Ema) -> None:
        super().__init__(freezing)
        self.ema = Ema(config.decay, config.warmup)
        self._phase: int | None = None
        """The phase of the average; None before the first."""
        self._live: dict[str, Tensor] = {}
        """The network's tensors, which training changes in place."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start from the network's weights, or resume."""
        assert isinstance(pl_module, Classifier)
        self._live = pl_module.network.state_dict()
        if self._phase is None:
            self.ema.seed(self._live)
        self.ema.average = {k: v.to(self._live[k].device) for k, v in self.ema.average.items()}
        self._enter(pl_module.network)

    def before_step(self, trainer: pl.Trainer, module: Classifier) -> None:
        """Follow the network into a new phase."""
        self._enter(module.network)

    def after_step(self, trainer: pl.Trainer, module: Classifier) -> None:
        """Add the weights after the step."""
        self.ema.update(self._live)

    def average(self, trainer: pl.Trainer, module: Classifier) -> Mapping[str, Tensor]:
        """Return the average."""
        return self.ema.average

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"ema": self.ema.state_dict(), "phase": self._phase}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.ema.load_state_dict(state_dict["ema"])
        self._phase = state_dict["phase"]

    def _enter(self, network: nn.Module) -> None:
        plan, phase = self.freezing.plan, self.freezing.phase
        if phase == self._phase:
            return
        if self._phase is not None and plan.phases[self._phase].restore:
            # The schedule has just restored the phase's best epoch: restart the average from it.
            self.ema.seed(self._live)
        changing = plan.trained(phase) | plan.updated_statistics(phase)
        self.ema.enter(self._live, may_change(network, plan.layers, changing))
        self._phase = phase


class SwaAveraging(Averaging):
    """`training.averaging.Swa` of the weights at the end of each of the last epochs."""

    def __init__(self, freezing: FreezeSchedule, config: schema.Swa) -> None:
        super().__init__(freezing)
        self.swa, self.start = Swa(), config.start

    def average(self, trainer: pl.Trainer, module: Classifier) -> Mapping[str, Tensor] | None:
        """Add the epoch's weights; return the mean with BatchNorm recalibrated; None before `start`."""
        assert trainer.max_epochs
        if trainer.current_epoch + 1 <= self.start * trainer.max_epochs:
            return None
        state = module.network.state_dict()
        self.swa.average = {k: v.to(state[k].device) for k, v in self.swa.average.items()}
        self.swa.update(state)
        plan, phase = self.freezing.plan, self.freezing.phase
        if not plan.updated_statistics(phase):
            return self.swa.average
        mean = copy.deepcopy(module.network)
        mean.load_state_dict(self.swa.average)
        trainable.recalibrate(mean, plan, phase, self.freezing.inputs(trainer))
        return mean.state_dict()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"swa": self.swa.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.swa.load_state_dict(state_dict["swa"])


def averaging_of(config: schema.Averaging, freezing: FreezeSchedule) -> Averaging | None:
    """Return the callback for `config`; None: training needs none."""
    match config:
        case schema.Ema():
            return EmaAveraging(freezing, config)
        case schema.Swa():
            return SwaAveraging(freezing, config)
        case _:
            return None
