"""Trains a classifier with Lightning's `Trainer`: history, best epoch, and checkpoints to resume from."""

import logging
import math
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.exceptions import SIGTERMException

from frostline import schema
from frostline.base.files import set_aside
from frostline.base.hashes import sha256_of
from frostline.base.metrics import EPOCH_METRICS, deciding_metrics, score
from frostline.console import signals
from frostline.console.errors import FrostlineError, TrainingFailed
from frostline.features.execution import device_of
from frostline.features.reuse import FeatureExtractor
from frostline.features.tensors import may_change
from frostline.models import weights
from frostline.training import machine
from frostline.training.averaging_callback import Averaging, averaging_of
from frostline.training.compiled import compiling
from frostline.training.data_module import ImageData
from frostline.training.driven_schedule import ManualStepFreezeSchedule
from frostline.training.feature_callback import FeatureReuse
from frostline.training.freeze_callback import FreezeSchedule
from frostline.training.module import Classifier, NotFinite
from frostline.training.outputs import Fit, Row
from frostline.training.trainable import freeze_all

VALIDATED = ("val", "selection")
"""The splits of a row of the history that are measured after each epoch."""
BEST_WEIGHTS = "best.safetensors"
"""If the loss becomes NaN: the file of the best epoch's weights, in the checkpoint folder."""
SAVE_EVERY_SECONDS = 10.0
"""At the end of an epoch, a checkpoint is written if the last one, or the start, is this long ago."""
SAVE_SHARE = 0.02
"""Largest share of the run time that checkpoints may take."""
SAVE_INSIDE_SECONDS = 60.0
"""As `SAVE_EVERY_SECONDS`, for a step inside an epoch."""


def history_columns(headline: str) -> tuple[str, ...]:
    """Return the keys of a row of the history.

    Args:
        headline: the metric of the training images besides the loss, accuracy or mAP.
    """
    train = "epoch", "step", "phase", "lr", "train/loss", f"train/{headline}"
    metrics = "loss", *EPOCH_METRICS[headline]
    return *train, *(f"{split}/{metric}" for split in VALIDATED for metric in metrics)


OnEpoch = Callable[[Row], None]
"""Called with each row of the history; when a run resumes, first with the rows before the checkpoint."""


@dataclass(frozen=True)
class Callbacks:
    """What a fit calls at each step and epoch."""

    freezing: ManualStepFreezeSchedule
    reuse: FeatureReuse | None
    """Computes frozen layers once; None: the whole network runs at every step."""
    averaging: Averaging | None
    """Validates and returns an average of the weights; None: the fit uses the weights themselves."""
    on_epoch: OnEpoch
    on_resume: Callable[[int], None] = lambda epoch: None
    """Called with the epoch that a resumed run starts with, before the rows of earlier epochs."""

    @property
    def step_callbacks(self) -> list[Any]:
        """Return the callbacks that run at every step, in their order: the freeze schedule comes first."""
        return [self.freezing, *(callback for callback in (self.reuse, self.averaging) if callback)]


def callbacks_of(
    classifier: Classifier,
    data: ImageData,
    averaging: schema.Averaging,
    extractor: FeatureExtractor | None,
    on_epoch: OnEpoch,
) -> Callbacks:
    """Return the callbacks of a run.

    Args:
        extractor: computes the features of frozen layers; None: the whole network runs at every step.
    """
    freezing = ManualStepFreezeSchedule.of(
        classifier.plan,
        "network",
        lambda t: data.epoch_images(t.current_epoch, t.global_step, t.strategy.root_device),
    )
    freezing.selection_split = data.selection_split
    average = averaging_of(averaging, freezing) if classifier.plan.phases else None
    reuse = None
    if extractor:
        reuse = FeatureReuse(freezing, extractor, data.train, data.validation, averages=average is not None)
    return Callbacks(freezing, reuse, average, on_epoch)


def fit(
    classifier: Classifier, data: ImageData, config: schema.Trainer, resume: Path, callbacks: Callbacks
) -> Fit:
    """Train `classifier`; resume from the checkpoint in the folder `resume` if there is one.

    Args:
        classifier: the network with its freeze plan and execution.
        data: training and validation images.
        config: number of epochs, device, and the metric that chooses the best epoch.
        resume: the folder for checkpoints; the caller removes it when the result is published.
        callbacks: made for this classifier and these data.

    Raises:
        FrostlineError: the device is missing, or the batches are too small for the network.
        TrainingFailed: the loss is not finite; the best epoch's weights so far are written to `resume`.
    """
    machine.configure(config.threads)
    result, plan = Fit(execution=classifier.execution), classifier.plan
    history = _History(result, deciding_metrics(config.monitor, data.selection_split), callbacks)
    device = device_of(config.device)
    _configure(classifier, data, config, callbacks)
    batch_size_changes = any(phase.batch_size for phase in plan.phases)
    checkpoint = _Checkpoint.latest(resume)
    clipped = classifier.optimizer_config.clip_norm is not None
    compiled = compiling(classifier.network, wanted=config.compile)
    attention = machine.repeatable_attention(device)
    with _quiet(), _user_errors(result, resume, clipped=clipped), closing(data), compiled, attention:
        trainer = pl.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=1,
            max_epochs=config.epochs,
            # Validate fully before the first step: this is epoch 0 of the history.
            num_sanity_val_steps=0 if checkpoint else -1,
            reload_dataloaders_every_n_epochs=1 if batch_size_changes else 0,
            callbacks=[*callbacks.step_callbacks, history, _Checkpoint(resume)] if plan.phases else [history],
            logger=False,
            enable_checkpointing=bool(plan.phases),
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=resume,
        )
        if batch_size_changes:
            phase_at = callbacks.freezing.phase_at
            data.images_of_next_step = lambda: config.images_per_step(
                phase_at(trainer.global_step).batch_size
            )
        if plan.phases:
            try:
                trainer.fit(classifier, datamodule=data, ckpt_path=checkpoint, weights_only=True)
            except NotFinite as broken:
                where = f"step {trainer.global_step}, phase {callbacks.freezing.phase}"
                raise _NotFiniteAt(f"{broken} at {where}") from None
        else:
            freeze_all(classifier.network)
            trainer.validate(classifier, datamodule=data, verbose=False)
    result.starts, result.images = callbacks.freezing.starts, classifier.images
    result.features = callbacks.reuse.split_points if callbacks.reuse else []
    return result


def _configure(classifier: Classifier, data: ImageData, config: schema.Trainer, callbacks: Callbacks) -> None:
    """Set the classifier's memory format, loss scaling, and number of optimizer steps per Lightning batch."""
    classifier.execution.set_memory_format(classifier.network)
    if classifier.execution.precision == "fp16":
        classifier.scaler = classifier.scaler or torch.amp.GradScaler(device_of(config.device).type)
    classifier.steps_per_batch = config.steps_per_execution
    classifier.step_callbacks = callbacks.step_callbacks if classifier.plan.phases else ()
    data.steps.per_batch, data.steps.steps_taken = classifier.coming_steps, lambda: classifier.steps_taken


class _History(pl.Callback):
    """Collects the history, the times and the best epoch's weights in a `Fit`."""

    def __init__(self, result: Fit, deciding: Sequence[str], callbacks: Callbacks) -> None:
        self.result, self.deciding = result, deciding
        self.on_epoch, self.on_resume = callbacks.on_epoch, callbacks.on_resume
        self.averaging, self.reuse = callbacks.averaging, callbacks.reuse
        self._best: tuple[float, ...] | None = None
        self._begun = time.perf_counter()
        self._before = 0.0
        """Seconds of training before this process resumed the run."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # The first phase's features are computed during epoch 0, before this hook; count them as training.
        self._begun = time.perf_counter() - (self.reuse.seconds if self.reuse else 0.0)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not (trainer.sanity_checking or trainer.state.fn == TrainerFn.VALIDATING):
            return
        assert isinstance(pl_module, Classifier)
        columns = history_columns(pl_module.headline)
        metrics = {name: float(v) for name, v in trainer.callback_metrics.items() if name in columns}
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
        row: Row = {name: {**place, **metrics}.get(name) for name in history_columns(module.headline)}
        for name in ("train/loss", "val/loss", "selection/loss"):
            if math.isfinite(row[name] or 0.0):
                continue
            if not row["epoch"]:
                raise TrainingFailed(f"{name} is {row[name]} before the first step; start from other weights")
            when = f"epoch {row['epoch']}, step {row['step']}, phase {row['phase']}"
            raise _NotFiniteAt(f"{name} is {row[name]} after {when}")
        self.result.history.append(row)
        # Ties go to the lower loss, then to the earlier epoch. If no metric decides, the last epoch counts.
        value = tuple(score(name, metrics[name]) for name in self.deciding)
        if self._best is None or value > self._best or not self.deciding:
            self._best = value
            self.result.best_epoch = int(row["epoch"] or 0)
            self._keep_weights(module, row["phase"])
        self.on_epoch(row)

    def _keep_weights(self, module: Classifier, phase: float | None) -> None:
        """Copy the weights: after the first copy, only those that the phases so far may have changed.

        Otherwise an epoch of a linear probe copies the whole network, which takes longer than its steps.
        """
        averaged = self.averaging.measured if self.averaging else None
        state = averaged or module.network.state_dict()
        kept = self.result.best_state
        if kept and not self.averaging:
            changed = module.plan.changed_before(0 if phase is None else int(phase) + 1)
            names = may_change(module.network, module.plan.layers, changed)
            state = {name: state[name] for name in names}
        self.result.best_state = kept | {name: weights.detached(value) for name, value in state.items()}

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
        self.on_resume(len(self.result.epoch_seconds) + 1)
        for row in self.result.history:
            self.on_epoch(row)


class _NotFiniteAt(Exception):
    """The loss is NaN or infinite; the message says which loss and when."""


class _Checkpoint(Checkpoint):
    """Writes the checkpoint to resume from, at the end of an epoch or inside a long one.

    The file is named after its sha256, so that a damaged one is detected before it is loaded.
    """

    ENDING, PARTIAL = ".ckpt", "last.partial"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._saved = time.perf_counter()
        self._cost = 0.0

    @classmethod
    def latest(cls, folder: Path) -> str | None:
        (folder / cls.PARTIAL).unlink(missing_ok=True)  # left behind by a killed process
        # There are two checkpoints if a process was killed inside `_save`; both give the same result.
        for path in sorted(folder.glob(f"*{cls.ENDING}")):
            if path.stem == sha256_of(path):
                signals.mark_resumable()
                return str(path)
            set_aside(path, "is damaged (its content is not what was written)")
        return None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Not after an epoch's last step: Lightning, resuming there, would skip the validation.
        if not trainer.is_last_batch:
            self._save(trainer, SAVE_INSIDE_SECONDS)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Not after the last epoch: the results are written next.
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
            signals.mark_resumable()
            for other in older:
                if other != path:
                    other.unlink(missing_ok=True)
        finally:
            partial.unlink(missing_ok=True)
        self._saved = time.perf_counter()
        self._cost = self._saved - begun


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide Lightning's warnings and tips, which concern code that frostline's users do not write."""
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
def _user_errors(result: Fit, resume: Path, *, clipped: bool) -> Iterator[None]:
    """Turn Lightning's errors into frostline's, and its SystemExit into the signal that caused it."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except _NotFiniteAt as broken:
        where = ""
        if result.best_state:
            weights.save(resume / BEST_WEIGHTS, result.best_state, {})
            where = (
                f"; the weights of the best epoch so far, {result.best_epoch}, are in {resume / BEST_WEIGHTS}"
            )
        advice = "lower optimizer.lr" if clipped else "lower optimizer.lr, or set optimizer.clip_norm=1.0"
        raise TrainingFailed(f"{broken}; {advice}{where}") from None
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise FrostlineError(
            "trainer.batch_size: BatchNorm can't normalize a single image of this size;"
            " raise trainer.batch_size or input.size, or set bn: eval in the freeze schedule"
        ) from None
    except SIGTERMException:
        raise SystemExit(128 + signal.SIGTERM) from None
    except SystemExit:
        # Lightning turns any KeyboardInterrupt into SystemExit, and ignores SIGINT from then on.
        signal.signal(signal.SIGINT, handler)
        number = signals.received_signal()
        raise (signals.Interrupted(number) if number else KeyboardInterrupt()) from None
