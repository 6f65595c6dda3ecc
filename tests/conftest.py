"""Fixtures that tests of several packages share."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from frostline.tracking.store import Store
    from tests.shell import Shell

    Shared = Callable[[str], AbstractContextManager[tuple[Path, bool]]]

# A shell that runs the tests in the background has them ignore Ctrl-C, and what they start inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# An example may take any time: a busy machine is no failure.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each worker begins with modules of slow tests: in the end none waits for another's slow one.

    pytest-xdist gives each as many of the tests as they lie in a row; who is done takes from the others.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    shares: list[list[pytest.Item]] = [[] for _ in range(int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1)))]
    modules = [list(module) for _, module in groupby(items, lambda item: item.path)]
    for turn, module in enumerate(modules):
        dealt = module[0].path in slow
        share = shares[turn % len(shares)] if dealt else min(shares, key=len)
        share += module
    items[:] = [item for share in shares for item in share]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> "Shared":
    """Makes what takes long once for all workers; the makers wait for each other."""
    base = tmp_path_factory.getbasetemp()

    @contextmanager
    def folder(name: str) -> Iterator[tuple[Path, bool]]:
        from frostline.base.locks import exclusive

        place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
        with exclusive(place.with_suffix(".lock")):
            yield place, (place / "made").exists()
            (place / "made").touch()

    return folder


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """UCI digits, prepared once."""
    from frostline.preparation.stage import prepare
    from frostline.schema import Prepare
    from tests.tiny import run_config

    out = tmp_path_factory.mktemp("data") / "digits"
    dataset = run_config().dataset.model_copy(update={"shots": None})
    prepare(Prepare(dataset=dataset), out)
    return out


@pytest.fixture(scope="session")
def photo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run on pictures, which lie in ../../photos; see tests/photos.py."""
    from tests.photos import train

    return train(tmp_path_factory.mktemp("a prôject"))


@pytest.fixture(scope="session")
def warm(shared: "Shared") -> Path:
    """A Python that has imported torch already; see tests/warm.py."""
    from tests.warm import warm_python

    with shared("warm") as (folder, made):
        return folder / "python" if made else warm_python(folder)


@pytest.fixture(scope="session")
def no_runs(shared: "Shared") -> Path:
    """An MLflow store without runs, to copy: making one takes seconds."""
    from mlflow.tracking import MlflowClient

    with shared("store") as (folder, made):
        path = folder / "mlflow.db"
        if not made:
            folder.mkdir()
            MlflowClient(f"sqlite:///{path}")
        return path


@pytest.fixture
def empty_store(tmp_path: Path, no_runs: Path, monkeypatch: pytest.MonkeyPatch) -> "Store":
    """The store without runs of a project in `tmp_path`, which is the current folder."""
    from frostline.tracking.store import Store

    shutil.copy(no_runs, tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return Store()


@pytest.fixture
def shell(warm: Path, tmp_path: Path) -> "Shell":
    """In an empty folder, whose path is not plain: no project is around."""
    from tests.shell import Shell

    folder = tmp_path / "an émpty folder"
    folder.mkdir()
    return Shell(warm, folder)


@pytest.fixture
def read_only() -> Iterator[Callable[[Path], None]]:
    """Make a folder that may be read and not written; root acts as another user from then on."""
    folders: list[Path] = []

    def lock(folder: Path) -> None:
        folders.append(folder)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        if os.geteuid() == 0:
            for path in folder.parents:
                path.chmod(path.stat().st_mode | 0o055)
            os.seteuid(65534)

    yield lock
    if os.getuid() == 0:
        os.seteuid(0)
    for folder in folders:
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
