"""Runs that train a linear head alone and differ in its settings: all heads at once, on shared features.

`probing.batched_heads` trains them; here is what that needs of a run's config and network, and what a run is
then.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from frostline.base.seeds import derive
from frostline.console.errors import FrostlineError, resource_errors
from frostline.console.units import size
from frostline.data.loading.augment import augments
from frostline.data.loading.class_balance import class_weights, counts
from frostline.data.loading.pixels import Images
from frostline.data.prepared.index import training_rows
from frostline.features.execution import Execution, autocast, device_of
from frostline.features.reuse import FeatureExtractor
from frostline.features.split_point import NoSplit, Split, candidate_splits
from frostline.freezing.plan import FreezePlan
from frostline.models.optimizers import make_optimizer
from frostline.models.pretrained import InitialWeights, create_network
from frostline.models.weights import LoadReport, detached
from frostline.probing.batched_heads import Head, HeadFit, Recipe, Row, train_heads
from frostline.probing.batched_optimizers import Optimizer
from frostline.schema import CrossEntropy, NoFeatures, Run
from frostline.training import machine, thaw
from frostline.training.inference import reuse_of
from frostline.training.material import Material
from frostline.training.param_groups import decaying
from frostline.training.run import plan_of, say_head
from frostline.training.run_info import backbone_name
from frostline.training.services import Services

ROUNDING = 1e-4
"""Largest difference of a logit, as a share of the largest, between a network and its head on features."""
KINDS: dict[type, str] = {torch.optim.SGD: "sgd", torch.optim.Adam: "adam", torch.optim.AdamW: "adamw"}


class NotAtOnce(FrostlineError):
    """The heads can't be trained at once: `why` is a clause that names the key."""

    def __init__(self, key: str, found: object, fix: str) -> None:
        self.why = f"{key}: {found} is not supported by batched linear heads"
        super().__init__(
            f"{self.why}; {fix}, or train them one by one: frostline finetune -m freeze=linear_probe"
        )


@dataclass(eq=False)
class Company:
    """Runs whose heads train on the same features."""

    runs: list[Run]
    """Each with one seed."""
    cut: Split
    """Of the first seed's network: before its head."""
    plan: FreezePlan
    report: LoadReport
    """How the network's first weights were loaded."""
    reuse: FeatureExtractor
    train: Images
    val: Images
    starts: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Seed → weight and bias of the head before training, on the CPU."""

    @cached_property
    def views(self) -> list[Tensor]:
        """(N, D) features of the training images, of each view of them where they are augmented."""
        views = [None] if self.reuse.views is None else list(range(self.reuse.views))
        return [self.reuse.features(self.cut, self.train, view) for view in views]

    @cached_property
    def validation(self) -> Tensor:
        """(M, D) features of the validation images."""
        return self.reuse.features(self.cut, self.val)


@dataclass
class Trained:
    """A run whose head is trained; has what an `training.trainer.Fit` has, but each epoch's seconds."""

    run: Run
    company: Company
    fit: HeadFit
    seconds: float
    """Its share of the time that all heads took together."""
    starts: tuple[int, ...] = (0,)

    @property
    def seed(self) -> int:
        """The run's."""
        return self.run.seeds[0]

    @property
    def history(self) -> list[Row]:
        """A row an epoch."""
        return self.fit.history

    @property
    def best_epoch(self) -> int:
        """By the run's monitor."""
        return self.fit.best_epoch

    @property
    def best(self) -> Row:
        """The best epoch's row."""
        return self.fit.history[self.fit.best_epoch]

    @property
    def head_state(self) -> dict[str, Tensor]:
        """The best epoch's head, by its names in the whole network."""
        head = self.company.cut.module
        return {f"{head}.weight": self.fit.weight.cpu(), f"{head}.bias": self.fit.bias.cpu()}

    @property
    def best_state(self) -> dict[str, Tensor]:
        """The whole network with the best epoch's head."""
        network = self.company.cut.network
        return {name: detached(tensor) for name, tensor in network.state_dict().items()} | self.head_state

    @property
    def images(self) -> int:
        """Training images seen."""
        return self.run.trainer.epochs * len(self.company.train)

    @property
    def features(self) -> list[str]:
        """At which layer they were computed."""
        return [self.company.cut.name]

    @property
    def execution(self) -> Execution:
        """How the network is run; the head alone is in float32."""
        return self.company.reuse.execution(self.company.cut.network)


@resource_errors()
def gather(runs: Sequence[Run], start: InitialWeights, given: Material, services: Services) -> list[Company]:
    """Find out which runs share features, mostly all of them, before any are computed.

    Args:
        runs: each with one seed, alike but for `overrides.HEAD_KEYS`.
        start: their network's first weights.
        given: what they train and choose on.
        services: where features are kept.

    Raises:
        NotAtOnce: they ask for what only training one by one can do.
        FrostlineError: something else does not fit.
    """
    check(runs[0])
    machine.pin(runs[0].trainer.threads)
    found: dict[object, Company] = {}
    of_seed: dict[int, Company] = {}
    for run in runs:
        seed = run.seeds[0]
        if seed not in of_seed:
            company = _company(run, start, given, services)
            alone = seed if company.reuse.views else None
            key = company.cut.module, company.cut.fingerprint(), company.train.key, alone
            of_seed[seed] = found.setdefault(key, company)
            of_seed[seed].starts |= company.starts
        of_seed[seed].runs.append(run)
    return list(found.values())


@resource_errors()
def train(companies: Sequence[Company], services: Services) -> list[Trained]:
    """Train all heads, each as if alone; those whose loss is not finite have a failure in their fit.

    Returns:
        One a run: the runs of the first company, then those of the next.
    """
    for company in companies:  # each has a bar of its own
        _ = company.views, company.validation
    count = sum(len(company.runs) for company in companies)
    total = sum(run.trainer.epochs for company in companies for run in company.runs)
    found: list[Trained] = []
    with services.progress(f"train {count} heads, by epochs", total) as advance:
        for company in companies:
            begun = time.perf_counter()
            device = device_of(company.runs[0].trainer.device)
            fits = train_heads(
                [_head(company, run) for run in company.runs],
                [view.to(device).float() for view in company.views],
                company.train.labels.to(device),
                company.validation.to(device).float(),
                company.val.labels.to(device),
                _recipe(company),
                advance,
            )
            share = (time.perf_counter() - begun) / len(fits)
            pairs = zip(company.runs, fits, strict=True)
            found += [Trained(run, company, fit, share) for run, fit in pairs]
    return found


def check(run: Run) -> None:
    """Refuse a config that batched linear heads do not support.

    Raises:
        NotAtOnce: it does.
    """
    for key, found, fix in _excess(run):
        raise NotAtOnce(key, found, fix)
    _optimizer(run)


def _excess(run: Run) -> Iterator[tuple[str, object, str]]:
    """What there is too much of: its key, what is there, and how to mend it."""
    if len(run.freeze.phases) != 1:
        yield "freeze", run.freeze_name, "set freeze=linear_probe"
        return
    (phase,) = run.freeze.phases
    if phase.until != "end":
        yield "freeze.phases.0.until", "stopping early", "write until: end"
    if phase.dropout:
        yield "freeze.phases.0.dropout", phase.dropout, "remove it"
    if any(settings.keys() - {"weight_decay"} for settings in (phase.optimizer or {}).values()):
        yield "freeze.phases.0.optimizer", phase.optimizer, "remove it"
    for key in ("drop_rate", "dropout"):
        if rate := getattr(run.backbone, key, 0):
            yield f"backbone.{key}", rate, f"set backbone.{key}=0"
    for key in ("adapter", "regularizer", "averaging"):
        if (kind := getattr(run, key).kind) != "none":
            yield key, kind, f"set {key}=none"
    for key in ("mixup", "cutmix"):
        if share := getattr(run.augment, key):
            yield f"augment.{key}", share, f"set augment.{key}=0"
    if isinstance(run.features, NoFeatures):
        yield "features", "off", "set features=auto"
    elif augments(run.augment) and run.features.views is None:
        yield "augment", "drawing images anew at each step", "set features.views=4, or augment=none"
    if run.trainer.sampling != "shuffle":
        yield "trainer.sampling", run.trainer.sampling, "set trainer.sampling=shuffle"


def _optimizer(run: Run) -> Optimizer:
    """The optimizer as torch would make it: names have defaults of their own."""
    config = run.optimizer
    made = make_optimizer(config, [{"params": [nn.Parameter(torch.zeros(1))], "weight_decay": 0.0}])
    if type(made) not in KINDS:
        raise NotAtOnce("optimizer.name", config.name, "set optimizer=adamw, adam or sgd")
    settings = made.param_groups[0]
    for option in ("amsgrad", "maximize", "dampening"):
        if settings.get(option):
            raise NotAtOnce("optimizer.options", f"{option}={settings[option]}", "remove it")
    kind = KINDS[type(made)]
    if kind == "sgd":
        return Optimizer("sgd", momentum=settings["momentum"], nesterov=settings["nesterov"])
    decoupled = settings.get("decoupled_weight_decay", kind == "adamw")
    return Optimizer("adamw" if decoupled else "adam", betas=settings["betas"], eps=settings["eps"])


def _company(run: Run, start: InitialWeights, given: Material, services: Services) -> Company:
    """A run's network, cut before its head, and its images; no run is in it yet."""
    seed, index, spec = run.seeds[0], given.index, given.spec
    rows = training_rows(index, run.dataset, derive(seed, "shots") % 2**31)
    network, report = create_network(run.backbone, start, spec, index.classes, seed)
    say_head(run, report, services)
    plan = plan_of(run, network, len(rows))
    images, val = given.images("train", rows), given.images("val", index.rows("val"))
    reuse = reuse_of(run, seed, spec, services)
    network.to(device_of(run.trainer.device))
    thaw.enter(network, plan, 0)
    cut = _cut(run, network, plan, images, reuse)
    weight, bias = (
        network.get_parameter(f"{cut.module}.{name}").detach().cpu().clone() for name in ("weight", "bias")
    )
    return Company([], cut, plan, report, reuse, images, val, {seed: (weight, bias)})


def _cut(run: Run, network: nn.Module, plan: FreezePlan, images: Images, reuse: FeatureExtractor) -> Split:
    """The network, cut where nothing is left but a linear layer, which is all that trains."""
    below = any(not plan.layers.places[name].head for name in plan.trained(0))
    if below or len(plan.phases[0].train) > 1:
        raise NotAtOnce("freeze", "training more than the head", "set freeze=linear_probe")
    tried = reuse.sample_images(network, images)
    with autocast(reuse.execution(network).frozen, tried.device):
        cuts = candidate_splits(network, plan, 0, tried[:1])
    heads = [] if isinstance(cuts, NoSplit) else [cut for cut in cuts if _is_all(cut, plan, tried)]
    if not heads:
        found = f"the head of {backbone_name(run)}, which is not one linear layer behind others,"
        raise NotAtOnce("backbone", found, "choose another")
    if isinstance(reuse.within_limit(heads[0], len(images)), NoSplit):
        found = f"keeping {size(heads[0].bytes * len(images) * (reuse.views or 1))} of them"
        raise NotAtOnce("features", found, "set the environment variable FROSTLINE_CACHE_GIB higher")
    return heads[0]


@torch.no_grad()
def _is_all(cut: Split, plan: FreezePlan, images: Tensor) -> bool:
    """Whether the network is a linear layer, which is all that trains, on the features: tried on images."""
    network, head = cut.network, cut.network.get_submodule(cut.module)
    if plan.trained(0) != {f"{cut.module}.weight", f"{cut.module}.bias"} or not isinstance(head, nn.Linear):
        return False
    if cut.side != "input" or len(cut.shape) != 1:
        return False
    # A head may be all zeros, which hides what comes behind it. In float32, whatever the run's precision.
    before = [(tensor, tensor.clone()) for tensor in head.parameters()]
    stream = torch.Generator().manual_seed(0)
    try:
        for tensor in head.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=stream))
        for training in (False, True):
            network.train(training)
            whole, parts = network(images), head(cut.features(images))
            if not isinstance(whole, Tensor) or whole.shape != parts.shape:
                return False
            if not bool(((whole - parts).abs() <= ROUNDING * whole.abs().max()).all()):
                return False
    finally:
        for tensor, value in before:
            tensor.copy_(value)
    return True


def _head(company: Company, run: Run) -> Head:
    plan, name = company.plan, f"{company.cut.module}.weight"
    (group,) = plan.phases[0].train
    place = plan.layers.places[name]
    decays = name in decaying(plan.layers, company.cut.network)
    decay = plan.options(0, group, decays=decays).get("weight_decay", run.optimizer.weight_decay)
    weight, bias = company.starts[run.seeds[0]]
    device = device_of(run.trainer.device)
    return Head(
        lr=run.optimizer.lr * plan.scale(0, group, place.depth),
        weight_decay=decay if decays else 0.0,
        label_smoothing=run.loss.label_smoothing if isinstance(run.loss, CrossEntropy) else 0.0,
        seed=run.seeds[0],
        weight=weight.to(device),
        bias=bias.to(device),
    )


def _recipe(company: Company) -> Recipe:
    run, phase = company.runs[0], company.plan.phases[0]
    return Recipe(
        epochs=run.trainer.epochs,
        batch_size=phase.batch_size or run.trainer.batch_size,
        optimizer=_optimizer(run),
        curve=phase.curve,
        monitor=run.trainer.monitor,
        loss=run.loss.kind,
        class_weights=_class_weights(company),
        clip_norm=run.optimizer.clip_norm,
    )


def _class_weights(company: Company) -> Tensor | None:
    loss = company.runs[0].loss
    if not isinstance(loss, CrossEntropy):
        return None
    weight, _ = next(iter(company.starts.values()))
    return class_weights(loss.class_weights, counts(company.train.labels, len(weight)))
