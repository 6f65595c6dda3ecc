"""The recorder process: it never delays training, and outlives it to record how it ended."""

import json
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from tests.study import environment

from frostline.tracking import tracker

# MLflow 3.17 uses what SQLAlchemy 2.1 will drop.
pytestmark = pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated")
ROOT = Path(__file__).parents[2]
INFO = """
import sys
from frostline.tracking.tracker import JournalTracker
from frostline.training.services import RunInfo

def info(name):
    dataset = {"name": "digits", "kind": "digits", "fingerprint": "ab12" * 16}
    return RunInfo(name, "finetune", "tiny", {"seed": 0}, dataset, "training", {"seed": "0"})
"""


@pytest.fixture
def program(warm: Path) -> Callable[..., subprocess.Popen]:
    """Starts a Python that runs code and records in a folder; the recorder of a cold one is warm."""

    def start(folder: Path, code: str, python: Path = warm, **variables: str) -> subprocess.Popen:
        settings = environment(folder / "x", PYTHONPATH=str(ROOT / "src"), **variables)
        pipe = subprocess.PIPE
        words = [str(python), "-P", "-c", f"{INFO}\nsys.executable = {str(warm)!r}\n{code}"]
        return subprocess.Popen(words, cwd=folder, env=settings, stdout=pipe, stderr=pipe, text=True)

    return start


def recorded(folder: Path) -> dict[str, tuple[str, dict, dict]]:
    """Run → status, tags, last metrics."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        runs = store.execute("SELECT name, status, run_uuid FROM runs WHERE name != 'tiny'").fetchall()
        return {
            name: (
                status,
                dict(store.execute("SELECT key, value FROM tags WHERE run_uuid = ?", [run])),
                dict(
                    store.execute(
                        "SELECT key, value FROM latest_metrics WHERE run_uuid = ? AND key NOT LIKE 'system%'",
                        [run],
                    )
                ),
            )
            for name, status, run in runs
        }


def test_how_runs_end_and_that_mlflow_stays_out(tmp_path, no_runs, program):
    shutil.copy(no_runs, tmp_path)
    code = """
recorder = JournalTracker()
with recorder.run(info("fine")) as run:
    run.log_epoch({"epoch": 0, "val/loss": 0.5})
    run.log_metrics({"best/val/loss": 0.5})
for error in (ValueError("the loss became nan"), KeyboardInterrupt(), SystemExit(143)):
    try:
        with recorder.run(info(type(error).__name__)):
            raise error
    except BaseException as caught:
        assert caught is error
assert not [name for name in sys.modules if name.startswith("mlflow")]
"""
    output = program(tmp_path, code, Path(sys.executable)).communicate(timeout=100)
    assert output == ("", "")
    runs = recorded(tmp_path)
    assert {name: status for name, (status, _, _) in runs.items()} == {
        "fine": "FINISHED",
        "ValueError": "FAILED",
        "KeyboardInterrupt": "KILLED",
        "SystemExit": "KILLED",
    }
    assert runs["fine"][2] == {"val/loss": 0.5, "best/val/loss": 0.5}
    assert runs["ValueError"][1]["error"] == "the loss became nan"
    assert runs["KeyboardInterrupt"][1]["error"] == "KeyboardInterrupt"
    assert runs["SystemExit"][1]["error"] == "ended with status 143"


def test_a_trial_has_its_final_state_as_a_tag(tmp_path, no_runs, program):
    shutil.copy(no_runs, tmp_path)
    code = """
from frostline.console.errors import Pruned
from frostline.training.services import LabelledTracker
recorder = LabelledTracker(JournalTracker(), "lr=0.1", {"trial.number": "7", "trial.state": "running"})
for error in (None, Pruned("after epoch 2"), ValueError("no")):
    try:
        with recorder.run(info(type(error).__name__)):
            if error:
                raise error
    except Exception as caught:
        assert caught is error
"""
    assert program(tmp_path, code).communicate(timeout=100) == ("", "")
    runs = recorded(tmp_path)
    states = {
        name.rpartition("·")[2]: (status, tags["trial.state"]) for name, (status, tags, _) in runs.items()
    }
    assert states == {
        "NoneType": ("FINISHED", "complete"),
        "Pruned": ("FINISHED", "pruned"),
        "ValueError": ("FAILED", "failed"),
    }
    assert {tags["trial.number"] for _, tags, _ in runs.values()} == {"7"}
    assert runs["lr=0.1·Pruned"][1]["pruned"] == "after epoch 2"


def test_a_killed_training_is_recorded_as_such_with_all_that_it_said(tmp_path, no_runs, program):
    shutil.copy(no_runs, tmp_path)
    code = """
import os, signal
with JournalTracker().run(info("killed")) as run:
    for epoch in range(50):
        run.log_epoch({"epoch": epoch, "val/loss": 1.0})
    os.kill(os.getpid(), signal.SIGKILL)
"""
    training = program(tmp_path, code, Path(sys.executable))
    # The recorder holds standard error open until it is done.
    _, said = training.communicate(timeout=100)
    assert training.returncode == -9
    assert said == ""
    status, _, metrics = recorded(tmp_path)["killed"]
    assert (status, metrics) == ("KILLED", {"val/loss": 1.0})


def test_a_server_that_never_answers_holds_nobody_up(tmp_path, program):
    code = """
import time
begun = time.monotonic()
with JournalTracker().run(info("unheard")) as run:
    for epoch in range(1000):
        run.log_epoch({"epoch": epoch, "val/loss": 1.0})
print(time.monotonic() - begun)
"""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        begun = time.monotonic()
        output, said = program(tmp_path, code, MLFLOW_TRACKING_URI=uri).communicate(timeout=100)
        assert time.monotonic() - begun < 30
    assert float(output) < 5
    assert said == (
        f"frostline: warning: 1003 records for MLflow at {uri} wait in {tmp_path / '.frostline/journal'} "
        "(it is slow); `frostline sync` or the next command delivers them\n"
    )


def test_requests_are_counted_whatever_their_body(tmp_path, program):
    code = """
import http.server, threading, requests
from frostline.tracking.recorder import RequestCounter

class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *words):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
counter, counts = RequestCounter(), []
with requests.Session() as session:
    address = f"http://127.0.0.1:{server.server_port}"
    for body in (None, b"x" * 100_000, b"{}"):
        session.post(address, data=body)
        counts.append(counter.count)
    session.get(address, headers={"Content-Length": "0"})
    print(counts, counter.count)
"""
    output, said = program(tmp_path, code).communicate(timeout=100)
    assert (output, said) == ("[1, 2, 3] 4\n", "")


@pytest.mark.slow
def test_close_waits_for_records_while_there_is_progress_and_for_plots_a_limited_time(
    tmp_path, no_runs, program
):
    """Each run takes a part of the patience, all of them more than that."""
    shutil.copy(no_runs, tmp_path)
    slow = """
import sys, time
from frostline.tracking import recorder, store as tracking
end = tracking.StoredRun.end
tracking.StoredRun.end = lambda *given, **more: (time.sleep(0.8), end(*given, **more))
recorder.PLOT_CPU_SECONDS = 0.0
recorder.serve(sys.stdin.fileno(), recorder._progress_pipe())
"""
    (tmp_path / "slow.py").write_text(slow)
    code = """
import select, subprocess
from frostline.tracking import recorder, tracker
start = subprocess.Popen
def slowly(words, **how):
    return start([words[0], "-c", open("slow.py").read()] if "-m" in words else words, **how)
tracker.subprocess.Popen = slowly
given = JournalTracker()
header = b"epoch,step,phase,lr,train/loss,train/accuracy,val/loss,val/accuracy"
for number in range(8):
    with given.run(info(f"run {number}")) as run:
        given.send(run._key, "files", {"history.csv": header + b"\\n0,0,,,,,1.0,0.5\\n"})
select.select([given._progress], [], [])  # it is up
recorder.PATIENCE_SECONDS = 5.0
"""
    output, said = program(tmp_path, code).communicate(timeout=100)
    assert output == ""
    assert said == (
        "frostline: MLflow has no plots of 8 runs, since many ended at once; the best runs have theirs\n"
    )
    runs = recorded(tmp_path)
    assert {status for status, _, _ in runs.values()} == {"FINISHED"}
    assert len(runs) == 8


def test_a_recorder_that_dies_costs_nothing(tmp_path, no_runs, program):
    shutil.copy(no_runs, tmp_path)
    code = """
recorder = JournalTracker()
with recorder.run(info("heard")) as run:
    recorder._process.kill()
    recorder._process.wait()
    for epoch in range(10):
        run.log_epoch({"epoch": epoch, "val/loss": 1.0})
print("trained")
"""
    output, said = program(tmp_path, code).communicate(timeout=100)
    assert (output, said) == ("trained\n", "")
    status, _, metrics = recorded(tmp_path)["heard"]
    assert (status, metrics) == ("FINISHED", {"val/loss": 1.0})
    assert list((tmp_path / ".frostline/journal").iterdir()) == []


SLOW_RECORDER = """
from pathlib import Path
slow = Path("slow-python")
slow.write_text("#!/bin/sh\\nexec sleep 3600")
slow.chmod(0o755)
sys.executable = str(slow.resolve())
"""


def test_a_command_without_records_ends_at_once(tmp_path, program):
    """The recorder still starts; it has nothing to do."""
    code = SLOW_RECORDER + "recorder = JournalTracker(); print(recorder._process.pid)"
    output, said = program(tmp_path, code).communicate(timeout=40)
    assert said == ""
    assert not Path(f"/proc/{int(output)}").exists()
    assert list((tmp_path / ".frostline/journal").iterdir()) == []
    assert not (tmp_path / "mlflow.db").exists()


def test_a_command_without_records_delivers_those_of_a_killed_process(tmp_path, no_runs, program):
    shutil.copy(no_runs, tmp_path)
    code = SLOW_RECORDER + "import os, signal\nrecorder = JournalTracker()\n"
    code += "with recorder.run(info('killed')):\n    recorder._process.kill()\n"
    code += "    os.kill(os.getpid(), signal.SIGKILL)"
    assert program(tmp_path, code).communicate(timeout=100) == ("", "")
    assert program(tmp_path, "JournalTracker()").communicate(timeout=100) == ("", "")
    assert recorded(tmp_path)["killed"][0] == "KILLED"


@pytest.mark.slow
def test_a_recorder_without_an_owner_ends(tmp_path):
    settings = environment(tmp_path / "x", PYTHONPATH=str(ROOT / "src"))
    words = [sys.executable, "-P", "-m", "frostline.tracking.recorder"]
    with subprocess.Popen(words, cwd=tmp_path, env=settings, stdin=subprocess.DEVNULL) as process:
        assert process.wait(100) == 0


def test_a_module_in_the_users_folder_is_not_imported(tmp_path, no_runs, program):
    shutil.copy(no_runs, tmp_path)
    (tmp_path / "queue.py").write_text("open('executed', 'w'); raise SystemExit")
    code = f"sys.executable = {sys.executable!r}  # a cold recorder too\n"
    code += "with JournalTracker().run(info('run')): pass"
    output, said = program(tmp_path, code, Path(sys.executable)).communicate(timeout=100)
    assert (output, said) == ("", "")
    assert recorded(tmp_path)["run"][0] == "FINISHED"
    assert not (tmp_path / "executed").exists()


def test_the_next_command_delivers_the_records_of_killed_processes(tmp_path, no_runs, program):
    shutil.copy(no_runs, tmp_path)
    code = """
import os, signal
recorder = JournalTracker()
recorder._process.kill()
recorder._process.wait()
with recorder.run(info("killed")) as run:
    for epoch in range(50):
        run.log_epoch({"epoch": epoch, "val/loss": 1.0})
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert program(tmp_path, code).communicate(timeout=100) == ("", "")
    assert recorded(tmp_path) == {}
    code = """
with JournalTracker().run(info("next")):
    pass
"""
    assert program(tmp_path, code).communicate(timeout=100) == ("", "")
    runs = recorded(tmp_path)
    assert {name: status for name, (status, _, _) in runs.items()} == {
        "killed": "KILLED",
        "next": "FINISHED",
    }
    assert runs["killed"][2] == {"val/loss": 1.0}
    assert runs["killed"][1]["git.commit"] == "unknown"  # its recorder had no time to look
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store:
        select = "SELECT start_time, end_time FROM runs WHERE name IN ('killed', 'next') ORDER BY start_time"
        times = store.execute(select).fetchall()
        rows = store.execute("SELECT COUNT(*) FROM metrics WHERE key = 'val/loss'").fetchone()
    assert times[0][0] <= times[0][1] <= times[1][0]
    assert rows == (50,)
    assert list((tmp_path / ".frostline/journal").iterdir()) == []


def test_a_project_that_cannot_be_written_costs_a_warning(tmp_path, program):
    (tmp_path / ".frostline").mkdir()
    (tmp_path / ".frostline/journal").write_text("no folder")
    code = """
with JournalTracker().run(info("unheard")) as run:
    run.log_epoch({"epoch": 1, "val/loss": 1.0})
print("trained")
"""
    output, said = program(tmp_path, code).communicate(timeout=100)
    assert output == "trained\n"
    assert said == (
        f"frostline: warning: nothing is recorded: {tmp_path / '.frostline/journal'} can't be written"
        " (File exists)\n"
    )


@pytest.mark.parametrize("interval", ["3600", "1e-9"])
def test_the_machines_load_while_a_run_trains(tmp_path, no_runs, interval, program):
    """As it ends at the latest; not of an evaluation."""
    shutil.copy(no_runs, tmp_path)
    code = """
import time
from dataclasses import replace
from pathlib import Path
recorder = JournalTracker()
with recorder.run(info("watched")):
    while recorder._process.poll() is None and not list(Path(".frostline/journal").glob("*.delivered")):
        time.sleep(0.1)
    time.sleep(3)
with recorder.run(replace(info("evaluation"), context="evaluation")):
    pass
"""
    assert program(tmp_path, code, MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL=interval).communicate(
        timeout=100
    ) == ("", "")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store:
        steps = store.execute(
            "SELECT name, step FROM metrics JOIN runs USING (run_uuid)"
            " WHERE key = 'system/cpu_utilization_percentage' ORDER BY step"
        ).fetchall()
    assert steps == [("watched", step) for step in range(len(steps))]
    assert len(steps) == 1 if interval == "3600" else len(steps) > 1


def test_weights_are_not_sent(tmp_path):
    (tmp_path / "seed-0").mkdir()
    for name in ("weights.safetensors", "history.csv", "config.yaml", "seed-0/metrics.json", ".hidden"):
        (tmp_path / name).write_bytes(name.encode())
    assert list(tracker.contents(tmp_path)) == ["config.yaml", "history.csv", "seed-0/metrics.json"]


@pytest.mark.slow
def test_what_a_real_run_records(tmp_path, warm):
    """Pretraining and fine-tuning by one command: two runs, and the second knows what it came from."""
    words = "backbone=mlp source=digits input.size=8 pretrain.trainer.epochs=2 trainer.epochs=3"
    words += " pretrain.trainer.threads=1 trainer.threads=1"
    words += " study=mine freeze=gradual backbone.hidden=[16,8] out=out"
    settings = environment(tmp_path / "x", PYTHONPATH=str(ROOT / "src"), FROSTLINE_TRACKING="on")
    command = [str(warm), "-m", "frostline", "finetune", *words.split()]
    subprocess.run(command, cwd=tmp_path, env=settings, check=True, capture_output=True)
    from frostline.tracking.store import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("frostline").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    assert set(runs) == {"mine", "pretrain·mlp·digits·s0", "gradual·mlp·digits·s0"}
    first, second = runs["pretrain·mlp·digits·s0"], runs["gradual·mlp·digits·s0"]
    assert all(run.info.status == "FINISHED" for run in runs.values())
    assert {run.data.tags["mlflow.parentRunId"] for run in (first, second)} == {runs["mine"].info.run_id}
    assert second.data.tags["start.run_id"] == first.info.run_id
    assert second.data.tags["start.sha256"] == first.data.tags["weights.sha256"]
    assert {
        "threads": "1",
        "seed": "0",
        "freeze": "gradual",
        "backbone": "mlp",
    }.items() <= second.data.tags.items()
    assert second.data.tags["phases"].startswith("step 0: head; step ")
    assert second.data.tags["device"].startswith("cpu")
    assert second.data.tags["features"].startswith("phase 0: ")
    assert second.data.params["trainer.epochs"] == "3"
    assert second.data.params["backbone.hidden"] == "[16, 8]"
    metrics = second.data.metrics
    assert {"train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr", "phase"} <= metrics.keys()
    measured = json.loads((tmp_path / "out/metrics.json").read_text())
    for split, prefix in (("val", "best/val"), ("test", "test")):
        for name in ("accuracy", "loss", "balanced_accuracy", "f1_macro", "ece", "top5_accuracy"):
            assert metrics[f"{prefix}/{name}"] == measured[split][name]
    assert {
        "best_epoch",
        "train_seconds",
        "system/images_per_second",
        "system/cpu_utilization_percentage",
    } <= metrics.keys()
    trained = [p.value for p in client.get_metric_history(second.info.run_id, "system/trainable_parameters")]
    head, top, rest = 8 * 10 + 10, 16 * 8 + 8, 64 * 16 + 16
    assert trained == [head + top, head + top + rest, head + top + rest]  # after each epoch
    frozen = [p.value == 0 for p in client.get_metric_history(second.info.run_id, "system/lr/rest")]
    assert frozen == [True, False, False]
    history = client.get_metric_history(second.info.run_id, "val/accuracy")
    assert [point.step for point in history] == [0, 1, 2, 3]
    (dataset_input,) = second.inputs.dataset_inputs
    assert dataset_input.dataset.name == "digits"
    for run in (first, second):
        files = {f.path for f in client.list_artifacts(run.info.run_id)}
        expected = {"config.yaml", "history.csv", "training.json", "metrics.json", "predictions.csv"}
        plan = {"plan.json", "plan.yaml", "plan.png", "training_images.jpg"}
        drawn = {"curves.png", "confusion.png", "per_class.csv", "per_class.html", "mistakes.png"}
        assert files == expected | plan | drawn | {"timing.json"}
    # In MLflow alone: what a run leaves on disk is listed, and repeats byte for byte.
    assert not list((tmp_path / "out").glob("plan*"))
    planned = json.loads(Path(client.download_artifacts(second.info.run_id, "plan.json")).read_text())
    assert [phase["trains"] for phase in planned["phases"]][:2] == [["head"], ["head", "top"]]
    assert planned["images"] == json.loads((tmp_path / "out/training.json").read_text())["training_images"]
