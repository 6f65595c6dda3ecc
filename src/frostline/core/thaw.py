"""Makes a network be as a freeze plan says: what trains, and which running statistics move."""

from torch import nn

from frostline.core.freeze import FreezePlan


def enter(network: nn.Module, plan: FreezePlan, phase: int) -> None:
    """Freeze and thaw `network` for `phase`: what is frozen has no gradient, its statistics stand still."""
    trained = plan.trained(phase)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in trained)
        if name not in trained:
            parameter.grad = None
    network.train()
    hold_statistics(network, plan, phase)


def hold_statistics(network: nn.Module, plan: FreezePlan, phase: int) -> None:
    """Put the layers whose running statistics are frozen into eval mode."""
    moving = plan.moving_statistics(phase)
    for prefix, module in network.named_modules():
        own = {f"{prefix}.{name}" if prefix else name for name, _ in module.named_buffers(recurse=False)}
        if own & plan.layers.places.keys() and not own & moving:
            module.eval()


def freeze_all(network: nn.Module) -> None:
    """Freeze everything: what a plan without phases means."""
    network.requires_grad_(False)
    network.eval()
