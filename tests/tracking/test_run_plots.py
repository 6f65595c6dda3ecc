"""Plots of a run: which files they are drawn from, and plots of odd runs."""

import csv
import io
import json
import re

import pytest
from PIL import Image

from frostline.base.formats import csv_text
from frostline.tracking.run_plots import (
    PER_CLASS,
    TABLE_ROWS,
    _counted,
    class_table,
    confusion,
    curves,
    draw,
    per_class,
)

COLUMNS = "epoch,step,phase,lr,train/loss,train/accuracy,val/loss,val/accuracy\n"
ROWS = "0,0,,,,,1.0,0.5\n1,5,0,0.1,0.9,0.6,0.8,0.7\n2,10,1,0.1,0.7,0.7,0.7,0.8\n"


def size(png: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return image.size


def ink(png: bytes) -> int:
    """How many colours: an empty picture has few."""
    with Image.open(io.BytesIO(png)) as image:
        return len(image.convert("RGB").getcolors(1 << 24))


def test_what_is_drawn_is_what_there_is(tmp_path):
    assert list(draw(tmp_path)) == []
    (tmp_path / "history.csv").write_text(COLUMNS + ROWS)
    assert [name for name, _ in draw(tmp_path)] == ["curves.png"]
    for seed in (0, 1):
        (tmp_path / f"seed-{seed}").mkdir()
        text = f"id,label,prediction,confidence\na,cat,dog,0.5\nb,dog,{'dog' if seed else 'cat'},0.9\n"
        (tmp_path / f"seed-{seed}" / "predictions.csv").write_text(text)
    drawn = dict(draw(tmp_path))
    assert list(drawn) == ["curves.png", "confusion.png", "per_class.csv", "per_class.html"]
    assert all(ink(drawn[name]) > 20 for name in ("curves.png", "confusion.png"))
    # Of two seeds together: a cat twice taken for a dog, a dog once known and once taken for a cat.
    assert drawn["per_class.csv"].decode() == (
        "class,precision,recall,f1,support,taken_for,times\ncat,0.0,0.0,0.0,2,dog,2\n"
        "dog,0.3333,0.5,0.4,2,cat,1\n"
    )


def test_the_table_of_classes_is_scikit_learns():
    from sklearn.metrics import classification_report

    predictions = [row for row in rows(7) if row["label"] != "3"]
    truth, guesses = ([row[key] for row in predictions] for key in ("label", "prediction"))
    expected = classification_report(truth, guesses, output_dict=True, zero_division=0)
    text = csv_text(PER_CLASS, per_class(*_counted(predictions)))
    table = list(csv.DictReader(io.StringIO(text)))
    assert sorted(table, key=lambda row: float(row["f1"])) == table
    for row in table:
        wanted = expected[row["class"]]
        for ours, theirs in (("precision",) * 2, ("recall",) * 2, ("f1", "f1-score"), ("support",) * 2):
            assert float(row[ours] or 0) == pytest.approx(wanted[theirs], abs=1e-4)
    (five,) = (row for row in table if row["class"] == "5")
    assert (five["precision"], five["taken_for"], five["times"]) == (
        "",
        "4",
        "4",
    )  # never guessed: 5² = 4 (7)


def test_a_plan_is_drawn(tmp_path):
    rates = {"head": [[0.1, 0.1], [0.01, 0.01]]}
    phase = {"index": 0, "trains": ["head"], "first_step": 0, "steps": 5, "epochs": 1.0, "ends": "on time"}
    plan = {
        "backbone": "mlp",
        "dataset": "digits",
        "freeze": "full",
        "epochs": 1,
        "images": 100,
        "groups": [{"name": "head"}],
        "sections": [{"name": "head", "groups": {"head": 10}}],
        "phases": [{**phase, "features": None, "course": {"steps": [0, 4], "rates": rates}}],
    }
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    ((name, png),) = draw(tmp_path)
    assert name == "plan.png"
    assert ink(png) > 20


@pytest.mark.parametrize("rows", [ROWS, ROWS.splitlines()[0] + "\n"], ids=["three epochs", "nothing trained"])
def test_curves_of_short_runs(tmp_path, rows):
    (tmp_path / "history.csv").write_text(COLUMNS + rows)
    (tmp_path / "training.json").write_text('{"phases": [{"train": ["head"]}, {"train": "all"}]}')
    (name, png), *_ = draw(tmp_path)
    assert (name, size(png)) == ("curves.png", (1800, 720))


def rows(classes: int, name: str = "{}") -> list[dict[str, str]]:
    return [
        {"label": name.format(i % classes), "prediction": name.format(i * i % classes)}
        for i in range(4 * classes)
    ]


@pytest.mark.parametrize("classes", [1, 2, 10, 30, 300, 10_000])
def test_confusion_of_any_number_of_classes_fits_a_screen(classes):
    width, height = size(confusion(*_counted(rows(classes))))
    assert 500 < width < 2600
    assert 500 < height < 2600


@pytest.mark.parametrize("name", ["a very long name of class {}", "_{}$\\frac{{1}}$", "数{}"])
def test_class_names_of_any_kind(tmp_path, name):
    lines = "".join(f"{i},{row['label']},{row['prediction']},1\n" for i, row in enumerate(rows(5, name)))
    (tmp_path / "predictions.csv").write_text("id,label,prediction,confidence\n" + lines)
    drawn = dict(draw(tmp_path))
    assert ink(drawn["confusion.png"]) > 20
    assert {row["class"] for row in csv.DictReader(io.StringIO(drawn["per_class.csv"].decode()))} == {
        name.format(i) for i in range(5)
    }


def test_the_page_of_classes_shows_what_the_table_has():
    page = class_table([["<b>", None, 0.5, 0.3333, 4, "a & b", 2], ["a & b", 1.0, 1.0, 1.0, 9, None, None]])
    first, second = re.findall(r"<tr><td>(.*)</td></tr>", page)
    assert re.split(r"</td><td[^>]*>", first) == ["&lt;b&gt;", "", "50.0 %", "33.3 %", "4", "a &amp; b", "2"]
    assert re.split(r"</td><td[^>]*>", second)[-2:] == ["", ""]


def test_the_page_of_very_many_classes_has_the_lowest_f1():
    table = [[f"class {i}", 1.0, 1.0, i / 1000, 1, None, None] for i in range(TABLE_ROWS + 1)]
    page = class_table(table)
    assert page.count("<tr><td>") == TABLE_ROWS
    assert f"class {TABLE_ROWS}<" not in page
    assert f"The {TABLE_ROWS} with the lowest F1 of {TABLE_ROWS + 1}; per_class.csv has all." in page


def test_the_table_of_labels_is_scikit_learns(tmp_path):
    from sklearn.metrics import precision_recall_fscore_support
    from sklearn.preprocessing import MultiLabelBinarizer

    sets = [[f"label {i % k}" for k in (2, 3, 11) if (i + k) % 4] for i in range(40)]
    guesses = [
        [name for name in names if len(names) != 2] + ["never"] * (i == 7) for i, names in enumerate(sets)
    ]
    rows = zip(map(";".join, sets), map(";".join, guesses), strict=True)
    (tmp_path / "predictions.csv").write_text(
        csv_text(["id", "labels", "predictions", "confidence"], [["a.png", *row, 1] for row in rows])
    )
    drawn = dict(draw(tmp_path))
    assert list(drawn) == ["per_class.csv", "per_class.html"]
    coder = MultiLabelBinarizer().fit([*sets, *guesses])
    wanted = precision_recall_fscore_support(coder.transform(sets), coder.transform(guesses), zero_division=0)
    table = {row["class"]: row for row in csv.DictReader(io.StringIO(drawn["per_class.csv"].decode()))}
    assert sorted(table) == coder.classes_.tolist()
    for name, *expected in zip(coder.classes_, *wanted, strict=True):
        found = [float(table[name][key] or 0) for key in ("precision", "recall", "f1", "support")]
        assert found == pytest.approx(expected, abs=1e-4)


def test_the_same_files_draw_the_same_bytes():
    history = [
        dict(zip(COLUMNS.strip().split(","), row.split(","), strict=True)) for row in ROWS.splitlines()
    ]
    assert curves(history) == curves(history)
    assert confusion(*_counted(rows(3))) == confusion(*_counted(rows(3)))
