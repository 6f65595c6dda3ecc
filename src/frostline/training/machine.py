"""Process settings for reproducible results and fast memory allocation."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from frostline.base.processes import processors, used_by_others
from frostline.console.progress import Say

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
OMP_NUM_THREADS = "OMP_NUM_THREADS"
BUSY = 0.9
"""Processors that other programs use, of those that the threads need, from which a run is said to be slow."""


def configure(threads: int) -> None:
    """Compute with `threads` CPU threads, deterministically, and keep freed memory for the next layer."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # cuBLAS reads it when it starts; its sums repeat only with a workspace of fixed size.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Deterministic mode fills new tensors with NaN, which takes 5 % of a ResNet-18 step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # With Lightning's value torch opens the driver's library at each optimizer step: 0.15 ms.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    keep_freed_memory()


def configure_inference(threads: int, device: torch.device, say: Say) -> None:
    """Predict with a run's `threads`, but at most `OMP_NUM_THREADS` and this machine's processors.

    Args:
        say: prints why they are slow, if they are.
    """
    asked = os.environ.get(OMP_NUM_THREADS, "")
    limit = int(asked) if asked.isdecimal() and int(asked) else threads
    used = min(threads, limit, processors())
    torch.set_num_threads(used)
    keep_freed_memory()
    if device.type == "cpu" and (reason := why_slow(used, fix=f"set {OMP_NUM_THREADS}=1")):
        say(f"frostline: warning: {reason}")


def why_slow(threads: int, prefix: str = "", fix: str = "") -> str | None:
    """Return why `threads` CPU threads are slow on this machine, with the fix; None: they are not.

    Args:
        prefix: what precedes the key `trainer.threads`: ``pretrain.`` for a pretraining.
        fix: what to do; empty: set the key to 1.
    """
    key = f"{prefix}trainer.threads"
    available = processors()
    if threads > available:
        return f"{key}: {threads} threads share {available} processors, which is slow"
    # Threads wait for each other in every layer: one that has to wait for a processor stops all. What others
    # use is known of all processors together only.
    used = used_by_others() if available == os.cpu_count() else 0.0
    if threads > 1 and used > available - threads + BUSY:
        return (
            f"{key}: other programs use {used:.1f} of {available} processors, and {threads} threads can be"
            f" ten times slower than one then: {fix or f'set {key}=1'}"
        )
    return None


@contextmanager
def repeatable_attention(device: torch.device) -> Iterator[None]:
    """Make the gradients of attention on a GPU reproducible inside the block; on a CPU they are.

    The backward passes of FlashAttention and of the memory-efficient kernel are deterministic only if
    non-deterministic operations raise errors instead of warnings, which many networks can't meet.
    """
    kernels = torch.backends.cuda
    before = kernels.flash_sdp_enabled(), kernels.mem_efficient_sdp_enabled()
    if device.type == "cuda":
        kernels.enable_flash_sdp(False)
        kernels.enable_mem_efficient_sdp(False)
    try:
        yield
    finally:
        kernels.enable_flash_sdp(before[0])
        kernels.enable_mem_efficient_sdp(before[1])


def keep_freed_memory() -> None:
    """Ask glibc not to return freed memory to the kernel; do nothing without glibc.

    By default every activation above 128 KiB is mapped, cleared and unmapped by the kernel at each layer: a
    pass of EfficientNet-Lite0 over 32 images of 224 px takes 2.4 times as long.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
