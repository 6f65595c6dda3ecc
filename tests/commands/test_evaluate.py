"""`frostline evaluate`: measure a finished run again."""

import json


def test_a_finished_run_can_be_measured_again(finished):
    before = (finished.folder / "runs/one/metrics.json").read_bytes()
    out, _ = finished("evaluate", "runs/one", "--out", "again")
    accuracy = json.loads(before)["test"]["accuracy"]
    assert out == f"again: test accuracy {accuracy:.4f}\n"
    assert (finished.folder / "again/metrics.json").read_bytes() == before
    assert {path.name for path in (finished.folder / "again").iterdir()} == {
        "metrics.json",
        "predictions.csv",
    }
