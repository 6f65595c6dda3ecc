"""Notes of a comparison."""

from dataclasses import replace

import pytest
from tests.comparison.test_statistics import METRICS, result

from frostline.comparison import page
from frostline.comparison.statistics import Result, compare

WITHOUT = "test_without_tta/accuracy"


@pytest.mark.parametrize(("augmented", "who"), [("ab", "all"), ("b", "b"), ("", None)])
def test_test_time_augmentation_is_said(augmented, who):
    runs = [result(name, 0, 0.9 if name == "a" else 0.8) for name in "ab"]
    runs = [
        replace(run, metrics={**run.metrics, WITHOUT: 0.7}) if run.configuration in augmented else run
        for run in runs
    ]
    said = [note for note in page.notes(compare(runs, METRICS, METRICS[1])) if "augmentation" in note]
    expected = f"Measured with test-time augmentation: {who}. Without it: --metric {WITHOUT}."
    assert said == ([expected] if who else [])


def _named(*names, varied=(), values=()):
    results = [
        Result(name, name, name, 0, dict(zip(varied, own, strict=True)), {"test/accuracy": 0.5})
        for name, own in zip(names, values or [()] * len(names), strict=True)
    ]
    return compare(results, ["test/accuracy"], "test/accuracy")


def test_a_narrow_tables_names_lack_what_all_share_and_say_so():
    shown, sentence = page.narrow(_named("full·resnet10t·dst", "gradual·resnet10t·dst"))
    assert [line.name for line in shown.lines] == ["full·…", "gradual·…"]
    assert sentence == "… in the names of runs is resnet10t·dst."
    shown, _ = page.narrow(_named("full·mlp·dst·lr=1", "full·mlp·dst·lr=2"))
    assert [line.name for line in shown.lines] == ["…·lr=1", "…·lr=2"]
    one, sentence = page.narrow(_named("full·mlp"))
    assert ([line.name for line in one.lines], sentence) == (["full·mlp"], "")
    assert page.narrow(_named("a·mlp2", "b·mlp"))[1] == ""  # whole parts only


def test_a_narrow_table_has_no_column_for_what_its_names_say():
    names, values = ("lr0.01·full", "lr0.1·full"), [("0.01", "1"), ("0.1", "2")]
    compared = _named(*names, varied=("optimizer.lr", "seeds_used"), values=values)
    assert page.headers(compared)[:3] == ["run", "optimizer.lr", "seeds_used"]
    assert page.headers(page.narrow(compared)[0])[:2] == ["run", "seeds_used"]


def test_a_single_seed_has_no_column_of_p_values():
    assert "p" not in page.headers(_named("a", "b"))
    assert {len(row) for row in page.cells(_named("a", "b"))} == {len(page.headers(_named("a", "b")))}
