"""Commands that read, in a project that this user may not write to."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from frostline.runs import trained_run
from tests.imports import SRC
from tests.test_moved import files, record

# MLflow 3.17 uses what SQLAlchemy 2.1 will drop.
pytestmark = [
    pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.slow,
]
DROPPED = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner", "--inh-caps=-all"]
"""As root one may write anything, unless these are given up."""
AS_USER = DROPPED if os.geteuid() == 0 else []
DROP = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER = 1, 2, 3
if os.geteuid() == 0:
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then those of the higher numbers
    assert libc.capget(header, sets) == 0
    for capability in (DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER):
        assert libc.prctl(24, capability, 0, 0, 0) == 0  # PR_CAPBSET_DROP: programs do not get it back
        for place in range(3):
            sets[place] &= ~(1 << capability)
    assert libc.capset(header, sets) == 0
sys.executable = sys.argv.pop(1)
assert not os.access(".", os.W_OK)
from frostline.__main__ import main
sys.exit(main())
"""
"""The same in a fork of the warm Python; what it starts are programs of its own."""


def may_write(folder: Path) -> bool:
    code = "import os, sys; sys.exit(not os.access(sys.argv[1], os.W_OK))"
    return subprocess.run([*AS_USER, sys.executable, "-c", code, str(folder)]).returncode == 0


@pytest.fixture(scope="module")
def closed(tmp_path_factory, no_runs, photo_run):
    """A project with a run and a registered model, which nobody may write to."""
    from frostline.tracking.registry import Models
    from frostline.tracking.store import Store

    if AS_USER and not shutil.which("setpriv"):
        pytest.skip("this is root, and there is no setpriv")
    folder = tmp_path_factory.mktemp("shared") / "a prôject"
    shutil.copytree(photo_run.parents[1], folder)
    shutil.copy(no_runs, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        run = folder / "runs" / photo_run.name
        found = trained_run.TrainedRun.read(run)
        record("first", **{"weights.sha256": found.sha256})
        Models(Store()).register(found, "pets", "champion")
    everything = [folder, *folder.rglob("*")]
    for path in everything:
        path.chmod(path.stat().st_mode & ~0o222)
    assert not may_write(folder)
    yield folder, run.relative_to(folder)
    for path in everything:
        path.chmod(path.stat().st_mode | 0o200)


@pytest.fixture
def say(closed, tmp_path, warm):
    """Run a command there, with a temporary folder of its own; nothing may have changed after it."""
    folder, _ = closed
    before = files(folder)
    temporary = tmp_path / "tmp"
    temporary.mkdir()

    def say(*words: str) -> subprocess.CompletedProcess:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "FROSTLINE"))}
        environment |= {"TMPDIR": str(temporary), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SRC)}
        return subprocess.run(
            [str(warm), "-c", DROP, sys.executable, *words],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )

    yield say
    assert files(folder) == before


@pytest.mark.slow
def test_models_and_runs_are_read(say, closed, tmp_path):
    _, run = closed
    image = next(closed[0].glob("photos/**/*.png"))
    told = say("predict", "models:/pets@champion", str(image))
    assert told.returncode == 0, told.stderr
    assert told.stdout == say("predict", str(run), str(image)).stdout
    told = say(
        "export", "models:/pets/1", "--format", "safetensors", "--out", str(tmp_path / "w.safetensors")
    )
    assert told.returncode == 0, told.stderr


def test_it_is_measured_into_another_folder(say, closed, tmp_path):
    _, run = closed
    told = say("evaluate", str(run), "--out", str(tmp_path / "measured"))
    assert told.returncode == 0, told.stderr
    assert (tmp_path / "measured" / "metrics.json").is_file()
    assert told.stderr.count("mlflow.db.lock can't be written (Permission denied)") == 1


def test_what_is_there_is_listed(say):
    told = say("compare", "first", "--metric", "test/accuracy")
    assert told.returncode == 0, told.stderr
    assert "first" in told.stdout
    told = say("cache")
    assert told.returncode == 0, told.stderr
    told = say("doctor")
    assert told.returncode == 1
    assert "may not be written" in told.stdout
    assert "Traceback" not in told.stderr + told.stdout


def test_what_writes_says_so(say, closed):
    told = say("register", str(closed[1]), "--name", "other")
    assert told.returncode == 2
    assert "mlflow.db.lock can't be written (Permission denied)" in told.stderr
    assert told.stderr.count("\n") == 1
