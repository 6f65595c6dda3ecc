"""What the report says of data, network and training."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.reporting.study import DEFAULT, MONITOR, SEEDS, write_study

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
