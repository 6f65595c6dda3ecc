"""Which values `dvc exp run` sets; that they are undone is tested in tests/test_image_studies.py."""

import pytest

from frostline.pipeline.exp_params import _set_params


@pytest.mark.parametrize(
    "words",
    [
        ["-S", "optimizer.lr=0.1"],
        ["-Soptimizer.lr=0.1"],
        ["--set-param", "optimizer.lr=0.1"],
        ["--set-param=optimizer.lr=0.1"],
        ["--set", "optimizer.lr=0.1"],  # argparse takes abbreviations
        ["--set-par=optimizer.lr=0.1"],
        ["-n", "name", "-S", "params.yaml:optimizer.lr=0.1"],
    ],
)
def test_a_value_is_recognized_in_every_spelling_of_the_option(words):
    assert list(_set_params([*words, "--single-item", "compose"])) == ["optimizer.lr=0.1"]
