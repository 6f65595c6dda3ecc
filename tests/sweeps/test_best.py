"""The best setting of a sweep over its seeds, and the experiment that repeats its best run."""

from tests.sweeps.test_study import settings

from frostline.sweeps.best import best_of, settings_of
from frostline.sweeps.trial import BATCHED, Trial

METRIC = "val/accuracy"


def trials(values, state="complete", **attributes):
    """Trials of freeze schedules with seeds: {("full", 0): 0.9, …}."""
    return [
        Trial(number, {"freeze": freeze, "seed": str(seed)}, state, (value,), user_attrs=attributes)
        for number, ((freeze, seed), value) in enumerate(values.items())
    ]


def test_the_mean_over_seeds_decides_and_the_best_seed_stands_for_it():
    done = trials({("full", 0): 0.95, ("full", 1): 0.35, ("gradual", 0): 0.7, ("gradual", 1): 0.8})
    first, second = settings_of(done, METRIC)
    assert (first.point, second.point) == ({"freeze": "gradual"}, {"freeze": "full"})
    assert [trial.number for trial in first.trials] == [3, 2]
    assert first.objective["mean"] == 0.75
    assert best_of(done, settings()).number == 3


def test_a_lucky_seed_does_not_win_over_a_mean_of_three():
    done = trials({("full", 0): 0.99, **{("gradual", seed): 0.8 for seed in range(3)}})
    assert [setting.point["freeze"] for setting in settings_of(done, METRIC)] == ["gradual", "full"]


def test_seeds_of_a_pretraining_are_repetitions():
    points = [{"lr": lr, "pretrain.seed": str(seed)} for lr in (0.1, 0.2) for seed in range(3)]
    done = [Trial(number, point, "complete", (point["lr"],)) for number, point in enumerate(points)]
    first, second = settings_of(done, METRIC)
    assert (first.point, len(first.trials), second.point) == ({"lr": 0.2}, 3, {"lr": 0.1})


def test_trials_that_did_not_end_well_do_not_count():
    lost = trials({("full", 0): 0.9}, "pruned") + trials({("full", 0): 0.9}, "failed")
    assert settings_of(lost, METRIC) == []
    assert best_of(lost, settings()) is None


def test_a_seed_counts_once_and_as_the_trial_that_can_be_repeated():
    batched = trials({("full", 0): 0.5, ("full", 1): 0.5}, **{BATCHED: True})
    alone = Trial(7, {"freeze": "full", "seed": "0"}, "complete", (0.5,))
    (setting,) = settings_of([*batched, alone], METRIC)
    assert [trial.number for trial in setting.trials] == [7, 1]
