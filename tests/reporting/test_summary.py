"""What the study's numbers say of it, and what a reader is told before trusting them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from tests.reporting.study import DEFAULT, MONITOR, SEEDS, TEST_IMAGES, Shape, write_study

from frostline.base.files import write_text
from frostline.base.formats import canonical_json, csv_text
from frostline.pipeline.report.stage import write_report
from frostline.reporting import page, tables, words
from frostline.reporting.inputs import read_arms
from frostline.reporting.records import as_json
from frostline.reporting.repeats import Repeats
from frostline.reporting.results import Summary
from frostline.reporting.summary import summarize
from frostline.schema import Report

TWO = {"scratch": DEFAULT["scratch"], "full": DEFAULT["full"]}


def _study(artifacts: Path, arms: Mapping[str, Shape], seeds: tuple[int, ...] = SEEDS) -> Summary:
    repeats = Repeats(seeds)
    return summarize("study", MONITOR, repeats, read_arms(artifacts, list(arms), repeats))


def _made_up(tmp_path: Path, arms: Mapping[str, Shape], seeds: tuple[int, ...] = SEEDS) -> Summary:
    return _study(write_study(tmp_path, arms, seeds), arms, seeds)


def test_a_usual_study_needs_no_note(tmp_path: Path) -> None:
    study = _made_up(tmp_path, DEFAULT)
    assert study.notes == []
    assert study.outcome == "helped"
    assert {arm.name: arm.comparison.outcome for arm in study.arms if arm.comparison} == {
        "zero_shot": "hurt",
        "linear_probe": "helped",
        "full": "helped",
        "gradual": "helped",
    }


def test_the_verdict_is_on_the_arm_that_validation_chooses(tmp_path: Path) -> None:
    artifacts = write_study(tmp_path)
    path = artifacts / "evaluate" / "gradual" / "metrics.json"
    content = json.loads(path.read_text())
    for scores in content["seeds"].values():
        scores["val"]["accuracy"], scores["test"]["accuracy"] = 1.0, 0.5
    write_text(path, canonical_json(content))
    study = _study(artifacts, DEFAULT)
    assert study.chosen is not None
    assert (study.chosen.name, study.outcome) == ("gradual", "hurt")


def test_of_arms_with_equal_means_the_first_is_chosen_though_the_sums_are_rounded(tmp_path: Path) -> None:
    arms, seeds = (
        {"scratch": DEFAULT["scratch"], "full": DEFAULT["full"], "gradual": DEFAULT["gradual"]},
        (0, 1),
    )
    artifacts = write_study(tmp_path, arms, seeds)
    for arm, right in (("full", (52, 52)), ("gradual", (53, 51))):
        path = artifacts / "evaluate" / arm / "metrics.json"
        content = json.loads(path.read_text())
        for seed, images in zip(seeds, right, strict=True):
            content["seeds"][str(seed)]["val"]["accuracy"] = images / 61
        write_text(path, canonical_json(content))
    study = _study(artifacts, arms, seeds)
    full, gradual = (arm.val_score.mean for arm in study.arms[1:])
    assert full < gradual < full + 1e-15
    assert study.chosen is not None
    assert study.chosen.name == "full"


def test_a_transfer_that_hurts(tmp_path: Path) -> None:
    study = _made_up(tmp_path, {"scratch": DEFAULT["full"], "full": Shape(0.05, 0.8, 5)})
    assert study.sentence.startswith("Transfer hurt: full loses 13.2 points of test accuracy (")
    assert study.headline == "Transfer hurt: −13.2 points of test accuracy"
    assert study.notes == ["full never reaches the baseline's best validation accuracy."]
    reach = as_json(study)["arms"]["full"]["epochs_to_twin"]
    assert reach == {"median": None, "least": None, "most": None, "reached": 0, "n": 5}


def test_a_difference_that_may_be_chance(tmp_path: Path) -> None:
    alike = {"scratch": Shape(0.1, 0.9, 5, noise=0.02), "full": Shape(0.3, 0.902, 5, noise=0.02)}
    study = _made_up(tmp_path, alike)
    assert study.outcome == "undecided"
    assert study.sentence.startswith("Undecided: full shows +0.2 points of test accuracy (")
    assert study.sentence.endswith("which may well be chance.")


def test_an_undecided_arm_beside_arms_that_gained(tmp_path: Path) -> None:
    """The arm with the best validation accuracy varies so much that its gain may be chance."""
    artifacts = write_study(tmp_path)
    path = artifacts / "evaluate" / "full" / "metrics.json"
    content = json.loads(path.read_text())
    for scores, test in zip(content["seeds"].values(), (1.0, 0.5, 1.0, 0.6, 1.0), strict=True):
        scores["val"]["accuracy"], scores["test"]["accuracy"] = 1.0, test
    write_text(path, canonical_json(content))
    study = _study(artifacts, DEFAULT)
    assert study.outcome == "undecided"
    assert study.headline == "Undecided for full; linear_probe and gradual gained; zero_shot lost"
    assert study.sentence.startswith("Undecided: full shows −3.0 points of test accuracy (")
    ending = "which may well be chance; linear_probe and gradual gained; zero_shot lost."
    assert study.sentence.endswith(ending)
    assert as_json(study)["verdict"]["sentence"] == study.sentence


def test_a_transfer_that_helps_names_the_arms_that_lose(tmp_path: Path) -> None:
    study = _made_up(tmp_path, DEFAULT)
    assert study.headline.startswith("Transfer helped: +")
    assert study.sentence.startswith("Transfer helped: full gains ")
    assert study.sentence.endswith("; zero_shot lost.")


def _measured(artifacts: Path, arms: Mapping[str, tuple[float, Sequence[float]]]) -> None:
    """Let the runs of `arms` have this validation accuracy and these test accuracies."""
    for arm, (val, tests) in arms.items():
        path = artifacts / "evaluate" / arm / "metrics.json"
        content = json.loads(path.read_text())
        for run, test in zip(content["seeds"].values(), tests, strict=True):
            run["val"]["accuracy"], run["test"]["accuracy"] = val, test
        write_text(path, canonical_json(content))


def test_the_planned_comparison_is_decided_by_its_own_p_and_the_others_by_the_corrected_one(
    tmp_path: Path,
) -> None:
    artifacts = write_study(tmp_path)
    alike = (0.90, 0.81, 0.86, 0.83, 0.85)
    base = (0.8, 0.8, 0.8, 0.8, 0.8)
    gains = {"zero_shot": (0.5, base), "linear_probe": (0.9, alike), "full": (0.99, alike)}
    _measured(artifacts, {"scratch": (0.8, base), **gains, "gradual": (0.7, alike)})
    study = _study(artifacts, DEFAULT)
    found = {arm.name: arm.comparison for arm in study.arms if arm.comparison}
    assert found["full"].gain == found["linear_probe"].gain
    assert found["full"].gain.p < 0.05 < found["full"].p_holm
    assert {name: comparison.outcome for name, comparison in found.items()} == {
        "zero_shot": "undecided",
        "linear_probe": "undecided",
        "full": "helped",
        "gradual": "undecided",
    }
    assert study.sentence.startswith("Transfer helped: full gains 5.0 points")
    assert study.sentence.endswith("5 paired seeds).")  # no other arm has a decided outcome
    written = as_json(study)["arms"]
    assert [written[name]["verdict"] for name in ("linear_probe", "full")] == ["undecided", "helped"]
    corrected, own = (words.p_value(p) for p in (found["full"].p_holm, found["full"].gain.p))
    column = tables.headers(study).index("p")
    cells = {row[0]: row[column] for row in tables.text_rows(study)}
    assert cells == {
        "scratch": "–",
        "zero_shot": "p = 1",
        "linear_probe": corrected,
        "full": f"{corrected} (uncorrected {own})",
        "gradual": corrected,
    }
    said = tables.explanation(study)
    assert "corrected for the 4 arms compared (Holm)" in said
    assert "can be compared only if the machine did nothing else" in said
    assert "for full, the uncorrected one does, since validation chose it" in said


def test_a_single_arm_has_no_other_to_correct_for(tmp_path: Path) -> None:
    study = _made_up(tmp_path, TWO)
    assert "Holm" not in tables.explanation(study)
    assert "uncorrected" not in tables.markdown_table(study)


def test_a_single_seed_decides_nothing(tmp_path: Path) -> None:
    study = _made_up(tmp_path, TWO, (3,))
    assert study.notes == ["A single seed: there are no intervals, and nothing can be decided."]
    headers = tables.headers(study)  # a single seed has neither an interval nor a range
    assert headers[1:4] == ("test accuracy", "gain over scratch", "jumpstart")
    assert headers[4:] == ("epochs to baseline's best", "time to baseline's best", "training time")
    assert study.outcome == "undecided"
    assert study.sentence.startswith("Undecided: a single seed of full shows +9.2 points")
    gain = as_json(study)["arms"]["full"]["gain"]
    assert [gain[name] for name in ("std", "low", "high", "p", "p_holm")] == [None] * 5


def test_without_a_baseline_there_is_nothing_to_gain(tmp_path: Path) -> None:
    study = _made_up(tmp_path, {"full": DEFAULT["full"]})
    numbers = as_json(study)
    assert study.notes == ["There is no arm named scratch, so no gain can be measured."]
    assert numbers["twin"] is None
    assert numbers["arms"]["full"]["gain"] is numbers["arms"]["full"]["epochs_to_twin"] is None


def test_the_baseline_alone_is_undecided(tmp_path: Path) -> None:
    study = _made_up(tmp_path, {"scratch": DEFAULT["scratch"]})
    assert study.chosen is None
    assert study.sentence == "Undecided: the study has no arm besides the one trained from scratch."


def test_accuracies_at_the_ceiling_are_called_out(tmp_path: Path) -> None:
    perfect = {"scratch": Shape(0.1, 1.2, 3, noise=0), "full": Shape(0.4, 1.2, 2, noise=0)}
    first, second, third = _made_up(tmp_path, perfect).notes
    assert first.startswith(
        "The from-scratch baseline is already at 100.0 % on test, which leaves little to gain"
    )
    assert second == "full is at 100.0 % on test: near the ceiling, where gains shrink."
    assert third.startswith("full differs from the baseline by the same 0.0 points in every seed")


def test_a_missing_seed_is_called_out_and_pairs_go_by_seed(tmp_path: Path) -> None:
    artifacts = write_study(tmp_path)
    path = artifacts / "evaluate" / "full" / "metrics.json"
    content = json.loads(path.read_text())
    del content["seeds"]["3"]
    write_text(path, canonical_json(content))
    study = _study(artifacts, DEFAULT)
    assert study.notes == ["full has 4 of 5 seeds (without 3), so its numbers rest on fewer runs."]
    pairs = {arm.name: arm.comparison.gain.n for arm in study.arms if arm.comparison}
    assert pairs == {"zero_shot": 5, "linear_probe": 5, "full": 4, "gradual": 5}
    # The accuracies beside the gain are over its seeds.
    verdict = study.verdict
    assert (verdict.arm, verdict.score.n, verdict.baseline.n, study.baseline.score.n) == ("full", 4, 4, 5)
    assert verdict.score.mean - verdict.baseline.mean == pytest.approx(verdict.gain.mean)


def test_runs_of_different_lengths_are_called_out(tmp_path: Path) -> None:
    artifacts = write_study(tmp_path)
    path = artifacts / "finetune" / "gradual" / "seed-2" / "history.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:32]))
    study = _study(artifacts, DEFAULT)
    assert study.notes == [
        "The runs of gradual last 30 to 40 epochs; in the curves, one that ended keeps its last value."
    ]
    assert {len(arm.curve) for arm in study.arms} == {41}


def test_an_arm_below_the_majority_class_is_named(tmp_path: Path) -> None:
    artifacts = write_study(tmp_path, TWO)
    for arm in TWO:
        for path in (artifacts / "evaluate" / arm).glob("seed-*/predictions.csv"):
            first, *rows = path.read_text().splitlines()
            for place in range(len(rows) - len(rows) // 20):
                name, _, *others = rows[place].split(",")
                rows[place] = ",".join([name, "rare", *others]).replace("rare", "common")
            path.write_text("\n".join([first, *rows]) + "\n")
    study = _study(artifacts, TWO)
    assert study.majority.sentence.startswith(
        "Always predicting the most frequent class of the test split, common"
    )
    assert as_json(study)["majority"]["rate"] >= 0.95
    assert [note for note in study.notes if "always predicting common" in note]


def _one_class(artifacts: Path, arms: Sequence[str], balanced: float, accuracy: float = 0.9) -> None:
    """Let all runs of `arms` have these test metrics; nine of ten images are of the class `common`."""
    for arm in arms:
        for path in (artifacts / "evaluate" / arm).glob("seed-*/predictions.csv"):
            rows = [[i, "common" if i % 10 else "rare", "common", 1.0] for i in range(TEST_IMAGES)]
            write_text(path, csv_text(("id", "label", "prediction", "confidence"), rows))
        path = artifacts / "evaluate" / arm / "metrics.json"
        content = json.loads(path.read_text())
        for number, run in enumerate(content["seeds"].values()):
            less = 0.01 * number if arm == "scratch" else 0.0  # so that gains differ
            run["test"] |= {"accuracy": accuracy - less, "balanced_accuracy": balanced}
        write_text(path, canonical_json(content))


@pytest.mark.parametrize(
    ("full", "learned"),
    [
        ({"balanced": 0.5}, False),
        ({"balanced": 0.5, "accuracy": 0.4}, False),
        ({"balanced": 0.5, "accuracy": 0.91}, True),
        ({"balanced": 0.8, "accuracy": 0.7}, True),  # its loss has class weights
    ],
)
def test_if_all_predict_one_class_nothing_was_learned(full, learned, tmp_path: Path) -> None:
    artifacts = write_study(tmp_path, TWO)
    _one_class(artifacts, ["scratch"], 0.5, 0.3)
    _one_class(artifacts, ["full"], **full)
    study = _study(artifacts, TWO)
    assert study.sentence.startswith("Nothing was learned") is not learned
    assert study.headline.startswith("Nothing was learned by full or from scratch") is not learned
    written = as_json(study)
    assert written["verdict"]["sentence"] == study.sentence
    assert {study.outcome, written["verdict"]["outcome"], written["arms"]["full"]["verdict"]} == {
        "helped" if learned else "undecided"
    }


@pytest.mark.parametrize(
    ("accuracies", "found"),
    [
        (
            (0.905, 0.89, 0.92, 0.9, 0.91),
            "may have learned nothing in 40 epochs: it is at 90.5 % on test, and the 95 % interval, 89.1 to"
            " 91.9, includes the 90.0 %",
        ),
        (
            (0.90, 0.85, 0.9, 0.88, 0.9),
            "has learned nothing in 40 epochs: it is at 88.6 % on test, not above the 90.0 %",
        ),
        ((0.94, 0.95, 0.93, 0.94, 0.96), ""),
    ],
)
def test_a_gain_over_a_baseline_that_hardly_learned_says_little(
    accuracies: Sequence[float], found: str, tmp_path: Path
) -> None:
    artifacts = write_study(tmp_path, TWO)
    _one_class(artifacts, ["scratch"], 0.5)
    _one_class(artifacts, ["full"], 0.99, 0.99)
    _measured(artifacts, {"scratch": (0.9, accuracies)})
    study = _study(artifacts, TWO)
    notes = [note for note in study.notes if "baseline" in note]
    doubted = "; but the baseline hardly learned more than to predict one class, so this says little of the"
    assert study.outcome == study.verdict.outcome == "helped"
    assert (doubted in study.sentence) is bool(found)
    assert study.tone("helped") == ("undecided" if found else "helped")
    shown = page.html(study, read_arms(artifacts, list(TWO), Repeats(SEEDS)), [])
    assert ('<header class="undecided">' in shown) is bool(found)
    if found:
        assert notes == [
            f"The from-scratch baseline {found} of always predicting common. So a gain over it says little of"
            " the transfer: set trainer.epochs above 40."
        ]
        assert study.headline.endswith(" points over a baseline that hardly learned")
    else:
        assert notes == []
        assert study.headline.endswith(" points of test accuracy")


def test_a_baseline_that_is_better_by_class_has_learned(tmp_path: Path) -> None:
    """With class weights, its accuracy may be below the majority class's share."""
    artifacts = write_study(tmp_path, TWO)
    _one_class(artifacts, ["scratch"], 0.8, 0.7)
    _one_class(artifacts, ["full"], 0.9, 0.95)
    study = _study(artifacts, TWO)
    assert study.tone("helped") == "helped"
    assert not [note for note in study.notes if "baseline" in note]


def test_a_baseline_that_learned_is_enough_for_a_verdict(tmp_path: Path) -> None:
    artifacts = write_study(tmp_path, TWO)
    _one_class(artifacts, ["full"], 0.5)
    _one_class(artifacts, ["scratch"], 0.9, 0.96)
    assert _study(artifacts, TWO).sentence.startswith("Transfer hurt: full loses 4.0 points")


def test_a_head_that_starts_anew_has_no_jumpstart_and_an_omitted_arm_is_said(tmp_path: Path) -> None:
    artifacts = write_study(tmp_path, TWO)
    for path in (artifacts / "finetune" / "full").glob("seed-*/training.json"):
        content = json.loads(path.read_text())
        content["head"] = {"start": "reset", "notice": "weights.head: reset, since the classes differ"}
        write_text(path, canonical_json(content))
    arms = read_arms(artifacts, list(TWO), Repeats(SEEDS))
    study = summarize("study", MONITOR, Repeats(SEEDS), arms, {"zero_shot": "the classes differ"})
    full = next(arm for arm in study.arms if arm.name == "full")
    assert full.comparison is not None
    assert full.comparison.jumpstart is None
    assert study.notes == [
        "There is no arm zero_shot: the classes differ.",
        "full: weights.head: reset, since the classes differ.",
    ]
    assert as_json(study)["arms"]["full"]["jumpstart"] is None
    assert tables.headers(study) == (
        *("arm", "test accuracy (95 % interval)", "gain over scratch (95 % interval)", "p"),
        "epochs to baseline's best (least to most)",
        *("time to baseline's best (least to most)", "training time"),  # no jumpstart, which no arm has
    )
    cells = [len(row) for row in tables.text_rows(study)]
    assert cells == [7, 7]
    assert "jumpstart" not in tables.markdown_table(study)
    assert "umpstart" not in page.html(study, arms, [])
    config = Report(study="study", arms=list(TWO), seeds=list(SEEDS), monitor=MONITOR, gate={})
    write_report(config, artifacts, tmp_path / "out")
    assert "jumpstart" not in (tmp_path / "out/report.md").read_text()


def test_equal_results_have_no_interval_that_claims_precision(tmp_path: Path) -> None:
    write_study(tmp_path, TWO)
    for arm in TWO:
        path = tmp_path / "evaluate" / arm / "metrics.json"
        content = json.loads(path.read_text())
        for scores in content["seeds"].values():
            scores["test"]["accuracy"] = {"scratch": 0.5, "full": 0.75}[arm]
        write_text(path, canonical_json(content))
    study = _study(tmp_path, TWO)
    scratch, full = tables.text_rows(study)
    assert scratch[1] == "50.0 % (all 5 equal)"
    assert full[1:3] == ["75.0 % (all 5 equal)", "+25.0 (all 5 equal)"]
    shown = page.html(study, read_arms(tmp_path, list(TWO), Repeats(SEEDS)), [])
    assert "95 %: all" not in shown
    assert "+25.0 to +25.0" not in shown
    assert "95 % interval all" not in shown


def test_test_time_augmentation_is_said_with_the_accuracies_without_it(tmp_path: Path) -> None:
    write_study(tmp_path, TWO)
    for arm, plain in (("scratch", 0.8), ("full", 0.9)):
        path = tmp_path / "evaluate" / arm / "metrics.json"
        content = json.loads(path.read_text())
        for scores in content["seeds"].values():
            scores["test_without_tta"] = {"accuracy": plain}
        write_text(path, canonical_json(content))
    assert _study(tmp_path, TWO).notes == [
        "Metrics on test are measured with test-time augmentation."
        " Accuracies without it: scratch 80.0 %, full 90.0 %."
    ]
