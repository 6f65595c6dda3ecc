"""The keys of a data set in errors about the source."""

import pytest

from frostline.config import stage_configs
from frostline.console.errors import FrostlineError, OutOfResources


@pytest.mark.parametrize(
    ("sentence", "of_source"),
    [
        (
            "dataset.root: x is no folder; set dataset.root=y",
            "source.root: x is no folder; set source.root=y",
        ),
        ("write dataset=image_folder dataset.root=x", "write source=image_folder source.root=x"),
        ("dataset: shots and fraction are both set", "source: shots and fraction are both set"),
        ("dataset.test_sets.b.root: x", "source.test_sets.b.root: x"),
        ("dataset.json lists all of x/dataset.root", "dataset.json lists all of x/dataset.root"),
        ("a data set, my dataset", "a data set, my dataset"),
    ],
)
@pytest.mark.parametrize("kind", [FrostlineError, OutOfResources])
def test_the_sources_keys_are_named_in_its_errors(sentence, of_source, kind):
    for role, expected in (("source", of_source), ("target", sentence)):
        with pytest.raises(kind) as raised, stage_configs.keys_of(role):
            raise kind(sentence)
        assert str(raised.value) == expected
