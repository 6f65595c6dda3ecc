"""Tiny real runs on the CPU: configs, a fit on random images, and processes that may be killed."""

import copy
import dataclasses
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from frostline import schema
from frostline.console.errors import FrostlineError
from frostline.freezing.plan import FreezePlan
from tests.forks import FORKS

Changes = Mapping[str, Any]

ALL = {"groups": {"head": "head", "rest": "*"}, "phases": [{"train": "all", "until": "end"}]}
PROBE = {"groups": {"head": "head", "rest": "*"}, "phases": [{"train": ["head"], "until": "end"}]}
NOTHING = {"groups": {"all": "*"}, "phases": []}
RESNET = {"kind": "timm", "name": "test_resnet", "drop_rate": 0.0, "drop_path_rate": 0.0}
SGD = {"name": "sgd", "momentum": 0.9, "weight_decay": 0.01}

RUN: dict[str, Any] = {
    "study": "tiny",
    "stage": "finetune",
    "arm": None,
    "freeze_name": "full",
    "dataset": {
        "kind": "digits",
        "split": {"val": 0.2, "test": 0.2, "seed": 0},
        "shots": 10,
        "fraction": None,
        "on_bad_image": "error",
    },
    "backbone": {"kind": "mlp", "hidden": [16], "activation": "relu", "dropout": 0.0},
    "input": {"size": 8, "channels": 1, "interpolation": None, "crop": None, "mean": None, "std": None},
    "weights": {"kind": "none"},
    "freeze": ALL,
    "optimizer": {
        "name": "adamw",
        "lr": 0.01,
        "weight_decay": 0.01,
        "momentum": None,
        "options": {},
        "clip_norm": None,
        "schedule": {"kind": "cosine", "warmup": 0.05, "final": 0.0},
    },
    "loss": {"kind": "cross_entropy", "label_smoothing": 0.0, "class_weights": None},
    "adapter": {"kind": "none"},
    "regularizer": {"kind": "none"},
    "averaging": {"kind": "none"},
    "augment": dict.fromkeys(
        ("flip", "rotate", "translate", "scale", "brightness", "contrast", "mixup", "cutmix"), 0.0
    ),
    "features": {"kind": "auto", "views": None},
    "trainer": {
        "epochs": 3,
        "batch_size": 20,
        "eval_batch_size": 256,
        "steps_per_execution": 1,
        "compile": False,
        "threads": 1,
        "sampling": "shuffle",
        "precision": "fp32",
        "device": "cpu",
        "monitor": "val/accuracy",
    },
    "seed": 0,
}


def run_config(changes: Changes = {}) -> schema.Run:  # noqa: B006  # it is not changed
    """A fine-tuning of a 64-16-10 network on 100 digits for 3 epochs, with some keys changed.

    >>> run_config({"trainer.epochs": 5, "optimizer": SGD}).optimizer.name
    'sgd'
    """
    config = copy.deepcopy(RUN)
    for key, value in changes.items():
        *path, last = key.split(".")
        inner = config
        for step in path:
            inner = inner[step]
        # Choices are given whole; an optimizer's or trainer's other keys stay as they are.
        merge = key in ("optimizer", "trainer", "dataset", "input", "augment")
        inner[last] = {**inner[last], **value} if merge else value
    return schema.Run.model_validate(config)


def total_steps(plan: FreezePlan) -> int:
    """Return the number of optimizer steps in a run if no phase ends early."""
    starts: tuple[int, ...] = (0,)
    for _ in plan.phases[1:]:
        starts = (*starts, plan.phase_end(starts))
    return plan.phase_end(starts)


def arm_of(run: schema.Run, seeds: Sequence[int] = (0,)) -> schema.Arm:
    """An arm whose runs differ from `run` in their seeds only."""
    return schema.Arm.model_validate({**run.model_dump(exclude={"seed"}), "seeds": list(seeds)})


def random_images(
    count: int, seed: int = 0, size: int | tuple[int, int] = 8, channels: int = 1, classes: int = 3
) -> Any:
    """Images of noise whose classes can be told apart: each has a bright stripe of its own.

    `size`: of a side, or height and width.
    """
    from frostline.data.loading.pixels import Images

    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    height, width = size if isinstance(size, tuple) else (size, size)
    noise = torch.randint(0, 100, (count, channels, height, width), generator=generator)
    stripe = torch.arange(width) * classes // width
    bright = 150 * (stripe == labels.view(-1, 1, 1, 1))
    return Images((noise + bright).to(torch.uint8), labels)


class Bench:
    """A network, its plan and its data: all that `fit` takes, on random images of three classes."""

    def __init__(self, changes: Changes, kind: type | None = None, train: int = 40, **arguments: Any) -> None:
        from frostline.models.backbones import build
        from frostline.models.initial_weights import NO_WEIGHTS
        from frostline.models.pretrained import input_spec
        from frostline.training.data_module import ImageData
        from frostline.training.module import Classifier
        from frostline.training.run import plan_of

        self.config = config = run_config(changes)
        spec = input_spec(config.backbone, NO_WEIGHTS, config.input)
        self.network = build(config.backbone, spec, 3, seed=0)
        self.plan = plan_of(config, self.network, train)
        kind = kind or Classifier
        self.classifier = kind(self.network, self.plan, config.optimizer, config.loss, 0, **arguments)
        sets = (
            dataclasses.replace(random_images(n, n, spec.size, spec.channels), key=f"{n} of {spec.size}")
            for n in (train, 30)
        )
        self.data = ImageData(*sets, spec, config.trainer, config.augment, 0, 3)

    def fit(self, folder: Path, on_epoch: Callable[[Any], None] = lambda row: None, reuse: Any = None) -> Any:
        """Train; return the `Fit`."""
        from frostline.features.execution import device_of, execution_of
        from frostline.training.trainer import callbacks_of, fit

        config, image = self.config, self.data.spec.shape
        device = device_of(config.trainer.device)
        self.classifier.execution = execution_of(self.network, config.trainer.precision, device, image)
        callbacks = callbacks_of(self.classifier, self.data, config.averaging, reuse, on_epoch)
        return fit(self.classifier, self.data, config.trainer, folder, callbacks)


def scripted(losses: Sequence[float], accuracies: Sequence[float] | None = None) -> type:
    """A Classifier whose validation gives these numbers: first the untrained network's, then each epoch's."""
    from frostline.training.module import Classifier

    class Scripted(Classifier):
        def on_validation_epoch_end(self) -> None:
            super().on_validation_epoch_end()
            epoch = 0 if self.trainer.sanity_checking else self.trainer.current_epoch + 1
            metrics = self.trainer.callback_metrics
            metrics["val/loss"] = torch.tensor(losses[epoch], dtype=torch.float64)
            if accuracies is not None:
                metrics["val/accuracy"] = torch.tensor(accuracies[epoch], dtype=torch.float64)

    return Scripted


QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
"""For a Trainer of one's own."""


def stranger() -> type:
    """A LightningModule of somebody's, which knows nothing of freezing and notes its weights at each step."""
    import pytorch_lightning as pl

    class Stranger(pl.LightningModule):
        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self.model = model
            self.states: list[dict[str, torch.Tensor]] = []

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            images, labels = batch
            return torch.nn.functional.cross_entropy(self.model(images), labels)

        def on_train_batch_end(self, *arguments: Any) -> None:
            self.states.append(tensors(getattr(self.model, "_orig_mod", self.model)))

    return Stranger


def network_of(name: str, **options: Any) -> torch.nn.Module:
    """A network of three classes for images of 32 pixels: "mlp", or one of timm's smallest with `options`."""
    import timm

    from frostline.models.mlp import Mlp

    torch.manual_seed(0)
    if name == "mlp":
        return Mlp(32 * 32, [6, 5], 3)
    size = {"img_size": 32} if "vit" in name else {}
    return timm.create_model(name, num_classes=3, in_chans=1, **size, **options)


class Sharing(torch.nn.Module):
    """A network for 64 pixels whose layer has two names, and which counts and averages its images.

    No normalization layer owns the buffers, so no freeze schedule governs them.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = self.again = torch.nn.Linear(64, 64)
        self.fc = torch.nn.Linear(64, 3)
        self.register_buffer("mean", torch.zeros(64))
        self.register_buffer("images", torch.tensor(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits; in training mode, update the buffers."""
        x = x.flatten(1)
        if self.training:
            self.images.add_(len(x))
            self.mean.lerp_(x.detach().mean(0), 0.1)
        logits: torch.Tensor = self.fc(self.again(self.first(x - self.mean).relu()))
        return logits


def tensors(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all its parameters and buffers."""
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def same(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    """Whether two states are equal bit by bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def files(folder: Path) -> dict[str, bytes]:
    """Relative path → content of all files below `folder`."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


# ── processes ───────────────────────────────────────────────────────────────────────────────────────────────


class Started:
    """A call in a process of its own.

    It is forked from one that has imported what training needs and done nothing else, so it starts at once.
    """

    def __init__(self, function: Callable[..., None], *arguments: Any) -> None:
        self._answer, theirs = FORKS.Pipe(duplex=False)
        self._process = FORKS.Process(target=_call, args=(theirs, function, arguments))
        self._process.start()
        theirs.close()

    def wait(self) -> tuple[int, str]:
        """Return its exit status (minus the number of a signal that ended it) and what it raised."""
        try:
            said = self._answer.recv() if self._answer.poll(120) else "no answer in two minutes"
        except EOFError:
            said = ""
        self._process.join(60)
        return self._process.exitcode if self._process.exitcode is not None else 1, said


def in_process(function: Callable[..., None], *arguments: Any) -> tuple[int, str]:
    """Call `function` in a process of its own; see `Started`."""
    return Started(function, *arguments).wait()


def _call(answer: Any, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    try:
        function(*arguments)
    except FrostlineError as error:
        answer.send(f"{type(error).__name__}: {error}")
        raise SystemExit(2) from None
    except Exception:
        answer.send(traceback.format_exc())
        raise SystemExit(1) from None
    answer.send("")
