"""Images of a batch in threads: the same bytes, and nobody else's number of threads changes."""

import os
import threading

import pytest
import torch

from frostline.data.loading import image_threads

IMAGES = torch.arange(5 * 3 * 80 * 80, dtype=torch.int32).view(5, 3, 80, 80)


def stacked(images=IMAGES):
    return image_threads.stack(lambda i: images[i] + i, images)


def test_images_come_in_order():
    expected = torch.stack([IMAGES[i] + i for i in range(5)])
    assert torch.equal(stacked(), expected)
    assert torch.equal(stacked(IMAGES[:1]), expected[:1])
    assert torch.equal(stacked(IMAGES[..., :4]), expected[..., :4])


def test_each_thread_computes_with_one():
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)

    def work(i):
        seen.append((torch.get_num_threads(), threading.current_thread() is threading.main_thread()))
        return IMAGES[i]

    image_threads.stack(work, IMAGES)
    assert seen == [(1, False)] * 5
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own():
    stacked()
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(stacked(), torch.stack([IMAGES[i] + i for i in range(5)])) else 1)
    assert os.waitpid(child, 0)[1] == 0
