"""Batches prepared beside the training: the same ones, and only where that was measured to be faster."""

import threading

import pytest
import torch
from tests.tiny import Bench, same

from frostline.data.loading import prefetch
from frostline.data.loading.prefetch import TURN, TURNS, WARM_UP, Prefetcher

STEPS = WARM_UP + TURN * TURNS + 1
"""After so many calls the choice is made."""


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


def clock(monkeypatch, at_once, ahead_of):
    """Let steps take as long as they should in turns of both ways."""
    now, calls = 0.0, 0

    def perf_counter():
        nonlocal now, calls
        measured = calls - 1 - WARM_UP
        now += ahead_of if measured >= 0 and measured // TURN % 2 else at_once
        calls += 1
        return now

    monkeypatch.setattr(prefetch.time, "perf_counter", perf_counter)


@pytest.mark.parametrize(
    ("at_once", "ahead_of", "chosen"), [(2.0, 1.0, True), (1.0, 1.0, False), (1.0, 2.0, False)]
)
def test_the_faster_way_is_chosen_and_kept(at_once, ahead_of, chosen, monkeypatch):
    clock(monkeypatch, at_once, ahead_of)
    prepared = Prepared()
    batches = Prefetcher(prepared)
    rows = rows_of(STEPS + 10)
    try:
        run(batches, rows[: STEPS - 1])
        assert batches.chosen is None
        run(batches, rows[STEPS - 1 :], first=STEPS - 1)
        assert batches.chosen is chosen
    finally:
        batches.close()
    mine = {step for step, thread in prepared.threads.items() if thread is threading.current_thread()}
    # The first batch of a call of `run` is nobody's next one.
    assert all((step in mine) != chosen for step in range(STEPS + 1, STEPS + 10))
    assert set(range(WARM_UP + 1)) <= mine


def test_batches_are_those_that_were_asked_for_whichever_way(monkeypatch):
    for way in (True, False):
        monkeypatch.setattr(Prefetcher, "_turn", lambda self, way=way: way)
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


def test_a_preparation_that_fails_fails_at_its_own_step(monkeypatch):
    monkeypatch.setattr(Prefetcher, "_turn", lambda self: True)

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


def test_a_run_ends_alike_whichever_way_and_leaves_no_thread(monkeypatch, tmp_path):
    results = {}
    for way in (True, False):
        monkeypatch.setattr(Prefetcher, "_turn", lambda self, way=way: way)
        bench = Bench({"augment": {"flip": 0.5, "rotate": 20.0, "mixup": 0.5}, "trainer.epochs": 2})
        results[way] = bench.fit(tmp_path / str(way))
        assert not any("prepares batches" in thread.name for thread in threading.enumerate())
    assert same(results[True].best_state, results[False].best_state)
    assert results[True].history == results[False].history
