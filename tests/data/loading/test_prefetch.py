"""Batches prepared beside the training are the same."""

import threading

import pytest
import torch
from tests.tiny import Bench, same

from frostline.data.loading.prefetch import Prefetcher


class Prepared:
    """Makes a batch of rows and step, and notes in which thread."""

    def __init__(self):
        self.threads = {}

    def __call__(self, rows, step):
        self.threads[step] = threading.current_thread()
        return rows.tolist(), step


def run(batches, rows, first=0):
    coming = [*rows[1:], None]
    return [
        batches.batch(now, first + i, after) for i, (now, after) in enumerate(zip(rows, coming, strict=True))
    ]


def rows_of(steps):
    return [torch.tensor([step, step + 1]) for step in range(steps)]


def test_each_batch_is_prepared_during_the_step_before_it():
    prepared = Prepared()
    batches = Prefetcher(prepared)
    run(batches, rows_of(10))
    batches.close()
    mine = {step for step, thread in prepared.threads.items() if thread is threading.current_thread()}
    assert mine == {0}


def test_batches_are_those_that_were_asked_for():
    batches = Prefetcher(Prepared())
    rows = rows_of(20)
    try:
        assert run(batches, rows) == [(row.tolist(), step) for step, row in enumerate(rows)]
        # A phase with batches of another size: what was prepared is not what is wanted.
        batches.batch(rows[0], 20, rows[1])
        other = torch.tensor([7, 8, 9])
        assert batches.batch(other, 21, None) == ([7, 8, 9], 21)
        batches.batch(rows[0], 22, rows[1])
        assert batches.batch(rows[1], 30, None) == (rows[1].tolist(), 30)
    finally:
        batches.close()


def test_a_preparation_that_fails_fails_at_its_own_step():
    def prepare(rows, step):
        if step == 2:
            raise OSError("the disk is gone")
        return step

    batches = Prefetcher(prepare)
    rows = rows_of(4)
    try:
        assert run(batches, rows[:2]) == [0, 1]
        assert batches.batch(rows[1], 1, rows[2]) == 1
        with pytest.raises(OSError, match="the disk is gone"):
            batches.batch(rows[2], 2, rows[3])
    finally:
        batches.close()


def test_a_run_ends_as_without_a_thread_and_leaves_none(monkeypatch, tmp_path):
    results = {}
    for name in ("thread", "none"):
        if name == "none":
            monkeypatch.setattr(
                Prefetcher, "batch", lambda self, rows, step, coming: self.prepare(rows, step)
            )
        bench = Bench({"augment": {"flip": 0.5, "rotate": 20.0, "mixup": 0.5}, "trainer.epochs": 2})
        results[name] = bench.fit(tmp_path / name)
        assert not any("prepares batches" in thread.name for thread in threading.enumerate())
    assert same(results["thread"].best_state, results["none"].best_state)
    assert results["thread"].history == results["none"].history
