"""A team's server as docs/scale.md sets it up: PostgreSQL for runs and trials, S3 for files."""

import csv
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.forks import FORKS
from tests.study import environment
from tests.sweeps.test_sweeper import WORDS, rows

# MLflow 3.17 uses what SQLAlchemy 2.1 will drop.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated"),
]
PROGRAMS = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"))), None)
KEYS = {
    "AWS_ACCESS_KEY_ID": "of-a-test",
    "AWS_SECRET_ACCESS_KEY": "of-a-test",
    "AWS_DEFAULT_REGION": "us-east-1",
}
BUCKET = "runs"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def started(words, ready, folder, **variables):
    """Start a server, and wait until it says that it is ready."""
    log = folder / f"{Path(words[0]).name}-{len(list(folder.iterdir()))}.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            words, cwd=folder, env=environment(folder / "x", **variables), stdout=stream, stderr=stream
        )
    give_up = time.monotonic() + 90
    while not ready():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < give_up, log.read_text()
        time.sleep(0.1)
    return process


def succeeds(*words):
    return lambda: not subprocess.run(words, capture_output=True, check=False).returncode


def answers(url):
    return succeeds("curl", "-sf", url)


@pytest.fixture(scope="module")
def database():
    """The address of a PostgreSQL of this test's own, without its database's name."""
    if PROGRAMS is None:
        pytest.skip("no PostgreSQL on this machine")
    root = os.geteuid() == 0
    if root and "postgres" not in {user.pw_name for user in pwd.getpwall()}:
        pytest.skip("root may not run PostgreSQL, and there is no user postgres")
    drop = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"] if root else []
    folder = Path(tempfile.mkdtemp(prefix="frostline-postgres-", dir="/tmp"))  # pytest's are closed to others
    if root:
        shutil.chown(folder, "postgres", "postgres")
    port, data = free_port(), folder / "data"

    def run(program, *words):
        command = [*drop, str(PROGRAMS / program), *words]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done

    run("initdb", "-D", str(data), "--auth=trust", "--username=frostline", "--no-sync")
    words = [*drop, str(PROGRAMS / "postgres"), "-D", str(data), "-h", "127.0.0.1", "-p", str(port), "-k", ""]
    words += ["-c", "fsync=off"]
    ask = [str(PROGRAMS / "pg_isready"), "-h", "127.0.0.1", "-p", str(port)]
    server = started(
        words, lambda: not subprocess.run(ask, capture_output=True, check=False).returncode, folder
    )
    for name in ("mlflow", "sweeps"):
        run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "frostline", name)
    yield f"postgresql+psycopg://frostline@127.0.0.1:{port}"
    server.terminate()
    server.wait(30)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """An S3 on loopback with an empty bucket: its address, and a client of it."""
    import boto3

    folder, port = tmp_path_factory.mktemp("s3"), free_port()
    url = f"http://127.0.0.1:{port}"
    words = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    server = started(words, answers(url), folder)
    secrets = {"aws_access_key_id": "of-a-test", "aws_secret_access_key": "of-a-test"}
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **secrets)
    client.create_bucket(Bucket=BUCKET)
    yield url, client
    client.close()
    server.terminate()
    server.wait(30)


@pytest.fixture(scope="module")
def tracking(database, bucket, tmp_path_factory):
    """The address of the MLflow server."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    uri = f"http://127.0.0.1:{port}"
    words = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers=1",
    ]
    words += ["--backend-store-uri", f"{database}/mlflow", "--artifacts-destination", f"s3://{BUCKET}"]
    variables = {**KEYS, "MLFLOW_S3_ENDPOINT_URL": bucket[0], "MLFLOW_DISABLE_TELEMETRY": "true"}
    server = started(
        words, answers(f"{uri}/health"), folder, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", **variables
    )
    yield uri
    server.terminate()
    server.wait(30)


@pytest.mark.slow
def test_two_sweeps_write_to_a_teams_server_at_once(database, bucket, tracking, shell):
    from mlflow.tracking import MlflowClient

    settings = {"MLFLOW_TRACKING_URI": tracking, "FROSTLINE_TRACKING": "", "FROSTLINE_WAIT": "60"}
    words = [*WORDS, f"sweep.store={database}/sweeps", "optimizer.lr=0.01,0.02"]
    sweeps = [
        shell.start("finetune", *words, "freeze=full", f"seed={seed}", f"sweep.name=seed{seed}", **settings)
        for seed in range(2)
    ]
    for sweep in sweeps:
        out, err = sweep.communicate(timeout=200)
        assert sweep.returncode == 0, err
        warned = [line for line in err.splitlines() if "warning" in line and "always predicting" not in line]
        assert not warned
        assert len(rows(out)) == 2

    client = MlflowClient(tracking)
    (experiment,) = client.search_experiments(filter_string="name = 'frostline'")
    runs = client.search_runs([experiment.experiment_id], "tags.stage = 'finetune'")
    assert [run.info.status for run in runs] == ["FINISHED"] * 4
    assert sorted(run.data.tags["study"] for run in runs) == ["seed0"] * 2 + ["seed1"] * 2
    _, s3 = bucket
    kept = {each["Key"] for each in s3.list_objects_v2(Bucket=BUCKET)["Contents"]}
    for run in runs:
        (config,) = (key for key in kept if key.endswith(f"{run.info.run_id}/artifacts/config.yaml"))
        stored = s3.get_object(Bucket=BUCKET, Key=config)["Body"].read()
        (folder,) = (
            path.parent
            for path in (shell.folder / "runs/finetune").glob("*/config.yaml")
            if path.read_bytes() == stored
        )
        with (folder / "history.csv").open(newline="") as stream:
            history = list(csv.DictReader(stream))
        for name in set(history[0]) - {"epoch", "step"}:
            measured = [float(row[name]) for row in history if row[name]]
            assert [m.value for m in client.get_metric_history(run.info.run_id, name)] == pytest.approx(
                measured
            )


def test_a_store_without_its_server_is_one_sentence_without_the_password(shell):
    store = f"postgresql+psycopg://me:secret@127.0.0.1:{free_port()}/sweeps"
    said = shell.refused("finetune", *WORDS, "seed=0,1", f"sweep.store={store}")
    assert said.startswith("sweep.store: postgresql+psycopg://me:…@127.0.0.1:")
    assert "secret" not in said


def _take_all(store, folder, answer):
    from tests.sweeps.test_study import study

    os.chdir(folder)
    made = study(store=store, sampler={"kind": "random"}, trials=12, name="shared")
    made.begin()
    numbers = []
    while taken := made.ask():
        numbers.append(taken.number)
        taken.complete([0.5], {})
    answer.put(numbers)


@pytest.mark.slow
def test_processes_that_share_no_folder_share_a_study(database, tmp_path):
    """As those of two machines: they have the database alone to keep off each other."""
    answer, processes = FORKS.Queue(), []
    for number in range(3):
        (folder := tmp_path / str(number)).mkdir()
        processes.append(FORKS.Process(target=_take_all, args=(f"{database}/sweeps", folder, answer)))
        processes[-1].start()
    taken = [number for _ in processes for number in answer.get(timeout=60)]
    for process in processes:
        process.join(60)
    assert sorted(taken) == list(range(12))
