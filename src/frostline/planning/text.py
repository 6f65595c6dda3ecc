"""The plan of a run as tables, and as the YAML of its schedule."""

import io
import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column

from frostline.base.formats import yaml_text
from frostline.console import tables
from frostline.console.tables import FittingTable
from frostline.console.units import counted, seconds, size
from frostline.planning.outline import PhaseOutline, Rates
from frostline.planning.plan import Plan

if TYPE_CHECKING:
    from frostline.planning.duration import Duration

UNKNOWN = "unknown"
FITS = {"crop": "cropped to", "pad": "padded to", "squash": "squashed to"}
PREFIXES = ("", " k", " M", " G", " T", " P", " E")


def show(plan: Plan) -> None:
    """Print the plan as tables."""
    _print(plan, tables.stdout_console())


def as_text(plan: Plan) -> str:
    """Return the plan as tables, as `show` prints it."""
    stream = io.StringIO()
    _print(plan, Console(file=stream, width=tables.WIDTH, highlight=False, markup=False, color_system=None))
    return stream.getvalue()


def _print(plan: Plan, console: Console) -> None:
    console.print(_headline(plan))
    if (plan.fit, plan.input[1]) != ("crop", plan.input[2]):
        console.print(
            f"images are {FITS[plan.fit]} {plan.input[2]}×{plan.input[1]} px (input.fit={plan.fit})"
        )
    for message in (plan.selection, plan.head, plan.cropped):
        if message:
            console.print(message)
    for table in [_groups(plan), _phases(plan), _costs(plan)] if plan.phases else [_groups(plan)]:
        console.print()
        console.print(table, crop=False)
    if plan.phases:
        console.print()
    for text, phases in groupby(plan.phases, _runs_once):
        console.print(f"{_span(list(phases))} {text}", style="dim")
    for phase in plan.phases:
        if phase is not plan.phases[-1] or phase.ends.startswith(("early", "on time, since")):
            console.print(f"phase {phase.index} ends {phase.ends}", style="dim")
    if plan.duration:
        console.print(f"\n{duration_text(plan, plan.duration)}")


def duration_text(plan: Plan, duration: "Duration") -> str:
    """Say how long the run trains, and of that each phase; and all runs of the study's arm."""
    most = "at most " if plan.may_stop else ""
    threads = f" with {counted(duration.threads, 'thread')}" if duration.device == "cpu" else ""
    parts = [f"phase {index} {seconds(part)}" for index, part in enumerate(duration.phases)]
    phases = f": {', '.join(parts)}" if len(parts) > 1 else ""
    arm = f"; in a study, the {duration.runs} runs of an arm {seconds(duration.seconds * duration.runs)}"
    return (
        f"training takes {most}about {seconds(duration.seconds)} on this machine's {duration.device}{threads}"
        f"{phases}{arm if duration.runs > 1 else ''}"
    )


def as_yaml(plan: Plan) -> str:
    """Return the schedule as a file for conf/freeze, with the plan in comments."""
    counts = (f"{group.name} {group.parameters:,} ({_share(group.share)})" for group in plan.groups)
    lines = [f"# {_headline(plan)}", f"# parameters: {', '.join(counts)}"]
    lines += yaml_text({"groups": plan.schedule["groups"]}, flow=True).splitlines()
    lines.append("phases:" if plan.phases else "phases: []")
    for phase, schedule in zip(plan.phases, plan.schedule["phases"], strict=True):
        lines += [f"  # {fact}" for fact in _facts(plan, phase)]
        lines += [f"  {line}" for line in yaml_text([schedule], flow=True).splitlines()]
    return "\n".join([*lines, ""])


def _headline(plan: Plan) -> str:
    most = "at most " if plan.may_stop else ""
    epochs, steps = counted(plan.epochs, "epoch"), counted(plan.steps_per_epoch, "step")
    length = f"{most}{epochs} of {steps}" if plan.phases else "nothing trains"
    batches = f"{plan.batch_size}, {plan.accumulate} per step" if plan.accumulate > 1 else plan.batch_size
    return (
        f"freeze={plan.freeze} on {plan.backbone}, {plan.parameters:,} parameters;"
        f" {plan.images:,} images of {plan.dataset} in batches of {batches}: {length}"
    )


def _facts(plan: Plan, phase: PhaseOutline) -> Iterator[str]:
    yield (
        f"phase {phase.index}: epochs {_epochs(phase)}, {phase.steps:,} steps; ends {phase.ends};"
        f" BatchNorm: {phase.batch_norm}"
    )
    rates = "; ".join(f"{group} {' → '.join(map(_rate, at))}" for group, at in phase.rates.items())
    yield f"  {phase.parameters:,} parameters train, {_share(phase.share)}; learning rates: {rates}"
    once, forward, backward, whole, activations, gradients = _cost(plan, phase)
    first = f"{once} once, " if phase.features else ""
    yield (
        f"  FLOPs: {first}{forward} forward and {backward} backward per image, {whole} in all;"
        f" memory: activations {activations}, gradients {gradients}"
    )
    yield f"  {_runs_once(phase)}"


def _groups(plan: Plan) -> FittingTable:
    headers = ("group", "takes", Column("parameters", justify="right"), Column("share", justify="right"))
    rows = (
        (group.name, ", ".join(plan.patterns[group.name]), f"{group.parameters:,}", _share(group.share))
        for group in plan.groups
    )
    return tables.table(headers, rows)


def _phases(plan: Plan) -> FittingTable:
    numbers = ("phase", "epochs", "steps", "parameters", "share")
    others = ("trains", "lr at first step", "middle", "last", "BatchNorm")
    headers = [
        *(Column(name, justify="right", no_wrap=True) for name in numbers),
        *(Column(name, no_wrap=True) for name in others),
    ]
    return tables.table(headers, (row for phase in plan.phases for row in _rows(phase)))


def _rows(phase: PhaseOutline) -> Iterator[Sequence[str]]:
    """A line for each group that trains; what the phase is as a whole stands in the first."""
    whole = [str(phase.index), _epochs(phase), str(phase.steps), f"{phase.parameters:,}", _share(phase.share)]
    batch_norm = phase.batch_norm
    for group, rates in phase.rates.items():
        yield *whole, group, *map(_rate, rates), batch_norm
        whole, batch_norm = [""] * len(whole), ""


def _costs(plan: Plan) -> FittingTable:
    flops = ("FLOPs/image: once", "forward/epoch", "backward/epoch", "FLOPs in total")
    memory = ("activations/batch", "gradients")
    headers = [Column(name, justify="right", no_wrap=True) for name in ("phase", *flops, *memory)]
    return tables.table(headers, ((str(phase.index), *_cost(plan, phase)) for phase in plan.phases))


def _cost(plan: Plan, phase: PhaseOutline) -> tuple[str, str, str, str, str, str]:
    """Format FLOPs per image (once, forward, backward) and in all, activations of a batch, and gradients."""
    gradients = size(phase.gradients)
    if phase.cost is None:
        return UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, gradients
    once, forward, backward = phase.cost.once, phase.cost.forward, phase.cost.backward
    views = phase.features.views if phase.features else 1
    whole = (once * views + (forward + backward) * phase.epochs) * plan.images
    activations = phase.cost.activations * phase.batch_size
    return _count(once), _count(forward), _count(backward), _count(whole), size(activations), gradients


def _runs_once(phase: PhaseOutline) -> str:
    """Say which features the phase reuses, or why none; the run itself verifies this later."""
    if phase.features:
        numbers, amount = math.prod(phase.features.shape), "per image"
        if phase.features.views > 1:
            amount = f"for each of {phase.features.views} views per image"
        features = f"{numbers:,} numbers ({size(phase.features.bytes)} in float32) {amount}"
        return f"trains on features at {phase.features.at}, {features}; the layers before it run once"
    return f"runs all layers at every step: {phase.whole or 'without data this network shows no split point'}"


def _span(phases: Sequence[PhaseOutline]) -> str:
    """Phases in a row: ``phase 0``, ``phases 1–3, each``."""
    first, last = phases[0].index, phases[-1].index
    return f"phase {first}" if first == last else f"phases {first}–{last}, each"


def _epochs(phase: PhaseOutline) -> str:
    return f"{phase.first_epoch:.3g}–{phase.first_epoch + phase.epochs:.3g}"


def _rate(rates: Rates) -> str:
    low, high = (f"{rate:.2g}".replace("e-0", "e-") for rate in rates)
    return high if low == high else f"{low}…{high}"


def _share(share: float) -> str:
    return f"{100 * share:.3g} %"


def _count(number: float) -> str:
    """Three digits and a decimal prefix: ``3.63 G``."""
    power = 0
    while number >= 999.5 and power < len(PREFIXES) - 1:
        number, power = number / 1000, power + 1
    return f"{number:.3g}{PREFIXES[power]}"
