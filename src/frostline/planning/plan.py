"""`frostline plan`: what a freeze schedule gives on this backbone and data set, before anything trains."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from frostline.base import project
from frostline.base.formats import canonical_json
from frostline.base.hashes import content_key
from frostline.features.split_point import Split, Whole, the_first
from frostline.freezing.inheritance import written_out
from frostline.freezing.plan import FreezePlan
from frostline.planning import cost, outline
from frostline.planning.cost import Cost
from frostline.planning.outline import GroupOutline, PhaseOutline, SectionOutline
from frostline.schema import Experiment, PretrainWeights, Run
from frostline.training import thaw
from frostline.training.services import Services

if TYPE_CHECKING:
    from torch import nn

    from frostline.features.reuse import Reuse
    from frostline.models.input_spec import InputSpec


@dataclass(frozen=True)
class Plan:
    """A run's schedule, ready to show."""

    backbone: str
    dataset: str
    freeze: str
    schedule: Mapping[str, Any]
    """Groups and phases as conf/freeze holds them, with everything that is inherited written out."""
    parameters: int
    """Of the network."""
    input: tuple[int, int, int]
    """Channels, height and width of an image."""
    images: int
    """That it trains on."""
    batch_size: int
    epochs: int
    """At most, where `may_stop`."""
    steps_per_epoch: int
    groups: list[GroupOutline]
    sections: list[SectionOutline]
    """From the input to the head."""
    phases: list[PhaseOutline]
    head: str = ""
    """What the head starts from, where that is not as expected; see `models.head_start.HeadStart.notice`."""

    @property
    def may_stop(self) -> bool:
        """Whether the last phase may end the run early."""
        return bool(self.phases) and self.phases[-1].ends.startswith("early")

    @property
    def patterns(self) -> dict[str, list[str]]:
        """Group → its patterns."""
        given = self.schedule["groups"]
        return {name: [each] if isinstance(each, str) else each for name, each in given.items()}

    def as_data(self) -> dict[str, Any]:
        """Return all of it as plain data, which JSON can hold and a picture can be drawn from."""
        return asdict(self)

    def as_json(self) -> str:
        """Return all of it as JSON."""
        return canonical_json(self.as_data())


def make(
    composed: Experiment, choices: Mapping[str, str], stage: str, images: int | None, classes: int
) -> Plan:
    """Work out the schedule of a run.

    Args:
        composed: the experiment.
        choices: the option chosen in each group.
        stage: pretrain or finetune.
        images: training images; None: as many as the data set gives, which is prepared for that.
        classes: with `images`, how many the head tells apart.

    Raises:
        FrostlineError: the schedule does not fit the network, or the data set can't be had.
    """
    import torch

    from frostline.config import stage_configs
    from frostline.models import lora
    from frostline.models.backbones import build
    from frostline.models.pretrained import NO_WEIGHTS, input_spec
    from frostline.training.run import plan_of

    source = stage == "pretrain"
    run = (stage_configs.pretrain_config if source else stage_configs.finetune_config)(composed, choices)
    count, classes = (
        (images, classes) if images else _prepared(composed, run, "source" if source else "target")
    )
    spec = input_spec(run.backbone, NO_WEIGHTS, run.input)
    with torch.device("meta"):
        network = build(run.backbone, spec, classes, seed=0)
        lora.adapt(network, run, seed=0)
    head = "" if images else _head(composed, run, source=source)
    return replace(of_run(run, plan_of(run, network, count), network, spec, count), head=head)


def _head(composed: Experiment, run: Run, *, source: bool) -> str:
    """What is to be said of the head; refuses one that can't be used, as the run will."""
    from frostline.data.reading.sources import classes_of
    from frostline.models.head_start import head_start
    from frostline.models.pretrained import expected, head_of

    classes = classes_of(run.dataset)
    trains = bool(run.freeze.phases)
    if isinstance(run.weights, PretrainWeights) and run.weights.path is None and not source:
        known = classes_of(composed.source)
        return head_start(run.weights.head, known, classes, source="the source", trains=trains).notice
    return head_of(expected(run.backbone, run.weights), classes, trains=trains).notice


def of_run(run: Run, plan: FreezePlan, network: "nn.Module", spec: "InputSpec", images: int) -> Plan:
    """Describe the plan of a run.

    Args:
        run: its config.
        plan: its schedule on its network.
        network: with or without data; it stays as it is.
        spec: what the network sees.
        images: that it trains on.
    """
    from frostline.training.inference import reuse_of
    from frostline.training.run_info import backbone_name

    reuse = reuse_of(run, run.seeds[0], spec, Services(project.scratch()))
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    shape = (spec.channels, spec.size, spec.size)
    key = _key(run, plan, spec, sizes)
    if key not in _WORKED_OUT:
        whole = cost.of_phases(network, plan, shape)
        _WORKED_OUT[key] = list(zip(_cuts(reuse, network, plan), whole, strict=True))
        while len(_WORKED_OUT) > KEPT:
            del _WORKED_OUT[next(iter(_WORKED_OUT))]
    cuts, costs = [], []
    for (cut, behind), whole_cost in _WORKED_OUT[key]:
        cuts.append(reuse.fitting(cut, images) if isinstance(cut, Split) else cut)
        costs.append(behind if behind and isinstance(cuts[-1], Split) else whole_cost)
    phases = outline.phases(
        plan,
        sizes,
        run.optimizer.lr,
        run.trainer.batch_size,
        costs,
        cuts,
        reuse.views or 1,
    )
    last = phases[-1] if phases else None
    return Plan(
        backbone=backbone_name(run),
        dataset=run.dataset.kind,
        freeze=run.freeze_name,
        schedule=written_out(run.freeze).model_dump(exclude_none=True),
        parameters=sum(sizes.values()),
        input=shape,
        images=images,
        batch_size=run.trainer.batch_size,
        epochs=round(last.first_epoch + last.epochs) if last else run.trainer.epochs,
        steps_per_epoch=plan.steps_per_epoch,
        groups=outline.groups(plan, sizes),
        sections=outline.sections(plan, sizes),
        phases=phases,
    )


_Cut = tuple[Split | Whole | None, Cost | None]
"""Where the training of a phase cuts the network, None: not known, and the cost behind."""

_WORKED_OUT: dict[str, list[tuple[_Cut, Cost | None]]] = {}
"""Each phase's cut, and its cost where the network runs whole, by `_key`, which trials mostly share."""
KEPT = 64
"""Of them at most: each holds a network without weights."""


def _key(run: Run, plan: FreezePlan, spec: "InputSpec", sizes: Mapping[str, int]) -> str:
    """All that the cuts and costs of a run depend on."""
    parts = (run.backbone, run.adapter, run.features, run.augment)
    phases = [
        [sorted(plan.trained(index)), sorted(plan.moving_statistics(index)), phase.dropout, phase.drop_path]
        for index, phase in enumerate(plan.phases)
    ]
    given = [[part.model_dump() for part in parts], sizes, phases, spec.to_dict()]
    return content_key([*given, run.trainer.precision])


def _cuts(reuse: "Reuse", network: "nn.Module", plan: FreezePlan) -> Iterator[_Cut]:
    try:
        sketch = cost.without_data(network)
        dropout = thaw.Dropout(sketch)
    except Exception:  # the network's own code, as in `planning.cost`
        yield from [(None, None)] * len(plan.phases)
        return
    for index, phase in enumerate(plan.phases):
        dropout.set(phase.dropout, phase.drop_path)
        thaw.enter(sketch, plan, index)
        yield _cut(reuse, sketch, plan, index)


def _cut(reuse: "Reuse", sketch: "nn.Module", plan: FreezePlan, phase: int) -> _Cut:
    try:
        cuts = reuse.cuts(sketch, plan, phase)
    except Exception:  # as above
        return None, None
    if isinstance(cuts, Whole):
        return cuts, None
    costs: dict[str, Cost | None] = {}

    def holds(cut: Split) -> bool:
        costs[cut.name] = cost.behind(cut)
        return costs[cut.name] is not None

    cut = the_first(cuts, holds)
    return cut, costs[cut.name] if isinstance(cut, Split) else None


def _prepared(composed: Experiment, run: Run, role: str) -> tuple[int, int]:
    """How many images the run trains on, and their classes."""
    from frostline.base.seeds import derive
    from frostline.config import stage_configs
    from frostline.console.progress import shown
    from frostline.data.prepared.index import training_rows
    from frostline.preparation import stage as prepare

    index, _ = prepare.cached(stage_configs.prepare_config(composed, role), project.scratch(), shown)
    rows = training_rows(index, run.dataset, derive(run.seeds[0], "shots") % 2**31)
    return len(rows), len(index.classes)
