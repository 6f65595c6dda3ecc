"""Where a run's metrics and predictions are: in its folder, or in a study's folder `evaluate`."""

import pytest

from frostline.runs.measured import measured_in


def write(folder):
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text("{}")
    return folder


@pytest.mark.parametrize("run", ["full/seed-0", "full/fold-1/seed-0"])
def test_a_studys_run_was_measured_beside_it(tmp_path, monkeypatch, run):
    trained = tmp_path / "artifacts/finetune" / run
    assert measured_in(trained) == trained
    measured = write(tmp_path / "artifacts/evaluate" / run)
    assert measured_in(trained) == measured
    trained.mkdir(parents=True)
    monkeypatch.chdir(trained.parent)
    assert measured_in(trained.relative_to(trained.parent)) == measured


def test_a_runs_own_metrics_come_first(tmp_path):
    write(tmp_path / "evaluate/lr0.1")
    own = write(tmp_path / "finetune/lr0.1")
    assert measured_in(own) == own
