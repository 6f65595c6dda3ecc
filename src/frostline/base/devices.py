"""GPUs: those that this process can use, and the one that each of several workers uses."""

import os
import re
from collections.abc import Sequence

VISIBLE = "CUDA_VISIBLE_DEVICES"
ENTRY = re.compile(r"\d+|(GPU|MIG)-\S+")
"""An index, or the (possibly shortened) id of a GPU or a MIG instance."""

_bound: str | None = None


def listed_gpus() -> list[str] | None:
    """Return the entries of CUDA_VISIBLE_DEVICES; None: it is not set, so all GPUs are visible.

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
    """Return the GPUs that this process can use, as entries for CUDA_VISIBLE_DEVICES, without starting CUDA.

    Without a driver that counts them, all entries of CUDA_VISIBLE_DEVICES are taken as present.
    """
    import torch

    count, entries = torch.cuda.device_count(), listed_gpus()
    if entries is None:
        return [str(index) for index in range(count)]
    return entries[:count] if count else entries


def bind(number: int, gpus: Sequence[str]) -> None:
    """Restrict this process and its children to one GPU: the one at `number` modulo their count.

    Call it before CUDA starts, which reads CUDA_VISIBLE_DEVICES once. Later calls change nothing.

    Args:
        number: the index of this worker, from 0.
        gpus: entries for CUDA_VISIBLE_DEVICES; if empty, the variable stays as it is.
    """
    global _bound
    if gpus and _bound is None:
        _bound = os.environ[VISIBLE] = gpus[number % len(gpus)]


def device_label(device: str) -> str:
    """Return the name of the device that `trainer.device` selects: ``cpu``, or the name of the GPU.

    Where CUDA_VISIBLE_DEVICES is set, its value follows: ``NVIDIA H100 (CUDA_VISIBLE_DEVICES=1)``.
    """
    import torch

    name = torch.cuda.get_device_name() if device != "cpu" and torch.cuda.is_available() else "cpu"
    return f"{name} ({VISIBLE}={os.environ[VISIBLE]})" if VISIBLE in os.environ else name
