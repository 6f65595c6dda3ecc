"""What guides say of other libraries is what benchmarks/ found; and its one command works."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import __main__ as benchmarks
from benchmarks import data, report, servers
from benchmarks.harness import Against, Arm, Figure, Measured, Target, Work, ratios, whole_seconds
from benchmarks.work import loading, size

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
        [sys.executable, "-m", "benchmarks.agreement", tmp_path / "found.json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    check(json.loads((tmp_path / "found.json").read_text()))


def test_the_callback_costs_less_than_a_percent_of_a_step():
    arms = json.loads((BENCHMARKS / "results" / "freeze_overhead.json").read_text())["arms"]
    for arm, row in arms.items():
        if arm.startswith("FreezeSchedule"):
            assert row["hooks_percent"] < 1


def test_a_sweep_that_was_killed_ten_times_ended_as_one_that_was_left_alone():
    found = json.loads((BENCHMARKS / "results" / "sweeps.json").read_text())["kills"]
    whole = {"kills": 10, "complete": 64, "duplicates": 0, "same_best": True, "same_trials": True}
    assert found == {"grid": whole, "random": whole}


# ── python -m benchmarks ────────────────────────────────────────────────────────────────────────────────────


def runs_of(**seconds):
    return {
        arm.replace("_", " "): [{"whole_seconds": each} for each in times] for arm, times in seconds.items()
    }


def test_a_ratio_is_taken_within_a_repeat_and_its_median_shown():
    runs = runs_of(frostline=[1.0, 2.0, 4.0], Lightning=[10.0, 60.0, 80.0], the_limit=[1.0, 1.0, 5.0])
    slower = Against("Lightning", Target("≥", 15)).figure(runs)
    assert slower.values == [10, 30, 20]
    found = slower.as_data(verdict=True)
    assert (found["value"], found["low"], found["high"], found["met"]) == (20, 10, 30, True)
    limit = Against("the limit", Target("≤", 0.9)).figure(runs)
    assert limit.values == [1, 2, 0.8]
    assert limit.as_data(verdict=True)["met"] is False
    assert limit.as_data(verdict=False)["met"] is None


def test_what_takes_hours_is_extrapolated_from_the_epochs_that_were_measured():
    arm = Arm(
        "Lightning in a loop", "lightning_probe", {"epochs": 50}, shortened=2, always_shortened=True, times=24
    )
    assert arm.measured_epochs(repeat=0) == 2
    measured = {"seconds": 7.0, "epoch_seconds": [3.0, 3.0]}  # and a second of set-up
    assert whole_seconds(arm, measured, 2) == (24 * (1 + 50 * 3), "measured 2 of 50 epochs × 24")
    whole = Arm("Lightning", "lightning_probe", {"epochs": 20}, shortened=4)
    assert [whole.measured_epochs(repeat) for repeat in (0, 1)] == [20, 4]
    assert whole_seconds(whole, {"seconds": 7.0, "epoch_seconds": [3.0] * 2}, 20) == (7.0, "")


def test_a_loader_that_takes_less_than_a_tick_of_the_processors_clock_has_no_ratio_of_it():
    def result(cpu_ms):
        return [{"seconds": 1.0, "first": 10, "later": 20, "cold": 5, "tree_mib": 100, "cpu_ms": cpu_ms}]

    runs = {"frostline": result(0.0), **{rival: result(0.3) for rival in loading.RIVALS}}
    values = {figure.what: figure.values for figure in loading.figures(runs)}
    assert values["timm's loader ÷ frostline: CPU time per image, later epochs"] == []
    assert values["frostline ÷ timm's loader: images/s, later epochs"] == [1.0]


def test_growth_is_measured_against_the_smallest():
    def result(seconds, peak):
        return [{"seconds": seconds, "whole_seconds": seconds, "peak_mib": peak}]

    runs = {
        "1,000 images, 1 trial": result(10.0, 1000),
        "4,000 images, 1 trial": result(44.0, 1500),
        "1,000 images, 8 trials": result(17.0, 1000),
    }
    values = {figure.what: figure.value for figure in size.figures(runs)}
    assert values["s/image, 4,000 ÷ 1,000 images"] == pytest.approx(1.1)
    assert values["peak memory, 4,000 ÷ 1,000 images"] == 1.5
    assert values["each of 7 more trials ÷ the first"] == pytest.approx(0.1)


def test_the_table_has_a_column_for_each_device_and_says_why_a_target_was_missed(tmp_path):
    work = Work("row", "a title", {}, lambda options, device: [], lambda runs: [], about="About it.")
    about = {
        "cpu": "a CPU",
        "cores": 2,
        "load": 0.1,
        "python": "3.11",
        "versions": {"torch": "2"},
        "threads": 2,
    }
    about |= {"memory_gib": 8, "system": "Linux", "measured": "today"}
    for device, ours in (("cpu", 4.0), ("cuda", 0.5)):
        found = Measured("row", device, "full", {**about, "gpu": "A GPU" if device == "cuda" else None})
        found.runs = {"frostline": [{"seconds": ours, "whole_seconds": ours}]}
        found.figures = [Figure("Keras ÷ frostline", [8 / ours], "×", Target("≥", 2.5)).as_data(verdict=True)]
        report.save(found, tmp_path)
    misses = tmp_path / "misses.yaml"
    misses.write_text("row: {Keras ÷ frostline: It waits for Keras.}")
    table = report.write([work], tmp_path, misses)
    assert "| CPU | A GPU |" in table
    assert "| 2× ✗ | 16× ✓ |" in table
    page = (tmp_path / "README.md").read_text()
    assert "Keras ÷ frostline**, target ≥ 2.5: 2×. It waits for Keras." in page
    report.write([work], tmp_path, tmp_path / "none.yaml")
    assert report.UNEXPLAINED in (tmp_path / "README.md").read_text()


def test_a_rival_that_fails_is_in_the_table_and_the_exit_status(tmp_path, monkeypatch, capsys):
    work = Work(
        "row",
        "a title",
        {"tiny": {}},
        lambda options, device: [
            Arm("frostline", "start", {"what": "help"}),
            Arm("a rival", "start", {"what": "nonsense"}),
        ],
        ratios(Against("a rival", Target("≥", 2))),
        devices=("cpu",),
    )
    monkeypatch.setattr(benchmarks, "all_works", lambda: [work])
    assert benchmarks.main(["--size", "tiny", "--repeats", "2", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "| a rival ÷ frostline | exit status 1: no such thing: nonsense |" in said.out
    assert said.err.count("benchmarks: row, a rival: exit status 1: no such thing: nonsense") == 1
    assert "Traceback" not in said.err
    found = json.loads((tmp_path / "row-cpu.json").read_text())
    assert len(found["runs"]["frostline"]) == len(found["runs"]["a rival"]) == 2
    assert "not measured" in (tmp_path / "README.md").read_text()


def test_the_list_names_the_rows(capsys):
    assert benchmarks.main(["--list"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["probe", "sweep", "gradual", "mlp", "full", "loading", "start", "size"]
    guide = (BENCHMARKS / "README.md").read_text()
    assert all(f"| `{name}` |" in guide for name in names)


def test_the_memory_that_the_documentation_states_was_measured():
    (found,) = json.loads((BENCHMARKS / "results/memory.json").read_text())
    page = " ".join((ROOT / "docs/scale.md").read_text(encoding="utf-8").split())
    assert found["images"] == 100_000
    assert f"take at most {found['peak_mib'] * 2**20 / 1e9:.1f} GB" in page


def test_an_unknown_row_is_named_with_those_there_are(capsys):
    with pytest.raises(SystemExit, match="2"):
        benchmarks.main(["--only", "mpl"])
    assert "mlp" in capsys.readouterr().err


@pytest.mark.slow
def test_a_row_in_miniature_leaves_table_json_and_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "KEPT", tmp_path / "data")
    out = tmp_path / "results"
    assert benchmarks.main(["--size", "tiny", "--only", "mlp", "--device", "cpu", "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "mlp-cpu.json",
        "ratios.png",
        "ratios.svg",
    ]
    found = json.loads((out / "mlp-cpu.json").read_text())
    (ours,), (bare,) = found["runs"]["frostline"], found["runs"]["a bare PyTorch loop"]
    assert abs(ours["accuracy"] - bare["accuracy"]) < 0.06
    figure = found["figures"][0]
    assert figure["value"] == pytest.approx(ours["whole_seconds"] / bare["whole_seconds"])
    assert figure["met"] is None
    assert "Not at full size" in (out / "README.md").read_text()


@pytest.mark.slow
def test_a_server_that_refuses_connections_has_every_epoch_after_a_sync():
    found = servers.measured(servers.Failure("refuses connections", "refuse", epochs=10), seconds=0.2)
    assert found["missing_epochs_after_sync"] == 0
    assert found["finished_after_sync"]
