"""Independent random streams from one seed, by name: no draw depends on the number of earlier draws."""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed for the stream of these `names`, such as ``derive(0, "order", epoch)``.

    The names are hashed (SHA-256), so neighbouring seeds and epochs give unrelated streams.
    """
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> "torch.Generator":
    """Return a CPU generator at the start of the stream of these `names`."""
    import torch  # takes seconds, and splits are drawn without it

    return torch.Generator().manual_seed(derive(seed, *names))


def seed_dropout(seed: int, device: "torch.device") -> None:
    """Seed the generators that dropout draws from: the CPU's, and that of a GPU.

    torch.manual_seed would also seed kinds of devices that are not there: it queues a call for each, with a
    stack trace, and takes a millisecond.
    """
    import torch

    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)  # of the current device, which a run's is
