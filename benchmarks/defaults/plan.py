"""What is run: data sets × labels per class × initial weights × schedules and hyperparameters × seeds."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

SHOTS = (5, 10, 50)
STARTS = ("own", "imagenet")
EPOCHS, BATCH = 20, 32
SEEDS = 3


@dataclass(frozen=True)
class Target:
    """A data set that is fine-tuned on."""

    source: str
    """What the own pretraining is on."""
    channels: int
    augment: str
    """The augmentation that suits it, for the search."""
    tests: int
    """Test images."""
    shots: tuple[int, ...] = SHOTS


TARGETS = {
    "emoji": Target("pictograms", 3, "photo", 247, (5, 10, 40)),
    "digits": Target("mnist", 1, "light", 357),
    "clothes": Target("letters", 1, "light", 520),
    "glyphs": Target("letters", 1, "light", 460),
    "stamps": Target("pictograms", 3, "photo", 43, (5, 10)),
}
"""The smallest class of emoji has 49 training images, that of stamps 12."""
SOURCES = {"pictograms": 3, "mnist": 1, "letters": 1}
"""The data sets of pretrainings, and their channels."""

AS_THEY_COME = ("linear_probe", "full", "gradual", "discriminative", "lp_ft")
TIMM = (
    *("optimizer=sgd", f"optimizer.lr={0.1 * BATCH / 256}", "optimizer.weight_decay=2e-5"),
    *("optimizer.schedule.warmup=0.25", "loss.label_smoothing=0.1", "augment=photo"),
    *("augment.resized_crop=0.08", "augment.brightness=0.4", "augment.contrast=0.4"),
    "augment.saturation=0.4",
)
"""Defaults of timm 1.0's train.py: SGD with Nesterov momentum, 0.1 per 256 images, five epochs of warm-up (of
20), cosine, smoothed labels, RandomResizedCrop from 8 %, a flip and jitter of 0.4; the best epoch."""

DECAY = "optimizer.weight_decay=0.05"
WARM = "optimizer.schedule.warmup=0.3"
ONE_CYCLE = "optimizer.schedule={kind: one_cycle, warmup: 0.25, final: 1.0e-5}"
SLOW_BODY = "+freeze.phases.0.lr={rest: 0.1}"
AUGMENT = "augment={}"
"""The target's own."""


def _lr(value: str) -> str:
    return f"optimizer.lr={value}"


SEARCH: dict[str, dict[str, tuple[str, ...]]] = {
    "full": {
        "lr5e-4 cycle": (_lr("5e-4"), ONE_CYCLE, DECAY),
        "lr3e-3 body.1 cycle": (_lr("3e-3"), SLOW_BODY, ONE_CYCLE, DECAY),
        "lr1e-3 cycle": (_lr("1e-3"), ONE_CYCLE, DECAY),
        "lr5e-4 cycle augment": (_lr("5e-4"), ONE_CYCLE, DECAY, AUGMENT),
        "lr5e-4 warm": (_lr("5e-4"), WARM, DECAY),
        "lr2e-4 cycle": (_lr("2e-4"), ONE_CYCLE, DECAY),
        "lr1e-2 body.1 cycle": (_lr("1e-2"), SLOW_BODY, ONE_CYCLE, DECAY),
        "last": ("dataset.selection=last",),
        "bn eval": ("+freeze.phases.0.bn=eval",),
        "last bn eval": ("dataset.selection=last", "+freeze.phases.0.bn=eval"),
    },
    "gradual": {
        "lr3e-3": (_lr("3e-3"),),
        "lr5e-4 warm": (_lr("5e-4"), WARM, DECAY),
        "lr1e-3 warm": (_lr("1e-3"), WARM, DECAY),
    },
    "discriminative": {"lr3e-3": (_lr("3e-3"), DECAY), "lr5e-4": (_lr("5e-4"), DECAY)},
    "lp_ft": {"lr3e-3 warm": (_lr("3e-3"), WARM, DECAY)},
    "linear_probe": {"lr1e-2": (_lr("1e-2"),)},
}
"""Schedule → name → overrides."""


@dataclass(frozen=True)
class Trial:
    """One run."""

    target: str
    shots: int
    start: str
    by: str
    """frostline, timm or fastai."""
    schedule: str
    setting: str
    """Name of the hyperparameters; as they come: default."""
    words: tuple[str, ...]
    seed: int

    @property
    def key(self) -> str:
        """What no other run has."""
        return " · ".join(map(str, asdict(self).values()))

    @property
    def weights(self) -> str | None:
        """The source whose pretraining has to be over first."""
        return TARGETS[self.target].source if self.start == "own" else None

    def overrides(self, data: str, pretrained: str, device: str) -> list[str]:
        """Return the words of `frostline finetune`.

        Args:
            data: the folder of the data sets.
            pretrained: the folder of the pretrainings.
        """
        target = TARGETS[self.target]
        network = (
            [
                *("backbone=resnet10t", "input.size=64", f"input.channels={target.channels}"),
                *("weights=pretrain", f"weights.path={pretrained}/{target.source}/weights.safetensors"),
            ]
            if self.start == "own"
            else ["backbone=efficientnet_lite0", "weights=imagenet", "input.size=96"]
        )
        words = [f"augment={target.augment}" if word == AUGMENT else word for word in self.words]
        schedule = "full" if self.by == "fastai" else self.schedule
        return [
            *("dataset=npz", f"dataset.file={data}/{self.target}.npz", f"dataset.shots={self.shots}"),
            *network,
            *(f"freeze={schedule}", f"seed={self.seed}"),
            *(f"trainer.epochs={EPOCHS}", f"trainer.batch_size={BATCH}", "trainer.eval_batch_size=256"),
            *(f"trainer.device={device}", "trainer.threads=1", "trainer.precision=fp32"),
            *words,
        ]


def pretraining(source: str, data: str, pretrained: str, device: str) -> list[str]:
    """Return the words of `frostline pretrain` for a source."""
    return [
        *("source=npz", f"source.file={data}/{source}.npz", "backbone=resnet10t", "input.size=64"),
        *(f"input.channels={SOURCES[source]}", f"out={pretrained}/{source}"),
        *("pretrain.trainer.epochs=12", "pretrain.trainer.batch_size=64", "pretrain.trainer.precision=fp32"),
        *(f"pretrain.trainer.device={device}", "pretrain.trainer.threads=1"),
        *(
            "pretrain.trainer.eval_batch_size=256",
            f"pretrain.augment={'photo' if SOURCES[source] == 3 else 'light'}",
        ),
    ]


def trials(seeds: int = SEEDS) -> Iterator[Trial]:
    """Yield all runs, the most telling ones first: one seed of everything as it comes, then the search, then
    the next seed. Cells alternate, so that a list that is cut off treats them alike."""
    cells = [
        (target, shots, start)
        for some in ((10,), (5,), (40, 50))
        for start in STARTS
        for target, about in TARGETS.items()
        for shots in about.shots
        if shots in some
    ]
    came: list[tuple[str, str, str, tuple[str, ...]]] = [
        ("frostline", schedule, "default", ()) for schedule in AS_THEY_COME
    ]
    came += [("fastai", "fine_tune", "default", ()), ("timm", "full", "default", TIMM)]
    searched = [
        ("frostline", schedule, name, words)
        for schedule, settings in SEARCH.items()
        for name, words in settings.items()
    ]
    for seed in range(seeds):
        for arms in (came, searched):
            for by, schedule, name, words in arms:
                for target, shots, start in cells:
                    yield Trial(target, shots, start, by, schedule, name, words, seed)


def row(trial: Trial) -> dict[str, Any]:
    """Return what a line of the results says of a run."""
    about = asdict(trial)
    about["words"] = list(trial.words)
    return {"key": trial.key, **about}
