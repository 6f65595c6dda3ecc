"""Fixtures that tests of several packages share."""

import os
import signal
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.shell import Shell

# A shell that runs the tests in the background has them ignore Ctrl-C, and what they start inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)


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
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """UCI digits, prepared once."""
    from frostline.schema import Prepare
    from frostline.stages import prepare
    from tests.tiny import run_config

    out = tmp_path_factory.mktemp("data") / "digits"
    dataset = run_config().dataset.model_copy(update={"shots": None})
    prepare.run(Prepare(dataset=dataset), out)
    return out


@pytest.fixture(scope="session")
def photo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run on pictures, which lie in ../../photos; see tests/photos.py."""
    from tests.photos import train

    return train(tmp_path_factory.mktemp("a prôject"))


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Python that has imported torch already; see tests/warm.py."""
    from tests.warm import WarmPython

    python = WarmPython(tmp_path_factory.mktemp("warm"))
    yield python.program
    python.close()


@pytest.fixture(scope="session")
def no_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store without runs, to copy: making one takes seconds."""
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}")
    return path


@pytest.fixture
def shell(warm: Path, tmp_path: Path) -> "Shell":
    """In an empty folder, whose path is not plain: no project is around."""
    from tests.shell import Shell

    folder = tmp_path / "an émpty folder"
    folder.mkdir()
    return Shell(warm, folder)
