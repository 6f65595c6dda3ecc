"""How an epoch's images fall into batches: one home, since a plan counts the steps that a loader makes."""

import torch


def sizes(images: int, batch_size: int) -> list[int]:
    """Return the size of each training batch of an epoch; all images are seen.

    The last batch takes what is left. A single image that is left joins the batch before it: BatchNorm can't
    tell a mean from one value.

    >>> sizes(10, 4), sizes(9, 4), sizes(3, 1)
    ([4, 4, 2], [4, 5], [1, 1, 1])
    """
    full, left = divmod(images, batch_size)
    found = [batch_size] * full
    if left == 1 and full:
        found[-1] += 1
    elif left:
        found.append(left)
    return found


def batches(rows: torch.Tensor, batch_size: int) -> tuple[torch.Tensor, ...]:
    """Split `rows`, (N,) int64 in the epoch's order, into its training batches."""
    return rows.split(sizes(len(rows), batch_size))
