"""`frostline evaluate`: measure a finished run again."""

import json

from frostline.commands import main


def test_a_finished_run_can_be_measured_again(finished):
    before = (finished.folder / "runs/one/metrics.json").read_bytes()
    out, _ = finished("evaluate", "runs/one", "--out", "again")
    test = json.loads(before)["test"]
    details = f"(balanced {test['balanced_accuracy']:.4f}, macro F1 {test['f1_macro']:.4f})"
    assert out == f"again: test accuracy {test['accuracy']:.4f} {details}\n"
    assert (finished.folder / "again/metrics.json").read_bytes() == before
    assert {path.name for path in (finished.folder / "again").iterdir()} == {
        "metrics.json",
        "predictions.csv",
    }


def test_a_run_of_a_study_is_not_changed(finished, capsys, monkeypatch):
    """DVC would find its output changed, and repeat the stage's dependents."""
    from shutil import copytree

    seed = finished.folder / "artifacts/finetune/full/seed-0"
    copytree(finished.folder / "runs/one", seed)
    (seed / "metrics.json").unlink()
    monkeypatch.chdir(finished.folder)
    before = sorted(path.name for path in seed.iterdir())
    assert main.main(["evaluate", str(seed)]) == 2
    assert "is an output of the study, which DVC would find changed; name a folder" in capsys.readouterr().err
    assert sorted(path.name for path in seed.iterdir()) == before
    finished("evaluate", str(seed), "--out", "measured")
    assert (finished.folder / "measured/metrics.json").is_file()
