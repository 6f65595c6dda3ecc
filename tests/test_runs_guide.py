"""docs/runs.md: its overrides compose."""

import re

import pytest

from frostline.config import compose
from tests.imports import SRC

GUIDE = (SRC.parent / "docs" / "runs.md").read_text(encoding="utf-8")
TABLE = GUIDE.partition("| what |")[2].partition("\n\n")[0]
OVERRIDES = re.findall(r"`([\w.=/@ -]+=[\w.=/@ -]+)`", TABLE)


@pytest.mark.parametrize("text", OVERRIDES)
def test_its_overrides_compose(text):
    compose.experiment(text.split())


def test_it_lists_the_overrides():
    assert len(OVERRIDES) > 20
