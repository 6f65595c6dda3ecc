"""A few points of `python -m tests.faults`: killed and damaged runs end in the same bytes."""

import pytest

from tests.faults import Faults, Outcome, table


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_and_damaged_runs_end_in_the_same_bytes(warm, tmp_path):
    faults = Faults(tmp_path, warm, seed=1, keep=None)
    outcomes = [*faults.kills(2), *faults.damage(3)]
    assert [outcome for outcome in outcomes if outcome.complaints] == []


def test_the_table_counts_what_failed():
    outcomes = [Outcome("kill", "a"), Outcome("kill", "a", ["different: x"]), Outcome("damage", "b")]
    assert table(outcomes).splitlines()[2:] == [
        "| damage: b | 1 | 1 |",
        "| kill: a | 2 | 1 |",
        "| all | 3 | 2 |",
    ]
