"""Names that try something: paths out of the data set, formulas, markup; refused, or harmless."""

import csv
import html
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.trees import image_folder, packaged, picture, plant
from tests.reporting.study import write_study

from frostline.base.formats import csv_text, read_csv
from frostline.console.errors import FrostlineError
from frostline.data.prepared.index import Index
from frostline.data.reading.sources import open_source
from frostline.pipeline.report.stage import write_report
from frostline.preparation.stage import prepare
from frostline.reporting.words import markdown
from frostline.schema import Report

FORMULAS = ("=cmd|' /C calc'!A0", "@SUM(1)", "+x", "-x", "=1+1", "'=x")


# ── paths ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("key", ["../secret.png", "/etc/passwd", "cat/../../secret.png", ".."])
def test_an_index_that_leads_out_of_the_data_set_is_refused(tmp_path, key):
    """Even one whose fingerprint fits."""
    index = prepare(image_folder(plant(tmp_path / "photos")), tmp_path / "out")
    index.keys[3] = key
    summary = json.loads((tmp_path / "out" / "dataset.json").read_text())
    text = (tmp_path / "out" / "index.csv").read_text().splitlines()
    text[4] = ",".join([key, *text[4].split(",")[1:]])
    (tmp_path / "out" / "index.csv").write_text("\n".join(text) + "\n")
    vars(index).pop("fingerprint")
    summary["fingerprint"] = index.fingerprint
    (tmp_path / "out" / "dataset.json").write_text(json.dumps(summary))
    with pytest.raises(
        FrostlineError, match=r"index\.csv has the file '.*'; give its path relative to the root"
    ):
        Index.read(tmp_path / "out")


# ── formulas ────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), min_size=1)))
def test_text_comes_back_from_a_csv(tmp_path_factory, cells):
    path = tmp_path_factory.getbasetemp() / "cells.csv"
    path.write_bytes(csv_text(["cell"], [[cell] for cell in cells]).encode())
    assert [row["cell"] for row in read_csv(path)] == cells


@pytest.mark.parametrize("name", FORMULAS)
def test_a_spreadsheet_sees_no_formula(name):
    _, (cell,) = csv.reader(io.StringIO(csv_text(["cell"], [[name]])))
    assert cell == f"'{name}"


def test_numbers_are_no_formulas():
    assert csv_text(["a", "b", "c"], [["-1", "+2.5e-3", -0.5]]) == "a,b,c\n-1,+2.5e-3,-0.5\n"


def test_classes_that_look_like_formulas_stay_what_they_are(tmp_path):
    root = plant(tmp_path / "photos", ("=cmd()", "@x", "-1"))
    prepare(image_folder(root), tmp_path / "out")
    index = Index.read(tmp_path / "out")
    assert index.classes == ("-1", "=cmd()", "@x")
    assert index.keys[-1] == "@x/5.png"
    rows = list(csv.reader((tmp_path / "out" / "index.csv").read_text().splitlines()))
    assert {row[0][0] for row in rows[1:]} == {"'"}


# ── names of classes ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("a\nb", "has a newline in its name: rename it"),
        ("a\x1b[31m", "has a control character in its name: rename it"),
        ("\udcff", "has a name that is not UTF-8: rename it"),
        (" ", "has no name: give it one"),
    ],
)
def test_a_plugins_bad_class_names_are_refused(install_dataset, name, fault):
    code = f"""
        import numpy as np
        from frostline.data.reading.sources import ArraySource
        def load(options):
            images = np.zeros((12, 8, 8), dtype=np.uint8)
            return ArraySource(images, np.arange(12) % 2, ("a", {name!r}))
    """
    with pytest.raises(FrostlineError, match=f"class '.*' {fault}"):
        open_source(packaged("plugin", name=install_dataset(code), options={}).dataset)


HOSTILE = (
    "<img src=x onerror=alert(1)>",
    'a","b',
    "x | y `z` [l](u)",
    "$\\frac$",
    r"back\\1\\g<0>",
    "=cmd()",
)


def test_a_report_shows_hostile_names_and_runs_none(tmp_path):
    write_study(tmp_path / "artifacts", classes=HOSTILE, seeds=(0, 1))
    study = "<script>alert(1)</script> [x](http://evil) \\1 | `id`"
    arms = ["scratch", "zero_shot", "linear_probe", "full", "gradual"]
    config = Report(study=study, arms=arms, seeds=[0, 1], monitor="val/accuracy", gate={})
    write_report(config, tmp_path / "artifacts", tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text()
    assert "<script" not in page
    assert "<img" not in page
    assert html.escape(HOSTILE[0]) in page
    text = (tmp_path / "out" / "report.md").read_text()
    assert markdown(study) in text
    assert r"\<script>" in text
    assert "<script" not in text.replace(r"\<", "")
    assert "[x](" not in text.replace(r"\[", "")


def test_images_with_hostile_names_are_read(tmp_path):
    root = plant(tmp_path / "photos")
    for i, name in enumerate(HOSTILE):
        picture(700 + i).save(root / "cat" / f"{name}.png")
    index = prepare(image_folder(root), tmp_path / "out")
    assert Index.read(tmp_path / "out").keys == index.keys
    assert np.isin([f"cat/{name}.png" for name in HOSTILE], index.keys).all()
