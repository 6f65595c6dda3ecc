"""Runs that train only a linear head: turns their configs into batched heads, and the results into runs.

`probing.batched_heads` does the training.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional

from frostline.base.metrics import ACCURACY, MAP
from frostline.base.multi_label_metrics import best_thresholds, fixed_thresholds
from frostline.base.run_folder import THRESHOLDS
from frostline.console.errors import resource_errors
from frostline.console.units import size
from frostline.data.loading.class_balance import class_weights, counts, positive_weights
from frostline.data.loading.label_budget import LabelBudget, label_budget
from frostline.data.loading.pixels import Images
from frostline.features.execution import autocast, device_of
from frostline.features.reuse import FeatureExtractor
from frostline.features.split_point import NetworkSplit, NoSplit, candidate_splits
from frostline.features.verification import is_constant
from frostline.freezing.plan import FreezePlan
from frostline.models.optimizers import make_optimizer
from frostline.models.pretrained import create_network
from frostline.models.weights import LoadReport, detached
from frostline.probing import batchable
from frostline.probing.batchable import NotBatchable
from frostline.probing.batched_heads import Head, HeadFit, Recipe, train_heads
from frostline.probing.batched_optimizers import Optimizer
from frostline.probing.feature_set import FeatureSet
from frostline.schema import Bce, CrossEntropy, Run, backbone_name
from frostline.training import garbage, machine, trainable
from frostline.training.inference import reuse_of
from frostline.training.inputs import TrainingInputs
from frostline.training.outputs import Fit, Row, TrainedNetwork
from frostline.training.param_groups import decaying
from frostline.training.run import plan_of, say_head_init
from frostline.training.services import Services

ROUNDING = 1e-4
"""Largest relative difference of a logit between the network on images and its head on features."""
OPTIMIZERS: dict[type, str] = {torch.optim.SGD: "sgd", torch.optim.Adam: "adam", torch.optim.AdamW: "adamw"}


@dataclass(eq=False)
class FeatureGroup:
    """Runs whose heads train on the same features."""

    runs: list[Run]
    split_point: NetworkSplit
    """The first seed's network, split before its head."""
    plan: FreezePlan
    report: LoadReport
    """How the network's initial weights were loaded."""
    reuse: FeatureExtractor
    train: Images
    val: Images
    selection: Images | None
    """The labelled images that choose the epochs; None: `val` does, or nothing."""
    budget: LabelBudget
    starts: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Seed → initial weight and bias of the head, on the CPU."""

    @cached_property
    def views(self) -> list[Tensor]:
        """(N, D) features of the training images, one tensor per augmented view."""
        return [self.reuse.features(self.split_point, self.train, view) for view in self.reuse.view_numbers]

    @cached_property
    def validation(self) -> Tensor:
        """(M, D) features of the validation images."""
        return self.reuse.features(self.split_point, self.val)

    def validation_sets(self, device: torch.device) -> dict[str, FeatureSet]:
        """Return the features of the validation images, and of the selection images if there are any."""
        sets = {"val": FeatureSet([self.validation.to(device).float()], self.val.labels.to(device))}
        if self.selection is not None:
            features = self.reuse.features(self.split_point, self.selection).to(device).float()
            sets["selection"] = FeatureSet([features], self.selection.labels.to(device))
        return sets


@dataclass
class TrainedHead:
    """A run whose head is trained."""

    run: Run
    group: FeatureGroup
    fit: HeadFit
    seconds: float
    """The training time of its feature group, divided by the number of heads."""

    @property
    def best(self) -> Row:
        """The best epoch's row."""
        return self.fit.history[self.fit.best_epoch]

    @property
    def metric(self) -> str:
        """The headline metric of its epochs: accuracy, or mAP with several labels per image."""
        return MAP if isinstance(self.run.loss, Bce) else ACCURACY

    @property
    def shown_metrics(self) -> tuple[str, ...]:
        """The metrics of a probe on validation images: `metric`, what `trainer.monitor` names, the loss."""
        monitor = self.run.trainer.monitor.removeprefix("val/")
        return tuple(dict.fromkeys((self.metric, monitor, "loss")))

    @cached_property
    def thresholds(self) -> dict[str, list[float]]:
        """What training.json has of it, with several labels per image: as `training.thresholds`."""
        if not isinstance(self.run.loss, Bce):
            return {}
        split, weight, kind = self.group.budget.selection_split, self.fit.weight, self.run.loss.threshold
        if not isinstance(kind, str) or split == "last":
            return {THRESHOLDS: fixed_thresholds(kind, len(weight))}
        images = self.group.validation_sets(weight.device)[split]
        logits = functional.linear(images.features, weight, self.fit.bias)
        return {THRESHOLDS: best_thresholds(logits.cpu(), images.labels.cpu(), kind)}

    @property
    def head_state(self) -> dict[str, Tensor]:
        """The best epoch's head, with its parameter names in the network."""
        head = self.group.split_point.module
        return {f"{head}.weight": self.fit.weight.cpu(), f"{head}.bias": self.fit.bias.cpu()}

    @property
    def best_state(self) -> dict[str, Tensor]:
        """The whole network with the best epoch's head."""
        network = self.group.split_point.network
        return {name: detached(tensor) for name, tensor in network.state_dict().items()} | self.head_state

    @property
    def images(self) -> int:
        """The number of training images seen, over all epochs."""
        return self.run.trainer.epochs * len(self.group.train)

    def trained_network(self) -> TrainedNetwork:
        """Return what `training.outputs.write_outputs` writes."""
        group, network = self.group, self.group.split_point.network
        fit = Fit(
            history=self.fit.history,
            best_epoch=self.fit.best_epoch,
            best_state=self.best_state,
            starts=(0,),
            execution=group.reuse.training_execution(network),  # the head itself is trained in float32
            features=[group.split_point.name],
        )
        return TrainedNetwork(fit, network, group.plan, group.report, group.budget, self.thresholds)


@resource_errors()
def group_by_features(runs: Sequence[Run], inputs: TrainingInputs, services: Services) -> list[FeatureGroup]:
    """Group the runs that share features, mostly all of them; no features are computed yet.

    Args:
        runs: equal except for `overrides.HEAD_KEYS`.
        inputs: their training and validation data, and initial weights.
        services: feature cache and messages.

    Raises:
        NotBatchable: batched linear heads do not support the config.
        FrostlineError: the config is invalid otherwise.
    """
    check(runs[0])
    garbage.enable()  # off during imports
    trainer = runs[0].trainer
    machine.configure(trainer.threads)
    if device_of(trainer.device).type == "cpu" and (reason := machine.why_slow(trainer.threads)):
        services.say(reason)
    groups: dict[object, FeatureGroup] = {}
    of_seed: dict[int, FeatureGroup] = {}
    for run in runs:
        seed = run.seed
        if seed not in of_seed:
            group = _feature_group(run, inputs, services)
            own_seed = seed if group.reuse.views else None
            key = group.split_point.module, group.split_point.fingerprint(), group.train.key, own_seed
            of_seed[seed] = groups.setdefault(key, group)
            of_seed[seed].starts |= group.starts
        of_seed[seed].runs.append(run)
    return list(groups.values())


@resource_errors()
def train(groups: Sequence[FeatureGroup], services: Services) -> list[TrainedHead]:
    """Train all heads; a head whose loss is not finite has a failure in its fit.

    Returns:
        One per run: the runs of the first group, then those of the next.
    """
    for group in groups:  # each shows its own progress bar
        _ = group.views, group.validation
    count = sum(len(group.runs) for group in groups)
    total = sum(run.trainer.epochs for group in groups for run in group.runs)
    trained: list[TrainedHead] = []
    with services.progress(f"train {count} heads, by epochs", total) as advance:
        for group in groups:
            begun = time.perf_counter()
            device = device_of(group.runs[0].trainer.device)
            fits = train_heads(
                [_head(group, run) for run in group.runs],
                FeatureSet([view.to(device).float() for view in group.views], group.train.labels.to(device)),
                group.validation_sets(device),
                _recipe(group),
                advance,
            )
            share = (time.perf_counter() - begun) / len(fits)
            pairs = zip(group.runs, fits, strict=True)
            trained += [TrainedHead(run, group, fit, share) for run, fit in pairs]
    return trained


def check(run: Run) -> None:
    """Refuse a config that batched linear heads do not support.

    Raises:
        NotBatchable: it names the first key that is not supported.
    """
    batchable.check(run)
    _optimizer(run)


def _optimizer(run: Run) -> Optimizer:
    """Return the optimizer with the defaults that torch gives it."""
    config = run.optimizer
    made = make_optimizer(config, [{"params": [nn.Parameter(torch.zeros(1))], "weight_decay": 0.0}])
    if type(made) not in OPTIMIZERS:
        raise NotBatchable("optimizer.name", config.name, "set optimizer=adamw, adam or sgd")
    settings = made.param_groups[0]
    for option in ("amsgrad", "maximize", "dampening"):
        if settings.get(option):
            raise NotBatchable("optimizer.options", f"{option}={settings[option]}", "remove it")
    kind = OPTIMIZERS[type(made)]
    if kind == "sgd":
        return Optimizer("sgd", momentum=settings["momentum"], nesterov=settings["nesterov"])
    decoupled = settings.get("decoupled_weight_decay", kind == "adamw")
    return Optimizer("adamw" if decoupled else "adam", betas=settings["betas"], eps=settings["eps"])


def _feature_group(run: Run, inputs: TrainingInputs, services: Services) -> FeatureGroup:
    """Return the feature group of a run: its network, split before the head, and its images; no runs yet."""
    seed, index, spec = run.seed, inputs.index, inputs.spec
    budget = label_budget(index, run.dataset, seed)
    network, report = create_network(run, inputs.initial, spec, index.classes)
    say_head_init(run, report, services)
    plan = plan_of(run, network, len(budget.train))
    images, val = inputs.images("train", budget.train), inputs.images("val", index.rows("val"))
    selection = inputs.images("selection", budget.selection) if len(budget.selection) else None
    if images.weights is not None:
        raise NotBatchable("dataset.columns.weight", "a loss with weights", "set dataset.columns.weight=null")
    reuse = reuse_of(run, spec, services)
    network.to(device_of(run.trainer.device))
    trainable.apply_phase(network, plan, 0)
    split_point = _head_input(run, network, plan, images, reuse)
    head = network.get_submodule(split_point.module)
    weight, bias = (head.get_parameter(name).detach().cpu().clone() for name in ("weight", "bias"))
    starts = {seed: (weight, bias)}
    return FeatureGroup([], split_point, plan, report, reuse, images, val, selection, budget, starts)


def _head_input(
    run: Run, network: nn.Module, plan: FreezePlan, images: Images, reuse: FeatureExtractor
) -> NetworkSplit:
    """Return the network, split before the linear layer that alone is trained."""
    below = any(not plan.layers.places[name].head for name in plan.trained(0))
    if below or len(plan.phases[0].train) > 1:
        raise NotBatchable("freeze", "training more than the head", "set freeze=linear_probe")
    tried = reuse.sample_images(network, images)
    with autocast(reuse.inference_execution(network).frozen_precision, tried.device):
        candidates = candidate_splits(network, plan, 0, tried[:1])
    if isinstance(candidates, NoSplit):
        candidates = []
    heads = [split for split in candidates if _is_linear_head(split, plan, tried)]
    if not heads:
        found = f"the head of {backbone_name(run.backbone)}, which is not a single linear layer at its end,"
        raise NotBatchable("backbone", found, "choose another")
    if isinstance(reuse.within_limit(heads[0], len(images)), NoSplit):
        found = f"caching {size(heads[0].bytes * len(images) * (reuse.views or 1))} of them"
        raise NotBatchable("features", found, "set the environment variable FROSTLINE_CACHE_GIB higher")
    return heads[0]


@torch.no_grad()
def _is_linear_head(split: NetworkSplit, plan: FreezePlan, images: Tensor) -> bool:
    """Return whether one linear layer on the features, the only trained layer, gives the network's logits."""
    network, head = split.network, split.network.get_submodule(split.module)
    alone = plan.trained(0) == {f"{split.module}.weight", f"{split.module}.bias"}
    if not alone or not isinstance(head, nn.Linear):
        return False
    if split.side != "input" or len(split.shape) != 1:
        return False
    # A head of zeros would hide the effect of layers after it, so draw random weights for the test. In
    # float32, whatever the run's precision.
    before = [(tensor, tensor.clone()) for tensor in head.parameters()]
    stream = torch.Generator().manual_seed(0)
    try:
        for tensor in head.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=stream))
        for training in (False, True):
            network.train(training)
            whole, parts = network(images), head(split.features(images))
            if not isinstance(whole, Tensor) or whole.shape != parts.shape:
                return False
            if not bool(((whole - parts).abs() <= ROUNDING * whole.abs().max()).all()):
                return False
        return is_constant(split, images)
    finally:
        for tensor, value in before:
            tensor.copy_(value)


def _head(group: FeatureGroup, run: Run) -> Head:
    plan, name = group.plan, f"{group.split_point.module}.weight"
    (trained_group,) = plan.phases[0].train
    place = plan.layers.places[name]
    has_weight_decay = name in decaying(plan.layers, group.split_point.network)
    decay = plan.options(0, trained_group, has_weight_decay=has_weight_decay).get(
        "weight_decay", run.optimizer.weight_decay
    )
    weight, bias = group.starts[run.seed]
    device = device_of(run.trainer.device)
    return Head(
        lr=run.optimizer.lr * plan.group_factor(0, trained_group, place.depth),
        weight_decay=decay if has_weight_decay else 0.0,
        label_smoothing=getattr(run.loss, "label_smoothing", 0.0),
        seed=run.seed,
        weight=weight.to(device),
        bias=bias.to(device),
    )


def _recipe(group: FeatureGroup) -> Recipe:
    run, phase = group.runs[0], group.plan.phases[0]
    return Recipe(
        epochs=run.trainer.epochs,
        batch_size=run.trainer.images_per_step(phase.batch_size),
        optimizer=_optimizer(run),
        curve=phase.curve,
        monitor=run.trainer.monitor,
        loss=run.loss.kind,
        class_weights=_class_weights(group),
        clip_norm=run.optimizer.clip_norm,
        selection_split=group.budget.selection_split,
    )


def _class_weights(group: FeatureGroup) -> Tensor | None:
    """Return the weights of classes, or of images with each label; None: all 1."""
    loss = group.runs[0].loss
    weight, _ = next(iter(group.starts.values()))
    count = counts(group.train.labels, len(weight))
    if isinstance(loss, Bce):
        return positive_weights(loss.pos_weight, count)
    return class_weights(loss.class_weights, count) if isinstance(loss, CrossEntropy) else None
