"""Fixtures: plug-in packages, installed for real."""

import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def install_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Return `install(code, name="mine")`: a package whose function `load` is an installed data set."""
    modules: list[str] = []

    def install(code: str, name: str = "mine") -> str:
        site, module = tmp_path / f"site-{name}", f"plugin_{name}"
        info = site / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (site / f"{module}.py").write_text(textwrap.dedent(code))
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[frostline.datasets]\n{name} = {module}:load\n")
        monkeypatch.syspath_prepend(site)
        importlib.invalidate_caches()
        modules.append(module)
        return name

    yield install
    for module in modules:
        sys.modules.pop(module, None)
