"""Averages a network's weights while Lightning trains it; validation measures the average."""

import copy
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from frostline import schema
from frostline.training import thaw
from frostline.training.averaging import Ema, Swa
from frostline.training.freeze_callback import FreezeSchedule
from frostline.training.module import Classifier


class Averaging(pl.Callback):
    """Puts an average in the network's place while validation runs. Comes after `FreezeSchedule`."""

    def __init__(self, freezing: FreezeSchedule) -> None:
        self.freezing = freezing
        self.measured: dict[str, Tensor] | None = None
        """The weights that the last validation measured; None: the network's own."""
        self._trained: dict[str, Tensor] | None = None
        """The network's own weights, while the average is in their place."""

    def average(self, trainer: pl.Trainer, module: Classifier) -> Mapping[str, Tensor] | None:
        """Return the weights to measure; None: the network's own."""
        raise NotImplementedError

    def before_step(self, trainer: pl.Trainer, module: Classifier) -> None:
        """Prepare the coming step."""

    def after_step(self, trainer: pl.Trainer, module: Classifier) -> None:
        """Take in what the step did."""

    # Validation runs in inference mode, whose tensors training could not use.
    @torch.inference_mode(False)
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the average in place."""
        assert isinstance(pl_module, Classifier)
        self.measured = None
        if trainer.sanity_checking or (average := self.average(trainer, pl_module)) is None:
            return
        self._trained = _copy(pl_module.network.state_dict())
        self.measured = _copy(average)
        pl_module.network.load_state_dict(average)

    @torch.inference_mode(False)
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put back what training goes on from."""
        assert isinstance(pl_module, Classifier)
        if self._trained is not None:
            pl_module.network.load_state_dict(self._trained)
            self._trained = None


class EmaAveraging(Averaging):
    """`training.averaging.Ema`, told by the freeze schedule what moves."""

    def __init__(self, freezing: FreezeSchedule, config: schema.Ema) -> None:
        super().__init__(freezing)
        self.ema = Ema(config.decay, config.warmup)
        self._phase: int | None = None
        """The phase that the average is in; None before the first."""
        self._live: dict[str, Tensor] = {}
        """The network's tensors themselves: what training writes is seen here."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with the network as it is, or go on."""
        assert isinstance(pl_module, Classifier)
        self._live = pl_module.network.state_dict()
        if self._phase is None:
            self.ema.seed(self._live)
        self.ema.average = {k: v.to(self._live[k].device) for k, v in self.ema.average.items()}
        self._enter()

    def before_step(self, trainer: pl.Trainer, module: Classifier) -> None:
        """Follow the network into a new phase."""
        self._enter()

    def after_step(self, trainer: pl.Trainer, module: Classifier) -> None:
        """Take the step's weights in."""
        self.ema.update(self._live)

    def average(self, trainer: pl.Trainer, module: Classifier) -> Mapping[str, Tensor]:
        """Return the average."""
        return self.ema.average

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"ema": self.ema.state_dict(), "phase": self._phase}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.ema.load_state_dict(state_dict["ema"])
        self._phase = state_dict["phase"]

    def _enter(self) -> None:
        plan, phase = self.freezing.plan, self.freezing.phase
        if phase == self._phase:
            return
        if self._phase is not None and plan.phases[self._phase].restore:
            # The schedule has just put the phase's best epoch back: an average of what came since is void.
            self.ema.seed(self._live)
        self.ema.enter(self._live, plan.trained(phase) | plan.moving_statistics(phase))
        self._phase = phase


class SwaAveraging(Averaging):
    """`training.averaging.Swa`: takes in the weights at the end of each of the last epochs."""

    def __init__(self, freezing: FreezeSchedule, config: schema.Swa) -> None:
        super().__init__(freezing)
        self.swa, self.start = Swa(), config.start

    def average(self, trainer: pl.Trainer, module: Classifier) -> Mapping[str, Tensor] | None:
        """Take in the epoch's weights; return the mean, BatchNorm recalibrated, or None before its time."""
        assert trainer.max_epochs
        if trainer.current_epoch + 1 <= self.start * trainer.max_epochs:
            return None
        state = module.network.state_dict()
        self.swa.average = {k: v.to(state[k].device) for k, v in self.swa.average.items()}
        self.swa.update(state)
        plan, phase = self.freezing.plan, self.freezing.phase
        if not plan.moving_statistics(phase):
            return self.swa.average
        mean = copy.deepcopy(module.network)
        mean.load_state_dict(self.swa.average)
        thaw.recalibrate(mean, plan, phase, self.freezing.inputs(trainer))
        return mean.state_dict()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"swa": self.swa.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.swa.load_state_dict(state_dict["swa"])


def averaging_of(config: schema.Averaging, freezing: FreezeSchedule) -> Averaging | None:
    """Return the callback that `config` asks for; None where training goes on without one."""
    match config:
        case schema.Ema():
            return EmaAveraging(freezing, config)
        case schema.Swa():
            return SwaAveraging(freezing, config)
        case _:
            return None


def _copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}
