"""The works that are measured, one file a row, in the order of the table."""

from collections.abc import Sequence

from benchmarks.harness import Work


def all_works() -> Sequence[Work]:
    from benchmarks.work import full, gradual, loading, mlp, probe, size, start, sweep

    return [each.WORK for each in (probe, sweep, gradual, mlp, full, loading, start, size)]
