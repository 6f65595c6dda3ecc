"""Plans, probes, sweeps and comparisons from Python."""

import json
import shutil
import sys

import pytest
from tests.api.test_runs import TINY

import frostline as fl
from frostline.commands import main as cli


def test_a_plan_is_that_of_the_command(here, capsys):
    plan = fl.plan("digits", freeze="lp_ft", backbone="mlp", images=500, overrides={"input.size": 8})
    words = ["plan", "dataset=digits", "freeze=lp_ft", "backbone=mlp", "input.size=8", "--images", "500"]
    assert cli.main([*words, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(plan.data))
    assert cli.main([*words, "--format", "yaml"]) == 0
    assert capsys.readouterr().out == plan.yaml
    assert cli.main(words) == 0
    assert capsys.readouterr().out == str(plan)
    assert cli.main([*words, "--picture", "plan.svg"]) == 0
    assert (here / "plan.svg").read_bytes() == plan.svg()
    assert "data:image/svg+xml" in plan._repr_html_()


def test_images_and_learning_rates(here):
    sheet = fl.show("digits", backbone="mlp", count=5, overrides={"input.size": 8}, augment="light")
    assert len(sheet) == 5
    assert sheet._repr_html_().count("<img") == 25
    found = fl.lr_find("digits", backbone="mlp", weights="none", freeze="full", overrides={"input.size": 8})
    assert 1e-4 < found.lr < 1
    assert found.to_pandas()["lr"].is_monotonic_increasing
    assert "data:image/svg+xml" in found._repr_html_()


def test_a_probe(here):
    overrides = {"input.size": 32, "trainer.threads": 1, "dataset.shots": 10}
    probe = fl.probe(
        "digits", backbone="resnet10t", weights="none", lr=[1e-3, 1e-2], seed=[0, 1], epochs=2,
        overrides=overrides,
    )  # fmt: skip
    frame = probe.to_pandas()
    assert frame["probe"].str.partition(",")[0].tolist() == ["heads", "heads", "ridge", "kNN"]
    assert sorted(frame["lr"].dropna()) == [1e-3, 1e-2]
    assert probe.run.metrics["test"]["accuracy"] > 0
    assert "ridge" in probe._repr_html_()


def test_a_sweep_is_resumed_and_sorted(here, capsys):
    options = {**TINY, "overrides": {**TINY["overrides"], "backbone.hidden": [[8]]}}
    sweep = fl.sweep("digits", **options, lr=[1e-3, 1e-2], seed=[0, 1], out="sweep")
    accuracies = [run.metrics["val"]["accuracy"] for run in sweep]
    assert accuracies == sorted(accuracies, reverse=True)
    assert len(sweep) == 4
    assert sweep.best is sweep[0]
    frame = sweep.to_pandas()
    assert set(frame["optimizer.lr"]) == {"0.001", "0.01"}
    assert frame["val/accuracy"].tolist() == accuracies
    capsys.readouterr()
    again = fl.sweep("digits", **options, lr=[1e-3, 1e-2], seed=[0, 1], out="sweep")
    assert [run.folder for run in again] == [run.folder for run in sweep]
    assert "finetune full" not in capsys.readouterr().err  # nothing is trained twice
    assert "optimizer.lr" in sweep._repr_html_()


def test_failed_runs_of_a_sweep(here):
    options = {**TINY, "overrides": {**TINY["overrides"], "backbone.hidden": [[8]]}}
    with pytest.raises(fl.TrainingFailed, match="1 of 2 runs failed"):
        fl.sweep("digits", **options, lr=[1e-2, 1e30])
    sweep = fl.sweep("digits", **options, lr=[1e-2, 1e30], keep_failed=True)
    assert len(sweep) == len(sweep.failed) == 1
    assert "lower optimizer.lr" in sweep._repr_html_()
    with pytest.raises(fl.FrostlineError, match=r"optimizer\.lr: found 'oops'"):
        fl.sweep("digits", **options, lr=["oops", 1e-3])


@pytest.mark.slow
# MLflow 3.17 uses what SQLAlchemy 2.1 will drop.
@pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated")
def test_runs_can_be_compared_at_once(here, monkeypatch, no_runs, warm, capsys):
    """What the calls before have recorded is there, in the process that recorded it."""
    monkeypatch.delenv("FROSTLINE_TRACKING")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("FROSTLINE_WAIT", "60")
    monkeypatch.setattr(sys, "executable", str(warm))  # its recorders start at once
    shutil.copy(no_runs, here)
    runs = [fl.finetune("digits", **TINY, lr=lr) for lr in (1e-3, 1e-1)]
    comparison = fl.compare(*runs)
    assert fl.compare(list(runs)).markdown() == comparison.markdown()
    frame = comparison.to_pandas()
    assert len(comparison) == len(frame) == 2
    assert frame["optimizer.lr"].tolist() == [0.1, 0.001]  # the best first
    assert frame["test/accuracy/n"].tolist() == [1, 1]
    assert cli.main(["compare", *(str(run.folder) for run in runs), "--format", "md"]) == 0
    assert capsys.readouterr().out == comparison.markdown()
    html = comparison._repr_html_()
    assert "against the first" in html
    assert html.count("data:image/svg+xml") == 1
    with pytest.raises(fl.FrostlineError, match="2 runs have this name"):
        fl.load("full·mlp·digits·s0")
    with pytest.raises(fl.FrostlineError, match="compare: name runs, or use --study"):
        fl.compare(runs[0], study="mine")
    with pytest.raises(fl.FrostlineError, match="no finished run with that id or name"):
        fl.compare("nothing")
    with pytest.raises(fl.FrostlineError, match="compare: found 3; give runs, or their folders"):
        fl.compare(3)


def test_a_plan_with_its_time_shows_it_in_a_notebook(here):
    small = {"input.size": 8, "trainer.threads": 1}
    plan = fl.plan(
        "digits", freeze="full", backbone="mlp", weights="none", epochs=2, time=True, overrides=small
    )
    assert "; training takes about " in plan._repr_html_()
    assert "training takes about " in str(plan)
