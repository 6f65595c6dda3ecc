"""`frostline compare` against a real store."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse

import pytest

from frostline.base.processes import process_key
from frostline.commands import main as cli
from frostline.commands import mlflow_server
from frostline.console import progress
from frostline.training.services import RunInfo

pytestmark = pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated")
ACCURACIES = {"full": (0.9, 0.94, 0.95), "gradual": (0.8, 0.86, 0.83), "bitfit": (0.5,)}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, no_runs):
    """A project whose store has a study of three arms, a sweep, and a run that failed."""
    from frostline.tracking.store import Store

    place = tmp_path_factory.mktemp("project")
    shutil.copy(no_runs, place)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        store, clock = Store(), iter(range(1000, 9000))
        for study, rate in (("arms", 0.1), ("sweep", 0.2)):
            for freeze, values in ACCURACIES.items():
                for seed, value in enumerate(values):
                    config = {"freeze_name": freeze, "optimizer": {"lr": rate}, "study": study, "seed": seed}
                    config |= {"stage": "finetune"}
                    tags = {"freeze": freeze, "seed": str(seed)}
                    data = {"name": "digits", "kind": "digits", "fingerprint": "ab" * 16}
                    about = RunInfo(
                        f"mlp·{freeze}·digits", "finetune", study, config, data, "training", tags, seed
                    )
                    run = store.begin(about, process_key(), when=next(clock))
                    run.metrics({"best/val/accuracy": value, "test/accuracy": value, "train_seconds": 2.0})
                    run.metrics({"test/majority_rate": 0.8})
                    run.tags({"weights.sha256": f"{study}{freeze}{seed}"})
                    run.end("FAILED" if study == "sweep" and freeze == "bitfit" else "FINISHED")
        ids = {
            run.data.tags["weights.sha256"]: run.info.run_id
            for run in store.search({"stage": "finetune"}, "tags.seed LIKE '%'", limit=99)
        }
    return place, ids


@pytest.fixture
def say(recorded, monkeypatch, capsys):
    monkeypatch.chdir(recorded[0])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def say(*words):
        status = cli.main(["compare", *words])
        return status, *capsys.readouterr()

    return say


def test_a_study_in_the_terminal(say):
    status, out, err = say("--study", "arms")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "arms: 3 configurations, 7 runs"
    names = [line.split()[0] for line in lines[2:5]]
    assert names == ["mlp·full·digits", "mlp·gradual·digits", "mlp·bitfit·digits"]
    assert "93.0 % (86.4 to 99.6)" in lines[2]
    assert "−10.0 (−15.0 to −5.0)" in lines[3]
    assert "p = 0.013" in lines[3]
    assert "Holm" in out


def test_in_a_narrow_terminal_names_begin_with_what_differs_and_stay_whole(say, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = say("--study", "arms")
    lines = [line for line in out.splitlines() if "…" in line]
    starts = [line.split()[0].removeprefix("mlp·") for line in lines[:3]]
    assert starts == ["full·…", "gradual·…", "bitfit·…"]
    assert "… in the names of runs is digits." in lines[3]
    monkeypatch.setenv("COLUMNS", "200")
    assert "…" not in say("--study", "arms")[1]


def test_the_last_study_and_what_failed_is_left_out(say):
    status, out, err = say()
    assert status == 0
    assert err == "the study or sweep that ran last, sweep; --study names another\n"
    assert out.startswith("sweep: 2 configurations, 6 runs")


def test_a_study_that_runs_again_after_a_sweep_is_the_last_one(recorded, tmp_path, monkeypatch):
    from frostline.comparison.runs import Results
    from frostline.tracking.store import Store

    shutil.copytree(recorded[0], tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = Store()
    assert Results(store).newest_study() == "sweep"
    config = {"freeze_name": "full", "study": "arms", "seed": 7, "stage": "finetune"}
    data = {"name": "digits", "kind": "digits", "fingerprint": "ab" * 16}
    about = RunInfo("mlp·full·digits", "finetune", "arms", config, data, "training", {"seed": "7"}, 7)
    run = store.begin(about, process_key(), when=9000)
    run.tags({"weights.sha256": "a"})
    run.end("FINISHED")
    assert Results(store).newest_study() == "arms"
    assert {run.id for run in Results(store).chosen("best")} == {
        recorded[1][f"armsfull{n}"] for n in range(3)
    }


def test_a_long_wait_says_what_is_read(say, monkeypatch):
    progress.say_once.cache_clear()
    monkeypatch.setattr(progress, "WAITING_SECONDS", 0.0)
    monkeypatch.setattr(progress, "is_watched", lambda: True)
    _, _, err = say("--study", "arms")
    assert err == "reading the runs in MLflow …\n"


def test_runs_by_id_name_and_configuration(say, recorded):
    _, ids = recorded
    status, out, _ = say(ids["armsfull0"], ids["sweepfull0"], "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert status == 0
    assert {row["run"] for row in rows} == {"lr0.1·mlp·full·digits", "lr0.2·mlp·full·digits"}
    assert {row["optimizer.lr"] for row in rows} == {"0.1", "0.2"}
    assert {row["runs"] for row in rows} == {ids["armsfull0"], ids["sweepfull0"]}
    assert say("mlp·bitfit·digits·s0")[1].startswith("Runs compared: 1 configuration, 1 run\n")
    _, out, _ = say("mlp·gradual·digits", "--format", "csv")
    assert sorted(row["best/val/accuracy/n"] for row in csv.DictReader(io.StringIO(out))) == ["3", "3"]


def names_of(out):
    return [(row["run"], row["best/val/accuracy/n"]) for row in csv.DictReader(io.StringIO(out))]


def test_a_study_or_a_word_stands_for_its_best_setting_with_all_seeds(say, recorded):
    assert names_of(say("arms", "--format", "csv")[1]) == [("mlp·full·digits", "3")]
    assert names_of(say("best", "--format", "csv")[1]) == [("mlp·full·digits", "3")]
    assert sorted(names_of(say("best", "arms", "--format", "csv")[1])) == [
        ("lr0.1·mlp·full·digits", "3"),
        ("lr0.2·mlp·full·digits", "3"),
    ]
    assert names_of(say("last", "--format", "csv")[1]) == [("mlp·gradual·digits", "1")]


def test_the_best_run_comes_first_and_by_the_objective_of_its_sweep(recorded, monkeypatch):
    from frostline.comparison.runs import Results
    from frostline.tracking.store import Store

    place, ids = recorded
    monkeypatch.chdir(place)
    store = Store()
    results = Results(store)
    assert [run.id for run in results.chosen("arms")] == [ids[f"armsfull{seed}"] for seed in (2, 1, 0)]
    assert results.chosen("nothing") == []
    assert results.words()[:2] == ["best", "last"]
    (parent,) = store.search({"study": "arms", "stage": "study"}, limit=9)
    for freeze in ("full", "gradual"):
        for seed in range(3):
            run = ids[f"arms{freeze}{seed}"]
            store.client.log_metric(run, "best/val/loss", {"full": 2.0, "gradual": 1.0}[freeze] + seed)
    store.client.set_tag(parent.info.run_id, "objective", "val/loss")
    assert [run.id for run in results.chosen("arms")] == [ids[f"armsgradual{seed}"] for seed in range(3)]
    store.client.delete_tag(parent.info.run_id, "objective")


def test_a_filter_and_metrics(say):
    status, out, _ = say("--filter", "tags.freeze = 'full'", "--metric", "test/accuracy", "--format", "md")
    assert status == 0
    headers = [text.strip() for text in out.splitlines()[0].split("|")]
    assert headers[1:6] == ["run", "optimizer.lr", "study", "n", "test/accuracy"]
    assert "93.0 %" in out


@pytest.mark.parametrize("kind", ["md", "csv", "html"])
def test_files(say, tmp_path, kind):
    out = tmp_path / f"arms.{kind}"
    assert say("--study", "arms", "--out", str(out))[1].strip() == str(out)
    text = out.read_text()
    assert "mlp·gradual·digits" in text
    if kind != "csv":
        assert "most frequent class is right for 80.0 %; below that: " in text.replace("&#39;", "'")
    if kind == "html":
        assert "<svg" in text
        assert "http" not in re.sub(r"http://www\.w3\.org\S*", "", text)  # needs nothing else


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--study", "arm"], "--study: there is no 'arm'; did you mean 'arms'?"),
        (
            ["mlp·ful·digits·s0"],
            "mlp·ful·digits·s0: no finished run with that id or name; did you mean 'mlp·full·digits·s0'",
        ),
        (
            ["--metric", "test/acuracy", "--study", "arms"],
            "--metric: no run has 'test/acuracy'; did you mean 'test/accuracy'",
        ),
        (["--filter", "freeze full"], "--filter: Invalid clause"),
        (["--filter", "tags.freeze = 'none'"], "compare: no run that matches this filter has finished"),
        (["--out", "x.pdf"], "--out: found x.pdf; name a file that ends in .md, .csv or .html"),
        (["a", "--study", "arms"], "compare: name runs, or use --study and --filter"),
    ],
)
def test_mistakes_are_one_sentence(say, words, sentence):
    status, out, err = say(*words)
    assert (status, out) == (2, "")
    assert f"frostline: error: {sentence}" in err
    assert "Traceback" not in err


def test_a_project_without_runs(tmp_path, monkeypatch, capsys, no_runs):
    shutil.copy(no_runs, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert cli.main(["compare"]) == 2
    assert "no run is recorded yet" in capsys.readouterr().err


def test_the_page_that_compares_the_same_runs(recorded, monkeypatch):
    monkeypatch.chdir(recorded[0])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    served = []
    monkeypatch.setattr(mlflow_server, "serve", lambda port, path: served.append(path))
    assert cli.main(["compare", "mlp·bitfit·digits·s0", "--open"]) == 0
    query = urllib.parse.parse_qs(served[0].partition("?")[2])
    assert json.loads(query["runs"][0]) == [recorded[1]["armsbitfit0"]]
    assert json.loads(query["experiments"][0]) == ["1"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["mlp·ful·digits"], "mlp·ful·digits: no finished run with that id or name; did you mean"),
        (["mlp·full·digits", "runs/nope"], "runs/nope: no finished run with that id or name; allowed: "),
        (["--study", "arm"], "--study: there is no 'arm'; did you mean 'arms'? (allowed: arms, sweep)"),
    ],
)
def test_a_misspelt_name_is_reported_without_mlflow(recorded, words, sentence):
    """Its import takes seconds."""
    code = (
        "import sys; from frostline.commands import main; status = main.main(['compare', *sys.argv[1:]]);"
        " print(status, 'mlflow' in sys.modules)"
    )
    command = [sys.executable, "-c", code, *words]
    without = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    done = subprocess.run(command, cwd=recorded[0], env=without, capture_output=True, text=True)
    assert done.stdout == "2 False\n"
    assert done.stderr.startswith(f"frostline: error: {sentence}")
