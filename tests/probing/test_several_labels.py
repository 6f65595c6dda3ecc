"""Heads for several labels per image: trained at once, as runs, and as a probe."""

import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import average_precision_score, f1_score
from sklearn.neighbors import KNeighborsRegressor
from tests.probing.test_heads import together
from tests.tiny import PROBE, run_config
from torch.nn import functional

from frostline.base.formats import read_csv, read_json
from frostline.data.prepared.index import Index
from frostline.models import weights
from frostline.models.initial_weights import NO_WEIGHTS
from frostline.preparation.stage import prepare
from frostline.probing import probe
from frostline.probing.closed_form import choose_k, knn, ridge
from frostline.probing.feature_set import FeatureSet
from frostline.schema import Prepare
from frostline.training import run as training_run
from frostline.training.inputs import load_inputs
from frostline.training.services import Services

LABELS = ["bar", "dot", "red edge"]
LOSS = {"kind": "bce", "label_smoothing": 0.1, "pos_weight": "balanced", "threshold": "per_class"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """An .npz file of 120 images of noise, with a bright stripe for each of their labels."""
    generator = np.random.default_rng(0)
    labels = (generator.random((120, 3)) < [0.5, 0.4, 0.2]).astype(np.uint8)
    images = generator.integers(0, 120, (120, 8, 8), dtype=np.uint8)
    for k in range(3):
        images[labels[:, k] == 1, 2 * k + 1] += 90
    file = tmp_path_factory.mktemp("arrays") / "my images.npz"
    np.savez(file, images=images, labels=labels)
    columns = {name: name for name in ("split", "group", "fold", "weight")}
    return {
        "kind": "npz", "file": str(file), "classes": LABELS, "group": None, "task": "multi_label",
        "columns": {"image": "images", "label": "labels", **columns}, "shots": None, "fraction": None,
        "split": {"val": 0.2, "test": 0.3, "seed": 0}, "on_bad_image": "error",
    }  # fmt: skip


@pytest.fixture(scope="module")
def data(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("several") / "data"
    prepare(Prepare.model_validate({"dataset": dataset}), folder)
    return folder


def configured(dataset, **changes):
    config = run_config().model_dump()
    config |= {"dataset": dataset, "loss": LOSS, "freeze": PROBE, "freeze_name": "linear_probe"}
    config["trainer"] |= {"monitor": "val/mAP", "batch_size": 12}
    config["optimizer"] |= {"lr": changes.pop("lr", 0.01)}
    return type(run_config()).model_validate({**config, **changes})


@pytest.mark.parametrize(
    ("changes", "budget"),
    [
        ({}, {}),
        ({"loss": {**LOSS, "label_smoothing": 0.0, "pos_weight": None, "threshold": "one"}}, {}),
        ({}, {"shots": 8, "selection": "within"}),
        ({"loss": {**LOSS, "threshold": 0.3}}, {"selection": "last"}),
    ],
    ids=["balanced", "plain", "within", "last"],
)
def test_each_head_equals_a_standalone_run(changes, budget, dataset, data, tmp_path):
    runs = [
        configured({**dataset, **budget}, seed=seed, lr=lr, **changes) for seed, lr in ((0, 0.01), (1, 0.03))
    ]
    trained = next(head for head in together(runs, data, tmp_path)[0] if head.run.seed == 1)
    given = together(runs, data, tmp_path)[1]
    training_run.train(runs[1], given, tmp_path / "alone", Services(tmp_path), "alone")
    for row, other in zip(trained.fit.history, read_csv(tmp_path / "alone" / "history.csv"), strict=True):
        assert row == {
            name: pytest.approx(float(cell), rel=1e-4) if cell else None for name, cell in other.items()
        }
    record = read_json(tmp_path / "alone" / "training.json")
    assert trained.fit.best_epoch == record["best_epoch"]
    assert trained.thresholds["thresholds"] == pytest.approx(record["thresholds"], rel=1e-4)
    state, _ = weights.load(tmp_path / "alone" / "weights.safetensors")
    assert all(trained.best_state[name].allclose(state[name], rtol=1e-3, atol=1e-5) for name in state)


def test_a_probe_is_of_mean_average_precision(dataset, data, tmp_path):
    runs = [configured(dataset, seed=seed, lr=lr) for lr in (0.003, 0.03) for seed in (0, 1)]
    result = probe.run(runs, data, tmp_path / "out", Services(tmp_path))
    rows = read_csv(tmp_path / "out" / "heads.csv")
    assert [name for name in rows[0] if "/" in name] == ["train/loss", "train/mAP", "val/loss", "val/mAP"]
    means = [configuration.val["mAP"]["mean"] for configuration in result.configurations]
    assert (
        means[0]
        == max(means)
        == np.mean([float(row["val/mAP"]) for row in rows if row["optimizer.lr"] == "0.03"])
    )
    metrics = read_json(tmp_path / "out" / "metrics.json")
    index, (other,) = Index.read(data), [h for h in result.configurations[0].heads if h is not result.winner]
    images = probe._test_images(
        load_inputs(runs[0], data, NO_WEIGHTS, Services(tmp_path)), Services(tmp_path)
    )
    features = other.group.reuse.features(other.group.split_point, images).float()
    shares = functional.linear(features, other.fit.weight, other.fit.bias).sigmoid().numpy()
    truth = index.labels[index.rows("test")]
    of_other = average_precision_score(truth, shares)
    assert result.test["mAP"]["mean"] == pytest.approx((metrics["test"]["mAP"] + of_other) / 2)
    predicted = shares >= np.array(other.thresholds["thresholds"])
    f1 = (metrics["test"]["f1_macro"] + f1_score(truth, predicted, average="macro", zero_division=0)) / 2
    assert result.test["f1_macro"]["mean"] == pytest.approx(f1)
    written = json.loads((tmp_path / "out" / "probe.json").read_text())
    assert set(written["ridge"]["test"]) == set(written["knn"]["val"]) == {"mAP"}
    assert len(read_json(tmp_path / "out" / "training.json")["thresholds"]) == 3


def test_ridge_and_neighbours_are_scikit_learns():
    stream = np.random.default_rng(0)
    features = stream.normal(size=(90, 5)).astype(np.float32)
    labels = (features[:, :3] + stream.normal(size=(90, 3)) > 0.5).astype(np.float32)
    train, val = (
        FeatureSet([torch.from_numpy(features[rows])], torch.from_numpy(labels[rows]))
        for rows in (slice(60), slice(60, None))
    )
    fit = ridge(train, val, 3, [0.1, 10.0])
    for penalty, value in fit.scores:
        model = Ridge(alpha=penalty).fit(features[:60].astype(float), labels[:60])
        expected = average_precision_score(labels[60:], model.predict(features[60:]))
        assert value == pytest.approx(expected)
    assert dict(fit.scores)[fit.penalty] == max(value for _, value in fit.scores)

    model = KNeighborsRegressor(7, weights=lambda far: np.exp((1 - far) / 0.07), metric="cosine")
    expected = model.fit(features[:60], labels[:60]).predict(features[60:])
    torch.testing.assert_close(
        knn(train, val.features, 3, 7, 0.07), torch.from_numpy(expected).float(), rtol=1e-3, atol=1e-4
    )
    chosen = choose_k(train, val, 3, [1, 7], 0.07)
    assert dict(chosen.scores)[7] == pytest.approx(average_precision_score(labels[60:], expected), abs=1e-3)
