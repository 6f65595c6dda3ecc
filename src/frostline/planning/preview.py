"""A freeze plan as a few lines of text, for users of the Lightning callback."""

from torch import nn

from frostline.planning import outline
from frostline.training.freeze_callback import FreezeSchedule


def preview(
    schedule: FreezeSchedule, network: nn.Module, epochs: int, steps_per_epoch: int, lr: float = 1.0
) -> str:
    """Return what a schedule trains in each phase, and at which learning rates, as text.

    Args:
        network: any network; it is not changed.

    Raises:
        FrostlineError: the schedule does not fit the network or the run.
    """
    plan = schedule.plan_for(network, epochs, steps_per_epoch)
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    lines: list[str] = []
    unknown = [outline.PhaseExecution()] * len(plan.phases)
    for phase in outline.phases(plan, sizes, lr, 1, unknown):
        lines.append(
            f"phase {phase.index}: epochs {phase.first_epoch:.4g}–{phase.first_epoch + phase.epochs:.4g},"
            f" {phase.steps} steps, ends {phase.ends}; {phase.parameters:,} parameters train"
        )
        for group, rates in phase.rates.items():
            # With layer decay, the layers of a group have different learning rates.
            spans = (f"{low:.3g}" if low == high else f"{low:.3g}…{high:.3g}" for low, high in rates)
            lines.append(f"  {group}: lr {' → '.join(spans)}")
    return "\n".join(lines or ["nothing trains"])
