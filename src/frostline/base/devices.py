"""GPUs: which of them this process can use, and which one a worker of several takes."""

import os
import re
from collections.abc import Sequence

VISIBLE = "CUDA_VISIBLE_DEVICES"
ENTRY = re.compile(r"\d+|(GPU|MIG)-\S+")
"""An index, or the id, perhaps shortened, of a GPU or of a MIG instance."""

_bound: str | None = None


def listed_gpus() -> list[str] | None:
    """Return the entries of CUDA_VISIBLE_DEVICES; None: it is not set, and all GPUs are visible.

    CUDA ignores everything from the first invalid entry on, such as -1, and so does this.
    """
    if (text := os.environ.get(VISIBLE)) is None:
        return None
    entries: list[str] = []
    for entry in map(str.strip, text.split(",")):
        if not ENTRY.fullmatch(entry):
            break
        entries.append(entry)
    return list(dict.fromkeys(entries))


def visible_gpus() -> list[str]:
    """Return the GPUs that this process can use, as CUDA_VISIBLE_DEVICES names them; CUDA is not started.

    Without a driver that could count them, what CUDA_VISIBLE_DEVICES lists is taken to be there.
    """
    import torch

    count, entries = torch.cuda.device_count(), listed_gpus()
    if entries is None:
        return [str(index) for index in range(count)]
    return entries[:count] if count else entries


def bind(number: int, among: Sequence[str]) -> None:
    """Let this process, and those that it starts, use one GPU only: number modulo their count.

    To be called before CUDA starts, which reads CUDA_VISIBLE_DEVICES once; so a process keeps its first GPU.

    Args:
        number: of the worker that this process is, 0 the first.
        among: entries for CUDA_VISIBLE_DEVICES; none: the variable stays as it is.
    """
    global _bound
    if among and _bound is None:
        _bound = os.environ[VISIBLE] = among[number % len(among)]


def device_label(device: str) -> str:
    """Return what `trainer.device` stands for in this process: ``cpu``, or the name of the GPU.

    Where CUDA_VISIBLE_DEVICES is set, its value follows: ``NVIDIA H100 (CUDA_VISIBLE_DEVICES=1)``.
    """
    import torch

    name = torch.cuda.get_device_name() if device != "cpu" and torch.cuda.is_available() else "cpu"
    return f"{name} ({VISIBLE}={os.environ[VISIBLE]})" if VISIBLE in os.environ else name
