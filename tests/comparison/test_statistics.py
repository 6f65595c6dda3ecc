"""What of two configurations differs, and how sure a difference is."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline.comparison.statistics import Result, compare, is_share
from frostline.stats.transfer import estimate, holm, paired_gain

METRICS = ["best/val/accuracy", "test/accuracy"]


def result(configuration, seed, test, val=None, name=None, **params):
    params = {key.replace("_", "."): value for key, value in params.items()}
    metrics = {"best/val/accuracy": test if val is None else val, "test/accuracy": test}
    return Result(
        f"{configuration}{seed}", f"{name or configuration}·s{seed}", configuration, seed, params, metrics
    )


def test_configurations_are_ordered_and_tested_against_the_best():
    values = {"a": [0.8, 0.84, 0.85], "b": [0.9, 0.93, 0.91], "c": [0.6, 0.6, 0.75]}
    made = compare(
        [result(k, s, v) for k, vs in values.items() for s, v in enumerate(vs)], METRICS, METRICS[1]
    )
    assert [line.name for line in made.lines] == ["b", "a", "c"]
    best, second, third = made.lines
    assert best.gain is best.p is None
    by_seed = {k: dict(enumerate(v)) for k, v in values.items()}
    gains = {k: paired_gain(by_seed[k], by_seed["b"]) for k in "ac"}
    assert (second.gain, third.gain) == (gains["a"], gains["c"])
    assert {"a": second.p, "c": third.p} == holm({k: gain.p for k, gain in gains.items()})
    assert second.results["test/accuracy"] == estimate(values["a"], bounds=(0, 1))


def test_no_interval_of_seconds_or_losses_is_below_zero():
    runs = [
        replace(result("a", seed, 0.9), metrics={"train_seconds": value, "test/loss": value, "drift": value})
        for seed, value in enumerate((0.02, 3.2))
    ]
    (line,) = compare(runs, ["train_seconds", "test/loss", "drift"], "test/loss").lines
    lows = {name: estimate.low for name, estimate in line.results.items()}
    assert (lows["train_seconds"], lows["test/loss"]) == (0.0, 0.0)
    assert lows["drift"] < 0


def test_of_equal_configurations_the_one_with_the_lower_trial_is_first_whatever_the_test_split_says():
    runs = [
        replace(result(name, seed, test, val=0.7), trial=trial)
        for name, seed, test, trial in (
            ("a", 0, 0.9, 3),
            ("a", 1, 0.9, 2),
            ("b", 0, 0.8, 1),
            ("b", 1, 0.8, 0),
        )
    ]
    assert [line.name for line in compare(runs, METRICS, "test/accuracy").lines] == ["b", "a"]


def test_validation_orders_and_test_is_tested():
    made = compare([result("a", 0, 0.9, val=0.7), result("b", 0, 0.8, val=0.75)], METRICS, "test/accuracy")
    assert [line.name for line in made.lines] == ["b", "a"]
    assert made.lines[1].gain.mean == pytest.approx(0.1)
    assert made.lines[1].p is None  # one seed


def test_losses_are_better_when_small_and_a_configuration_without_the_metric_is_last():
    runs = [
        Result(k, f"{k}·s0", k, 0, {}, m)
        for k, m in {"a": {"val/loss": 2.0}, "b": {}, "c": {"val/loss": 1.0}}.items()
    ]
    made = compare(runs, ["val/loss"], "val/loss")
    assert [line.name for line in made.lines] == ["c", "a", "b"]
    assert made.lines[2].results == {"val/loss": None}
    assert made.lines[2].gain is None


def test_folds_and_seeds_are_repetitions_with_the_correction_for_their_overlap():
    repetitions = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]

    def runs(name, values):
        return [
            Result(
                f"{name}{i}",
                f"{name}·f{fold}·s{seed}",
                name,
                seed,
                {"dataset.folds": "3"},
                {METRICS[1]: value},
                fold,
            )
            for i, ((fold, seed), value) in enumerate(zip(repetitions, values, strict=True))
        ]

    a, b = [0.9, 0.8, 0.7, 0.9, 0.8, 0.9], [0.6, 0.7, 0.6, 0.8, 0.5, 0.6]
    best, other = compare([*runs("a", a), *runs("b", reversed(b))][::-1], METRICS[1:], METRICS[1]).lines
    assert (best.name, other.name, best.results[METRICS[1]].n) == ("a", "b", 6)
    assert [(run.fold, run.seed) for run in best.runs] == repetitions
    expected = paired_gain(dict(enumerate(reversed(b))), dict(enumerate(a)), overlap=1 / 2)
    assert (other.gain.mean, other.gain.p) == (pytest.approx(expected.mean), pytest.approx(expected.p))
    assert best.results[METRICS[1]] == estimate(a, bounds=(0, 1), overlap=1 / 2)
    one_fold = compare(runs("a", a)[:2], METRICS[1:], METRICS[1]).lines[0]
    assert one_fold.results[METRICS[1]] == estimate(a[:2], bounds=(0, 1))
    # Only what a number is made from counts: runs that have the metric, and pairs.
    on_one = [*runs("a", a)[:4], *runs("b", b)[:2]]
    on_one[2:4] = [replace(run, metrics={METRICS[0]: 0.5}) for run in on_one[2:4]]
    best, other = compare(on_one, METRICS[1:], METRICS[1]).lines
    assert best.results[METRICS[1]] == estimate(a[:2], bounds=(0, 1))
    best, other = compare(
        [*runs("a", a)[:4], *runs("b", b)[:2], *runs("b", b)[4:]], METRICS[1:], METRICS[1]
    ).lines
    assert (best.name, other.gain.n) == ("a", 2)
    assert other.gain == paired_gain(dict(enumerate(b[:2])), dict(enumerate(a[:2])))


def test_the_last_of_several_runs_with_one_seed_counts():
    made = compare([result("a", 0, 0.1), result("a", 1, 0.2), result("a", 0, 0.6)], METRICS, METRICS[0])
    assert [run.metrics["test/accuracy"] for run in made.lines[0].runs] == [0.6, 0.2]


def test_parameters_that_a_name_contains_or_determines_get_no_column():
    same = {"trainer_batch": "32"}
    made = compare(
        [
            result("a", 0, 0.9, freeze_x="1", optimizer_lr="0.1", note="x" * 40, **same),
            result("b", 0, 0.8, freeze_x="2", optimizer_lr="0.2", note="y" * 40, **same),
        ],
        METRICS,
        METRICS[0],
    )
    assert made.varied == ("freeze.x", "optimizer.lr")  # no freeze_name decides it
    assert made.unlisted == ("note",)
    named = [
        Result(k, f"{k}·s0", k, 0, {"freeze_name": k, "freeze.x": k, "optimizer.lr": k, "seed": k}, {})
        for k in "ab"
    ]
    made = compare(named, ["m"], "m")
    assert (made.varied, made.unlisted) == (("optimizer.lr",), ())  # freeze_name stands for freeze.x


def test_equal_names_become_distinct():
    runs = [result(k, 0, 0.5, name="full", trainer_epochs=k, lr="1") for k in ("3", "4")]
    assert {line.name for line in compare(runs, METRICS, METRICS[0]).lines} == {
        "epochs3·full",
        "epochs4·full",
    }


@pytest.mark.parametrize(
    ("params", "names", "varied"),
    [
        (
            [{"dataset.test_sets.day.root": "a"}, {"dataset.test_sets.day.root": "b"}],
            ["day.root=a·full", "day.root=b·full"],
            ["dataset.test_sets.day.root"],
        ),
        (
            [{"dataset.test_sets.day.root": "a", "dataset.test_sets.day.file": "null"}, {}],
            ["day.root=a·full", "day.root=null·full"],
            ["dataset.test_sets.day.root"],
        ),
        (
            [{"input.size": "null"}, {"input.size": "64"}, {"input.size": "[32, 96]"}],
            ["size=null·full", "size64·full", "size=[32, 96]·full"],
            ["input.size"],
        ),
        (
            [
                {"optimizer.lr": "0.1", "pretrain.optimizer.lr": "0.1"},
                {"optimizer.lr": "0.1", "pretrain.optimizer.lr": "0.2"},
                {"optimizer.lr": "0.3", "pretrain.optimizer.lr": "0.2"},
            ],
            [
                "optimizer.lr0.1·pretrain.optimizer.lr0.1·full",
                "optimizer.lr0.1·pretrain.optimizer.lr0.2·full",
                "optimizer.lr0.3·full",
            ],
            ["optimizer.lr", "pretrain.optimizer.lr"],
        ),
        (
            [{"dataset.kind": "image_folder", "dataset.root": f"{site}/test"} for site in "ab"],
            ["dataset.root=a/test·full", "dataset.root=b/test·full"],
            ["dataset.root"],
        ),
        ([{"input.fit": "null"}, {"input.fit": "pad"}], ["fit=null·full", "fit=pad·full"], ["input.fit"]),
    ],
)
def test_names_begin_with_what_differs(params, names, varied):
    results = [Result(str(i), "full·s0", str(i), 0, own, {"m": -i}) for i, own in enumerate(params)]
    made = compare(results, ["m"], "m")
    assert [line.name for line in made.lines] == names
    assert list(made.varied) == varied


def test_nothing_to_compare():
    with pytest.raises(ValueError, match="no run"):
        compare([], METRICS, METRICS[0])


def test_shares():
    assert is_share("test/accuracy")
    assert is_share("test/ece")
    assert not is_share("val/loss")
    assert not is_share("train_seconds")


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.floats(0, 1)), min_size=1, max_size=30))
def test_every_configuration_has_a_line_and_every_seed_a_run(drawn):
    made = compare([result(str(k), s, v) for k, s, v in drawn], METRICS, METRICS[0])
    assert {(line.name, run.seed) for line in made.lines for run in line.runs} == {
        (str(k), s) for k, s, _ in drawn
    }
    most = max(len(line.runs) for line in made.lines)
    few = [2 * len(line.runs) <= most for line in made.lines]
    assert few == sorted(few)
    for part in (True, False):
        lines = [line for line, has_few in zip(made.lines, few, strict=True) if has_few == part]
        means = [line.results["best/val/accuracy"].mean for line in lines]
        assert means == pytest.approx(sorted(means, reverse=True))
