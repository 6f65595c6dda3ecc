"""Pictures of a run: what is drawn of which files, and that odd runs draw too."""

import io
import json

import pytest
from PIL import Image

from frostline.adapters.run_plots import confusion, curves, draw

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
    pictures = dict(draw(tmp_path))
    assert list(pictures) == ["curves.png", "confusion.png"]
    assert all(ink(png) > 20 for png in pictures.values())


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


@pytest.mark.parametrize("classes", [1, 2, 10, 30, 300])
def test_confusion_of_any_number_of_classes_fits_a_screen(classes):
    width, height = size(confusion(rows(classes)))
    assert 500 < width < 2600
    assert 500 < height < 2600


@pytest.mark.parametrize("name", ["a very long name of class {}", "_{}$\\frac{{1}}$", "数{}"])
def test_class_names_of_any_kind(tmp_path, name):
    lines = "".join(f"{i},{row['label']},{row['prediction']},1\n" for i, row in enumerate(rows(5, name)))
    (tmp_path / "predictions.csv").write_text("id,label,prediction,confidence\n" + lines)
    assert all(ink(png) > 20 for _, png in draw(tmp_path))


def test_the_same_files_draw_the_same_bytes():
    history = [
        dict(zip(COLUMNS.strip().split(","), row.split(","), strict=True)) for row in ROWS.splitlines()
    ]
    assert curves(history) == curves(history)
    assert confusion(rows(3)) == confusion(rows(3))
