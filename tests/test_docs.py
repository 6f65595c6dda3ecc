"""Links between the pages lead somewhere, and the modules that pages name exist."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.imports import SRC

ROOT = SRC.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks" / "README.md"]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, heading = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        assert not heading or heading in anchors(linked.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_named_modules_exist(page):
    """A path such as `base/code.py` or `tests/faults.py`, a name such as `base.seeds.seed_dropout`."""
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"`([\w/]+/\w+\.py)`", text):
        assert any((root / path).is_file() for root in (ROOT, SRC, SRC / "frostline")), path
    packages = "|".join(folder.name for folder in (SRC / "frostline").iterdir() if folder.is_dir())
    for module, name in re.findall(rf"`(?:frostline\.)?((?:{packages})(?:\.[a-z_]+)+)\.(\w+)`", text):
        source = find_spec(f"frostline.{module}")
        assert source, module
        assert re.search(rf"\b{name}\b", Path(source.origin).read_text(encoding="utf-8")), f"{module}.{name}"
