"""Regularizers and averages through the whole fine-tuning stage."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tests.tiny import NOTHING, arm_of, files, run_config

from frostline.console.errors import FrostlineError
from frostline.models.backbones import build
from frostline.models.weights import LoadReport
from frostline.pipeline.compose import study
from frostline.pipeline.compose.stage import check_run
from frostline.pipeline.finetune.stage import finetune
from frostline.training.run import penalty_of
from frostline.training.services import Services

ALPHAS = [0.0, 0.25, 0.5, 1.0]
WISE_FT = {"kind": "wise_ft", "alphas": ALPHAS}
L2_SP = {"kind": "l2_sp", "alpha": 0.5, "beta": 0.25}
L2_START = {"kind": "l2_start", "alpha": 0.5}


@pytest.fixture(scope="module")
def start(digits, tmp_path_factory):
    """Weights to start from: trained for an epoch on all labels."""
    folder = tmp_path_factory.mktemp("start")
    config = run_config({"dataset": {"shots": None}, "trainer.epochs": 1})
    finetune(arm_of(config), digits, folder / "out", Services(folder / "scratch"))
    return folder / "out/seed-0/weights.safetensors"


def from_file(path, head="keep"):
    return {"kind": "file", "path": str(path), "head": head}


# ── WiSE-FT ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_wise_ft_keeps_the_point_on_the_way_that_validation_likes_best(digits, start, tmp_path):
    outs = {}
    for name, averaging in (("plain", {"kind": "none"}), ("wise", WISE_FT)):
        config = run_config({"weights": from_file(start), "averaging": averaging, "trainer.epochs": 5})
        finetune(arm_of(config), digits, tmp_path / name, Services(tmp_path / "scratch"))
        outs[name] = files(tmp_path / name / "seed-0")
    # The training is the same one.
    assert outs["plain"]["history.csv"] == outs["wise"]["history.csv"]
    found = json.loads(outs["wise"]["training.json"])["wise_ft"]
    curve = found["curve"]
    assert [row["alpha"] for row in curve] == ALPHAS
    best = max(curve, key=lambda row: (row["val/accuracy"], -row["val/loss"], row["alpha"]))
    assert found["alpha"] == best["alpha"]
    history = outs["plain"]["history.csv"].decode().splitlines()
    kept = json.loads(outs["plain"]["training.json"])["best_epoch"]
    for row, epoch in ((curve[0], 0), (curve[-1], kept)):
        values = dict(zip(history[0].split(","), history[epoch + 1].split(","), strict=True))
        assert row["val/accuracy"] == pytest.approx(float(values["val/accuracy"]))
        assert row["val/loss"] == pytest.approx(float(values["val/loss"]), rel=1e-4)
    plain, wise = (load_file(tmp_path / name / "seed-0/weights.safetensors") for name in ("plain", "wise"))
    for name, begun in load_file(start).items():
        torch.testing.assert_close(wise[name], torch.lerp(begun, plain[name], best["alpha"]))


def test_where_nothing_trains_there_is_nothing_to_mix(digits, start, tmp_path):
    config = run_config({"weights": from_file(start), "averaging": WISE_FT, "freeze": NOTHING})
    finetune(arm_of(config), digits, tmp_path / "out", Services(tmp_path / "scratch"))
    assert "wise_ft" not in json.loads((tmp_path / "out/seed-0/training.json").read_text())


# ── the distance to the start ───────────────────────────────────────────────────────────────────────────────


def test_what_is_new_is_pulled_to_zero_and_the_rest_to_its_start():
    config = run_config({"regularizer": L2_SP})
    network = build(config.backbone, compose_spec(), 10, seed=0)
    report = LoadReport(("hidden.0.weight",), (), (), ("head.bias", "head.weight"))
    penalty = penalty_of(config.regularizer, network, report)
    norm = network.head.weight.square().sum() + network.head.bias.square().sum()
    torch.testing.assert_close(penalty(), 0.125 * norm)
    assert penalty_of(run_config({"regularizer": L2_START}).regularizer, network, report)().item() == 0
    assert penalty_of(run_config().regularizer, network, report) is None


def compose_spec():
    from frostline.models.initial_weights import NO_WEIGHTS
    from frostline.models.pretrained import input_spec

    config = run_config()
    return input_spec(config.backbone, NO_WEIGHTS, config.input)


def test_a_run_that_is_held_stays_nearer_to_its_start(digits, start, tmp_path):
    def distance(regularizer):
        config = run_config(
            {"weights": from_file(start), "regularizer": regularizer, "trainer.monitor": "val/loss"}
        )
        out = tmp_path / regularizer["kind"]
        finetune(arm_of(config), digits, out, Services(tmp_path / "scratch"))
        begun, ended = load_file(start), load_file(out / "seed-0/weights.safetensors")
        assert json.loads((out / "seed-0/training.json").read_text())["best_epoch"] > 0
        return sum((begun[name] - ended[name]).square().sum().item() for name in begun)

    assert distance({"kind": "l2_start", "alpha": 1.0}) < 0.8 * distance({"kind": "none"})


# ── random weights ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"regularizer": L2_SP}, "regularizer: l2_sp needs pretrained initial weights"),
        ({"regularizer": L2_START}, "regularizer: l2_start needs pretrained"),
        ({"averaging": WISE_FT}, "averaging: wise_ft needs pretrained initial weights"),
    ],
)
def test_what_needs_pretrained_weights_is_refused_with_random_ones(changes, sentence, digits, tmp_path):
    config = run_config(changes)
    with pytest.raises(FrostlineError) as caught:
        check_run(config)
    assert str(caught.value).startswith(sentence)
    key = next(iter(changes))
    assert str(caught.value).endswith(
        f", and weights=none are random; set {key}=none, or choose other weights"
    )
    with pytest.raises(FrostlineError, match=f"^{sentence}"):
        finetune(arm_of(config), digits, tmp_path / "out", Services(tmp_path / "scratch"))
    check_run(next(iter(study.from_scratch(arm_of(config)).runs().values())))


def test_the_from_scratch_baseline_has_no_penalty():
    params = {"experiment": "mnist_to_digits", "regularizer": "l2_sp", "averaging": "wise_ft"}
    resolved = study.resolve(params, ["scratch", "full"]).resolved
    scratch, full = (resolved[f"finetune-{arm}"] for arm in ("scratch", "full"))
    assert (scratch["regularizer"], scratch["averaging"]) == ({"kind": "none"}, {"kind": "none"})
    assert (full["regularizer"]["kind"], full["averaging"]["kind"]) == ("l2_sp", "wise_ft")
    params = {"experiment": "mnist_to_digits", "averaging": "ema"}
    assert study.resolve(params, ["scratch"]).resolved["finetune-scratch"]["averaging"]["kind"] == "ema"
