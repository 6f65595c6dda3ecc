"""The report of a study from Python."""

import pytest
from tests.reporting.study import DEFAULT, MONITOR, SEEDS, write_study

import frostline as fl
from frostline.base.files import write_text
from frostline.base.formats import yaml_text
from frostline.pipeline.report.stage import write_report
from frostline.schema import Report

STUDY = "signs & more"
CONFIG = {
    "study": STUDY,
    "monitor": MONITOR,
    "arms": list(DEFAULT),
    "seeds": list(SEEDS),
    "gate": {},
}


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    folder = write_study(tmp_path_factory.mktemp("a stúdy") / "artifacts")
    write_text(folder / "resolved/report.yaml", yaml_text(CONFIG))
    return folder


@pytest.fixture(autouse=True)
def here(artifacts, monkeypatch):
    monkeypatch.chdir(artifacts.parent)


def test_it_says_what_the_command_does(artifacts, tmp_path):
    report = fl.report()
    written = write_report(Report.model_validate(CONFIG), artifacts, tmp_path / "report")
    assert (report.study, report.verdict) == (STUDY, written.sentence)
    assert report.markdown().endswith(written.table)
    assert str(report.page) == "artifacts/report/index.html"
    assert fl.report(artifacts).markdown() == str(report)


def test_its_numbers_are_a_data_frame():
    frame = fl.report().to_pandas()
    assert list(frame.index) == list(DEFAULT)
    assert frame["n"].tolist() == [len(SEEDS)] * len(DEFAULT)
    assert frame["gain"].isna().tolist() == [name == "scratch" for name in DEFAULT]
    full = frame.loc["full"]
    assert full["accuracy.low"] < full["accuracy"] < full["accuracy.high"]
    assert full["gain"] == pytest.approx(full["accuracy"] - frame.loc["scratch", "accuracy"])


def test_a_notebook_shows_verdict_table_and_plot():
    html = fl.report()._repr_html_()
    assert "signs &amp; more" in html
    assert html.count("<tr>") == 1 + len(DEFAULT)
    assert "gain over scratch" in html
    assert "data:image/png;base64," in html
    assert "artifacts/report/index.html" in html


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        fl.FrostlineError, match=r"resolved/report\.yaml is missing: this folder has no study"
    ):
        fl.report()
