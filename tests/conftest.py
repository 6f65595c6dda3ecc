"""Fixtures that tests of several packages share."""

from pathlib import Path

import pytest


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
