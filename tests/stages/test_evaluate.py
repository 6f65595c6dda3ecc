import json
import statistics

import numpy as np
import pytest
import torch
from tests.tiny import RESNET, files, run_config

from frostline.core.seeds import derive
from frostline.data.index import Index, training_rows
from frostline.data.pixels import InputSpec
from frostline.errors import FrostlineError
from frostline.files import read_csv
from frostline.models.backbones import build
from frostline.schema import Evaluate
from frostline.services import Services
from frostline.stages import evaluate, finetune

SEEDS = [0, 1]


@pytest.fixture(scope="module")
def arm(digits, tmp_path_factory):
    """Two seeds of a small convolutional network, measured."""
    folder = tmp_path_factory.mktemp("evaluated")
    config = run_config({"arm": "full", "seeds": SEEDS, "backbone": RESNET, "input.size": 16})
    finetune.run(config, digits, folder / "finetuned", Services(folder / "scratch"))
    wanted = Evaluate(study="tiny", arm="full", dataset=config.dataset, seeds=SEEDS, trainer=config.trainer)
    evaluate.run(wanted, digits, folder / "finetuned", folder / "out", Services(folder / "scratch"))
    return folder, config, wanted


def test_an_evaluation_leaves_a_summary_and_a_folder_a_seed(arm):
    folder, _, _ = arm
    names = ["metrics.json", "predictions.csv"]
    assert sorted(files(folder / "out")) == ["metrics.json", *(f"seed-{s}/{n}" for s in SEEDS for n in names)]
    summary = json.loads((folder / "out" / "metrics.json").read_text())
    accuracies = []
    for seed in SEEDS:
        measured = json.loads((folder / "out" / f"seed-{seed}" / "metrics.json").read_text())
        assert measured == summary["seeds"][str(seed)]
        accuracies.append(measured["test"]["accuracy"])
    assert summary["test"]["accuracy"] == {
        "mean": pytest.approx(statistics.mean(accuracies)),
        "std": pytest.approx(statistics.stdev(accuracies)),
        "n": 2.0,
    }


def test_its_numbers_are_those_of_the_network_by_hand(arm, digits):
    """Decode, resize and count anew, with the weights of the file."""
    from PIL import Image
    from safetensors.torch import load_file

    folder, config, _ = arm
    spec = InputSpec(16, 1, "bilinear", 0.95, (0.5,), (0.5,))
    network = build(config.backbone, spec, 10, seed=9)
    network.load_state_dict(load_file(folder / "finetuned" / "seed-0" / "weights.safetensors"))
    index, images = Index.read(digits), np.load(digits / "images.npy")
    rows = {
        "train": training_rows(index, config.dataset, derive(0, "shots") % 2**31),
        "test": index.rows("test"),
    }
    for split, chosen in rows.items():
        side = int(16 / 0.95)
        pixels = [
            np.asarray(Image.fromarray(images[r]).resize((side, side), Image.Resampling.BILINEAR))
            for r in chosen
        ]
        batch = (torch.tensor(np.stack(pixels))[:, None, :16, :16] / 255 - 0.5) / 0.5
        with torch.no_grad():
            found = network.eval()(batch).argmax(1)
        measured = json.loads((folder / "out" / "seed-0" / "metrics.json").read_text())[split]
        right = (found == torch.tensor(index.labels[chosen])).double().mean().item()
        assert (measured["n"], measured["accuracy"]) == (len(chosen), pytest.approx(right))


def test_the_epoch_that_is_measured_is_the_one_that_training_chose(arm):
    folder, _, _ = arm
    for seed in SEEDS:
        history = read_csv(folder / "finetuned" / f"seed-{seed}" / "history.csv")
        best = json.loads((folder / "finetuned" / f"seed-{seed}" / "training.json").read_text())["best_epoch"]
        measured = json.loads((folder / "out" / f"seed-{seed}" / "metrics.json").read_text())
        assert measured["val"]["accuracy"] == float(history[best]["val/accuracy"])
        assert measured["val"]["loss"] == pytest.approx(float(history[best]["val/loss"]), rel=1e-4)


def test_measured_again_it_is_the_same_whatever_the_batches(arm, digits, tmp_path):
    folder, config, wanted = arm
    evaluate.run(wanted, digits, folder / "finetuned", tmp_path / "again", Services(tmp_path))
    assert files(tmp_path / "again") == files(folder / "out")
    trainer = config.trainer.model_copy(update={"eval_batch_size": 13})
    other = config.model_copy(update={"trainer": trainer})
    trained = folder / "finetuned" / "seed-0"
    metrics = evaluate.measure(other, 0, digits, trained, tmp_path, Services(tmp_path))
    first = json.loads((folder / "out" / "seed-0" / "metrics.json").read_text())
    for split in first:
        assert metrics[split] == pytest.approx(first[split], rel=1e-4)


def test_a_seed_that_was_not_trained_is_one_sentence(arm, digits, tmp_path):
    folder, _, wanted = arm
    missing = wanted.model_copy(update={"seeds": [0, 5]})
    with pytest.raises(
        FrostlineError, match=r"seed-5/config\.yaml is missing; run the finetune stage of this arm"
    ):
        evaluate.run(missing, digits, folder / "finetuned", tmp_path / "out", Services(tmp_path))
    assert not (tmp_path / "out").exists()


def test_weights_of_other_classes_are_refused(arm, digits, tmp_path):
    from frostline.core import weights

    folder, config, _ = arm
    state, about = weights.load(folder / "finetuned" / "seed-0" / "weights.safetensors")
    weights.save(tmp_path / "weights.safetensors", state, {**about, "classes": list("abcdefghij")})
    with pytest.raises(FrostlineError, match=r"weights\.safetensors: not made from the data in "):
        evaluate.measure(config, 0, digits, tmp_path, tmp_path / "out", Services(tmp_path))
