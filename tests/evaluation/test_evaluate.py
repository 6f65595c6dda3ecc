import dataclasses
import json
import shutil
import statistics

import numpy as np
import pytest
import torch
from tests.tiny import RESNET, arm_of, files, run_config

from frostline.base.formats import read_csv
from frostline.base.hashes import sha256_of
from frostline.base.metrics import EPOCH_METRICS
from frostline.console.errors import FrostlineError
from frostline.data.loading.label_budget import label_budget
from frostline.data.prepared.index import Index
from frostline.evaluation import evaluate
from frostline.models.backbones import build
from frostline.models.input_spec import InputSpec
from frostline.pipeline.evaluate import stage
from frostline.pipeline.finetune.stage import finetune
from frostline.schema import Evaluate
from frostline.training.services import Services, Tracker

SEEDS = [0, 1]


@pytest.fixture(scope="module")
def arm(digits, tmp_path_factory):
    """Two seeds of a small convolutional network, measured."""
    folder = tmp_path_factory.mktemp("evaluated")
    config = run_config({"arm": "full", "backbone": RESNET, "input.size": 16})
    finetune(arm_of(config, SEEDS), digits, folder / "finetuned", Services(folder / "scratch"))
    wanted = Evaluate(study="tiny", arm="full", dataset=config.dataset, seeds=SEEDS, trainer=config.trainer)
    stage.run(wanted, digits, folder / "finetuned", folder / "out", Services(folder / "scratch"))
    return folder, config, wanted


def test_an_evaluation_writes_a_summary_and_a_folder_a_seed(arm):
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
        "train": label_budget(index, config.dataset, 0).train,
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
        for name in EPOCH_METRICS["accuracy"]:
            assert measured["val"][name] == float(history[best][f"val/{name}"])
        assert measured["val"]["loss"] == pytest.approx(float(history[best]["val/loss"]), rel=1e-4)


def test_measured_again_it_is_the_same_whatever_the_batches(arm, digits, tmp_path):
    folder, config, wanted = arm
    stage.run(wanted, digits, folder / "finetuned", tmp_path / "again", Services(tmp_path))
    assert files(tmp_path / "again") == files(folder / "out")
    trainer = config.trainer.model_copy(update={"eval_batch_size": 13})
    other = config.model_copy(update={"trainer": trainer})
    trained = folder / "finetuned" / "seed-0"
    metrics = evaluate.measure(other, digits, trained, tmp_path, Services(tmp_path))
    first = json.loads((folder / "out" / "seed-0" / "metrics.json").read_text())
    for split in first:
        assert metrics[split] == pytest.approx(first[split], rel=1e-4)


class Heard(Tracker):
    """Keeps what it is told of a run that was measured."""

    def annotate(self, evaluation):
        self.values, self.mistakes = dict(evaluation.values), list(evaluation.mistakes)


@pytest.mark.parametrize("gone", [False, True], ids=["pictures", "pictures that are gone"])
def test_the_surest_mistakes_and_all_metrics_go_to_the_run(arm, digits, tmp_path, monkeypatch, gone):
    folder, config, _ = arm
    if gone:
        monkeypatch.setattr(evaluate, "thumbnails", thumbnails_of_files_that_are_gone)
    heard = Heard()
    trained = folder / "finetuned" / "seed-0"
    metrics = evaluate.measure(config, digits, trained, tmp_path, Services(tmp_path, tracker=heard))
    for split, prefix in (("test", "test"), ("val", "best/val")):
        assert metrics[split].items() - {("n", metrics[split]["n"])} <= {
            (key.removeprefix(f"{prefix}/"), value) for key, value in heard.values.items()
        }
    wrong = [row for row in read_csv(tmp_path / "predictions.csv") if row["label"] != row["prediction"]]
    assert len(wrong) > evaluate.MISTAKES
    wrong.sort(key=lambda row: -float(row["confidence"]))
    index, images = Index.read(digits), np.load(digits / "images.npy")
    assert len(heard.mistakes) == evaluate.MISTAKES
    for mistake, row in zip(heard.mistakes, wrong, strict=False):
        assert (mistake.id, mistake.label, mistake.prediction) == (row["id"], row["label"], row["prediction"])
        assert mistake.confidence == pytest.approx(float(row["confidence"]), rel=1e-6)
        if gone:  # what the network saw
            assert mistake.picture.shape == (16, 16)
        else:
            assert (mistake.picture == images[index.keys.index(mistake.id)]).all()
    # They are left nowhere: what a stage leaves is listed, and repeats byte for byte.
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "metrics.json",
        "predictions.csv",
    ]


def thumbnails_of_files_that_are_gone(*given):
    raise FrostlineError("photos/1.jpg is missing: restore it")


def test_a_seed_that_was_not_trained_is_one_sentence(arm, digits, tmp_path):
    folder, _, wanted = arm
    missing = wanted.model_copy(update={"seeds": [0, 5]})
    with pytest.raises(
        FrostlineError, match=r"seed-5/config\.yaml is missing; run the finetune stage of this arm"
    ):
        stage.run(missing, digits, folder / "finetuned", tmp_path / "out", Services(tmp_path))
    assert not (tmp_path / "out").exists()


def test_weights_of_other_classes_are_refused(arm, digits, tmp_path):
    from frostline.models import weights

    folder, config, _ = arm
    state, about = weights.load(folder / "finetuned" / "seed-0" / "weights.safetensors")
    path = tmp_path / "weights.safetensors"
    weights.save(path, state, {**about, "classes": list("abcdefghij")})
    (tmp_path / "training.json").write_text(json.dumps({"weights_sha256": sha256_of(path)}))
    with pytest.raises(FrostlineError, match=r"weights\.safetensors: not made from the data in "):
        evaluate.measure(config, digits, tmp_path, tmp_path / "out", Services(tmp_path))


@pytest.mark.parametrize("name", ["weights.safetensors", "config.yaml"])
def test_a_seed_that_is_not_what_its_record_says_is_one_sentence(arm, digits, tmp_path, name):
    folder, _, wanted = arm
    shutil.copytree(folder / "finetuned", tmp_path / "finetuned")
    path = tmp_path / "finetuned/seed-1" / name
    path.write_bytes(path.read_bytes().replace(b"digits", b"digitz") + b" ")
    with pytest.raises(FrostlineError, match=rf"seed-1/{name}.*(was replaced|was edited after)"):
        stage.run(wanted, digits, tmp_path / "finetuned", tmp_path / "out", Services(tmp_path))
    assert not (tmp_path / "out").exists()


def test_a_seed_that_was_trained_on_other_data_is_one_sentence(arm, digits, tmp_path):
    folder, _, wanted = arm
    index, splits = Index.read(digits), Index.read(digits).splits.copy()
    splits[index.rows("val")[0]] = "test"
    dataclasses.replace(index, splits=splits).write(tmp_path / "digits", np.load(digits / "images.npy"))
    with pytest.raises(FrostlineError, match="seed-0: was trained on other images than"):
        stage.run(wanted, tmp_path / "digits", folder / "finetuned", tmp_path / "out", Services(tmp_path))
