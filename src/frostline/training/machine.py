"""What a process pins before it computes, so that results repeat and memory is not given back in vain."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from frostline.training import garbage

M_TRIM_THRESHOLD, M_MMAP_MAX, M_PERTURB = -1, -4, -6


def pin(threads: int) -> None:
    """Compute with `threads` CPU threads, deterministically, and keep freed memory for the next layer.

    What is to be imported has been: garbage is collected from now on.
    """
    garbage.collect()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # cuBLAS reads it as it starts, and repeats its sums only with a workspace of a fixed size.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Else each new tensor is filled with NaN before it is written: a twentieth of a ResNet-18's step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # As Lightning sets it, torch opens the driver's library anew at each optimizer step: 0.15 ms.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    keep_freed_memory()


@contextmanager
def repeatable_attention(device: torch.device) -> Iterator[None]:
    """Let attention on a GPU repeat its gradients, while the block runs; it does so on a CPU.

    The backward passes of FlashAttention and of the memory-efficient kernel add in any order unless
    deterministic algorithms are demanded with errors instead of warnings, which many networks can't meet.
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
    """Ask glibc not to return freed memory to the kernel; nothing where there is no glibc.

    By default every activation above 128 KiB is mapped, cleared by the kernel and unmapped again at each
    layer: a pass of EfficientNet-Lite0 over 32 images of 224 px takes 2.4 times as long.
    """
    if libc := _glibc():
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


@contextmanager
def new_memory_holds(byte: int) -> Iterator[None]:
    """Fill what glibc allocates in the block with a byte; nothing where there is no glibc.

    Args:
        byte: 0…254.
    """
    libc = _glibc()
    if libc:
        # glibc fills freed memory with the value, and new memory with its complement.
        libc.mallopt(M_PERTURB, ~byte & 0xFF)
    try:
        yield
    finally:
        if libc:
            libc.mallopt(M_PERTURB, 0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None
