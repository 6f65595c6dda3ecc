"""Configs of training: freeze schedule, optimizer, loss, adapter, averaging, features, trainer."""

from typing import Annotated, Any, Literal

from pydantic import Field

from frostline.schema.types import Momentum, NonNegative, Positive, Probability, Strict

Percent = Annotated[str, Field(pattern=r"^(100|[1-9]?[0-9])(\.[0-9]+)?%$")]


class Epochs(Strict):
    """A length in passes over the training images; may be a fraction."""

    epochs: Positive
    """Passes over the training images."""


class Steps(Strict):
    """A length in optimizer steps."""

    steps: Annotated[int, Field(ge=1)]
    """Optimizer steps."""


class Plateau(Strict):
    """Until a validation metric has not improved for `patience` epochs."""

    plateau: str
    """The metric, as `trainer.monitor`."""
    patience: Annotated[int, Field(ge=1)]
    """Epochs without improvement."""
    max: Annotated[Percent | Epochs | Steps, Field(description="60%, {epochs: 3} or {steps: 100}")]
    """The phase's longest length."""
    min_delta: NonNegative | None = None
    """An improvement must be larger than this; not given: 0."""


class Reaches(Strict):
    """Until a validation metric is as good as `value`."""

    reaches: str
    """The metric, as `trainer.monitor`."""
    value: NonNegative
    """The phase ends when the metric is at least this value, or a loss at most this value."""
    max: Annotated[Percent | Epochs | Steps, Field(description="60%, {epochs: 3} or {steps: 100}")]
    """The phase's longest length."""


UNTIL = (
    "end, 30%, {epochs: 3}, {steps: 100}, {plateau: val/loss, patience: 2, max: 60%}"
    " or {reaches: val/accuracy, value: 0.9, max: 60%}"
)


class Rate(Strict):
    """The learning-rate schedule within a phase, as a factor of the phase's learning rate."""

    kind: Literal["constant", "linear", "cosine", "polynomial", "exponential", "one_cycle"]
    """The curve from the end of the warm-up to the end of the phase."""
    warmup: Annotated[float, Field(ge=0, lt=1)]
    """Share of the phase with rising learning rate: linear, for one_cycle a cosine."""
    start: Annotated[float, Field(ge=0, le=1)] | None = None
    """The factor at the start of the warm-up; not given: 0, for one_cycle 1/25."""
    final: Annotated[float, Field(ge=0, le=1)]
    """The factor at the end of the phase."""
    power: Positive | None = None
    """polynomial: its exponent; not given: 1."""
    momentum: Annotated[list[Momentum], Field(min_length=2, max_length=2)] | None = None
    """one_cycle: momentum (Adam's β₁) at the lowest and highest learning rate; not given: the optimizer's."""


class Phase(Strict):
    """A phase of training. Keys that are missing are inherited from the phase before; a key that is present
    replaces the whole inherited value."""

    train: Annotated[list[str] | Literal["all"], Field(description="all, or a list of group names")]
    """The groups that train; the others are frozen."""
    until: Annotated[Literal["end"] | Percent | Epochs | Steps | Plateau | Reaches, Field(description=UNTIL)]
    """The end of the phase; `end` is for the last phase only. If the last phase ends early, the run does."""
    lr: dict[str, Positive] | None = None
    """Factor of optimizer.lr per group; `layer_decay`: factor per layer, from the head to the input."""
    optimizer: dict[str, dict[str, Any]] | None = None
    """Optimizer hyperparameters per group, such as {head: {weight_decay: 0.1}}, except the learning rate."""
    weight_decay: NonNegative | None = None
    """Weight decay of all groups, except for biases and norms. Not given, in the first phase:
    optimizer.weight_decay."""
    bn: Literal["eval", "train", "recalibrate"] | None = None
    """Running statistics of BatchNorm in the groups that train. train (the default): updated; eval: frozen;
    recalibrate: estimated anew on the training images when the phase begins, then frozen."""
    dropout: Probability | None = None
    """Probability of dropout before the head; not given, in the first phase: the backbone's."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Maximum rate of stochastic depth; not given, in the first phase: the backbone's."""
    batch_size: Annotated[int, Field(ge=1)] | None = None
    """Images per batch; not given, in the first phase: trainer.batch_size. If a phase has this key, all
    phases last whole epochs."""
    restore: Literal["best", "none"] | None = None
    """best: the phase ends with the weights of its best epoch, by its plateau's metric, else val/loss."""
    schedule: Rate | None = None
    """The learning-rate schedule of the phase; not given, in the first phase: optimizer.schedule."""


class Freeze(Strict):
    """A freeze schedule: which groups train in which phase, and with which learning rates."""

    groups: Annotated[
        dict[str, str | list[str]], Field(description="group name → a pattern or a list of patterns")
    ]
    """A parameter is in the first group with a matching pattern. Every parameter needs a group, and every
    group a parameter."""
    phases: list[Phase]
    """The phases, in order; if there is none, nothing trains."""


class Optimizer(Strict):
    """An optimizer of torch or timm."""

    name: str
    """A name from `timm.optim.list_optimizers()`, which includes torch's: adamw, sgd, lamb, …"""
    lr: Positive
    """The base learning rate; a freeze schedule has factors of it."""
    weight_decay: NonNegative
    """Not applied to biases and norm layers."""
    momentum: Annotated[float, Field(ge=0, lt=1)] | None
    """Momentum, for optimizers that have it; null: their default."""
    options: dict[str, Any]
    """Other keyword arguments of the optimizer."""
    clip_norm: Positive | None
    """Maximum norm of gradients; null: no clipping."""
    schedule: Rate


class Effective(Strict):
    """Class weights by the inverse effective number of images."""

    effective: Annotated[float, Field(ge=0, lt=1)]
    """β: 0 weighs all classes equally, near 1 by inverse size."""


class CrossEntropy(Strict):
    """Cross-entropy of the softmax."""

    kind: Literal["cross_entropy"]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    """Share of each label that is spread evenly over all classes; 0: none."""
    class_weights: Annotated[
        Literal["balanced"] | Effective | None, Field(description="null, balanced or {effective: 0.999}")
    ]
    """Class weights; balanced: by inverse class size; null: all equal."""


class Mse(Strict):
    """½·mean over the images of the squared distance between softmax and one-hot label."""

    kind: Literal["mse"]


class Bce(Strict):
    """Binary cross-entropy of each class's sigmoid, for several labels per image."""

    kind: Literal["bce"]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    """s: targets are s/2 and 1 − s/2 instead of 0 and 1; 0: none."""
    pos_weight: Annotated[
        Literal["balanced"] | list[Positive] | None,
        Field(description="null, balanced or a number above 0 for each class"),
    ]
    """For each class, factor of its term of the loss for the images that have its label; balanced: (images
    without the label) / (images with it); null: 1."""
    threshold: Annotated[
        Literal["one", "per_class"] | Annotated[float, Field(gt=0, lt=1)],
        Field(description="one, per_class or a number between 0 and 1"),
    ]
    """Probability from which a label is predicted. one: the same for all labels, chosen on the selection
    images for the best micro F1; per_class: for the best F1 of each class; both 0.5 with
    `dataset.selection=last`."""


Loss = Annotated[CrossEntropy | Mse | Bce, Field(discriminator="kind")]
Monitor = Literal["val/accuracy", "val/balanced_accuracy", "val/f1_macro", "val/mAP", "val/loss"]


class NoAdapter(Strict):
    """No adapter: the weights of the backbone train."""

    kind: Literal["none"]


class Lora(Strict):
    """LoRA: low-rank matrices added to each weight, which stays frozen."""

    kind: Literal["lora"]
    rank: Annotated[int, Field(ge=1)]
    """Rank of the matrices whose product is added to a weight."""
    alpha: Annotated[int, Field(ge=1)]
    """The product is scaled by alpha/rank."""
    layers: str
    """Layers with an adapter: a pattern as in freeze.groups, such as "*" or "block:-4..". Never the head."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Probability that an input of the matrices is dropped while training."""


Adapter = Annotated[NoAdapter | Lora, Field(discriminator="kind")]


class NoRegularizer(Strict):
    """No regularizer."""

    kind: Literal["none"]


class L2Sp(Strict):
    """L2-SP: penalizes the distance of pretrained weights from their initial values, of new ones from 0."""

    kind: Literal["l2_sp"]
    alpha: NonNegative
    """The loss grows by alpha/2 times the squared distance from the initial weights."""
    beta: NonNegative
    """The loss grows by beta/2 times the squared norm of new tensors, such as a reset head."""


class L2Start(Strict):
    """Penalizes the distance of all weights from their initial values."""

    kind: Literal["l2_start"]
    alpha: NonNegative
    """The loss grows by alpha/2 times the squared distance from the initial weights."""


Regularizer = Annotated[NoRegularizer | L2Sp | L2Start, Field(discriminator="kind")]


class NoAveraging(Strict):
    """No averaging."""

    kind: Literal["none"]


class Ema(Strict):
    """Exponential moving average of the weights over steps."""

    kind: Literal["ema"]
    decay: Annotated[float, Field(ge=0, lt=1)]
    """Decay of the average per step."""
    warmup: bool
    """Whether the decay rises from 2/11 to `decay`, from the step at which a tensor is unfrozen."""


class Swa(Strict):
    """Stochastic weight averaging: the mean of the weights at the end of the last epochs."""

    kind: Literal["swa"]
    start: Annotated[float, Field(ge=0, lt=1)]
    """Share of the epochs before averaging starts."""


class WiseFt(Strict):
    """WiSE-FT: interpolates initial and fine-tuned weights; the selection images choose the share."""

    kind: Literal["wise_ft"]
    alphas: Annotated[list[Probability], Field(min_length=1)]
    """Candidate shares of the fine-tuned weights: 0 is the initial weights, 1 the fine-tuned ones."""


Averaging = Annotated[NoAveraging | Ema | Swa | WiseFt, Field(discriminator="kind")]


class AutoFeatures(Strict):
    """Cache the output of frozen layers below the split point, and share it between runs."""

    kind: Literal["auto"]
    views: Annotated[int, Field(ge=1)] | None
    """With `augment`: number of augmented views per training image, cached and used in turn; null: new
    augmentation at each step, without a cache."""


class NoFeatures(Strict):
    """No cache: the whole network runs at every step."""

    kind: Literal["off"]


Features = Annotated[AutoFeatures | NoFeatures, Field(discriminator="kind")]


class Trainer(Strict):
    """Training length, device, threads and precision."""

    epochs: Annotated[int, Field(ge=1)]
    """Passes over the training images, of all phases together."""
    batch_size: Annotated[int, Field(ge=1)]
    """Images per forward and backward pass, and per optimizer step if `accumulate` is 1."""
    accumulate: Annotated[int, Field(ge=1)] | None = None
    """Batches per optimizer step, as Lightning's `accumulate_grad_batches`: a step trains on
    accumulate · batch_size images, and needs the memory of batch_size; not given: 1."""
    eval_batch_size: Annotated[int, Field(ge=1)]
    """Images per forward pass on validation and test; changes results by rounding only."""
    steps_per_execution: Annotated[int, Field(ge=1)] | None
    """Optimizer steps per Lightning batch, after which a checkpoint may be written; null: as many as take
    50 ms. Results do not depend on it."""
    compile: bool
    """Compile the whole network with torch.compile: takes minutes at the start, pays off only on a GPU."""
    threads: Annotated[int, Field(ge=1, le=1024)]
    """CPU threads; they influence rounding, so they are fixed and recorded. The default in conf/ is one for
    an mlp, whose steps are too small to share, and the machine's physical cores for others."""
    sampling: Literal["shuffle", "balanced"]
    """shuffle: every image once per epoch; balanced: as many images, each from a uniformly drawn class."""
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    """bf16: autocast; weights stay fp32. auto: bf16 where processor and architecture gain by it, which makes
    results differ between processors by more than rounding. Where gradients in bf16 are undefined or don't
    repeat on a CPU, the network trains in fp32 with auto and bf16 alike; for bf16, training.json says why.
    fp16: autocast with a scaled loss, for GPUs without bf16 (before Ampere)."""
    device: Literal["auto", "cpu", "cuda"]
    """Where the run trains; auto: on a GPU if there is one."""
    monitor: Monitor
    """Selects the best epoch, whose weights are saved; ties: the lower val/loss, then the earlier epoch.
    val/mAP and val/loss are for several labels per image, all but val/mAP for one."""

    def images_per_step(self, batch_size: int | None = None) -> int:
        """Return the images of an optimizer step, of a phase with its own batch size if it has one."""
        return (batch_size or self.batch_size) * (self.accumulate or 1)
