"""What guides say of other libraries is what benchmarks/ found, and finds again where it can."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
RIVALS = BENCHMARKS / ".venv" / "rivals.txt"


def check(found):
    runs = found["runs"]
    assert set(runs) == {"finetuning-scheduler", "finetuning-scheduler, no BatchNorm", "fastai, fine_tune(4)"}
    for run in runs.values():
        assert run["same_parameters_train"] == run["steps"] == 25
        assert run["largest_difference_of_rates"] < 1e-6
        assert run["largest_difference_of_momenta"] < 1e-8
        assert not run["statistics_of_frozen_norms_move"]["frostline"]
    assert runs["finetuning-scheduler, no BatchNorm"]["same_weights_in_the_end"]
    # fastai forgets Adam's moments as it unfreezes; until then the weights are the same but for rounding.
    assert runs["fastai, fine_tune(4)"]["largest_difference_of_weights"]["after_the_first_phase"] < 1e-9


def test_other_libraries_do_the_same_with_the_same_schedule():
    check(json.loads((BENCHMARKS / "results" / "agreement.json").read_text()))


@pytest.mark.slow
@pytest.mark.skipif(not RIVALS.is_file(), reason="benchmarks/agreement.py has not made its environment")
def test_they_still_do(tmp_path):
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "agreement.py", tmp_path / "found.json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    check(json.loads((tmp_path / "found.json").read_text()))


def test_the_callback_costs_less_than_a_percent_of_a_step():
    arms = json.loads((BENCHMARKS / "results" / "freeze_overhead.json").read_text())["arms"]
    for arm, row in arms.items():
        if arm.startswith("FreezeSchedule"):
            assert row["hooks_percent"] < 1
