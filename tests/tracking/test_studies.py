"""Which runs the views of a study or a sweep have as rows and lines: those of its arms or trials alone."""

import tempfile

import pytest

from frostline.base.processes import process_key
from frostline.commands import mlflow_server
from frostline.tracking import views
from frostline.tracking.seed_groups import what_differs
from frostline.tracking.store import Store
from frostline.tracking.studies import StudyResult
from frostline.training.services import (
    SWEEP_KEYS,
    SWEEP_OBJECTIVE,
    TRIAL_NUMBER,
    TRIAL_STATE,
    RunInfo,
)

pytestmark = pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated")
DATA = {"name": "photos", "kind": "image_folder", "fingerprint": "ab" * 16}


@pytest.fixture
def record(empty_store):
    """A function that records a run in an empty store, and the store."""
    store, clock = empty_store, iter(range(1000, 9000))

    def record(name, study, seed, rate=0.1, arm="", status="FINISHED", measured=True, **tags):
        phases = [{"train": "all", "lr": rate, "note": "p" * 40}]
        config = {"stage": "finetune", "arm": arm, "seed": seed, "freeze": {"phases": phases}}
        config |= {"optimizer": {"lr": rate}}
        known = {"arm": arm, "seed": str(seed), **tags}
        about = RunInfo(name, "finetune", study, config, DATA, "training", known, seed)
        run = store.begin(about, process_key(), when=next(clock))
        run.epoch({"epoch": 0, "val/accuracy": 0.5})
        if measured:
            run.metrics({"best/val/accuracy": 0.5, "test/accuracy": 0.5, "train_seconds": 2.0})
        if TRIAL_STATE in tags:
            run.tags({TRIAL_STATE: "complete" if status == "FINISHED" else "failed"})
        run.end(status, when=next(clock))

    record.store = store
    return record


def shown(store, study):
    """View → the names of the runs that its filter finds."""
    states = views.states(Store().studies.known(study))
    return {
        view: sorted(
            run.info.run_name
            for run in store.client.search_runs([store.experiment], state["searchFilter"], max_results=99)
        )
        for view, state in states.items()
    }


def test_a_studys_views_have_its_arms_and_no_single_run_of_its_experiment(record):
    record("mine·early", "signs", 7)  # before the study has an arm
    for arm in ("full", "scratch"):
        for seed in (0, 1):
            record(arm, "signs", seed, arm=arm)
    record("mine·late", "signs", 7, rate=0.2)
    record("scratch", "signs", 2, arm="scratch", status="FAILED")
    found = shown(record.store, "signs")
    assert found["results"] == ["full", "scratch"]
    assert found["curves"] == ["full·s0", "full·s1", "scratch·s0", "scratch·s1"]
    assert found["seeds"] == [*found["curves"], "scratch·s2"]  # a row per run, failed ones too
    assert record.store.studies.known("signs").compared == ("arm",)  # what single runs change does not count
    single = record.store.search({"study": "signs", "kind": "single run"}, limit=9)
    assert {run.info.run_name for run in single} == {"mine·early·s7", "mine·late·s7"}


def test_a_study_took_as_long_as_its_runs(record):
    for seed in range(3):
        record("full", "signs", seed, arm="full")  # each takes a millisecond
    store = Store()
    store.studies.end(StudyResult("signs", "full helped", ""), 9999)
    (run,) = store.search({"study": "signs", "stage": "study"}, limit=9)
    assert (run.info.status, run.info.end_time - run.info.start_time) == ("FINISHED", 3)


def test_a_study_without_arms_has_all_its_runs(record):
    record("full·photos", "mine", 0)
    record("gradual·photos", "mine", 0, rate=0.2)
    assert shown(record.store, "mine")["results"] == ["full·photos·s0", "gradual·photos·s0"]


def test_a_sweeps_views_have_its_trials_and_no_repeated_one(record):
    sweep = {SWEEP_KEYS: "optimizer.lr", SWEEP_OBJECTIVE: "val/accuracy", TRIAL_STATE: "running"}
    number = iter(range(9))
    for rate in (0.1, 0.2):
        for seed in (0, 1):
            tags = {**sweep, TRIAL_NUMBER: str(next(number))}
            record(f"lr{rate}", "rates", seed, rate=rate, **tags)
    record("lr0.3", "rates", 0, rate=0.3, status="FAILED", **sweep)
    record("repeated", "rates", 0, rate=0.2)
    record("repeated", "rates", 5, rate=0.2)  # with a seed of its own, which the sweep's mean must not have
    found = shown(record.store, "rates")
    assert found["results"] == found["parallel"] == ["lr0.1", "lr0.2"]
    assert found["curves"] == ["lr0.1·s0", "lr0.1·s1", "lr0.2·s0", "lr0.2·s1"]
    assert found["seeds"] == [*found["curves"], "lr0.3·s0"]
    means = record.store.search({"study": "rates", "kind": "mean run"}, limit=9)
    assert [run.data.metrics["n"] for run in means] == [2, 2]
    assert record.store.studies.known("rates").compared == ("optimizer.lr",)
    assert len(record.store.search({"study": "rates", "kind": "single run"}, "tags.seed = '5'", limit=9)) == 1


def test_a_legend_names_options_rather_than_their_content():
    phases = {"freeze.phases": "[" + "1" * 40 + "]"}
    before = {"freeze_name": "full", "optimizer.lr": "0.1", "seed": "0", "backbone.name": "a", **phases}
    assert what_differs(before, {**before, "seed": "1"}) == []
    assert what_differs(before, {**before, "freeze_name": "mine", "freeze.phases": "[]"}) == ["freeze"]
    assert what_differs(before, {**before, "optimizer.lr": "0.2"}) == ["optimizer.lr"]
    assert what_differs(before, {**before, "freeze.phases": "[]"}) == ["setting"]
    changed = {**before, "backbone.name": "b", "backbone.hidden": "[9]", "input.size": "9"}
    assert what_differs(before, changed) == ["backbone"]


def test_a_legend_tells_folders_of_the_same_name_apart():
    root = {"dataset.root": "site_a/pets"}
    assert what_differs(root, {"dataset.root": "site_b/pets"}) == ["dataset.root"]
    assert what_differs(root, {"dataset.root": "site_a/photos"}) == ["dataset"]
    # The names of these data sets have their folders.
    assert what_differs({"dataset.root": "site_a/test"}, {"dataset.root": "site_b/test"}) == ["dataset"]
    assert what_differs({}, {"input.size": "null"}) == []
    assert what_differs({}, {"input.size": "64"}) == ["input.size"]


def test_an_arm_whose_schedule_was_edited_is_told_apart_without_its_phases(record):
    record("full", "signs", 0, arm="full")
    record("full", "signs", 0, arm="full", rate=0.2)
    study = record.store.studies.known("signs")
    assert study.compared == ("arm", "setting", "optimizer.lr")
    groups = views.states(study)["curves"]["groupBy"]["groupByKeys"]
    assert [group["groupByData"] for group in groups] == ["arm", "setting", "optimizer.lr"]


@pytest.mark.slow
def test_ui_lists_only_studies_and_sweeps_with_results(record):
    """By a real server on this store."""
    sweep = {SWEEP_KEYS: "optimizer.lr", SWEEP_OBJECTIVE: "val/accuracy", TRIAL_STATE: "running"}

    def listed():
        lines = mlflow_server._pages_of_runs(f"http://{mlflow_server.HOST}:{port}", mlflow_server.DIRECTLY)
        return [line.partition("  (")[2].removesuffix(")") for line in lines]

    record("full", "measured", 0, arm="full")
    port = mlflow_server.free_port(5600)
    uri = record.store.uri
    with tempfile.TemporaryFile() as log, mlflow_server._server(uri, port, log) as server:
        assert mlflow_server._comes_up(server, port)
        assert listed() == ["study measured, by test/accuracy", "training runs"]
        # Newer ones, which have nothing to show: runs that failed, and those of the first epoch.
        record("full", "failed", 0, arm="full", status="FAILED")
        record("full", "early", 0, arm="full", measured=False)
        record("lr0.1", "failed-sweep", 0, status="FAILED", measured=False, **sweep)
        record.store.studies.begin("begun", {})
        assert listed() == ["study measured, by test/accuracy", "training runs"]
        record("lr0.2", "rates", 0, **sweep)
        assert listed() == [
            "sweep rates, by best/val/accuracy",
            "study measured, by test/accuracy",
            "training runs",
        ]
