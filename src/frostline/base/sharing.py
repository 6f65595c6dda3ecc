"""Sharing the GPUs and cores of one machine among the workers of a sweep."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from frostline.base import devices
from frostline.base.processes import sharing_cores


@dataclass(frozen=True)
class Share:
    """The resources of each of several workers on a machine; picklable."""

    workers: int = 1
    gpus: tuple[str, ...] = ()
    """Entries for CUDA_VISIBLE_DEVICES, one per worker in turn; if empty, those of the worker's process."""

    @contextmanager
    def taken(self, number: int) -> Iterator[None]:
        """Apply the share of worker `number` during the block; call it before CUDA starts."""
        if self.workers > 1:
            devices.bind(number, self.gpus or devices.listed_gpus() or ())
        with sharing_cores(self.workers):
            yield


ALL = Share()
"""The share of a machine's only worker."""


def share_of(launcher: str, workers: int) -> Share:
    """Return the share of each of a launcher's workers; launchers for other machines allocate their own.

    Args:
        launcher: the name of its class.
    """
    if workers > 1 and launcher == "JoblibLauncher":
        return Share(workers, tuple(devices.visible_gpus()))
    if launcher == "LocalLauncher":  # submitit sets the same CUDA_VISIBLE_DEVICES for all
        return Share(workers)
    return ALL


def fitting_workers(*, gpus: int, per_gpu: int, cores: int, threads: int, trials: int | None) -> int:
    """Return how many workers `sweep.workers=auto` means, at least one.

    Args:
        gpus: number of GPUs that trials can use; 0: they run on the CPU.
        threads: threads of a trial, at least.
        trials: number of trials, if known: an upper bound.
    """
    most = gpus * per_gpu if gpus else cores // threads
    return max(1, most if trials is None else min(most, trials))
