import json

import pytest
import torch
from safetensors.torch import load_file
from tests.tiny import NOTHING, RESNET, arm_of, run_config

from frostline.data.prepared.index import Index
from frostline.models.backbones import build
from frostline.models.input_spec import InputSpec
from frostline.pipeline.evaluate import stage
from frostline.pipeline.evaluate.soups import why_no_choice, why_none
from frostline.pipeline.finetune.stage import finetune
from frostline.schema import Evaluate
from frostline.training.services import Services

SEEDS = [0, 1, 2]


@pytest.fixture(scope="module")
def arm(digits, tmp_path_factory):
    """Three seeds fine-tuned from one start, evaluated."""
    folder = tmp_path_factory.mktemp("soup")
    services = Services(folder / "scratch")
    backbone = {"backbone": {"kind": "mlp", "hidden": [16], "activation": "relu", "dropout": 0.0}}
    first = run_config({**backbone, "dataset": {"shots": None}, "trainer.epochs": 4})
    finetune(arm_of(first), digits, folder / "first", services)
    start = {"kind": "file", "path": str(folder / "first/seed-0/weights.safetensors"), "head": "keep"}
    config = run_config({**backbone, "arm": "full", "weights": start})
    finetune(arm_of(config, SEEDS), digits, folder / "finetuned", services)
    wanted = Evaluate(study="t", arm="full", dataset=config.dataset, seeds=SEEDS, trainer=config.trainer)
    stage.run(wanted, digits, folder / "finetuned", folder / "out", services)
    return folder, config, json.loads((folder / "out/metrics.json").read_text())


def accuracy_by_hand(folder, config, digits, seeds, split):
    import numpy as np

    states = [load_file(folder / f"finetuned/seed-{seed}/weights.safetensors") for seed in seeds]
    network = build(config.backbone, InputSpec(8, 1, "bicubic", 1.0, (0.0,), (1.0,)), 10, seed=9)
    network.load_state_dict({k: sum(s[k] for s in states) / len(states) for k in states[0]})
    index, images = Index.read(digits), np.load(digits / "images.npy")
    rows = index.rows(split)
    with torch.no_grad():
        found = network.eval()(torch.tensor(images[rows])[:, None] / 255).argmax(1)
    return (found == torch.tensor(index.labels[rows])).double().mean().item()


def test_soups_are_the_means_of_the_seeds_weights(arm, digits):
    folder, config, metrics = arm
    soups = metrics["soups"]
    assert set(soups) == {"uniform", "greedy"}
    assert soups["uniform"]["seeds"] == SEEDS
    for soup in soups.values():
        for split in ("val", "test"):
            by_hand = accuracy_by_hand(folder, config, digits, soup["seeds"], split)
            assert soup[split]["accuracy"] == pytest.approx(by_hand)


def test_the_greedy_soup_is_on_validation_at_least_as_good_as_the_best_seed(arm):
    _, _, metrics = arm
    accuracies = {seed: metrics["seeds"][str(seed)]["val"]["accuracy"] for seed in SEEDS}
    greedy = metrics["soups"]["greedy"]
    assert greedy["val"]["accuracy"] >= max(accuracies.values())
    assert max(SEEDS, key=lambda seed: (accuracies[seed], -seed)) in greedy["seeds"]


def test_a_network_with_running_statistics_makes_a_soup_too(digits, tmp_path):
    services = Services(tmp_path / "scratch")
    conv = {"backbone": RESNET, "input.size": 16, "trainer.epochs": 1}
    finetune(arm_of(run_config(conv)), digits, tmp_path / "first", services)
    start = {"kind": "file", "path": str(tmp_path / "first/seed-0/weights.safetensors"), "head": "keep"}
    config = run_config({**conv, "arm": "full", "weights": start})
    finetune(arm_of(config, [0, 1]), digits, tmp_path / "finetuned", services)
    wanted = Evaluate(study="t", arm="full", dataset=config.dataset, seeds=[0, 1], trainer=config.trainer)
    stage.run(wanted, digits, tmp_path / "finetuned", tmp_path / "out", services)
    soups = json.loads((tmp_path / "out/metrics.json").read_text())["soups"]
    assert soups["uniform"]["test"]["n"] == soups["greedy"]["test"]["n"] == 357


@pytest.mark.parametrize(
    ("changes", "seeds", "reason"),
    [
        ({}, [0, 1], "the seeds start from different random weights, which can't be averaged"),
        ({"weights": {"kind": "imagenet"}}, [0], "one seed has nothing to be averaged with"),
        ({"weights": {"kind": "imagenet"}, "freeze": NOTHING}, [0, 1], "nothing was trained"),
        ({"weights": {"kind": "imagenet"}}, [0, 1], None),
    ],
)
def test_an_arm_whose_seeds_make_no_soup_says_why(changes, seeds, reason):
    assert why_none({seed: run_config(changes) for seed in seeds}) == reason


@pytest.mark.parametrize(
    ("dataset", "reason"),
    [
        ({}, None),
        ({"selection": "held_out"}, None),
        ({"selection": "within", "shots": None}, None),  # the budget is all labels: those of val are in it
        ({"selection": "within"}, "needs labels that none of them used"),
        ({"selection": "last", "shots": None}, "with dataset.selection=last no images choose"),
    ],
)
def test_a_greedy_soup_needs_labels_to_choose_on(dataset, reason, digits):
    found = why_no_choice(run_config({"dataset": dataset}), Index.read(digits))
    assert found is None if reason is None else reason in found


def test_within_the_label_budget_the_uniform_soup_stays(digits, tmp_path):
    services = Services(tmp_path / "scratch")
    first = run_config({"trainer.epochs": 1})
    finetune(arm_of(first), digits, tmp_path / "first", services)
    start = {"kind": "file", "path": str(tmp_path / "first/seed-0/weights.safetensors"), "head": "keep"}
    changes = {"arm": "full", "weights": start, "dataset": {"selection": "within"}, "trainer.epochs": 1}
    config = run_config(changes)
    finetune(arm_of(config, [0, 1]), digits, tmp_path / "finetuned", services)
    wanted = Evaluate(study="t", arm="full", dataset=config.dataset, seeds=[0, 1], trainer=config.trainer)
    stage.run(wanted, digits, tmp_path / "finetuned", tmp_path / "out", services)
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["soups"]["uniform"]["seeds"] == [0, 1]
    assert list(metrics["soups"]["greedy"]) == ["skipped"]
    assert metrics["seeds"]["1"]["selection"]["n"] == 20
    assert metrics["seeds"]["1"]["train"]["n"] == 80
    assert metrics["selection"]["accuracy"]["n"] == 2
