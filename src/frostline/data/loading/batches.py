"""The batches of an epoch; shared by the loader and by the plan, which counts steps."""

import torch


def sizes(images: int, batch_size: int) -> list[int]:
    """Return the sizes of the training batches of an epoch, which cover all images.

    The last batch may be smaller. A single remaining image joins the batch before it, since BatchNorm can't
    train on one value.

    >>> sizes(10, 4), sizes(9, 4), sizes(3, 1)
    ([4, 4, 2], [4, 5], [1, 1, 1])
    """
    full, rest = divmod(images, batch_size)
    counts = [batch_size] * full
    if rest == 1 and full:
        counts[-1] += 1
    elif rest:
        counts.append(rest)
    return counts


def batches(rows: torch.Tensor, batch_size: int) -> tuple[torch.Tensor, ...]:
    """Split rows, images or labels, (N, …) in the epoch's order, into training batches."""
    return rows.split(sizes(len(rows), batch_size))
