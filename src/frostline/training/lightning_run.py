"""What a freeze schedule needs from a Lightning run: network, optimizer, length and inputs."""

from collections.abc import Iterator
from math import ceil, isinf
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn
from torch.optim import Optimizer

from frostline.console.errors import FrostlineError


def network_of(module: pl.LightningModule, attribute: str) -> nn.Module:
    """Return the module's network, without the wrapper of torch.compile.

    Args:
        attribute: path to the network; empty: the child that has all of the module's parameters, else the
            module itself.
    """
    network: Any = module if attribute else _all_of(module)
    for name in attribute.split(".") if attribute else []:
        network = getattr(network, name, None)
    if not isinstance(network, nn.Module):
        raise FrostlineError(
            f"FreezeSchedule(network={attribute!r}): {type(module).__name__} has no such network"
        )
    wrapped: nn.Module = getattr(network, "_orig_mod", network)
    return wrapped


def single_optimizer(configured: Any) -> Optimizer:
    """Return the one optimizer that `configure_optimizers` returned.

    Raises:
        FrostlineError: it returned none, several, or a scheduler.
    """
    optimizer = _unwrapped(configured)
    if not isinstance(optimizer, Optimizer):
        raise FrostlineError(
            "configure_optimizers must return one optimizer, without a scheduler: a freeze schedule sets"
            " the learning rates; write them into its phases"
        )
    return optimizer


def run_length(trainer: pl.Trainer) -> tuple[int, int]:
    """Return the number of epochs, and of optimizer steps per epoch.

    Raises:
        FrostlineError: the run has no fixed length, or does not end with an epoch.
    """
    trainer.fit_loop.setup_data()
    steps, batches = trainer.estimated_stepping_batches, trainer.num_training_batches
    if isinf(steps) or isinf(batches):
        raise FrostlineError(
            "a freeze schedule needs to know how long the run is; set Trainer(max_epochs=…), and"
            " limit_train_batches where the training data has no length"
        )
    steps_per_epoch = ceil(batches / trainer.accumulate_grad_batches)
    epochs, over = divmod(int(steps), steps_per_epoch)
    if over or not epochs:
        raise FrostlineError(
            f"a freeze schedule needs a run of whole epochs, of {steps_per_epoch} steps here; set"
            f" Trainer(max_epochs={epochs + 1}), or max_steps={(epochs + 1) * steps_per_epoch}, instead of"
            f" max_steps={trainer.max_steps}"
        )
    return epochs, steps_per_epoch


def inputs_of_batches(trainer: pl.Trainer) -> Iterator[Tensor]:
    """Yield the network inputs of one epoch of training batches, on the training device."""
    assert trainer.train_dataloader is not None
    for batch in trainer.train_dataloader:
        moved = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
        yield moved[0] if isinstance(moved, (tuple, list)) else moved


def _all_of(module: nn.Module) -> nn.Module:
    """Return the child that has all of the module's parameters, else the module."""
    holders = [child for child in module.children() if next(child.parameters(), None) is not None]
    own = next(module.parameters(recurse=False), None)
    return holders[0] if len(holders) == 1 and own is None else module


def _unwrapped(configured: Any) -> Any:
    """Return the optimizer from any form in which Lightning accepts a single one."""
    match configured:
        case {"optimizer": optimizer, **rest} if not any(rest.values()):
            return optimizer
        case [[optimizer], []] | [optimizer]:
            return _unwrapped(optimizer)
    return configured
