"""How the workers of a sweep share one machine: its GPUs, its cores."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from frostline.base import devices
from frostline.base.processes import sharing_cores


@dataclass(frozen=True)
class Share:
    """What each of several workers of a machine gets; picklable, to be sent to them."""

    workers: int = 1
    gpus: tuple[str, ...] = ()
    """Entries for CUDA_VISIBLE_DEVICES; the i-th worker takes the i-th. None: those that its process has."""

    @contextmanager
    def taken(self, number: int) -> Iterator[None]:
        """Be one of the workers while the block runs; before CUDA starts."""
        if self.workers > 1:
            devices.bind(number, self.gpus or devices.listed_gpus() or ())
        with sharing_cores(self.workers):
            yield


ALL = Share()
"""Of a machine's only worker."""


def share_of(launcher: str, workers: int) -> Share:
    """Return what each of a launcher's workers gets; one that starts them elsewhere sees to it itself.

    Args:
        launcher: its class.
        workers: that it starts.
    """
    if workers > 1 and launcher == "JoblibLauncher":
        return Share(workers, tuple(devices.visible_gpus()))
    if launcher == "LocalLauncher":  # submitit's, which sets CUDA_VISIBLE_DEVICES, alike for all
        return Share(workers)
    return ALL


def fitting_workers(*, gpus: int, per_gpu: int, cores: int, threads: int, trials: int | None) -> int:
    """Return how many workers `sweep.workers=auto` means, at least one.

    Args:
        gpus: that trials can use; 0: they run on the CPU.
        per_gpu: workers of each GPU.
        cores: of this machine.
        threads: the least that a trial takes.
        trials: in all, where their number is known: no more workers than these.
    """
    most = gpus * per_gpu if gpus else cores // threads
    return max(1, most if trials is None else min(most, trials))
