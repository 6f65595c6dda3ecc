"""Chooses a run's precision, and checks that a bfloat16 step is reproducible bit by bit."""

import copy
import os
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from frostline.base.files import write_text
from frostline.base.formats import canonical_json, parsed_json
from frostline.base.hashes import content_key
from frostline.base.locks import exclusive
from frostline.features.execution import (
    Execution,
    autocast,
    device_of,
    execution_of,
    precision_behind,
    undefined_gradient,
)
from frostline.schema import Run
from frostline.training import machine
from frostline.training.services import Services

if TYPE_CHECKING:
    from frostline.training.data_module import ImageData
    from frostline.training.module import Classifier

FILLS = (0x11, 0xEE)
"""Content of new memory in the two passes: as bfloat16 1e-28 and -4e28."""


def execution_for(
    run: Run, classifier: "Classifier", data: "ImageData", services: Services
) -> tuple[Execution, str | None]:
    """Return a run's execution, and the reason if it can't train in bfloat16 as configured or expected.

    The choice depends on processor, architecture and input. On a CPU a training step in bfloat16 is then
    computed twice, once per network, input and batch size of a project: if the bits differ, the network
    trains in float32.

    Args:
        run: its config.
        classifier: its network, on the CPU, with its plan and loss.
        data: its images.
        services: caches the result of the check in its scratch folder; prints why a run uses float32.

    Raises:
        FrostlineError: the device is missing.
    """
    network, plan, precision = classifier.network, classifier.plan, run.trainer.precision
    device, image = device_of(run.trainer.device), data.spec.shape
    execution, reason = execution_of(network, precision, device, image), None
    trained = frozenset[str]().union(*(plan.trained(phase) for phase in range(len(plan.phases))))
    if precision == "bf16" and execution.trains == "fp32":
        reason = f"on a CPU the gradient of {undefined_gradient(network, image)} is undefined in bf16"
    elif device.type == "cpu" and trained and precision_behind(trained, network, execution.trains) == "bf16":
        shapes = {name: list(parameter.shape) for name, parameter in network.named_parameters()}
        about: list[Any] = [run.backbone.model_dump(), run.adapter.model_dump(), shapes, list(image)]
        about += [run.trainer.threads, _processor()]
        sizes = sorted({phase.batch_size or run.trainer.batch_size for phase in plan.phases})
        if not all(_repeats(classifier, data, execution, size, about, services) for size in sizes):
            execution = replace(execution, trains="fp32")
            reason = "on this processor a training step in bf16 gives other bits when it is computed again"
    if reason:
        services.say(f"{run.stage} {run.arm or run.freeze_name}: {reason}; it trains in fp32")
    return execution, reason


def repeats(
    network: nn.Module,
    execution: Execution,
    images: Tensor,
    loss: Callable[[Tensor], Tensor],
) -> bool:
    """Return whether logits and gradients of a training step are the same bits when it is repeated.

    New memory has other content the second time, if the C library can fill it. A network whose step fails
    counts as reproducible: training reports the error.

    Args:
        network: on the CPU; not changed.
        execution: its precision and memory format.
        images: (N, C, H, W) float32.
        loss: the loss of (N, K) float32 logits.
    """
    try:
        passes = [_step(network, execution, images, loss, fill) for fill in FILLS]
    except (RuntimeError, ValueError):
        return True
    return all(map(_same_bits, *passes))


def _repeats(
    classifier: "Classifier",
    data: "ImageData",
    execution: Execution,
    size: int,
    about: list[Any],
    services: Services,
) -> bool:
    """Return `repeats` for a batch, from the cache if it was computed before.

    Args:
        classifier: the network and its loss.
        data: the images.
        execution: its precision and memory format.
        size: batch size.
        about: what else the result depends on.
        services: the scratch folder.
    """
    key = content_key([*about, size])[:24]
    path = services.scratch / "precision" / f"{key}.json"
    with exclusive(services.scratch / "locks" / f"precision-{key}.lock"):
        try:
            found = parsed_json(path.read_bytes())["repeats"]
        except (OSError, ValueError, TypeError, KeyError):
            found = None
        if not isinstance(found, bool):
            rows = torch.arange(min(size, len(data.train)))
            images, labels = data.training_images(rows, 0, torch.device("cpu"))
            found = repeats(
                classifier.network, execution, images, lambda logits: classifier.criterion(logits, labels)
            )
            write_text(path, canonical_json({"repeats": found}))
    return found


def _processor() -> list[str]:
    """Return what oneDNN's choice of kernels depends on."""
    capabilities = torch.cpu.get_capabilities()
    flags = sorted(name for name, has in capabilities.items() if has is True)
    limits = [os.environ.get(name, "") for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")]
    return [version("torch"), str(capabilities.get("cpu_name")), *flags, *limits]


def _step(
    network: nn.Module,
    execution: Execution,
    images: Tensor,
    loss: Callable[[Tensor], Tensor],
    fill: int,
) -> list[Tensor]:
    """Return the logits of a copy of the network, and the gradients of all its parameters."""
    sketch = copy.deepcopy(network).train()
    execution.arrange(sketch)
    with torch.random.fork_rng(devices=[]), machine.new_memory_holds(fill):
        torch.manual_seed(0)
        for parameter in sketch.parameters():
            parameter.requires_grad_()
            # Behind a head, a scale or a LoRA matrix of zeros all gradients would be zero.
            if not parameter.any():
                nn.init.normal_(parameter, std=0.1)
        with autocast(execution.trains, images.device):
            logits = sketch(execution.arranged(images)).float()
        loss(logits).backward()
    return [logits.detach(), *(p.grad for p in sketch.parameters() if p.grad is not None)]


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(*(tensor.reshape(-1).contiguous().view(torch.uint8) for tensor in (a, b)))
