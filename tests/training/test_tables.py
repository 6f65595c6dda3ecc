"""Runs on the images of a table: the same as on folders, and weighted."""

import pytest
from tests.data.tables import table, write_table
from tests.data.trees import image_folder, plant
from tests.tiny import RESNET, arm_of, run_config

from frostline.base import project
from frostline.base.formats import read_json, read_yaml
from frostline.base.run_folder import CONFIG, HISTORY, METRICS, WEIGHTS
from frostline.console.errors import FrostlineError
from frostline.data.loading import pixel_cache, pixels
from frostline.evaluation import evaluate
from frostline.pipeline.finetune.stage import finetune
from frostline.preparation.stage import prepare
from frostline.runs.trained_run import TrainedRun
from frostline.schema import Run
from frostline.schema.validation import validated
from frostline.serving.prediction import predict
from frostline.training.services import Services

INPUT = {"size": 16, "channels": 3, "interpolation": "bilinear", "crop": 1.0}
FROZEN = {
    "backbone": RESNET,
    "freeze": {"groups": {"head": "head", "rest": "*"}, "phases": [{"train": ["head"], "until": "end"}]},
}


@pytest.fixture
def root(tmp_path):
    return plant(tmp_path / "my photos", images=10)


def listed(root, name="labels.csv", **columns):
    """Write a table of all images below `root`, in reverse; `columns`: name → a function of the path."""
    paths = sorted((path.relative_to(root) for path in root.rglob("*.png")), reverse=True)
    rows = [[path.as_posix(), path.parts[0], *(of(path) for of in columns.values())] for path in paths]
    return write_table(root / name, rows, ["image", "label", *columns])


def trained(tmp_path, config, name, **changes):
    """Train a tiny network; return the bytes of its weights and history."""
    prepare(config, tmp_path / name / "data")
    dataset = config.dataset.model_dump()
    run = run_config({"input": INPUT, "trainer": {"batch_size": 5}, **changes, "dataset": {"shots": None}})
    run = run.model_copy(update={"dataset": type(config.dataset).model_validate(dataset)})
    out = tmp_path / name / "out"
    finetune(arm_of(run), tmp_path / name / "data", out, Services(tmp_path / name / "scratch"))
    return [(out / "seed-0" / file).read_bytes() for file in (WEIGHTS, HISTORY)]


def test_a_table_of_a_folders_images_gives_the_same_weights_byte_for_byte(root, tmp_path):
    file = listed(root)
    assert trained(tmp_path, table(file), "a") == trained(tmp_path, image_folder(root), "b")


@pytest.mark.parametrize("changes", [{"augment": {"resized_crop": 0.5, "flip": 0.5}}, FROZEN])
@pytest.mark.parametrize(
    "config_of", [image_folder, lambda root: table(listed(root))], ids=["folder", "table"]
)
def test_weights_do_not_depend_on_the_room_for_cached_images(changes, config_of, root, tmp_path, monkeypatch):
    config = config_of(root)
    expected = trained(tmp_path, config, "in memory", **changes)
    monkeypatch.setattr(pixels, "IN_MEMORY", 0)
    monkeypatch.setattr(pixel_cache, "SHARD_BYTES", 1 << 12)
    shards = []
    for byte_count in (1 << 30, 10_000, 1):
        monkeypatch.setenv("FROSTLINE_PIXELS_GIB", repr(byte_count / project.GIB))
        name = f"room for {byte_count} bytes"
        assert trained(tmp_path, config, name, **changes) == expected
        shards.append(len([*(tmp_path / name / "scratch/pixels").glob("*.npy")]))
    assert shards[0] > shards[1] > shards[2] == 0


@pytest.mark.parametrize("changes", [{}, FROZEN, {"loss": {"kind": "mse"}}], ids=["all", "features", "mse"])
def test_weights_change_the_loss_and_repeat(root, tmp_path, changes):
    def halves(path):
        return 2.0 if int(path.stem) % 2 else 0.0

    weighted = [
        trained(tmp_path, table(listed(root, weight=of)), name, **changes)
        for name, of in (
            ("a", halves),
            ("b", halves),
            ("c", lambda path: 2 * halves(path)),
            ("d", lambda path: 7),
        )
    ]
    plain = trained(tmp_path, table(listed(root)), "e", **changes)
    assert weighted[0] == weighted[1] == weighted[2]  # only their ratios count
    assert weighted[0] != plain
    assert weighted[3] == plain


def test_mixing_and_weights_of_zero_are_refused(root, tmp_path):
    config = table(listed(root, weight=lambda path: 1 + int(path.stem)))
    with pytest.raises(FrostlineError, match="image weights can't be combined with mixup or CutMix"):
        trained(tmp_path, config, "a", augment={"mixup": 0.2})
    index = prepare(config, tmp_path / "data")
    train = {index.keys[row] for row in index.rows("train")}
    config = table(listed(root, weight=lambda path: float(path.as_posix() not in train)))
    with pytest.raises(FrostlineError, match="all 12 training images have weight 0; give one"):
        trained(tmp_path, config, "b")


def test_further_test_sets_are_measured_and_change_nothing_else(root, tmp_path):
    other = plant(tmp_path / "other scanner", images=6, seed=50_000)
    setup = image_folder(root)
    shifted = {"test_sets": {"shifted": {"root": str(other)}}}
    tested = type(setup).model_validate({"dataset": {**setup.dataset.model_dump(), **shifted}})
    assert trained(tmp_path, setup, "a") == trained(tmp_path, tested, "b")
    out = tmp_path / "b" / "measured"
    out.mkdir()
    folder = tmp_path / "b" / "out" / "seed-0"
    run = validated(Run, read_yaml(folder / CONFIG), "")
    services = Services(tmp_path / "b" / "scratch")
    metrics = evaluate.measure(run, tmp_path / "b" / "data", folder, out, services)
    assert list(metrics) == ["test", "val", "train", "test/shifted"]
    assert metrics["test/shifted"]["n"] == 12
    assert read_json(out / METRICS)["test/shifted"] == metrics["test/shifted"]
    paths = sorted(other.rglob("*.png"))
    predicted = {p.image: p.best[0][0] for p in predict(TrainedRun.read(folder), paths)}
    right = [predicted[str(path)] == path.parent.name for path in paths]
    assert metrics["test/shifted"]["accuracy"] == sum(right) / 12
