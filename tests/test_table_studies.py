"""Real digits as tables: a random split of groups overestimates the accuracy; a crop loses wide images."""

import json

import pytest
from benchmarks import tables

from tests.imports import SRC

ROOT = SRC.parent


def check(figures):
    """A random split claims more than images from elsewhere show; a grouped split does not."""
    scans = figures["scans"]
    truth = scans["random"]["test/outside"]["mean"]
    assert scans["random"]["test"]["mean"] > truth + 0.08
    assert scans["grouped"]["test"]["mean"] < truth + 0.02
    assert figures["wide"]["pad"]["mean"] > figures["wide"]["crop"]["mean"] + 0.4
    assert figures["pairs"]["mean"] > 0.5


def test_the_recorded_figures_show_it_and_are_those_of_the_documentation():
    figures = json.loads(tables.RESULTS.read_text())
    check(figures)
    page, others = (
        " ".join((ROOT / path).read_text(encoding="utf-8").split())
        for path in ("docs/data.md", "benchmarks/README.md")
    )
    for name, tested in figures["scans"].items():
        cells = ["{mean:.2f} ({low:.2f} to {high:.2f})".format(**found) for found in tested.values()]
        assert f"| {name} | {' | '.join(cells)} |" in page
    assert f"test mAP is {figures['pairs']['mean']:.2f}" in others
    for mode, found in figures["wide"].items():
        assert f"`{mode}` reaches {found['mean']:.2f}" in others


@pytest.mark.slow
def test_small_tables_show_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FROSTLINE_TRACKING", "off")
    check(tables.measure(tmp_path / "digits", tables.Size(6, 6, 20, 3, 15), per_class=20, pairs=300, seeds=2))
