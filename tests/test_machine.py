"""What a process pins."""

import pytest
import torch

from frostline import machine


@pytest.fixture
def as_before():
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = filled


@pytest.mark.usefixtures("as_before")
def test_threads_and_algorithms_are_pinned_and_new_memory_is_not_filled_in_vain():
    machine.pin(1)
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()
    torch.full((1 << 16,), 3.0)  # freed at once; what comes next may lie there
    assert not torch.empty(1 << 16).isnan().all()
