"""dataset.selection: the images that choose the epoch, end phases and choose α."""

import dataclasses
import json

import pytest
import torch
from tests.tiny import ALL, PROBE, RESNET, Bench, files, random_images, run_config, same, scripted, tensors

from frostline.base.formats import read_csv
from frostline.models.initial_weights import NO_WEIGHTS
from frostline.training import run as training_run
from frostline.training import wise_ft
from frostline.training.data_module import ImageData
from frostline.training.inference import reuse_of
from frostline.training.inputs import load_inputs
from frostline.training.services import Services

PROBED = {"backbone": RESNET, "freeze": PROBE, "input.size": 16}
COUNTS = {"within": (80, 20), "held_out": (100, None), "last": (100, None), None: (100, None)}
"""Rule → images that train, and labelled images that choose the epoch."""


def contrary(count=12, size=8, channels=1):
    """Images whose labels are those of other classes: what a network learns makes it worse on them."""
    images = random_images(count, 99, size, channels)
    return dataclasses.replace(images, labels=(images.labels + 1) % 3, key="contrary")


def bench(select_on, changes={}, kind=None):  # noqa: B006  # it is not changed
    """A bench whose epochs are chosen on other images than its 30 validation images."""
    made = Bench({"trainer.epochs": 4, **changes}, kind)
    spec, train, val = made.data.spec, made.data.train, made.data.validation["val"]
    config = made.config
    made.data = ImageData(train, val, spec, config.trainer, config.augment, 0, 3, select_on)
    return made


def column(result, name):
    return [row[name] for row in result.history]


# ── the best epoch ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("monitor", ["val/accuracy", "val/loss"])
def test_the_selection_images_choose_the_epoch_where_validation_would_choose_another(monitor, tmp_path):
    held_out = bench("val", {"trainer.monitor": monitor}).fit(tmp_path / "val")
    made = bench(contrary(), {"trainer.monitor": monitor})
    untrained = tensors(made.network)
    result = made.fit(tmp_path / "selection")
    losses = column(result, "selection/loss")
    assert losses == sorted(losses)
    assert result.best_epoch == 0
    assert same(result.best_state, untrained)
    assert held_out.best_epoch > 0
    for name in ("train/loss", "val/loss", "val/accuracy"):  # nothing else differs
        assert column(result, name) == column(held_out, name)
    assert set(column(held_out, "selection/loss") + column(held_out, "selection/accuracy")) == {None}


def test_last_takes_the_last_epoch_though_others_were_better(tmp_path):
    made = bench("last", kind=scripted([9, 1, 2, 3, 4], [0.1, 0.9, 0.8, 0.7, 0.6]))
    result = made.fit(tmp_path)
    assert result.best_epoch == 4
    assert same(result.best_state, tensors(made.network))


def test_features_of_the_selection_images_are_reused(tmp_path):
    def losses(**features):
        made = bench(contrary(size=16), {**PROBED, "features": features})
        reuse = reuse_of(made.config, made.data.spec, Services(tmp_path / "scratch"))
        return column(made.fit(tmp_path / features["kind"], reuse=reuse), "selection/loss")

    reused = losses(kind="auto", views=None)
    assert len(list((tmp_path / "scratch/features").iterdir())) >= 3  # of train, val and selection
    assert reused == pytest.approx(losses(kind="off"), rel=1e-4)


# ── phases and averages ─────────────────────────────────────────────────────────────────────────────────────


def waiting(until):
    return {
        "groups": ALL["groups"],
        "phases": [
            {"train": "all", "until": {**until, "max": {"epochs": 4}}, "restore": "best"},
            {"train": ["head"], "until": "end", "restore": "none"},
        ],
    }


def test_a_phase_ends_on_a_plateau_of_the_selection_images_with_their_best_epoch(tmp_path):
    schedule = {"freeze": waiting({"plateau": "val/loss", "patience": 2}), "trainer.epochs": 6}
    held_out = bench("val", schedule).fit(tmp_path / "val")
    result = bench(contrary(), schedule).fit(tmp_path / "selection")
    per_epoch = 2
    assert held_out.starts == (0, 4 * per_epoch)  # validation improves for all four epochs
    assert result.starts == (0, 3 * per_epoch)  # the selection images are worse after each
    # The second phase starts from the first epoch, the best on them, so validation is worse than it was.
    assert result.history[4]["val/loss"] > result.history[3]["val/loss"]


def test_a_phase_ends_when_the_selection_images_reach_a_value(tmp_path):
    schedule = {"freeze": waiting({"reaches": "val/loss", "value": 0.9}), "trainer.epochs": 6}
    held_out = bench("val", schedule).fit(tmp_path / "val")
    assert held_out.starts[1] < 8
    assert bench(contrary(), schedule).fit(tmp_path / "selection").starts == (0, 8)


def test_wise_ft_chooses_alpha_on_the_selection_images(tmp_path):
    made = bench(contrary())
    start = tensors(made.network)
    end = Bench({"trainer.epochs": 8}).fit(tmp_path).best_state
    config = run_config({"averaging": {"kind": "wise_ft", "alphas": [0.0, 0.5, 1.0]}})
    chosen = {}
    for select_on in ("val", contrary()):
        data = bench(select_on).data
        state, record = wise_ft.sweep_alphas(made.network, (start, end), data, config)
        chosen[data.selection_split] = record["alpha"]
        assert all(f"{data.selection_split}/loss" in row for row in record["curve"])
    assert chosen == {"val": 1.0, "selection": 0.0}
    assert same(state, start)


# ── whole runs ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """Rule → the files of a run on ten labels of each digit."""
    made = {}
    for rule in COUNTS:
        config = run_config({"dataset": {"selection": rule}, "trainer.epochs": 6})
        folder = tmp_path_factory.mktemp(str(rule))
        for out in ("one", "two"):
            services = Services(folder / out)
            inputs = load_inputs(config, digits, NO_WEIGHTS, services)
            training_run.train(config, inputs, folder / out / "out", services, out)
        assert files(folder / "one/out") == files(folder / "two/out")
        made[rule] = folder / "one/out"
    return made


@pytest.mark.parametrize("rule", COUNTS)
def test_a_run_records_what_chose_its_epoch(rule, trained):
    train, aside = COUNTS[rule]
    record = json.loads((trained[rule] / "training.json").read_text())
    rows = read_csv(trained[rule] / "history.csv")
    assert record["training_images"] == train
    assert record["selection"]["rule"] == (rule or "held_out")
    if aside:
        assert record["selection"]["images"] == aside
        assert record["selection"]["per_class"] == {"images": 2, "labelled": 10}
        best = max(rows, key=lambda row: (float(row["selection/accuracy"]), -float(row["selection/loss"])))
        assert record["best_epoch"] == int(best["epoch"])
    else:
        assert {row["selection/loss"] + row["selection/accuracy"] for row in rows} == {""}
    if rule == "last":
        assert record["best_epoch"] == 6


def test_a_config_of_an_earlier_version_is_held_out(trained):
    old, new = files(trained[None]), files(trained["held_out"])
    assert {name for name in old if old[name] != new[name]} == {"config.yaml", "training.json"}
    records = [json.loads(content["training.json"]) for content in (old, new)]
    assert records[0] | {"config_sha256": None} == records[1] | {"config_sha256": None}


def test_the_rules_agree_on_the_first_epochs_and_on_other_images(trained):
    last, held_out = (read_csv(trained[rule] / "history.csv") for rule in ("last", "held_out"))
    assert last == held_out
    within = read_csv(trained["within"] / "history.csv")
    assert within[0]["val/loss"] == held_out[0]["val/loss"]  # the same network before training
    assert torch.tensor([float(row["val/loss"]) for row in within]).isfinite().all()
