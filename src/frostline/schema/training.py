"""Configs of training: freeze schedule, optimizer, loss, adapter, averaging, features, trainer."""

from typing import Annotated, Any, Literal

from pydantic import Field

from frostline.schema.types import Momentum, NonNegative, Positive, Probability, Strict

Percent = Annotated[str, Field(pattern=r"^(100|[1-9]?[0-9])(\.[0-9]+)?%$")]


class Epochs(Strict):
    """A length in passes over the training images; may be a fraction."""

    epochs: Positive


class Steps(Strict):
    """A length in optimizer steps."""

    steps: Annotated[int, Field(ge=1)]


class Plateau(Strict):
    """Until a validation metric has not improved for `patience` epochs."""

    plateau: str
    """The metric: val/loss or val/accuracy."""
    patience: Annotated[int, Field(ge=1)]
    """Epochs without improvement."""
    max: Annotated[Percent | Epochs | Steps, Field(description="60%, {epochs: 3} or {steps: 100}")]
    """The phase's longest length."""
    min_delta: NonNegative | None = None
    """Smallest change that counts as an improvement; not given: 0."""


class Reaches(Strict):
    """Until a validation metric is as good as `value`."""

    reaches: str
    """The metric: val/loss or val/accuracy."""
    value: NonNegative
    """An accuracy of at least, or a loss of at most, this ends the phase."""
    max: Annotated[Percent | Epochs | Steps, Field(description="60%, {epochs: 3} or {steps: 100}")]
    """The phase's longest length."""


UNTIL = (
    "end, 30%, {epochs: 3}, {steps: 100}, {plateau: val/loss, patience: 2, max: 60%}"
    " or {reaches: val/accuracy, value: 0.9, max: 60%}"
)


class Rate(Strict):
    """How a rate moves inside its phase, as a factor of the phase's own rate."""

    kind: Literal["constant", "linear", "cosine", "polynomial", "exponential", "one_cycle"]
    """The curve from the warm-up's end to the phase's end."""
    warmup: Annotated[float, Field(ge=0, lt=1)]
    """Share of the phase that rises to the full rate: linearly, in one_cycle along a cosine."""
    start: Annotated[float, Field(ge=0, le=1)] | None = None
    """The factor that the warm-up rises from; not given: 0, in one_cycle 1/25."""
    final: Annotated[float, Field(ge=0, le=1)]
    """The factor that the curve ends at."""
    power: Positive | None = None
    """polynomial: its exponent; not given: 1."""
    momentum: Annotated[list[Momentum], Field(min_length=2, max_length=2)] | None = None
    """one_cycle: momentum (Adam's β₁) at the lowest and at the highest rate; not given: the optimizer's."""


class Phase(Strict):
    """A stretch of training. What is not given is as in the phase before."""

    train: Annotated[list[str] | Literal["all"], Field(description="all, or a list of group names")]
    """The groups that train; the others are frozen."""
    until: Annotated[Literal["end"] | Percent | Epochs | Steps | Plateau | Reaches, Field(description=UNTIL)]
    """When the phase ends. Only the last takes end; where it ends early, so does the run."""
    lr: dict[str, Positive] | None = None
    """Factor of optimizer.lr per group; `layer_decay`: factor per layer, from the head down."""
    optimizer: dict[str, dict[str, Any]] | None = None
    """Settings of the optimizer per group, such as {head: {weight_decay: 0.1}}; not its rate."""
    weight_decay: NonNegative | None = None
    """Of all groups; biases and norms have none. Not given, in the first phase: optimizer.weight_decay."""
    bn: Literal["eval", "train", "recalibrate"] | None = None
    """BatchNorm of the groups that train: running statistics move (train, the default), stay (eval), or are
    estimated anew on the training images as the phase begins, and then stay (recalibrate)."""
    dropout: Probability | None = None
    """Probability of dropout before the head; not given, in the first phase: the backbone's."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Largest rate of stochastic depth; not given, in the first phase: the backbone's."""
    batch_size: Annotated[int, Field(ge=1)] | None = None
    """Images an optimizer step; not given, in the first phase: trainer.batch_size. Such phases take whole
    epochs."""
    restore: Literal["best", "none"] | None = None
    """best: the phase ends with the weights of its best epoch, by its plateau's metric, else val/loss."""
    schedule: Rate | None = None
    """The rate inside the phase; not given: optimizer.schedule."""


class Freeze(Strict):
    """A freeze schedule: which layers train when, and at which rate."""

    groups: Annotated[
        dict[str, str | list[str]], Field(description="group name → a pattern or a list of patterns")
    ]
    """Name → pattern(s); the first match wins; every parameter is covered, no group is empty."""
    phases: list[Phase]
    """In order; no phase: nothing trains."""


class Optimizer(Strict):
    """An optimizer of torch or timm."""

    name: str
    """As in `timm.optim.list_optimizers()`, torch's own included: adamw, sgd, lamb, …"""
    lr: Positive
    """The rate that a freeze schedule's factors multiply."""
    weight_decay: NonNegative
    """Not applied to biases and norm layers."""
    momentum: Annotated[float, Field(ge=0, lt=1)] | None
    """For optimizers that have one; null: theirs."""
    options: dict[str, Any]
    """Other arguments of the optimizer, as they are."""
    clip_norm: Positive | None
    """Gradients are scaled down to this norm; null: never."""
    schedule: Rate


class Effective(Strict):
    """Classes weigh by the inverse of their effective number of images."""

    effective: Annotated[float, Field(ge=0, lt=1)]
    """β: 0 weighs all classes alike, near 1 by the inverse of their sizes."""


class CrossEntropy(Strict):
    """Cross-entropy of the softmax."""

    kind: Literal["cross_entropy"]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    class_weights: Annotated[
        Literal["balanced"] | Effective | None, Field(description="null, balanced or {effective: 0.999}")
    ]
    """What an image of each class weighs: balanced, by the inverse of the class's size; null: all alike."""


class Mse(Strict):
    """½·mean over the images of the squared distance between softmax and one-hot label."""

    kind: Literal["mse"]


Loss = Annotated[CrossEntropy | Mse, Field(discriminator="kind")]


class NoAdapter(Strict):
    """The backbone's own tensors train."""

    kind: Literal["none"]


class _LowRank(Strict):
    rank: Annotated[int, Field(ge=1)]
    """Of the matrices whose product is added to a weight."""
    alpha: Annotated[int, Field(ge=1)]
    """The product is scaled by alpha/rank."""
    layers: str
    """Those that get one: a pattern as in freeze.groups, such as "*" or "block:-4..". Never the head."""


class Lora(_LowRank):
    """Low-rank matrices beside each weight, which stays frozen."""

    kind: Literal["lora"]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Probability that an input of the matrices is dropped while training."""


class Dora(_LowRank):
    """LoRA of a weight's direction, and a trained length."""

    kind: Literal["dora"]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Probability that an input of the matrices is dropped while training."""


class Loha(_LowRank):
    """The elementwise product of two low-rank products beside each weight."""

    kind: Literal["loha"]


Adapter = Annotated[NoAdapter | Lora | Dora | Loha, Field(discriminator="kind")]


class NoRegularizer(Strict):
    """The loss alone."""

    kind: Literal["none"]


class L2Sp(Strict):
    """Holds what came with the weights near its start, and what is new near zero."""

    kind: Literal["l2_sp"]
    alpha: NonNegative
    """The loss grows by alpha/2 times the squared distance to the start."""
    beta: NonNegative
    """… and by beta/2 times the squared norm of the new tensors, such as a reset head."""


class L2Start(Strict):
    """Holds all weights near their start."""

    kind: Literal["l2_start"]
    alpha: NonNegative
    """The loss grows by alpha/2 times the squared distance to the start."""


Regularizer = Annotated[NoRegularizer | L2Sp | L2Start, Field(discriminator="kind")]


class NoAveraging(Strict):
    """The weights as training leaves them."""

    kind: Literal["none"]


class Ema(Strict):
    """An exponential moving average of the weights, step by step."""

    kind: Literal["ema"]
    decay: Annotated[float, Field(ge=0, lt=1)]
    """Share of the average that a step keeps."""
    warmup: bool
    """The decay rises from 2/11 to `decay`, counted from the step at which a tensor thaws."""


class Swa(Strict):
    """The mean of the weights at the ends of the run's last epochs."""

    kind: Literal["swa"]
    start: Annotated[float, Field(ge=0, lt=1)]
    """Share of the epochs after which weights are averaged."""


class WiseFt(Strict):
    """A point between the start and the fine-tuned weights, chosen on validation."""

    kind: Literal["wise_ft"]
    alphas: Annotated[list[Probability], Field(min_length=1)]
    """Shares of the fine-tuned weights that are tried: 0 is the start, 1 the end."""


Averaging = Annotated[NoAveraging | Ema | Swa | WiseFt, Field(discriminator="kind")]


class AutoFeatures(Strict):
    """Frozen layers run once where nothing below them changes; their output is kept and shared."""

    kind: Literal["auto"]
    views: Annotated[int, Field(ge=1)] | None
    """With `augment`: draw so many of each training image, once, and train on them in turn; null: draw anew
    at each step, for which the frozen layers have to run."""


class NoFeatures(Strict):
    """The whole network runs at every step."""

    kind: Literal["off"]


Features = Annotated[AutoFeatures | NoFeatures, Field(discriminator="kind")]


class Trainer(Strict):
    """How long, on what, how exact."""

    epochs: Annotated[int, Field(ge=1)]
    """Passes over the training images, all phases together."""
    batch_size: Annotated[int, Field(ge=1)]
    """Images an optimizer step."""
    eval_batch_size: Annotated[int, Field(ge=1)]
    """Images a forward pass of validation and test; does not change results beyond rounding."""
    steps_per_execution: Annotated[int, Field(ge=1)] | None
    """Optimizer steps between two looks at the clock, the resume point and the signals; null: as many as take
    50 ms. Does not change results."""
    compile: bool
    """Let torch.compile translate passes of the whole network: minutes at first, worth it on a GPU alone."""
    threads: Annotated[int, Field(ge=1, le=1024)]
    """CPU threads; part of the result's bytes, so pinned and recorded. By default conf/ gives as many as fit
    the model: one for an mlp, whose steps are too small to share, the machine's physical cores for others."""
    sampling: Literal["shuffle", "balanced"]
    """shuffle: an epoch sees every image once; balanced: as many, each drawn from a class drawn first."""
    precision: Literal["auto", "fp32", "bf16"]
    """bf16: autocast; weights stay fp32. auto: bf16 where processor and architecture gain by it, which makes
    results differ between processors by more than rounding. Where gradients in bf16 are undefined or don't
    repeat on a CPU, the network trains in fp32 whatever is set here; training.json says why."""
    device: Literal["auto", "cpu", "cuda"]
    monitor: Literal["val/accuracy", "val/loss"]
    """Chooses the best epoch, whose weights are kept; ties: the lower val/loss, then the earlier epoch."""
