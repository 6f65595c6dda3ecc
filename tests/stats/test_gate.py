"""The gate: passes in a line, fails in a sentence that says by how much, and knows which names there are."""

from pathlib import Path
from typing import Any

import pytest

from frostline.base.files import write_text
from frostline.base.formats import canonical_json
from frostline.base.metrics import measured_metrics
from frostline.console.errors import FrostlineError, GateFailed
from frostline.stats import gate

ARMS = ["scratch", "full"]


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """A report.json with two arms; one has a gain."""
    accuracy = {"mean": 0.8312, "std": 0.01, "low": 0.81, "high": 0.85, "n": 5}
    arms: dict[str, Any] = {
        "scratch": {"test": {"accuracy": accuracy}, "gain": None, "epochs": 40},
        "full": {
            "test": {"accuracy": {**accuracy, "mean": 0.95}},
            "gain": {"mean": 0.12, "low": None},
            "epochs": 40,
        },
    }
    write_text(tmp_path / "report.json", canonical_json({"arms": arms, "verdict": {"outcome": "helped"}}))
    return tmp_path / "report.json"


def test_a_metric_at_its_bound_passes_with_a_line(report: Path) -> None:
    said: list[str] = []
    checks = gate.run({"arms.full.test.accuracy.mean": 0.95}, report, echo=said.append)
    assert said == ["gate: arms.full.test.accuracy.mean is 0.95, at least 0.95"]
    assert [c.passed for c in checks] == [True]


def test_no_gate_passes_in_silence(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gate.run({}, report) == []
    assert capsys.readouterr().out == ""


def test_a_metric_below_its_bound_fails_and_says_by_how_much(report: Path) -> None:
    said: list[str] = []
    bounds = {"arms.scratch.test.accuracy.mean": 0.85, "arms.full.gain.mean": 0.2, "arms.full.epochs": 40}
    with pytest.raises(GateFailed) as failed:
        gate.run(bounds, report, echo=said.append)
    assert str(failed.value).splitlines() == [
        "gate: arms.full.gain.mean is 0.12, 0.08 below its bound 0.2",
        "gate: arms.scratch.test.accuracy.mean is 0.8312, 0.0188 below its bound 0.85",
    ]
    assert said == ["gate: arms.full.epochs is 40, at least 40"]


@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        (
            "arms.full.test.acuracy.mean",
            "is not a metric of the report; did you mean 'arms.full.test.accuracy.mean'",
        ),
        ("arms.ful.test.accuracy.mean", "names no arm of the study, as in .*; did you mean 'full'?"),
        ("accuracy", "names no arm of the study, as in arms.ARM.test.accuracy.mean; allowed: full, scratch"),
        ("arms.full.gain.low", "has no value in this study, so it can't reach its bound 0; .* add seeds"),
        ("arms.scratch.gain.mean", "has no value in this study"),
    ],
)
def test_a_name_without_a_number_fails(report: Path, metric: str, reason: str) -> None:
    with pytest.raises(GateFailed, match=f"^gate: {metric} {reason}"):
        gate.run({metric: 0.0}, report)


def test_a_missing_or_damaged_report_is_named(tmp_path: Path) -> None:
    with pytest.raises(FrostlineError, match=r"report\.json is missing"):
        gate.run({}, tmp_path / "report.json")
    write_text(tmp_path / "report.json", "[]")
    with pytest.raises(FrostlineError, match=r"report\.json is not a report: .*dvc repro report"):
        gate.run({}, tmp_path / "report.json")


def test_names_are_checked_before_anything_trains() -> None:
    gate.check_names({"arms.full.test.accuracy.mean": 0.9, "arms.full.gain.low": 0.0}, ARMS)
    gate.check_names({"arms.full.epochs_to_twin.reached": 3}, ARMS)
    for smaller in ("test.loss.mean", "test.ece.high", "train_seconds.mean", "seconds_to_twin.median"):
        with pytest.raises(
            FrostlineError, match=rf"^gate: arms\.full\.{smaller}: a bound is the lowest value"
        ):
            gate.check_names({f"arms.full.{smaller}": 0.5}, ARMS)
    with pytest.raises(
        FrostlineError, match=r"^gate: arms\.full\.gian\.low is not a metric .*'arms\.full\.gain\.low'"
    ):
        gate.check_names({"arms.full.gian.low": 0.0}, ARMS)
    with pytest.raises(FrostlineError, match="names no arm of the study"):
        gate.check_names({"arms.gradual.gain.low": 0.0}, ARMS)
    with pytest.raises(FrostlineError, match="is not a metric of the report"):
        gate.check_names({"arms.scratch.gain.low": 0.0}, ARMS)


def test_names_with_several_labels_per_image() -> None:
    several = measured_metrics(several_labels=True)
    for metric in ("test.mAP.mean", "test.f1_micro.low", "val.mAP.mean", "gain.mean"):
        gate.check_names({f"arms.full.{metric}": 0.5}, ARMS, measured=several)
    with pytest.raises(FrostlineError, match=r"test\.accuracy\.mean is not a metric of the report"):
        gate.check_names({"arms.full.test.accuracy.mean": 0.5}, ARMS, measured=several)
    with pytest.raises(FrostlineError, match=r"test\.mAP\.mean is not a metric of the report"):
        gate.check_names({"arms.full.test.mAP.mean": 0.5}, ARMS)
