"""A run's plan as tables for people, and as the YAML of its schedule, to edit and run."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from frostline.core.outline import PhaseOutline, Rates
from frostline.files import yaml_text
from frostline.plan import Plan

LEAST_WIDTH = 120
"""Of a table: a number that is cut is worth less than a line that wraps."""
UNKNOWN = "unknown"


def show(plan: Plan, width: int | None = None) -> None:
    """Print the plan as tables; `width` in characters, None: the terminal's."""
    console = Console(width=width, highlight=False)
    console.width = max(console.width, LEAST_WIDTH)
    tables = [_groups(plan), _phases(plan), _costs(plan)] if plan.phases else [_groups(plan)]
    console.print(_headline(plan))
    for table in tables:
        console.print()
        console.print(table)
    for phase in plan.phases[:-1]:
        console.print(f"phase {phase.index} ends {phase.ends}", style="dim")


def as_yaml(plan: Plan) -> str:
    """Return the schedule as a file of conf/freeze holds it, each part below what it comes to as comments."""
    counts = (f"{group.name} {group.parameters:,} ({_share(group.share)})" for group in plan.groups)
    lines = [f"# {_headline(plan)}", f"# parameters: {', '.join(counts)}"]
    lines += yaml_text({"groups": plan.schedule["groups"]}, flow=True).splitlines()
    lines.append("phases:" if plan.phases else "phases: []")
    for phase, given in zip(plan.phases, plan.schedule["phases"], strict=True):
        lines += [f"  # {fact}" for fact in _facts(plan, phase)]
        lines += [f"  {line}" for line in yaml_text([given], flow=True).splitlines()]
    return "\n".join([*lines, ""])


def _headline(plan: Plan) -> str:
    length = f"{plan.epochs} epochs of {plan.steps_per_epoch} steps" if plan.phases else "nothing trains"
    return (
        f"freeze={plan.freeze} on {plan.backbone}, {plan.parameters:,} parameters;"
        f" {plan.images:,} images of {plan.dataset} in batches of {plan.batch_size}: {length}"
    )


def _facts(plan: Plan, phase: PhaseOutline) -> Iterator[str]:
    yield (
        f"phase {phase.index}: epochs {_epochs(phase)}, {phase.steps:,} steps; ends {phase.ends};"
        f" BatchNorm: {phase.batch_norm}"
    )
    rates = "; ".join(f"{group} {' → '.join(map(_rate, at))}" for group, at in phase.rates.items())
    yield f"  {phase.parameters:,} parameters train, {_share(phase.share)}; rates: {rates}"
    forward, backward, whole, activations, gradients = _cost(plan, phase)
    yield (
        f"  FLOPs: {forward} forward and {backward} backward an image, {whole} in all;"
        f" memory: activations {activations}, gradients {gradients}"
    )


def _groups(plan: Plan) -> Table:
    table = Table("group", "takes", box=None, padding=(0, 2, 0, 0))
    table.add_column("parameters", justify="right")
    table.add_column("share", justify="right")
    for group in plan.groups:
        patterns = ", ".join(plan.patterns[group.name])
        table.add_row(group.name, patterns, f"{group.parameters:,}", _share(group.share))
    return table


def _phases(plan: Plan) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("phase", "epochs", "steps", "parameters", "share", "trains"):
        table.add_column(name, justify="left" if name == "trains" else "right", no_wrap=True)
    for name in ("rate at first step", "middle", "last", "BatchNorm"):
        table.add_column(name, no_wrap=True)
    for phase in plan.phases:
        for row in _rows(phase):
            table.add_row(*row)
    return table


def _rows(phase: PhaseOutline) -> Iterator[Sequence[str]]:
    """A line for each group that trains; what the phase is as a whole stands in the first."""
    whole = [
        str(phase.index),
        _epochs(phase),
        str(phase.steps),
        f"{phase.parameters:,}",
        _share(phase.share),
    ]
    batch_norm = phase.batch_norm
    for group, rates in phase.rates.items():
        yield *whole, group, *map(_rate, rates), batch_norm
        whole, batch_norm = [""] * len(whole), ""


def _costs(plan: Plan) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("phase", justify="right")
    for name in ("FLOPs an image: forward", "backward", "whole phase", "memory: activations", "gradients"):
        table.add_column(name, justify="right", no_wrap=True)
    for phase in plan.phases:
        table.add_row(str(phase.index), *_cost(plan, phase))
    return table


def _cost(plan: Plan, phase: PhaseOutline) -> tuple[str, str, str, str, str]:
    """Forward and backward of an image, both of the whole phase, activations of a batch, gradients."""
    gradients = _bytes(phase.gradients)
    if phase.cost is None:
        return UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, gradients
    forward, backward = phase.cost.forward, phase.cost.backward
    whole = (forward + backward) * phase.epochs * plan.images
    activations = phase.cost.activations * phase.batch_size
    return _count(forward), _count(backward), _count(whole), _bytes(activations), gradients


def _epochs(phase: PhaseOutline) -> str:
    return f"{phase.first_epoch:.3g}–{phase.first_epoch + phase.epochs:.3g}"


def _rate(rates: Rates) -> str:
    low, high = (f"{rate:.2g}".replace("e-0", "e-") for rate in rates)
    return high if low == high else f"{low}…{high}"


def _share(share: float) -> str:
    return f"{100 * share:.3g} %"


def _count(number: float) -> str:
    """Three digits and a decimal prefix: ``3.63 G``."""
    return _scaled(number, 1000, ("", " k", " M", " G", " T", " P", " E"))


def _bytes(number: float) -> str:
    """Three digits and a binary prefix: ``21.2 MiB``."""
    return _scaled(number, 1024, (" B", " KiB", " MiB", " GiB", " TiB", " PiB"))


def _scaled(number: float, base: int, units: Sequence[str]) -> str:
    power = 0
    while number >= 999.5 and power < len(units) - 1:
        number, power = number / base, power + 1
    return f"{number:.3g}{units[power]}"
