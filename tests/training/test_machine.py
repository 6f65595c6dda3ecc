"""What a process pins."""

import ctypes
import importlib
import os

import pytest
import torch

from frostline.training import machine


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
    machine.configure(1)
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()
    torch.full((1 << 16,), 3.0)  # freed at once; what comes next may lie there
    assert not torch.empty(1 << 16).isnan().all()


@pytest.mark.parametrize(
    ("threads", "available", "used", "said"),
    [
        (1, 2, 2.0, None),  # one thread waits for nobody
        (2, 2, 0.5, None),
        (2, 2, 1.04, "trainer.threads: other programs use 1.0 of 2 processors, and 2 threads"),
        (2, 8, 6.5, None),
        (2, 8, 7.0, "trainer.threads: other programs use 7.0 of 8 processors, and 2 threads"),
        (4, 2, 0.0, "trainer.threads: 4 threads share 2 processors, which is slow"),
    ],
)
def test_threads_that_have_to_wait_for_a_processor_are_named(monkeypatch, threads, available, used, said):
    monkeypatch.setattr(machine, "processors", lambda: available)
    monkeypatch.setattr(os, "cpu_count", lambda: available)
    monkeypatch.setattr(machine, "used_by_others", lambda: used)
    reason = machine.why_slow(threads)
    assert (reason or "").startswith(said or "")
    assert (reason is None) == (said is None)
    of_pretraining = (reason or "").replace("trainer.threads", "pretrain.trainer.threads")
    assert (machine.why_slow(threads, "pretrain.") or "") == of_pretraining
    monkeypatch.setattr(os, "cpu_count", lambda: 64)  # the load of this process's own processors is unknown
    assert threads > available or machine.why_slow(threads) is None


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize(
    ("threads", "asked", "used"),
    [(3, None, 3), (3, "2", 2), (3, "8", 3), (16, None, 4), (3, "0", 3), (3, "4,2", 3)],
)
def test_inference_uses_the_runs_threads_as_far_as_there_are_processors(monkeypatch, threads, asked, used):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    monkeypatch.setattr(machine, "processors", lambda: 4)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(machine, "used_by_others", lambda: 3.9)
    said = []
    machine.configure_inference(threads, torch.device("cpu"), said.append)
    assert torch.get_num_threads() == used
    assert [text.rpartition(": ")[2] for text in said] == ["set OMP_NUM_THREADS=1"]
    machine.configure_inference(1, torch.device("cpu"), said.append)
    assert torch.get_num_threads() == 1
    assert len(said) == 1


@pytest.mark.usefixtures("as_before")
def test_an_optimizer_step_opens_no_library(monkeypatch):
    """Lightning has torch look for a GPU by NVML, whose library it opens each time that it is asked."""
    importlib.import_module("pytorch_lightning")
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # as it does when it is imported
    machine.configure(1)
    opened = []
    monkeypatch.setattr(ctypes, "CDLL", opened.append)
    weight = torch.zeros(1, requires_grad=True)
    weight.grad = torch.ones(1)
    torch.optim.Adam([weight]).step()
    assert opened == []
