"""What the report says of data, network and training."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.reporting.study import DEFAULT, MONITOR, SEEDS, write_study

from frostline.base.files import write_text
from frostline.base.formats import canonical_json, csv_text
from frostline.console.errors import FrostlineError
from frostline.pipeline.report.stage import summarized, write_report
from frostline.reporting.configuration import configuration
from frostline.schema import Report, StudySetup

SETUP = StudySetup(
    source="mnist5k",
    target="digits",
    weights="pretrain",
    backbone="resnet10t",
    input_size=32,
    epochs=12,
    batch_size=10,
    optimizer="adamw",
    lr=0.001,
    weight_decay=0.01,
)
ARMS = {name: DEFAULT[name] for name in ("scratch", "zero_shot", "full")}


def config(setup: StudySetup | None) -> Report:
    return Report(
        study="study",
        arms=list(ARMS),
        seeds=list(SEEDS),
        monitor=MONITOR,
        gate={},
        freeze="full",
        setup=setup,
    )


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study") / "artifacts", ARMS)


def lines(artifacts: Path, setup: StudySetup | None) -> dict[str, str]:
    return dict(configuration(*summarized(config(setup), artifacts)))


def test_data_network_and_training_are_named(artifacts: Path) -> None:
    found = lines(artifacts, SETUP)
    assert list(found)[:5] == ["Study", "Transfer", "Network", "Training", "Images"]
    assert found["Transfer"] == "mnist5k → digits"
    assert found["Network"] == "resnet10t, 32×32 px"
    assert found["Training"] == "12 epochs, 10 images per step; adamw, learning rate 0.001, weight decay 0.01"
    assert found["Images"] == "360 to measure test accuracy on"  # training.json here has no others
    assert found["Seeds"] == "0, 1, 2, 3, 4"
    assert "zero_shot" not in found["Selected epoch"]  # it has none


@pytest.mark.parametrize(
    ("changes", "transfer", "network"),
    [
        ({"source": None, "weights": "imagenet", "input_size": None}, "ImageNet → digits", "resnet10t"),
        ({"source": None, "weights": "nets/a.pth"}, "a.pth → digits", "resnet10t, 32×32 px"),
        ({"input_size": [32, 96]}, "mnist5k → digits", "resnet10t, 32×96 px"),
    ],
)
def test_weights_and_sizes_of_other_kinds(
    artifacts: Path, changes: dict[str, object], transfer: str, network: str
) -> None:
    found = lines(artifacts, SETUP.model_copy(update=changes))
    assert (found["Transfer"], found["Network"]) == (transfer, network)


def write_pretraining(artifacts: Path, right: float, test: bool = True) -> None:
    """Write a pretraining that predicts this share of 60 images of class a and 40 of class b right."""
    folder = artifacts / "pretrain"
    scores = {"accuracy": right, "balanced_accuracy": right, "n": 100.0}
    parts = {"test": scores} if test else {}
    write_text(
        folder / "metrics.json", canonical_json({**parts, "val": {**scores, "accuracy": right + 0.01}})
    )
    record = {"best_epoch": 3, "epochs": 20, "steps": 120, "phases": [], "training_images": 1820}
    write_text(folder / "training.json", canonical_json(record))
    rows = [(i, "a" if i < 60 else "b", "a", 1.0) for i in range(100)]
    write_text(folder / "predictions.csv", csv_text(("id", "label", "prediction", "confidence"), rows))


def test_the_pretraining_is_said_with_its_accuracy(tmp_path: Path) -> None:
    artifacts = write_study(tmp_path / "artifacts", ARMS)
    write_pretraining(artifacts, 0.8)
    found = lines(artifacts, SETUP)
    assert list(found)[:4] == ["Study", "Transfer", "Pretraining", "Network"]
    assert found["Pretraining"] == (
        "1,820 images of mnist5k, 20 epochs; accuracy 80.0 % on test and 81.0 % on validation"
        " (always predicting a: 60.0 % on test)"
    )
    write_pretraining(artifacts, 0.8, test=False)
    assert lines(artifacts, SETUP)["Pretraining"] == (
        "1,820 images of mnist5k, 20 epochs; accuracy 81.0 % on validation"
        " (always predicting a: 60.0 % on validation)"
    )
    assert not [note for note in summarized(config(SETUP), artifacts)[0].notes if "retraining" in note]
    # What an earlier study with a source has written is not this one's.
    imagenet = SETUP.model_copy(update={"source": None, "weights": "imagenet"})
    assert "Pretraining" not in lines(artifacts, imagenet)
    assert "Pretraining" not in lines(artifacts, None)


def test_a_pretraining_that_learned_nothing_is_noted(tmp_path: Path) -> None:
    artifacts = write_study(tmp_path / "artifacts", ARMS)
    write_pretraining(artifacts, 0.5)
    assert summarized(config(SETUP), artifacts)[0].notes == [
        "The pretraining on mnist5k has learned nothing that shows: its accuracy on test is 50.0 %, not above"
        " the 60.0 % of always predicting a. So the study does not show what a good pretraining brings: set"
        " pretrain.trainer.epochs above 20, or pretrain on more images."
    ]
    write_report(config(SETUP), artifacts, tmp_path / "out")
    for name in ("report.md", "index.html"):
        text = (tmp_path / "out" / name).read_text().replace("\N{NO-BREAK SPACE}", " ")
        assert "The pretraining on mnist5k has learned nothing" in text
        assert "1,820 images of mnist5k, 20 epochs" in text


def test_a_damaged_pretraining_is_an_error_that_names_its_stage(tmp_path: Path) -> None:
    artifacts = write_study(tmp_path / "artifacts", ARMS)
    write_pretraining(artifacts, 0.8)
    path = artifacts / "pretrain" / "metrics.json"
    write_text(path, canonical_json({"val": {"loss": 1.0}}))
    with pytest.raises(FrostlineError, match=r"it has no accuracy on val.*`dvc repro pretrain`"):
        lines(artifacts, SETUP)


def test_numbers_of_images_that_differ_are_a_range(artifacts: Path) -> None:
    summary, arms = summarized(config(SETUP), artifacts)
    for number, (repetition, run) in enumerate(arms[0].runs.items()):
        counted = run.training.model_copy(update={"training_images": 1000 + number})
        arms[0].runs[repetition] = replace(run, training=counted)
    assert dict(configuration(summary, arms))["Images"].startswith("1,000 to 1,004 to train on, ")


def test_a_study_that_was_resolved_before_says_what_is_known(artifacts: Path) -> None:
    assert list(lines(artifacts, None)) == ["Study", "Images", "Seeds", "Selected epoch", "Verdict on"]


def test_the_page_and_the_markdown_have_the_same_lines(artifacts: Path, tmp_path: Path) -> None:
    write_report(config(SETUP), artifacts, tmp_path / "out")
    page, text = ((tmp_path / "out" / name).read_text() for name in ("index.html", "report.md"))
    for term, value in lines(artifacts, SETUP).items():
        assert f"<dt>{term}</dt><dd>{value}</dd>" in page
        assert f"- {term}: {value}" in text
    assert '<p class="study">study · mnist5k → digits · resnet10t, 32×32 px</p>' in page
