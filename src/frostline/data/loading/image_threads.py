"""Work on the images of a batch in threads, each of which computes with one OpenMP thread.

The operations on one image are too small for several OpenMP threads: two of them that wait for each other
take ten times as long beside another busy process.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor

from frostline.base.processes import processors

LARGE = 1 << 14
"""Values of an image; of smaller ones, most of the work is Python's, which threads do not share."""


def stack(work: Callable[[int], Tensor], images: Tensor) -> Tensor:
    """Return `work(i)` for each image, stacked: the same bytes whatever the number of threads.

    Args:
        images: (N, C, H, W); those on a GPU, small ones, and single ones are worked on in this thread.
    """
    count = len(images)
    if images.device.type != "cpu" or images[:1].numel() < LARGE or count < 2:
        return torch.stack([work(i) for i in range(count)])
    pool = _pool()
    parts = torch.arange(count).tensor_split(min(count, processors()))
    done = pool.map(lambda part: [work(i) for i in part], [part.tolist() for part in parts])
    return torch.stack([image for part in done for image in part])


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(processors(), "transforms images", initializer=_compute_with_one_thread)


# A forked process has none of the threads.
os.register_at_fork(after_in_child=_pool.cache_clear)


def _compute_with_one_thread() -> None:
    """Limit this thread only; `torch.set_num_threads` would limit MKL's matrix products in all of them."""
    from threadpoolctl import threadpool_limits

    torch.get_num_threads()  # Torch sets its own number of threads when a thread first asks for it.
    threadpool_limits(1, user_api="openmp")
