"""Runs Lightning: one fit, its history, its best epoch, and enough kept on disk to go on after a kill."""

import logging
import math
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor

from frostline import schema
from frostline.base.files import set_aside
from frostline.base.hashes import sha256_of
from frostline.base.metrics import score
from frostline.console import signals
from frostline.console.errors import FrostlineError, TrainingFailed
from frostline.features.execution import Execution, device_of
from frostline.features.reuse import FeatureExtractor
from frostline.models import weights
from frostline.training import machine
from frostline.training.averaging_callback import Averaging, averaging_of
from frostline.training.compiled import compiling
from frostline.training.data_module import ImageData
from frostline.training.driven_schedule import DrivenFreezeSchedule
from frostline.training.feature_callback import FeatureReuse
from frostline.training.freeze_callback import FreezeSchedule
from frostline.training.module import Classifier, NotFinite
from frostline.training.thaw import freeze_all

HISTORY = ("epoch", "step", "phase", "lr", "train/loss", "train/accuracy", "val/loss", "val/accuracy")
METRICS = HISTORY[4:]
KEPT = "best.safetensors"
"""What a run whose loss became NaN leaves beside its resume point."""
SAVE_EVERY_SECONDS = 10.0
"""The least time between two resume points, the start of the run counting as one."""
SAVE_SHARE = 0.02
"""The largest share of the time that saving resume points may take."""
SAVE_INSIDE_SECONDS = 60.0
"""The least time before a resume point inside an epoch; shorter epochs are saved at their ends alone."""

Row = dict[str, float | int | None]


@dataclass
class Fit:
    """What a fit gives."""

    history: list[Row] = field(default_factory=list)
    """A row an epoch, the network before training the first; keys are `HISTORY`."""
    epoch_seconds: list[float] = field(default_factory=list)
    """Seconds from the start of training to the end of each epoch, its validation included."""
    best_epoch: int = 0
    best_state: dict[str, Tensor] = field(default_factory=dict)
    """The network's weights after its best epoch, on the CPU."""
    starts: tuple[int, ...] = ()
    """The step at which each phase began."""
    images: int = 0
    """Training images seen."""
    ahead: bool | None = None
    """Whether batches were prepared ahead, as measured; None: too few steps, or nothing to prepare."""
    execution: Execution = field(default_factory=lambda: Execution("fp32", "fp32", channels_last=False))
    features: list[str] = field(default_factory=list)
    """Of each phase: the layer whose input or output is computed once, ``fc:input``, or ``whole network: …``
    and why."""


def fit(
    classifier: Classifier,
    data: ImageData,
    config: schema.Trainer,
    resume: Path,
    on_epoch: Callable[[Row], None],
    averaging: schema.Averaging,
    execution: Execution,
    reuse: FeatureExtractor | None = None,
) -> Fit:
    """Train `classifier`, going on from the resume point in the folder `resume` if there is one.

    Args:
        classifier: the network with its freeze plan.
        data: training and validation images.
        config: length, device and which epoch is the best.
        resume: a folder for resume points; the caller removes it when the result is safe.
        on_epoch: called with each row of the history as it is made; those of a resumed run again.
        averaging: what is validated and kept: the weights, or their average along the run.
        execution: precision, and how images lie in memory.
        reuse: lets frozen layers run once; None: the whole network runs at every step.

    Raises:
        FrostlineError: the device is not there, or the batches are too small for the network.
        TrainingFailed: the loss is not a number; the best epoch so far is kept in `resume`.
    """
    machine.pin(config.threads)
    result = Fit()
    freezing = DrivenFreezeSchedule.of(
        classifier.plan,
        "network",
        lambda t: data.epoch_images(t.current_epoch, t.global_step, t.strategy.root_device),
    )
    average = averaging_of(averaging, freezing) if classifier.plan.phases else None
    reusing = None
    if reuse:
        reusing = FeatureReuse(freezing, reuse, data.train, data.val, averages=average is not None)
    recorder = _Recorder(result, config.monitor, on_epoch, average, reusing)
    callbacks: list[pl.Callback] = [recorder]
    if classifier.plan.phases:
        followers = [freezing, *(each for each in (reusing, average) if each)]
        classifier.followers = followers
        callbacks = [*followers, recorder, _ResumePoint(resume)]
    device = device_of(config.device)
    classifier.execution = result.execution = execution
    classifier.execution.arrange(classifier.network)
    classifier.steps_at_once = config.steps_per_execution
    data.steps.at_once, data.steps.taken = classifier.at_once, lambda: classifier.taken
    resized = any(phase.batch_size for phase in classifier.plan.phases)
    begun = _ResumePoint.latest(resume)
    clipped = classifier.optimizer_config.clip_norm is not None
    compiled = compiling(classifier.network, wanted=config.compile)
    attention = machine.repeatable_attention(device)
    with _quiet(), _one_sentence(result, resume, clipped=clipped), closing(data), compiled, attention:
        trainer = pl.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=1,
            max_epochs=config.epochs,
            # The whole validation split, before the first step: where the curves start.
            num_sanity_val_steps=0 if begun else -1,
            reload_dataloaders_every_n_epochs=1 if resized else 0,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=resume,
        )
        if resized:
            data.coming_size = lambda: freezing.coming(trainer.global_step).batch_size or config.batch_size
        if classifier.plan.phases:
            try:
                trainer.fit(classifier, datamodule=data, ckpt_path=begun, weights_only=True)
            except NotFinite as broken:
                place = f"step {trainer.global_step}, phase {freezing.phase}"
                raise _NotFinite(f"{broken} at {place}") from None
        else:
            freeze_all(classifier.network)
            trainer.validate(classifier, datamodule=data, verbose=False)
    result.starts, result.images = freezing.starts, classifier.images
    result.ahead = data.ahead.chosen if data.ahead else None
    result.features = reusing.said if reusing else []
    return result


class _Recorder(pl.Callback):
    """Writes the history, the time, and the best epoch's weights into a `Fit`."""

    def __init__(
        self,
        result: Fit,
        monitor: str,
        on_epoch: Callable[[Row], None],
        averaging: Averaging | None,
        reusing: FeatureReuse | None,
    ) -> None:
        self.result, self.monitor, self.on_epoch, self.averaging = result, monitor, on_epoch, averaging
        self.reusing = reusing
        self._best: tuple[float, ...] | None = None
        self._begun = time.perf_counter()
        self._before = 0.0
        """Seconds of the runs that this one goes on from."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # The first phase's features are made while the start is measured, which is no part of training.
        self._begun = time.perf_counter() - (self.reusing.seconds if self.reusing else 0.0)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not (trainer.sanity_checking or trainer.state.fn == TrainerFn.VALIDATING):
            return
        assert isinstance(pl_module, Classifier)
        metrics = {name: float(v) for name, v in trainer.callback_metrics.items() if name in METRICS}
        self._add(pl_module, {"epoch": 0, "step": 0, "phase": None, "lr": None}, metrics)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        freezing = next(c for c in trainer.callbacks if isinstance(c, FreezeSchedule))  # type: ignore[attr-defined]
        place = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "phase": freezing.phase,
            "lr": max(group["lr"] for group in trainer.optimizers[0].param_groups),
        }
        self.result.epoch_seconds.append(self._before + time.perf_counter() - self._begun)
        self._add(pl_module, place, {name: float(v) for name, v in trainer.callback_metrics.items()})

    def _add(
        self, module: Classifier, place: Mapping[str, float | None], metrics: Mapping[str, float]
    ) -> None:
        row: Row = {name: {**place, **metrics}.get(name) for name in HISTORY}
        for name in ("train/loss", "val/loss"):
            if math.isfinite(row[name] or 0.0):
                continue
            if not row["epoch"]:
                raise TrainingFailed(f"{name} is {row[name]} before the first step; start from other weights")
            when = f"epoch {row['epoch']}, step {row['step']}, phase {row['phase']}"
            raise _NotFinite(f"{name} is {row[name]} after {when}")
        self.result.history.append(row)
        # Ties go to the lower loss, then to the earlier epoch.
        value = tuple(score(name, metrics[name]) for name in (self.monitor, "val/loss"))
        if self._best is None or value > self._best:
            self._best = value
            self.result.best_epoch = int(row["epoch"] or 0)
            averaged = self.averaging.measured if self.averaging else None
            state = averaged or module.network.state_dict()
            self.result.best_state = {k: weights.detached(v) for k, v in state.items()}
        self.on_epoch(row)

    def state_dict(self) -> dict[str, Any]:
        return {
            "history": self.result.history,
            "epoch_seconds": self.result.epoch_seconds,
            "best_epoch": self.result.best_epoch,
            "best_state": self.result.best_state,
            "best": self._best,
            "seconds": self._before + time.perf_counter() - self._begun,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._best, self._before = tuple(state_dict.pop("best")), state_dict.pop("seconds")
        for name, value in state_dict.items():
            setattr(self.result, name, value)
        for row in self.result.history:
            self.on_epoch(row)


class _NotFinite(Exception):
    """A loss is not a number, or infinite: says which, and when."""


class _ResumePoint(Checkpoint):
    """Keeps one resume point, taken at the end of an epoch or inside a long one; costs next to nothing.

    Its name holds its sha256: one rename replaces both, and a damaged one is noticed before it is loaded.
    """

    ENDING, PARTIAL = ".ckpt", "last.partial"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._saved = time.perf_counter()
        self._cost = 0.0

    @classmethod
    def latest(cls, folder: Path) -> str | None:
        (folder / cls.PARTIAL).unlink(missing_ok=True)  # a killed process's
        # A process that was killed amid `_save` may have left two; both lead to the same results.
        for path in sorted(folder.glob(f"*{cls.ENDING}")):
            if path.stem == sha256_of(path):
                return str(path)
            set_aside(path, "is damaged (its content is not what was written)")
        return None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Gone on from after an epoch's last step, Lightning would leave its validation out.
        if not trainer.is_last_batch:
            self._save(trainer, SAVE_INSIDE_SECONDS)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # After the last one the results are as good as written.
        if trainer.current_epoch + 1 != trainer.max_epochs and not trainer.should_stop:
            self._save(trainer, SAVE_EVERY_SECONDS)

    def _save(self, trainer: pl.Trainer, every: float) -> None:
        begun = time.perf_counter()
        if begun - self._saved < max(every, self._cost / SAVE_SHARE):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / self.PARTIAL
        older = list(self.folder.glob(f"*{self.ENDING}"))
        try:
            trainer.save_checkpoint(partial)
            with partial.open("rb") as stream:
                os.fsync(stream.fileno())
            path = self.folder / f"{sha256_of(partial)}{self.ENDING}"
            partial.replace(path)
            for each in older:
                if each != path:
                    each.unlink(missing_ok=True)
        finally:
            partial.unlink(missing_ok=True)
        self._saved = time.perf_counter()
        self._cost = self._saved - begun


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's advice, which is not meant for frostline's users, from the terminal."""
    loggers = [
        logging.getLogger(name) for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric")
    ]
    loggers += [logging.getLogger(f"{logger.name}.utilities.rank_zero") for logger in loggers]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def _one_sentence(result: Fit, resume: Path, *, clipped: bool) -> Iterator[None]:
    """Turn what can go wrong inside Lightning into what a user reads, and its exits back into signals."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except _NotFinite as broken:
        kept = ""
        if result.best_state:
            weights.save(resume / KEPT, result.best_state, {})
            kept = f"; the best epoch so far, {result.best_epoch}, is kept in {resume / KEPT}"
        advice = "lower optimizer.lr" if clipped else "lower optimizer.lr, or set optimizer.clip_norm=1.0"
        raise TrainingFailed(f"{broken}; {advice}{kept}") from None
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise FrostlineError(
            "trainer.batch_size: BatchNorm can't normalise a single image of this size;"
            " raise it, or input.size, or set bn: eval in the freeze schedule"
        ) from None
    except SIGTERMException:
        raise SystemExit(128 + signal.SIGTERM) from None
    except SystemExit:
        # What Lightning makes of any KeyboardInterrupt, having set SIGINT to be ignored.
        signal.signal(signal.SIGINT, handler)
        number = signals.received_signal()
        raise (signals.Interrupted(number) if number else KeyboardInterrupt()) from None
