"""The MLflow pages: a real server, asked, looked at in a browser, interrupted, and told what is wrong."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager

import psutil
import pytest
from PIL import Image
from tests.imports import SRC

from frostline.commands.mlflow_server import DIRECTLY, PORTS_TRIED, _interrupted_by, free_port
from frostline.console.errors import FrostlineError
from frostline.tracking.mlflow_app import is_served

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
RATES = ("0.003", "0.01", "0.03")
SWEEP = [
    *("finetune", "-m", "freeze=gradual", f"optimizer.lr={','.join(RATES)}", "sweep.name=rates"),
    *("backbone=mlp", "backbone.hidden=[16,8]", "weights=none", "dataset.shots=10", "input.size=8"),
    *("trainer.epochs=5", "trainer.batch_size=20", "trainer.threads=1"),
]
MOST_BYTES = 700e6
# MLflow 3.17 uses what SQLAlchemy 2.1 will drop.
pytestmark = pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated")


def test_a_taken_port_is_passed_over():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        first = taken.getsockname()[1]
        assert first < free_port(first) < first + PORTS_TRIED


@pytest.mark.parametrize("port", [-1, 0, 65536])
def test_what_is_no_port_is_refused(port):
    with pytest.raises(FrostlineError, match=f"--port: found {port}; name one from 1 to 65535"):
        free_port(port)


@pytest.fixture
def start(tmp_path, warm):
    """Start `frostline ui` in an empty folder, or another; return it and the first lines it prints."""
    started = []

    def starter(lines, folder=tmp_path, python=warm, **variables):
        with socket.socket() as free:  # one of our own: other tests serve at the same time
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        command = [str(python), "-m", "frostline", "ui", "--port", port]
        ui = subprocess.Popen(
            command,
            cwd=folder,
            env={k: v for k, v in os.environ.items() if not k.startswith("MLFLOW")}
            | {"PYTHONPATH": str(SRC)}
            | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(ui)
        return ui, [ui.stdout.readline() for _ in range(lines)]

    yield starter
    for ui in started:
        ui.terminate()  # so that it ends its server, which a kill would leave
        ui.communicate(timeout=30)


@pytest.mark.slow
def test_a_second_one_prints_the_address_of_the_first(start, tmp_path):
    first, (address, runs) = start(2)
    url = address.split()[0]
    second, lines = start(2)
    assert lines == [f"{url}  (runs already; Ctrl-C in its terminal ends it)\n", runs]
    assert second.wait(timeout=30) == 0
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=30)
    assert not (tmp_path / ".frostline/ui.json").exists()
    (tmp_path / ".frostline/ui.json").write_text('{"store": "another", "port": 1}')
    _, (address, _) = start(2)
    assert address.endswith("  (Ctrl-C ends it)\n")
    assert address.split()[0] != url


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_interrupt_it_alike(how):
    before = signal.getsignal(how)
    with pytest.raises(KeyboardInterrupt), _interrupted_by(signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.raise_signal(how)
    assert signal.getsignal(how) == before


@pytest.mark.slow
@pytest.mark.ui
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_pages_of_a_sweep_in_a_browser(start, shell, tmp_path):
    """From an empty folder: one server, browser and sweep for all pages, and a screenshot of each."""
    # A cold Python, whose memory is its own; and a proxy where nothing is.
    ui, _ = start(0, shell.folder, sys.executable, http_proxy="http://127.0.0.1:9")
    shell(*SWEEP, FROSTLINE_TRACKING="on")
    lines = [ui.stdout.readline()]
    while "(training runs)" not in lines[-1]:  # after the study's view, if the sweep has begun it
        lines.append(ui.stdout.readline())
    address, page = lines[0], lines[-1]
    url = re.fullmatch(r"(http://127\.0\.0\.1:\d+)  \(Ctrl-C ends it\)\n", address)[1]
    assert page == f"{url}/#/experiments/1/runs?workflowType=machine_learning  (training runs)\n"
    processes = [psutil.Process(ui.pid), *psutil.Process(ui.pid).children(recursive=True)]
    memory = [process.memory_full_info() for process in processes]
    assert sum(getattr(usage, "pss", usage.rss) for usage in memory) < MOST_BYTES
    runs = search(url)
    names = [next(name for name in runs if f"lr{rate}" in name.split("·")) for rate in RATES]
    with chromium() as browser:
        view = browser.new_page(viewport={"width": 1400, "height": 900})

        def seen(name, address=None):
            if address:
                view.goto(f"{url}/#/{address}")
            return lambda: view.screenshot(path=tmp_path / f"{name}.png")

        view.goto(page.split()[0])
        view.get_by_role("link", name="rates").wait_for()
        assert not view.get_by_text("MLflow Assistant").first.is_visible()  # it would cover a quarter
        the_runs_page(view, names, seen("runs"))
        several = [runs[name] for name in names]
        choice = urllib.parse.urlencode({"runs": json.dumps(several), "experiments": json.dumps(["1"])})
        the_comparison(view, names, seen("compare", f"compare-runs?{choice}"))
        run = f"experiments/1/runs/{runs[names[-1]]}"
        the_charts(view, seen("charts", f"{run}/model-metrics"))
        the_machines_load(view, seen("machine", f"{run}/system-metrics"))
        view.goto(f"{url}/#/{run}/artifacts")
        folder = shell.folder / "mlartifacts" / runs[names[-1]] / "artifacts"
        for name in ("plan", "curves", "confusion", "mistakes"):
            the_picture(view, folder / f"{name}.png", seen(name))
        the_report(view, seen("per_class"))
    ui.send_signal(signal.SIGINT)
    _, errors = ui.communicate(timeout=30)
    assert ui.returncode == 0
    assert "Traceback" not in errors
    assert not answers(url)  # its server went along


ACCURACIES = {"scratch": (0.5, 0.6), "gradual": (0.9, 0.94), "full": (0.8, 0.82)}


@pytest.fixture
def study(empty_store, tmp_path):
    """A project whose store has a study of three arms with two seeds each; nothing was trained."""
    from frostline.base.processes import process_key
    from frostline.tracking.studies import StudyResult
    from frostline.training.services import RunInfo

    store, clock = empty_store, iter(range(1000, 9000))
    data = {"name": "photos", "kind": "image_folder", "fingerprint": "ab" * 16}
    for arm, values in ACCURACIES.items():
        for seed, value in enumerate(values):
            config = {"stage": "finetune", "arm": arm, "seed": seed, "trainer": {"epochs": 2}}
            tags = {"arm": arm, "seed": str(seed)}
            about = RunInfo(f"{arm}·mlp·photos", "finetune", "mine", config, data, "training", tags, seed)
            run = store.begin(about, process_key(), when=next(clock))
            for epoch in range(3):
                run.epoch(
                    {"epoch": epoch, "val/accuracy": value * epoch / 2, "val/loss": 1.0, "phase": epoch // 2}
                )
            run.metrics({"best/val/accuracy": value, "test/accuracy": value, "train_seconds": 2.0})
            run.end("FINISHED", when=next(clock))
    table = "| arm | accuracy |\n| --- | --- |\n| gradual | 92.0 % |\n"
    store.studies.end(StudyResult("mine", "gradual is best.", table, {"gradual.gain": 0.37}), next(clock))
    return tmp_path


@pytest.mark.slow
@pytest.mark.ui
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_studys_page_shows_its_arms_the_best_first_and_its_curves(start, study):
    _, lines = start(3, study)
    assert lines[1].endswith("  (study mine, by test/accuracy)\n")
    address = lines[1].split()[0]
    with chromium() as browser:
        view = browser.new_page(viewport={"width": 1280, "height": 900})
        view.goto(address)
        first = view.get_by_role("row").filter(has_text="gradual").first
        first.wait_for()
        headings = view.get_by_role("columnheader").all_inner_texts()
        wanted = ("Run Name", "arm", "test/accuracy", "test/accuracy.low", "test/accuracy.high", "n")
        assert [name for name in wanted if not any(name == text.strip() for text in headings)] == []
        for name in wanted:  # without scrolling, beside the assistant, which is closed
            assert view.get_by_role("columnheader", name=name, exact=True).first.is_visible()
        rows = [row for row in view.get_by_role("row").all_inner_texts() if "·mlp·photos" in row]
        assert [row.split("·")[0].split()[-1] for row in rows] == ["gradual", "full", "scratch"]
        view.goto(address.replace("=results-", "=curves-") + "&compareRunsMode=CHART")
        view.get_by_text("Learning curves").first.wait_for()
        view.locator(".js-plotly-plot .scatterlayer").first.wait_for()


def the_runs_page(view, names, shoot):
    """The sweep is one line, which unfolds into its runs."""
    view.get_by_role("link", name="rates").wait_for()
    assert not view.get_by_role("link", name=names[0]).count()
    view.locator("[data-component-id*=runnamecellrenderer]").first.click()
    for name in names:
        view.get_by_role("link", name=name).wait_for()
    shoot()


def the_comparison(view, names, shoot):
    """What was swept is found by itself, and has an axis."""
    view.locator(".parcoords .axis-title").nth(1).wait_for()
    axes = view.locator(".parcoords .axis-title").all_text_contents()
    assert axes[0] == "optimizer.lr"
    details = view.locator("body").inner_text()
    assert all(name in details for name in names)
    shoot()


def the_charts(view, shoot):
    """Where phases begin shows in a chart beside the metrics: 20 % of five epochs, 20 %, and the rest."""
    view.get_by_placeholder("Search metric charts").fill("phase|^lr")
    assert drawn(view, "phase") == [0, 1, 2, 2, 2]
    shoot()


def the_machines_load(view, shoot):
    view.get_by_placeholder("Search metric charts").fill("cpu|memory")  # others are drawn when scrolled to
    for sensor in ("cpu_utilization_percentage", "system_memory_usage_megabytes"):
        view.get_by_title(f"system/{sensor}").wait_for()
    shoot()


def the_picture(view, file, shoot):
    view.get_by_text(file.name, exact=True).first.click()
    with Image.open(file) as picture:
        size = list(picture.size)
    condition = (
        "size => [...document.images].some(i => i.naturalWidth == size[0] && i.naturalHeight == size[1])"
    )
    view.wait_for_function(condition, arg=size)
    shoot()


def the_report(view, shoot):
    """Of the classes: a page within the page."""
    view.get_by_text("per_class.html", exact=True).first.click()
    table = view.frame_locator("iframe").get_by_role("table")
    table.wait_for()
    assert "taken for" in table.inner_text()
    shoot()


def drawn(view, metric):
    """The heights of a chart's line."""
    card = view.get_by_test_id("experiment-view-compare-runs-card").filter(
        has=view.get_by_title(metric, exact=True)
    )
    plot = card.locator(".js-plotly-plot")
    plot.locator(".scatterlayer .point").nth(4).wait_for()
    return plot.evaluate("plot => [...plot.data[0].y]")


@contextmanager
def chromium():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def search(url):
    """Name → id of the runs that trained."""
    request = urllib.request.Request(
        f"{url}/api/2.0/mlflow/runs/search",
        json.dumps({"experiment_ids": ["1"], "filter": "tags.stage = 'finetune'"}).encode(),
        {"Content-Type": "application/json"},
    )
    with DIRECTLY.open(request) as answer:
        return {run["info"]["run_name"]: run["info"]["run_id"] for run in json.load(answer)["runs"]}


@pytest.mark.parametrize(
    ("path", "served"),
    [
        ("/", True),
        ("/static-files/js/main.js", True),
        ("/api/2.0/mlflow/runs/search", True),
        ("/ajax-api/2.0/mlflow/artifacts/list", True),
        ("/ajax-api/3.0/mlflow/assistant/config", False),
        ("/ajax-api/3.0/mlflow/assistant/sessions/1/stream", False),
        ("/ajax-api/3.0/mlflow//assistant/config", False),
        ("/ajax-api/3.0/mlflow/gateway/endpoints/list", False),
        ("/ajax-api/2.0/mlflow/gateway-proxy", False),
        ("/gateway/x/mlflow/invocations", False),
        ("/ajax-api/3.0/jobs/1", False),
        ("/ajax-api/2.0/mlflow/webhooks/create", False),
        ("/api/2.0/mlflow-artifacts/artifacts/x", False),
        ("/api/2.0/mlflow/experiments/create", False),
        ("/v1/traces", False),
        ("/api", False),
        ("", True),
    ],
)
def test_what_shows_runs_is_served(path, served):
    assert is_served(path) == served


def asked(url, path, method="GET", **headers):
    """The status of an answer, and the answer."""
    headers = {name.replace("_", "-"): text for name, text in headers.items()}
    body = b"{}" if method in ("POST", "PUT") else None
    request = urllib.request.Request(url + path, body, {"Content-Type": "application/json"} | headers)
    request.method = method
    try:
        with DIRECTLY.open(request) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.slow
def test_a_running_server_serves_runs_to_its_own_pages_alone(start):
    """Even where MLflow's own variables say otherwise."""
    loose = {"MLFLOW_ENABLE_REMOTE_ASSISTANT": "true", "MLFLOW_SERVER_ALLOWED_HOSTS": "*"}
    loose |= {"MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "true", "MLFLOW_DISABLE_TELEMETRY": "false"}
    _, (address, _) = start(2, **loose)
    url = address.split()[0]
    port = url.rpartition(":")[2]
    runs = "/api/2.0/mlflow/experiments/get?experiment_id=0"
    for host in (f"127.0.0.1:{port}", f"localhost:{port}"):
        assert asked(url, runs, Host=host)[0] == 200
        assert asked(url, runs, Host=host, Origin=f"http://{host}")[0] == 200
    for host in ("evil.example", f"evil.example:{port}", "192.168.1.2", "localhost:1"):
        assert asked(url, runs, Host=host)[0] == 403
    for origin in ("https://evil.example", "http://localhost:3000", "null"):
        assert asked(url, runs, Origin=origin) == (403, "frostline ui serves its own pages only")
    for method, path in (
        ("GET", "/ajax-api/3.0/mlflow/assistant/config"),
        ("GET", "/ajax-api/3.0/mlflow/%61ssistant/config"),
        ("PUT", "/ajax-api/3.0/mlflow/assistant/config"),
        ("POST", "/ajax-api/3.0/mlflow/assistant/message"),
        ("POST", "/api/2.0/mlflow/experiments/create"),
        ("POST", "/ajax-api/2.0/mlflow/gateway-proxy"),
    ):
        assert asked(url, path, method) == (404, "frostline ui does not serve this part of MLflow")
    # Refused, it would be an error on the page of runs; nothing is passed on.
    gateway = "/ajax-api/2.0/mlflow/gateway-proxy?gateway_path=api%2F2.0%2Fendpoints%2F"
    assert asked(url, gateway) == (200, '{"endpoints": []}')
    assert json.loads(asked(url, "/ajax-api/3.0/mlflow/ui-telemetry")[1])["disable_ui_telemetry"]
    (connection,) = {
        connection.laddr.ip
        for connection in psutil.net_connections("tcp")
        if connection.status == "LISTEN" and connection.laddr.port == int(port)
    }
    assert connection == "127.0.0.1"


def test_a_teams_server_is_named_not_started(start):
    ui, lines = start(1, MLFLOW_TRACKING_URI="https://mlflow.example.org")
    assert lines == ["https://mlflow.example.org  (MLFLOW_TRACKING_URI)\n"]
    assert ui.wait(timeout=20) == 0


def test_a_store_that_is_no_database_is_an_error_of_one_sentence(start, tmp_path):
    (tmp_path / "mlflow.db").write_text("not a database")
    ui, _ = start(0, MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path / 'mlflow.db'}")
    _, errors = ui.communicate(timeout=90)
    assert ui.returncode == 2
    assert errors.startswith(
        f"frostline: error: ui: sqlite:///{tmp_path}/mlflow.db is damaged (file is not a database); restore"
    )
    assert errors.count("\n") == 1


def answers(url):
    for _ in range(20):
        try:
            DIRECTLY.open(f"{url}/health", timeout=1).close()
        except OSError:
            return False
        time.sleep(0.2)
    return True
