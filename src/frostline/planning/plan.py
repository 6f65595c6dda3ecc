"""The plan of a run before it trains, for `frostline plan`: its schedule on a backbone and a data set."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.base import project
from frostline.base.formats import canonical_json
from frostline.base.hashes import content_key
from frostline.console.progress import say_once, shown
from frostline.data.reading.sources import name_of
from frostline.features.split_point import NetworkSplit, NoSplit, first_valid
from frostline.freezing.inheritance import resolve_inheritance
from frostline.freezing.plan import FreezePlan
from frostline.planning import cost, outline
from frostline.planning.cost import Cost
from frostline.planning.outline import GroupOutline, PhaseOutline, SectionOutline
from frostline.schema import Experiment, Run, needs_pretraining
from frostline.training import trainable
from frostline.training.services import Services

if TYPE_CHECKING:
    from torch import nn

    from frostline.data.loading.label_budget import LabelBudget
    from frostline.data.prepared.index import Index
    from frostline.features.reuse import FeatureExtractor
    from frostline.models.initial_weights import InitialWeights
    from frostline.models.input_spec import InputSpec
    from frostline.planning.duration import Duration


@dataclass(frozen=True)
class Plan:
    """The schedule of a run, ready to print or plot."""

    backbone: str
    dataset: str
    freeze: str
    schedule: Mapping[str, Any]
    """Groups and phases as in conf/freeze, with inherited values filled in."""
    parameters: int
    """Number of parameters of the network."""
    input: tuple[int, int, int]
    """Channels, height and width of an image."""
    fit: str
    """`input.fit`: crop, pad or squash."""
    images: int
    """Number of training images."""
    batch_size: int
    accumulate: int
    """Batches per optimizer step."""
    epochs: int
    """Number of epochs; the maximum if `may_stop`."""
    steps_per_epoch: int
    groups: list[GroupOutline]
    sections: list[SectionOutline]
    """From the input to the head."""
    phases: list[PhaseOutline]
    head: str = ""
    """Message about the initialization of the head; see `models.head_init.HeadInit.notice`."""
    cropped: str = ""
    """Warning that the centre crop cuts off much of the images."""
    duration: "Duration | None" = None
    """How long the run trains on this machine; None: it was not measured."""
    selection: str = ""
    """Numbers of images for training and for the selection of the best epoch; empty: no known data set."""

    @property
    def may_stop(self) -> bool:
        """Whether the last phase may end the run early."""
        return bool(self.phases) and self.phases[-1].ends.startswith("early")

    @property
    def patterns(self) -> dict[str, list[str]]:
        """Group → its patterns."""
        groups = self.schedule["groups"]
        return {name: [own] if isinstance(own, str) else own for name, own in groups.items()}

    def as_data(self) -> dict[str, Any]:
        """Return the plan as plain data, for JSON and for the plot."""
        return asdict(self)

    def as_json(self) -> str:
        """Return the plan as JSON."""
        return canonical_json(self.as_data())


def make(
    composed: Experiment, choices: Mapping[str, str], stage: str, data: "Index | tuple[int, int]"
) -> Plan:
    """Make the plan of a run.

    Args:
        choices: the selected option of each config group.
        stage: pretrain or finetune.
        data: the index of the prepared data set; or the numbers of training images and classes.

    Raises:
        FrostlineError: the schedule does not fit the network, or the label budget the data set.
    """
    import torch

    from frostline.config import stage_configs
    from frostline.data.loading import transforms
    from frostline.data.loading.label_budget import label_budget
    from frostline.data.loading.resize import crop_warning
    from frostline.models import lora
    from frostline.models.backbones import build
    from frostline.models.initial_weights import NO_WEIGHTS
    from frostline.models.pretrained import input_spec
    from frostline.training.run import plan_of

    source = stage == "pretrain"
    run = (stage_configs.pretrain_config if source else stage_configs.finetune_config)(composed, choices)
    initial = NO_WEIGHTS if isinstance(data, tuple) else _expected(run)
    spec, cropped, selection = input_spec(run.backbone, initial, run.input), None, ""
    transforms.check(run.augment, spec)
    if isinstance(data, tuple):
        count, classes = data
    else:
        with stage_configs.keys_of("source" if source else "target"):
            budget = label_budget(data, run.dataset, run.seed)
        count, classes = len(budget.train), len(data.classes)
        selection = _selection_text(data, budget) if run.freeze.phases else ""
        cropped = crop_warning(data, spec) if run.input.fit is None else None
    with torch.device("meta"):
        network = build(run.backbone, spec, classes, seed=0)
        lora.adapt(network, run)
    head = "" if isinstance(data, tuple) else _head(composed, run, initial, source=source)
    plan = of_run(run, plan_of(run, network, count), network, spec, count)
    return replace(plan, head=head, selection=selection, cropped=f"warning: {cropped}" if cropped else "")


def with_duration(
    plan: Plan, composed: Experiment, choices: Mapping[str, str], stage: str, folder: Path
) -> Plan:
    """Return the plan with an estimate of how long the run trains on this machine, from a few steps of it.

    If nothing trains, the plan is unchanged.

    Args:
        folder: the folder of the prepared data.

    Raises:
        FrostlineError: the images can't be read, or memory is too small for a step.
    """
    if not plan.phases:
        return plan
    from frostline.config import stage_configs
    from frostline.models.initial_weights import NO_WEIGHTS
    from frostline.planning import duration

    services, runs = Services(project.scratch(), shown, say_once), 1
    if stage == "pretrain":
        run = stage_configs.pretrain_config(composed, choices)
    else:
        run = stage_configs.finetune_config(composed, choices)
        runs = len(composed.seeds) * len(composed.folds or range(run.dataset.folds or 1))
    known = replace(NO_WEIGHTS, input=_expected(run).input)
    measured = duration.measure(run, known, folder, plan.phases, services)
    return replace(plan, duration=replace(measured, runs=runs))


def _expected(run: Run) -> "InitialWeights":
    """Return the initial weights of a run, or only their shapes; those of a pretraining count as unknown.

    A pretraining, which may not have run yet, has the input of the config, or else of the backbone.
    """
    from frostline.models.initial_weights import NO_WEIGHTS
    from frostline.models.pretrained import expected_weights

    return NO_WEIGHTS if needs_pretraining(run.weights) else expected_weights(run.backbone, run.weights)


def _head(composed: Experiment, run: Run, initial: "InitialWeights", *, source: bool) -> str:
    """Return the message about the head's initialization; refuse a head that the run would refuse."""
    from frostline.config import stage_configs
    from frostline.data.reading.sources import classes_of
    from frostline.models.head_init import choose_head_init
    from frostline.models.pretrained import head_init_of

    with stage_configs.keys_of("source" if source else "target"):
        classes = classes_of(run.dataset)
    trains = bool(run.freeze.phases)
    if needs_pretraining(run.weights) and not source:
        with stage_configs.keys_of("source"):
            known = classes_of(composed.source)
        return choose_head_init(run.weights.head, known, classes, source="the source", trains=trains).notice
    return head_init_of(initial, classes, trains=trains).notice


def of_run(run: Run, plan: FreezePlan, network: "nn.Module", spec: "InputSpec", images: int) -> Plan:
    """Describe the plan of a run.

    Args:
        network: its network, which may be on the meta device; it is not changed.
        images: number of training images.
    """
    from frostline.schema import backbone_name
    from frostline.training.inference import reuse_of

    reuse = reuse_of(run, spec, Services(project.scratch()))
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    shape = spec.shape
    key = _key(run, plan, spec, sizes)
    if key not in _CACHE:
        whole = cost.phase_costs(network, plan, shape)
        _CACHE[key] = list(zip(_splits_and_costs(reuse, network, plan), whole, strict=True))
        while len(_CACHE) > CACHE_SIZE:
            del _CACHE[next(iter(_CACHE))]
    executions = []
    for (split, cost_after_split), whole_cost in _CACHE[key]:
        used = reuse.within_limit(split, images) if isinstance(split, NetworkSplit) else split
        phase_cost = cost_after_split if cost_after_split and isinstance(used, NetworkSplit) else whole_cost
        executions.append(outline.PhaseExecution(phase_cost, used, reuse.views or 1))
    phases = outline.phases(plan, sizes, run.optimizer.lr, run.trainer.batch_size, executions)
    last = phases[-1] if phases else None
    return Plan(
        backbone=backbone_name(run.backbone),
        dataset=name_of(run.dataset),
        freeze=run.freeze_name,
        schedule=resolve_inheritance(run.freeze).model_dump(exclude_none=True),
        parameters=sum(sizes.values()),
        input=shape,
        fit=spec.fit,
        images=images,
        batch_size=run.trainer.batch_size,
        accumulate=run.trainer.accumulate or 1,
        epochs=round(last.first_epoch + last.epochs) if last else run.trainer.epochs,
        steps_per_epoch=plan.steps_per_epoch,
        groups=outline.groups(plan, sizes),
        sections=outline.sections(plan, sizes),
        phases=phases,
    )


_Features = tuple[NetworkSplit | NoSplit | None, Cost | None]
"""The split of a phase, None: unknown, and the cost of a step on its features."""

_CACHE: dict[str, list[tuple[_Features, Cost | None]]] = {}
"""`_key` → split and cost without reuse of each phase. The trials of a sweep mostly share a key."""
CACHE_SIZE = 64
"""Maximum number of entries, since each holds a network on the meta device."""


def _key(run: Run, plan: FreezePlan, spec: "InputSpec", sizes: Mapping[str, int]) -> str:
    """Return the hash of everything that the splits and costs of a run depend on."""
    parts = (run.backbone, run.adapter, run.features, run.augment)
    phases = [
        [sorted(plan.trained(index)), sorted(plan.updated_statistics(index)), phase.dropout, phase.drop_path]
        for index, phase in enumerate(plan.phases)
    ]
    configs = [[part.model_dump() for part in parts], sizes, phases, spec.to_dict()]
    return content_key([*configs, run.trainer.precision])


def _splits_and_costs(
    reuse: "FeatureExtractor", network: "nn.Module", plan: FreezePlan
) -> Iterator[_Features]:
    try:
        sketch = cost.copy_to_meta(network)
        dropout = trainable.Dropout(sketch)
    except Exception:  # The network's own code may raise anything.
        yield from [(None, None)] * len(plan.phases)
        return
    for index, phase in enumerate(plan.phases):
        dropout.set(phase.dropout, phase.drop_path)
        trainable.apply_phase(sketch, plan, index)
        yield _split_and_cost(reuse, sketch, plan, index)


def _split_and_cost(
    reuse: "FeatureExtractor", sketch: "nn.Module", plan: FreezePlan, phase: int
) -> _Features:
    try:
        candidates = reuse.worthwhile_splits(sketch, plan, phase)
    except Exception:  # As above.
        return None, None
    if isinstance(candidates, NoSplit):
        return candidates, None
    costs: dict[str, Cost | None] = {}

    def can_run(split: NetworkSplit) -> bool:
        costs[split.name] = cost.split_cost(split)
        return costs[split.name] is not None

    split = first_valid(candidates, can_run, "can't run on features alone")
    return split, costs[split.name] if isinstance(split, NetworkSplit) else None


def _selection_text(index: "Index", budget: "LabelBudget") -> str:
    """Return how many images are trained on, and on which the best epoch is selected."""
    train, aside = len(budget.train), len(budget.selection)
    if budget.selection_split == "selection":
        return f"{train + aside:,} labelled images: {train:,} for training, {aside:,} select the best epoch"
    if budget.selection_split == "last":
        return f"{train:,} images for training; the last epoch's weights are saved"
    val = len(index.rows("val"))
    return f"{train:,} images for training, the {val:,} of the validation split select the best epoch"
