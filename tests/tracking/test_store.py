"""MLflow's store against real stores: SQLite, and a server that is there, goes, or was never there."""

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.flaky import free_port, mlflow_server
from tests.forks import FORKS

from frostline.base.processes import process_key
from frostline.training.services import Misclassified, RunInfo

# MLflow 3.17 uses what SQLAlchemy 2.1 will drop.
pytestmark = pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated")
PNG = b"\x89PNG"


def info(
    name: str = "mlp·full·digits",
    study: str = "tiny",
    config: dict | None = None,
    fingerprint: str = "ab12" * 16,
    number: int | None = None,
    **tags: str,
) -> RunInfo:
    config = config or {"backbone": {"kind": "mlp", "hidden": [16, 8]}, "seed": 0}
    dataset = {"name": "digits", "kind": "digits", "fingerprint": fingerprint}
    if number is not None:
        config, tags = {**config, "seed": number}, {**tags, "seed": str(number)}
    return RunInfo(name, "finetune", study, config, dataset, "training", tags, number)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder, whose path is not plain, as the project."""
    folder = tmp_path / "a prôject"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def store(place, no_runs):
    from frostline.tracking.store import Store

    shutil.copy(no_runs, place)
    return Store()


def runs(store, stage="finetune"):
    return {run.info.run_name: run for run in store.search({"stage": stage}, limit=100)}


def begin(store, about=None, when=1000):
    return store.begin(about or info(), process_key(), when=when)


def shown(store, study="tiny"):
    """The view that MLflow's pages show of a study, and its runs."""
    from frostline.tracking import views

    tags = store.client.get_experiment(store.experiment).tags
    view = json.loads(tags[f"mlflow.sharedViewState.{views.key(study)}"])
    found = store.client.search_runs([store.experiment], view["searchFilter"])
    return view, {run.info.run_name for run in found}


@pytest.mark.parametrize("study", ["tiny", 'Müller\'s "best" study'])
def test_a_studys_view_shows_its_runs_and_then_their_means(store, study):
    begin(store, info(study="another", number=0)).end("FINISHED")
    first = begin(store, info(study=study, number=0))
    first.end("FINISHED")
    view, names = shown(store, study)
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`test/accuracy`", False)
    assert names == {"mlp·full·digits·s0"}
    begin(store, info(study=study, number=1)).end("FINISHED")
    assert shown(store, study)[1] == {"mlp·full·digits"}
    assert shown(store, "another")[1] == {"mlp·full·digits·s0"}


def test_the_first_request_of_a_store_may_be_for_a_study(store):
    """The store is opened under the lock that the study's run is created under."""
    assert store.studies.begin("tiny", {}) == store.studies.begin("tiny", {})


def test_a_store_is_opened_without_torch():
    """The recorder and `frostline ui` hold it in memory for as long as they run."""
    code = "import sys, frostline.tracking.store; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_study_is_told_what_its_runs_differ_in(store):
    begin(store, info(study="arms", number=0, arm="full")).end("FINISHED")
    swept = {"sweep.keys": "freeze,optimizer.lr", "sweep.objective": "val/loss"}
    begin(store, info("swept", study="sweep", number=0, **swept)).end("FINISHED")
    studies = runs(store, "study")
    assert studies["arms"].data.tags["compared"] == "arm"
    tags = studies["sweep"].data.tags
    assert (tags["compared"], tags["objective"], tags["kind"]) == ("freeze,optimizer.lr", "val/loss", "study")
    assert not set(swept) & set(runs(store)["swept·s0"].data.tags)
    assert shown(store, "arms")[0]["selectedColumns"][0] == "tags.`arm`"
    assert shown(store, "sweep")[0]["orderByKey"] == "metrics.`best/val/loss`"


def test_the_rows_of_a_study_are_means_and_runs_without_other_seeds(store):
    for number in range(2):
        begin(store, info(number=number, arm="full")).end("FINISHED")
    begin(store, info("alone", config={"lr": 1}, number=0, arm="alone")).end("FINISHED")
    kinds = {name: run.data.tags["kind"] for name, run in runs(store).items()}
    assert kinds == {
        "mlp·full·digits": "mean run",
        "mlp·full·digits·s0": "seed",
        "mlp·full·digits·s1": "seed",
        "alone·s0": "single run",
    }
    assert shown(store)[1] == {"mlp·full·digits", "alone·s0"}


def test_an_arm_that_was_changed_shows_what_differs(store):
    """The seeds of a setting differ in nothing that is shown."""
    for lr in (0.1, 0.2):
        for number in range(2):
            begin(store, info(config={"optimizer": {"lr": lr}}, number=number, arm="full")).end("FINISHED")
    begin(store, info(config={"optimizer": {"lr": 0.3}}, number=0, arm="other")).end("FINISHED")
    assert runs(store, "study")["tiny"].data.tags["compared"] == "arm,optimizer.lr"
    assert shown(store)[0]["selectedColumns"][:2] == ["tags.`arm`", "params.`optimizer.lr`"]


def test_the_results_of_a_study_are_in_its_run(store):
    from frostline.tracking.studies import StudyResult

    for freeze, number in (("full", 0), ("gradual", 1)):
        config = {"freeze_name": freeze, "loss": "mse"}
        begin(store, info(f"{freeze}·mlp", config=config, number=number, arm=freeze)).end("FINISHED")
    result = StudyResult(
        "tiny", "full is best.", "| arm |\n| --- |\n", {"full.gain": 0.25}, {"report/index.html": PNG}
    )
    for _ in range(2):  # a repeated delivery changes nothing
        store.studies.end(result, 5000)
    run = runs(store, "study")["tiny"]
    assert run.data.metrics == {"full.gain": 0.25}
    assert run.data.params == {"loss": "mse"}
    assert run.data.tags["verdict"] == "full is best."
    note = run.data.tags["mlflow.note.content"]
    assert note.startswith("full is best.\n\n[results, the best first](#/experiments/")
    assert note.endswith(result.table)
    assert note.count("viewStateShareKey=") == 3
    assert [file.path for file in store.client.list_artifacts(run.info.run_id, "report")] == [
        "report/index.html"
    ]
    # MLflow changes no parameter: one that is shared no more is named.
    begin(store, info("other", config={"loss": "cross_entropy"}, number=2, arm="other")).end("FINISHED")
    store.studies.end(result, 6000)
    assert runs(store, "study")["tiny"].data.tags["params.changed"] == "loss"


def test_a_studys_run_keeps_no_value_of_an_arm_that_is_gone(store):
    from frostline.tracking.studies import StudyResult

    begin(store, info(number=0, arm="full")).end("FINISHED")
    before = StudyResult("tiny", "gradual is best.", "", {"full.gain": 0.25, "gradual.gain": 0.5})
    after = StudyResult("tiny", "full is best.", "", {"full.gain": 0.125, "rest.gain": 0.0})
    # The record of a report may be delivered twice, also that of an earlier one.
    for result, when in ((before, 5000), (after, 6000), (after, 6000), (before, 5000)):
        store.studies.end(result, when)
    values = runs(store, "study")["tiny"].data.metrics
    assert math.isnan(values.pop("gradual.gain"))
    assert values == after.values
    store.studies.end(before, 7000)  # the arm is back
    values = runs(store, "study")["tiny"].data.metrics
    assert math.isnan(values.pop("rest.gain"))
    assert values == before.values


def test_internals_are_below_one_prefix_and_a_run_has_few_other_metrics(store):
    run = begin(store, info(number=0))
    groups = {f"lr/stage{number}": 0.1 for number in range(40)}
    run.epoch(
        {"epoch": 1, "train/loss": 1.0, "val/loss": 1.0, "lr": 0.1, "trainable_parameters": 7.0, **groups}
    )
    run.metrics({"images_per_second": 9.0, "test/accuracy": 0.5, "test/n": 30.0})
    run.end("FINISHED")
    metrics = runs(store)["mlp·full·digits·s0"].data.metrics
    assert {key for key in metrics if not key.startswith("system/")} == {
        *("train/loss", "val/loss", "lr", "test/accuracy")
    }
    assert metrics["system/lr/stage3"] == 0.1


def test_a_run_is_named_tagged_and_below_its_study(store, place):
    begin(store, info(arm="full", number=0, threads="1", freeze="full")).end("FINISHED", when=5000)
    (run,) = runs(store).values()
    (parent,) = runs(store, "study").values()
    assert run.info.run_name == "mlp·full·digits·s0"
    assert (run.info.status, run.info.start_time, run.info.end_time) == ("FINISHED", 1000, 5000)
    assert parent.info.run_name == "tiny"
    assert parent.info.status == "FINISHED"
    tags = run.data.tags
    assert tags["mlflow.parentRunId"] == parent.info.run_id
    expected = {
        "stage": "finetune",
        "study": "tiny",
        "arm": "full",
        "seed": "0",
        "threads": "1",
        "freeze": "full",
    }
    assert expected.items() <= tags.items()
    assert tags["host"] == socket.gethostname()
    assert tags["process"] == process_key()
    assert {
        "version.torch",
        "version.timm",
        "version.mlflow",
        "version.frostline",
        "python",
        "platform",
    } <= tags.keys()
    assert tags["git.commit"] == "none"
    assert tags["mlflow.user"]
    assert tags["mlflow.source.name"] == "frostline finetune"
    assert run.info.artifact_uri.startswith((place / "mlartifacts").as_uri())


def annotate(store, *evaluated):
    from frostline.tracking.store import EvaluatedRun

    store.annotate(EvaluatedRun(*evaluated))


def finished(store, accuracy, loss, about, when=1000, **tags):
    run = begin(store, about, when)
    run.metrics({"best/val/accuracy": accuracy, "best/val/loss": loss, "lr": 0.1})
    run.tags(tags)
    run.end("FINISHED")


def test_seeds_of_one_configuration_are_below_a_run_with_their_means(store):
    finished(store, 0.8, 0.5, info(number=0, backbone="mlp"))
    assert runs(store, "finetune").keys() == {"mlp·full·digits·s0"}  # a seed alone has no group
    finished(store, 0.9, 0.3, info(number=1, backbone="mlp"))
    finished(store, 0.5, 0.9, info("mlp·full·digits·lr0.5", config={"lr": 0.5}, number=0))
    finished(store, 0.1, 0.9, info(number=2), **{"trial.state": "pruned"})
    annotate(store, "", {"study": "tiny", "seed": "0"}, {}, {})  # of weights that nobody made
    by_name = runs(store)
    group, other = by_name["mlp·full·digits"], by_name["mlp·full·digits·lr0.5·s0"]
    (study,) = runs(store, "study").values()
    assert group.data.tags["mlflow.parentRunId"] == other.data.tags["mlflow.parentRunId"] == study.info.run_id
    under = {
        name for name, run in by_name.items() if run.data.tags["mlflow.parentRunId"] == group.info.run_id
    }
    assert under == {f"mlp·full·digits·s{seed}" for seed in range(3)}
    assert group.data.metrics == pytest.approx(
        {
            "best/val/accuracy": 0.85,
            "best/val/accuracy.std": 0.0707107,
            "best/val/accuracy.low": pytest.approx(0.85 - 12.7062 * 0.05, abs=1e-4),
            "best/val/accuracy.high": 1.0,
            "best/val/loss": 0.4,
            "best/val/loss.std": 0.141421,
            "best/val/loss.low": pytest.approx(0.4 - 12.7062 * 0.1, abs=1e-4),
            "best/val/loss.high": pytest.approx(0.4 + 12.7062 * 0.1, abs=1e-4),
            "n": 2,
        }
    )
    assert group.data.params == {"backbone.kind": "mlp", "backbone.hidden": "[16, 8]"}
    assert (group.data.tags["backbone"], group.info.status) == ("mlp", "FINISHED")
    assert "seed" not in group.data.tags
    # A seed that is run again counts once, as it is now.
    finished(store, 1.0, 0.1, info(number=1), when=2000)
    assert runs(store)["mlp·full·digits"].data.metrics["best/val/accuracy"] == pytest.approx(0.9)
    assert runs(store)["mlp·full·digits"].data.metrics["n"] == 2
    # Equal values have no interval: MLflow can't delete that of the earlier ones.
    finished(store, 0.8, 0.5, info(number=1), when=3000)
    metrics = runs(store)["mlp·full·digits"].data.metrics
    assert metrics["best/val/accuracy.std"] == metrics["best/val/loss.std"] == 0
    assert {key for key, value in metrics.items() if math.isnan(value)} == {
        f"best/val/{name}.{end}" for name in ("accuracy", "loss") for end in ("low", "high")
    }


def test_a_run_of_means_takes_as_long_as_its_runs_on_average(store):
    for number, seconds in ((0, 10), (1, 30)):
        begin(store, info(number=number)).end("FINISHED", when=1000 + 1000 * seconds)
    group = runs(store)["mlp·full·digits"].info
    assert group.end_time - group.start_time == 20_000


def test_the_row_of_an_arm_gets_its_gain_when_the_study_reports_it(store):
    from frostline.tracking.studies import StudyResult

    for setting, base in (("earlier", 0.3), ("now", 0.8)):
        for number in (0, 1):
            about = info(config={"lr": setting}, number=number, arm="full", setting=setting)
            run = begin(store, about)
            run.metrics({"test/accuracy": base + 0.1 * number})
            run.end("FINISHED")
    assert "metrics.`gain`" not in shown(store)[0]["selectedColumns"]
    store.studies.end(StudyResult("tiny", "Yes.", "", {"full.accuracy": 0.85, "full.gain": 0.25}), 5000)
    assert "metrics.`gain`" in shown(store)[0]["selectedColumns"]
    means = store.search({"kind": "mean run"}, limit=9)
    found = {round(run.data.metrics["test/accuracy"], 2): run.data.metrics.get("gain") for run in means}
    assert found == {0.35: None, 0.85: 0.25}


def test_means_have_one_step_and_those_over_more_seeds_are_newer(store):
    """A record may be delivered after later ones; MLflow shows the value of the last step and time."""
    for number, when in ((0, 1000), (1, 3000), (2, 2000)):
        finished(store, 0.1 * number, 0.5, info(number=number), when=when)
        _gather_again(store, number, when)
    group = runs(store)["mlp·full·digits"]
    assert group.data.metrics["n"] == 3
    history = store.client.get_metric_history(group.info.run_id, "best/val/accuracy")
    assert {point.step for point in history} == {0}
    last = max(history, key=lambda point: point.timestamp)
    assert last.value == pytest.approx(0.1) == group.data.metrics["best/val/accuracy"]


def _gather_again(store, number, when):
    """As at a record's second delivery; it adds nothing."""
    from frostline.tracking import seed_groups

    member = runs(store)[f"mlp·full·digits·s{number}"]
    before = runs(store).get("mlp·full·digits")
    seed_groups.gather(store, member.info.run_id, when)
    after = runs(store).get("mlp·full·digits")
    assert (before and before.data.metrics) == (after and after.data.metrics)


def test_what_is_measured_later_counts_too(store):
    for number in range(2):
        finished(store, 0.8, 0.5, info(number=number), **{"weights.sha256": f"w{number}"})
        annotate(store, f"w{number}", {"study": "tiny"}, {"test/accuracy": 0.7 + number / 10}, {})
    metrics = runs(store)["mlp·full·digits"].data.metrics
    assert metrics["test/accuracy"] == pytest.approx(0.75)


def test_weights_that_are_made_again_keep_what_was_measured(store):
    """DVC does not evaluate the same weights again."""
    for number in range(2):
        finished(store, 0.8, 0.5, info(number=number), **{"weights.sha256": f"w{number}"})
        values = {"test/accuracy": 0.7 + number / 10, "test/ece": 0.1}
        annotate(store, f"w{number}", {"study": "tiny"}, values, {})
    for number, made in ((0, "w0"), (1, "other")):
        finished(store, 0.8, 0.5, info(number=number), when=5000, **{"weights.sha256": made})
    newest = {
        run.data.tags["seed"]: run.data.metrics
        for run in store.search({"study": "tiny"}, "tags.seed LIKE '%'", limit=9, order="ASC")
    }
    assert newest["0"]["test/accuracy"] == pytest.approx(0.7)
    assert "test/accuracy" not in newest["1"]  # other weights
    assert sum("ece" in key for key in newest["0"]) == 1
    annotate(store, "w0", {"study": "tiny"}, {"test/accuracy": 0.7, "test/ece": 0.1}, {})
    annotate(store, "other", {"study": "tiny"}, {"test/accuracy": 0.9}, {})
    assert runs(store)["mlp·full·digits"].data.metrics["test/accuracy"] == pytest.approx(0.8)


def test_the_commit_and_whether_it_is_all(store, place):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    (place / "file").write_text("1")
    for words in (["init", "-q"], ["add", "file"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], cwd=place, check=True)
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=place, capture_output=True, text=True
    ).stdout.strip()
    begin(store, info("clean")).end("FINISHED")
    (place / "file").write_text("2")
    begin(store, info("dirty")).end("FINISHED")
    stored = {
        name: (run.data.tags["git.commit"], run.data.tags["git.dirty"]) for name, run in runs(store).items()
    }
    assert stored == {"clean": (commit, "false"), "dirty": (commit, "true")}


def test_parameters_are_complete_and_long_ones_are_not_cut(store):
    config = {
        "optimizer": {"lr": 0.1, "momentum": None, "options": {}},
        "freeze": {"groups": {"rest": "*"}, "phases": [{"train": "all", "until": "end"}]},
        "seeds": list(range(3000)),
        "note": "ü" * 6001,
        **{f"many{i}": i for i in range(120)},
        "flag": True,
    }
    begin(store, info(config=config)).end("FINISHED")
    (run,) = runs(store).values()
    params = run.data.params
    assert params["optimizer.lr"] == "0.1"
    assert params["optimizer.momentum"] == "null"
    assert params["optimizer.options"] == "{}"
    assert params["flag"] == "true"
    assert params["many119"] == "119"
    assert json.loads(params["freeze.phases"]) == config["freeze"]["phases"]
    assert params["seeds"] == params["note"] == "see artifact long_params.json"
    path = store.client.download_artifacts(run.info.run_id, "long_params.json")
    long = json.loads(Path(path).read_text())
    assert json.loads(long["seeds"]) == config["seeds"]
    assert long["note"] == config["note"]


def test_curves_last_values_and_the_data_set(store):
    run = begin(store)
    for epoch in range(40):
        row = {
            "epoch": epoch,
            "step": 5 * epoch,
            "phase": None if epoch == 0 else 0,
            "lr": 0.1,
            "val/loss": 1 / (epoch + 1),
        }
        run.epoch(row, when=1000 + epoch)
    run.metrics({"best/val/loss": 1 / 40, "best/epoch": 39.0})
    run.end("FINISHED")
    (stored,) = runs(store).values()
    curve = store.client.get_metric_history(stored.info.run_id, "val/loss")
    assert [(m.step, m.value, m.timestamp) for m in curve] == [(e, 1 / (e + 1), 1000 + e) for e in range(40)]
    assert len(store.client.get_metric_history(stored.info.run_id, "phase")) == 39
    assert {key: v for key, v in stored.data.metrics.items() if not key.startswith("system/")} == {
        "phase": 0,
        "lr": 0.1,
        "val/loss": 1 / 40,
        "best/val/loss": 1 / 40,
        "best_epoch": 39,
    }
    (dataset_input,) = stored.inputs.dataset_inputs
    assert (dataset_input.dataset.name, dataset_input.dataset.digest) == ("digits", ("ab12" * 16)[:36])
    assert [(tag.key, tag.value) for tag in dataset_input.tags] == [("mlflow.data.context", "training")]
    assert stored.data.tags["dataset.fingerprint"] == "ab12" * 16


def test_files_and_the_plots_of_them(store):
    history = "epoch,step,phase,lr,train/loss,train/accuracy,val/loss,val/accuracy\n"
    history += "0,0,,,,,1.0,0.5\n1,5,0,0.1,0.9,0.6,0.8,0.7\n"
    predictions = "id,label,prediction,confidence\na,0,0,0.9\nb,1,0,0.8\n"
    run = begin(store)
    run.files(
        {
            "history.csv": history.encode(),
            "config.yaml": b"a: 1\n",
            "seed-0/predictions.csv": predictions.encode(),
        }
    )
    run.end("FINISHED")
    assert len(store.plots) == 1  # drawn later: it takes what training wants
    store.plots.record(*store.plots.draw())
    (stored,) = runs(store).values()
    listed = {f.path for f in store.client.list_artifacts(stored.info.run_id)}
    assert listed == {
        "history.csv", "config.yaml", "seed-0", "curves.png", "confusion.png",
        "per_class.csv", "per_class.html",
    }  # fmt: skip
    for name in ("curves.png", "confusion.png"):
        path = store.client.download_artifacts(stored.info.run_id, name)
        assert Path(path).read_bytes().startswith(PNG)


def test_the_plots_of_the_best_runs_are_drawn_first(store):
    history = "epoch,step,phase,lr,train/loss,train/accuracy,val/loss,val/accuracy\n0,0,,,,,1.0,0.5\n"
    for name, accuracy in (("poor", 0.1), ("best", 0.9), ("fair", 0.5)):
        run = begin(store, info(name))
        run.metrics({"best/val/accuracy": accuracy})
        run.files({"history.csv": history.encode()})
        run.end("FINISHED")

    def drawn():
        ids = {name: run.info.run_id for name, run in runs(store).items()}
        listed = {name: store.client.list_artifacts(run_id) for name, run_id in ids.items()}
        return {name for name, files in listed.items() if "curves.png" in {file.path for file in files}}

    for expected in ({"best"}, {"best", "fair"}, {"best", "fair", "poor"}):
        store.plots.record(*store.plots.draw())
        assert drawn() == expected
    assert len(store.plots) == 0


def test_mistakes_are_drawn_for_the_run_that_made_them(store):
    run = begin(store)
    run.tags({"weights.sha256": "cafe"})
    run.end("FINISHED")
    picture = np.arange(64, dtype=np.uint8).reshape(8, 8)
    annotate(store, "cafe", {}, {}, {}, [Misclassified("3", "cat", "dog", 0.9, picture)])
    store.plots.record(*store.plots.draw())
    (stored,) = runs(store).values()
    assert [f.path for f in store.client.list_artifacts(stored.info.run_id)] == ["mistakes.png"]
    path = store.client.download_artifacts(stored.info.run_id, "mistakes.png")
    assert Path(path).read_bytes().startswith(PNG)


def test_a_further_test_set_is_recorded_beside_the_runs_own_results(store):
    predictions = b"id,label,prediction,confidence\na,0,0,0.9\nb,1,0,0.8\n"
    run = begin(store)
    run.tags({"weights.sha256": "cafe"})
    run.files({"predictions.csv": predictions})
    run.end("FINISHED")
    annotate(store, "cafe", {}, {"test/accuracy": 0.9}, {})
    further = {"predictions.csv": predictions, "metrics.json": b"{}"}
    annotate(store, "cafe", {}, {"test/site_b/accuracy": 0.5}, further, (), None, "test_sets/site_b")
    while store.plots:
        store.plots.record(*store.plots.draw())
    (stored,) = runs(store).values()
    assert (stored.data.metrics["test/accuracy"], stored.data.metrics["test/site_b/accuracy"]) == (0.9, 0.5)
    assert "test accuracy 90.0 %" in stored.data.tags["mlflow.note.content"]
    listed = {
        folder: {
            file.path.rpartition("/")[2] for file in store.client.list_artifacts(stored.info.run_id, folder)
        }
        for folder in ("", "test_sets/site_b")
    }
    drawn = {"confusion.png", "per_class.csv", "per_class.html"}
    assert listed[""] == {"predictions.csv", "test_sets", *drawn}
    assert listed["test_sets/site_b"] == {"predictions.csv", "metrics.json", *drawn}


def test_lineage_goes_to_the_run_that_made_the_weights(store):
    """Not to one that passed them on, as an arm that trains nothing does, even if it is newer."""
    made = begin(store, info("pretrain"))
    made.tags({"weights.sha256": "cafe"})
    made.end("FINISHED")
    for name in ("zero_shot", "full"):
        run = begin(store, info(name))
        run.started_from("cafe")
        run.tags({"weights.sha256": "cafe" if name == "zero_shot" else "beef"})
        run.end("FINISHED")
    unknown = begin(store, info("from a file"))
    unknown.started_from("f00d")
    unknown.end("FINISHED")
    by_name = runs(store)
    for name in ("zero_shot", "full"):
        tags = by_name[name].data.tags
        assert (tags["start.run_name"], tags["start.run_id"]) == ("pretrain", by_name["pretrain"].info.run_id)
    assert by_name["from a file"].data.tags["start.sha256"] == "f00d"
    assert "start.run_id" not in by_name["from a file"].data.tags


def test_results_go_to_their_own_run_whatever_the_clock_says(store):
    """Two runs that are the same; the second begins, by a clock that was set back, before the first."""
    for when, place in ((2_000_000, "journal/0"), (1_000_000, "journal/1")):
        run = store.begin(info("mlp"), "1@1.0", when=when, place=place, environment={})
        run.tags({"weights.sha256": "cafe"})
        run.end("FINISHED", when=when + 1000)
        values = {"test/accuracy": when / 10_000_000}
        annotate(store, "cafe", {"study": "tiny"}, values, {}, (), place if when < 2_000_000 else None)
    measured = {
        run.info.start_time: run.data.metrics for run in store.search({"weights.sha256": "cafe"}, limit=9)
    }
    assert measured[2_000_000]["test/accuracy"] == pytest.approx(0.2)
    assert measured[1_000_000]["test/accuracy"] == pytest.approx(0.1)
    # A third, which another process measures: the one that has not been.
    run = store.begin(info("mlp"), "1@1.0", when=500_000, place="journal/2", environment={})
    run.tags({"weights.sha256": "cafe"})
    run.end("FINISHED", when=600_000)
    annotate(store, "cafe", {"study": "tiny"}, {"test/accuracy": 0.3}, {})
    measured = {
        run.info.start_time: run.data.metrics for run in store.search({"weights.sha256": "cafe"}, limit=9)
    }
    assert [measured[when]["test/accuracy"] for when in sorted(measured)] == pytest.approx([0.3, 0.1, 0.2])


def test_results_go_to_the_run_that_they_measure(store):
    """Seeds that train nothing make the same weights: their tags tell them apart."""
    for seed in "01":
        run = begin(store, info(f"zero_shot s{seed}", arm="zero_shot", seed=seed))
        run.tags({"weights.sha256": "cafe"})
        run.end("FINISHED")
    for seed in "01":
        tags = {"study": "tiny", "arm": "zero_shot", "seed": seed}
        annotate(store, "cafe", tags, {"test/accuracy": float(seed)}, {})
    annotate(store, "cafe", {"study": "another", "arm": ""}, {"test/accuracy": 7.0}, {"metrics.json": b"{}"})
    assert {name: run.data.metrics["test/accuracy"] for name, run in runs(store).items()} == {
        "zero_shot s0": 0.0,
        "zero_shot s1": 1.0,
    }


NAMES = [
    *(
        "it's",
        'the "best"',
        'it\'s "both"',
        "a·b",
        "100 %",
        "50_50",
        "back\\slash",
        "two\nlines",
        "`tick`",
    ),
    *("a/b", "../x", "//", " lead and trail ", "head+neck", "rest (frozen)", "😀", "x" * 300, "= 'x' or 1"),
    *("nul\0", "half \udc80", "DROP TABLE runs; --"),
]


@pytest.mark.slow
def test_names_that_users_choose(store, capsys):
    """As a study, an arm, a run's name, a group of a schedule, a metric, a class and a data set."""
    from frostline.comparison.runs import Results
    from frostline.tracking import metric_names

    results = Results(store)
    like = {name.replace(mark, "?") for name in NAMES for mark in "'\"`\n\\%_" if mark in name}
    for name in (*NAMES, *like):
        for number in range(2):
            config = {"freeze": {"groups": {name: "head"}}, name: name, "classes": [name]}
            about = info(name, study=name, config=config, number=number, arm=name)
            about = replace(about, dataset={**about.dataset, "name": name})
            run = begin(store, about)
            run.epoch({"epoch": 1, "val/loss": 1.0, f"lr/{name}": 0.5})
            run.metrics({f"test/{name}": 1.0})
            run.tags({"error": name, name: name})
            run.end("FINISHED")
    assert capsys.readouterr().err == ""
    for name in NAMES:
        recorded = store.search({"study": name, "arm": name}, limit=100)
        assert len(recorded) == 3  # two seeds, and what they came to
        for run in recorded:
            assert run.info.status == "FINISHED"
            assert "head" in run.data.params.values()
            values = [0.5, 1.0, 1.0] if "seed" in run.data.tags else [1.0, 2.0]
            assert sorted(run.data.metrics.values()) == values
        assert len(results.finished({"study": name})) == 2
        if len(name) < 250 and name.isprintable():
            assert len(results.named(name)) == 2
            assert len(results.named(f"{name}·s1")) == 1
    studies = {run.data.tags["study"] for run in store.search({"stage": "study"}, limit=100)}
    assert {metric_names.text(name) for name in NAMES} <= studies


def test_two_names_never_become_one(store):
    from frostline.tracking import metric_names

    more = ("head_neck", "head neck", "head\tneck", "x" * 250, "x" * 251, "a", "A", "", ".", "__")
    many = {*NAMES, *more}
    assert len({metric_names.key(name) for name in many}) == len(many)
    run = begin(store)
    run.metrics({f"lr/{name}": float(number) for number, name in enumerate(many)})
    run.end("FINISHED")
    (stored,) = runs(store).values()
    assert sorted(stored.data.metrics.values()) == [float(number) for number in range(len(many))]


def test_one_item_that_mlflow_refuses_costs_no_other(store, capsys, monkeypatch):
    from frostline.tracking import metric_names

    monkeypatch.setattr(metric_names, "key", lambda name: name)  # a rule of MLflow's that is new to us
    run = begin(store, info(config={"fine": 1, "bad+key": 2, "too": 3}))
    for epoch in range(50):
        run.epoch({"epoch": epoch, "val/loss": 1.0, "bad+loss": 2.0})
    run.tags({"good": "1", "bad+tag": "2"})
    run.end("FINISHED")
    (stored,) = runs(store).values()
    assert stored.info.status == "FINISHED"
    assert stored.data.params == {"fine": "1", "too": "3"}
    assert stored.data.metrics == {"val/loss": 1.0}
    assert len(store.client.get_metric_history(stored.info.run_id, "val/loss")) == 50
    assert stored.data.tags["good"] == "1"
    said = capsys.readouterr().err.strip().splitlines()
    assert [line.partition(" (")[0] for line in said] == [
        f"frostline: warning: MLflow refused the {what}"
        for what in ("param 'bad+key'", "tag 'bad+tag'", "metric 'bad+loss'")
    ]


def test_values_that_are_not_finite(store):
    run = begin(store)
    for epoch, value in enumerate([1.0, float("inf"), float("-inf"), float("nan"), 2.0]):
        run.epoch({"epoch": epoch, "val/loss": value})
    run.end("FINISHED")
    (stored,) = runs(store).values()
    history = store.client.get_metric_history(stored.info.run_id, "val/loss")
    assert [str(point.value) for point in history] == ["1.0", "nan", "nan", "nan", "2.0"]


def test_open_runs_of_a_dead_process_are_marked_killed(store):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for name, process in (
        ("dead", f"{gone.pid}@1.0"),
        ("reused", f"{os.getpid()}@1.0"),
        ("alive", process_key()),
    ):
        store.begin(info(name), process, when=1000)
    begin(store, info("next")).end("FINISHED")
    status = {name: run.info.status for name, run in runs(store).items()}
    assert status == {"dead": "KILLED", "reused": "KILLED", "alive": "RUNNING", "next": "FINISHED"}


def test_a_trial_without_heartbeat_is_marked_killed_when_another_repeats_it(store):
    for number in "34":
        begin(store, info(number, host="another", **{"trial.number": number, "trial.state": "running"}))
    begin(store, info("of another study", "s2", host="another", **{"trial.number": "3"}))
    begin(store, info("again", **{"trial.number": "5", "trial.again": "3"})).end("FINISHED")
    by_name = runs(store)
    status = {name: run.info.status for name, run in by_name.items()}
    assert status == {"3": "KILLED", "4": "RUNNING", "of another study": "RUNNING", "again": "FINISHED"}
    assert [by_name[name].data.tags["trial.state"] for name in "34"] == ["killed", "running"]


def test_a_run_that_ended_elsewhere_is_recorded_unless_it_is(store):
    def late(name, key, study="tiny"):
        run = begin(store, replace(info(name, study, **{"run.key": key}), late=True))
        run.metrics({"best/val/accuracy": 0.5})
        run.end("FINISHED")

    for key, status in (("a", "FINISHED"), ("b", "KILLED")):
        begin(store, info(key, **{"run.key": key})).end(status)
    running = begin(store, info("c", **{"run.key": "c"}))
    for key in "abcd":
        late(f"{key}, late", key)
    late("a, of another study", "a", "other")
    running.end("FINISHED")
    assert runs(store).keys() == {"a", "b", "b, late", "c", "d, late", "a, of another study"}
    assert runs(store)["b, late"].data.metrics == {"best/val/accuracy": 0.5}


def test_an_error_longer_than_a_tag_may_be(store):
    run = begin(store)
    run.tags({"error": "x" * 20_000})
    run.end("FAILED")
    (stored,) = runs(store).values()
    assert stored.info.status == "FAILED"
    assert len(stored.data.tags["error"]) == 5000


# ── several processes ───────────────────────────────────────────────────────────────────────────────────


def record(number: int, epochs: int) -> None:
    from frostline.tracking.store import Store

    store = Store()
    run = store.begin(info(f"run {number}"), process_key(), when=1000)
    for epoch in range(epochs):
        run.epoch({"epoch": epoch, "a": epoch, "b": number, "c": 0.5, "d": 1.0})
    run.end("FINISHED")


def test_eight_processes_on_a_store_that_is_not_there_yet(place):
    processes = [FORKS.Process(target=record, args=(n, 50)) for n in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
    assert [process.exitcode for process in processes] == [0] * 8
    from frostline.tracking.store import Store

    store = Store()
    by_name = runs(store)
    assert set(by_name) == {f"run {n}" for n in range(8)}
    for run in by_name.values():
        counts = [len(store.client.get_metric_history(run.info.run_id, key)) for key in "abcd"]
        assert counts == [50] * 4
    assert len(runs(store, "study")) == 1


def die_while_making_the_store() -> None:
    from mlflow.store.db import utils

    from frostline.tracking.store import Store

    utils._upgrade_db = lambda engine: os.kill(os.getpid(), signal.SIGKILL)
    Store().connect()


def test_a_process_that_is_killed_while_it_makes_the_store(place):
    process = FORKS.Process(target=die_while_making_the_store)
    process.start()
    process.join(600)
    assert process.exitcode == -signal.SIGKILL
    assert not (place / "mlflow.db").exists()
    record(0, 1)
    from frostline.tracking.store import Store

    assert set(runs(Store())) == {"run 0"}
    assert not list(place.glob(".mlflow.db.*"))


def bring(number: int, barrier) -> None:
    from frostline.tracking.store import Store

    store = Store()
    store.connect()
    for index in range(20):
        barrier.wait(60)
        store.begin(info(f"run {number} {index}", fingerprint=f"{index:x<64}"), process_key(), when=1000).end(
            "FINISHED"
        )


def test_processes_that_record_new_data_sets_at_the_same_time(store):
    barrier = FORKS.Barrier(3)
    processes = [FORKS.Process(target=bring, args=(n, barrier)) for n in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 3
    by_name = runs(store)
    assert len(by_name) == 60
    for name, run in by_name.items():
        assert [one.dataset.digest for one in run.inputs.dataset_inputs] == [f"{name.split()[-1]:x<36}"]


# ── stores that are elsewhere, or nowhere ──────────────────────────────────────────────────────────────────


def nobody() -> str:
    return f"http://127.0.0.1:{free_port()}"


@pytest.mark.parametrize(
    "uri", ["file:///tmp/nowhere", "ftp://x", "sqlite:////proc/nowhere/mlflow.db", "http://[::bad", "nobody"]
)
def test_a_store_that_can_not_be_reached(place, monkeypatch, capsys, uri):
    from frostline.tracking.store import Store

    monkeypatch.setenv("MLFLOW_TRACKING_URI", nobody() if uri == "nobody" else uri)
    assert not Store().connect()
    said = capsys.readouterr().err.strip()
    assert said.startswith("frostline: warning: MLflow at ")
    assert said.count("\n") == 0


@pytest.fixture(scope="module")
def server(tmp_path_factory, warm, no_runs):
    """A real MLflow server on loopback."""
    with mlflow_server(warm, tmp_path_factory.mktemp("server"), no_runs) as port:
        yield f"http://127.0.0.1:{port}"


def test_a_server_takes_it_all(server, place, monkeypatch, capsys):
    from frostline.tracking.store import Store

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    store = Store()
    run = begin(store, info(config={"long": "x" * 7000, "a": {"b": 1}}))
    for epoch in range(1200):
        run.epoch({"epoch": epoch, "val/loss": 1.0})
    run.files({"config.yaml": b"a: 1\n"})
    run.end("FINISHED")
    (stored,) = runs(store).values()
    assert stored.data.params["a.b"] == "1"
    # The client fetches long histories in pages.
    assert len(store.client.get_metric_history(stored.info.run_id, "val/loss")) == 1200
    assert {f.path for f in store.client.list_artifacts(stored.info.run_id)} == {
        "config.yaml",
        "long_params.json",
    }
    assert len(runs(store, "study")) == 1
    assert capsys.readouterr().err == ""
