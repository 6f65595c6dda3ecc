"""`frostline plan`: what a freeze schedule gives on this backbone and data set, before anything trains."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from frostline import compose
from frostline.core import outline
from frostline.core.outline import GroupOutline, PhaseOutline, Rates
from frostline.schema import Experiment, Run

LEAST_WIDTH = 120


@dataclass(frozen=True)
class Plan:
    """A run's schedule, ready to show."""

    backbone: str
    dataset: str
    freeze: str
    parameters: int
    """Of the network."""
    images: int
    """That it trains on."""
    batch_size: int
    epochs: int
    steps_per_epoch: int
    groups: list[GroupOutline]
    patterns: Mapping[str, list[str]]
    phases: list[PhaseOutline]


def make(composed: Experiment, choices: Mapping[str, str], stage: str, images: int | None) -> Plan:
    """Work out the schedule of a run.

    Args:
        composed: the experiment.
        choices: the option chosen in each group.
        stage: pretrain or finetune.
        images: training images; None: as many as the data set gives, which is prepared for that.

    Raises:
        FrostlineError: the schedule does not fit the network, or the data set can't be had.
    """
    import torch

    from frostline.models.backbones import build
    from frostline.models.pretrained import NO_WEIGHTS, input_spec
    from frostline.stages import training

    source = stage == "pretrain"
    run = (compose.pretrain_config if source else compose.finetune_config)(composed, choices)
    count, classes = (images, 2) if images else _prepared(composed, run, "source" if source else "target")
    spec = input_spec(run.backbone, NO_WEIGHTS, run.input)
    with torch.device("meta"):
        network = build(run.backbone, spec, classes, seed=0)
    plan = training.plan_of(run, network, count)
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    patterns = {
        name: [given] if isinstance(given, str) else given for name, given in run.freeze.groups.items()
    }
    return Plan(
        backbone=training.backbone_name(run),
        dataset=run.dataset.kind,
        freeze=run.freeze_name,
        parameters=sum(sizes.values()),
        images=count,
        batch_size=run.trainer.batch_size,
        epochs=run.trainer.epochs,
        steps_per_epoch=plan.steps_per_epoch,
        groups=outline.groups(plan, sizes),
        patterns=patterns,
        phases=outline.phases(plan, sizes, run.optimizer.lr),
    )


def as_json(plan: Plan) -> str:
    """Return the plan as JSON."""
    from frostline.files import canonical_json

    return canonical_json(dataclasses.asdict(plan))


def show(plan: Plan, width: int | None = None) -> None:
    """Print the plan as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=width, highlight=False)
    console.width = max(console.width, LEAST_WIDTH)  # a cut number is worth less than a wrapped line
    length = f"{plan.epochs} epochs of {plan.steps_per_epoch} steps" if plan.phases else "nothing trains"
    console.print(
        f"freeze={plan.freeze} on {plan.backbone}, {plan.parameters:,} parameters;"
        f" {plan.images:,} images of {plan.dataset} in batches of {plan.batch_size}: {length}\n"
    )
    groups = Table("group", "takes", box=None, padding=(0, 2, 0, 0))
    groups.add_column("parameters", justify="right")
    groups.add_column("share", justify="right")
    for group in plan.groups:
        patterns = ", ".join(plan.patterns[group.name])
        groups.add_row(group.name, patterns, f"{group.parameters:,}", _share(group.share))
    console.print(groups)
    if not plan.phases:
        return
    phases = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("phase", "epochs", "steps", "parameters", "share", "trains"):
        phases.add_column(name, justify="left" if name == "trains" else "right", no_wrap=True)
    for name in ("rate at first step", "middle", "last", "BatchNorm"):
        phases.add_column(name, no_wrap=True)
    for phase in plan.phases:
        for row in _rows(phase, plan.steps_per_epoch):
            phases.add_row(*row)
    console.print()
    console.print(phases)
    for phase in plan.phases[:-1]:
        console.print(f"phase {phase.index} ends {phase.ends}", style="dim")


def _rows(phase: PhaseOutline, steps_per_epoch: int) -> Iterator[Sequence[str]]:
    """A line for each group that trains; what the phase is as a whole stands in the first."""
    begin = phase.first_step / steps_per_epoch
    epochs = f"{begin:.3g}–{begin + phase.epochs:.3g}"
    whole = [str(phase.index), epochs, str(phase.steps), f"{phase.parameters:,}", _share(phase.share)]
    batch_norm = phase.batch_norm
    for group, rates in phase.rates.items():
        yield *whole, group, *map(_rate, rates), batch_norm
        whole, batch_norm = [""] * len(whole), ""


def _rate(rates: Rates) -> str:
    low, high = (f"{rate:.2g}".replace("e-0", "e-") for rate in rates)
    return high if low == high else f"{low}…{high}"


def _share(share: float) -> str:
    return f"{100 * share:.3g} %"


def _prepared(composed: Experiment, run: Run, role: str) -> tuple[int, int]:
    """How many images the run trains on, and their classes."""
    from frostline.alone import prepared
    from frostline.core.seeds import derive
    from frostline.data.index import training_rows

    index, _ = prepared(composed, role)
    rows = training_rows(index, run.dataset, derive(run.seeds[0], "shots") % 2**31)
    return len(rows), len(index.classes)
