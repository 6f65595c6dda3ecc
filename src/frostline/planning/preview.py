"""A freeze plan in a few lines of text."""

from torch import nn

from frostline.freezing.freeze import FreezePlan
from frostline.planning import outline


def text(plan: FreezePlan, network: nn.Module, lr: float) -> str:
    """Return a line for each phase, and one for the rates of each group that trains in it.

    Args:
        plan: a run's.
        network: the plan's; it stays as it is.
        lr: the rate that the plan's factors multiply.
    """
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    lines: list[str] = []
    unknown = [None] * len(plan.phases)
    for phase in outline.phases(plan, sizes, lr, batch_size=1, costs=unknown, cuts=unknown):
        lines.append(
            f"phase {phase.index}: epochs {phase.first_epoch:.4g}–{phase.first_epoch + phase.epochs:.4g},"
            f" {phase.steps} steps, ends {phase.ends}; {phase.parameters:,} parameters train"
        )
        for group, rates in phase.rates.items():
            # Layers of a group differ under layer decay.
            spans = (f"{low:.3g}" if low == high else f"{low:.3g}…{high:.3g}" for low, high in rates)
            lines.append(f"  {group}: rate {' → '.join(spans)}")
    return "\n".join(lines or ["nothing trains"])
