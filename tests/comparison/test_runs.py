"""Which runs `best`, `last` and a study's name stand for, in a store of MLflow."""

import pytest

from frostline.base.processes import process_key
from frostline.console.errors import FrostlineError
from frostline.sweeps.best import settings_of
from frostline.sweeps.trial import BATCHED, Trial
from frostline.training.services import TRIAL_NUMBER, RunInfo

pytestmark = pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated")
DATA = {"name": "digits", "kind": "digits", "fingerprint": "ab" * 16}


@pytest.fixture
def store(empty_store):
    return empty_store


def record(store, when, seed, value, *, freeze="full", study="tied", name=None, **tags):
    """Record a finished run; return its id."""
    config = {"stage": "finetune", "study": study, "freeze_name": freeze, "seed": seed}
    tags |= {"freeze": freeze, "seed": str(seed)}
    name = name or f"mlp·{freeze}·digits"
    about = RunInfo(name, "finetune", study, config, DATA, "training", tags, seed)
    run = store.begin(about, process_key(), when=when)
    run.metrics({"best/val/accuracy": value})
    run.tags({"weights.sha256": f"{study}-{freeze}-{seed}-{when}"})
    run.end("FINISHED")
    return run.id


def test_of_equal_runs_the_lowest_seed_stands_for_a_study_whichever_began_first(store):
    from frostline.comparison.runs import Results

    ids = {seed: record(store, when, seed, 0.5) for when, seed in ((1, 1), (2, 2), (3, 0))}
    assert [run.id for run in Results(store).chosen("tied")] == [ids[0], ids[1], ids[2]]


# (freeze, seed) of each trial in the order in which it ended, its number, and whether it was in a batch.
SWEEPS = {
    "two at a time": [("full", 1, 1, False), ("full", 0, 0, False)],
    "the best of a batch is trained again": [("full", 1, 1, True), ("full", 0, 2, False)],
    "equal settings": [("gradual", 0, 1, False), ("full", 0, 0, False)],
    "a batch of settings": [("gradual", 0, 1, True), ("full", 0, 2, False)],
    "seeds in another order": [("full", 3, 0, False), ("full", 1, 1, False)],
}


@pytest.mark.parametrize("ended", SWEEPS.values(), ids=SWEEPS)
def test_of_equal_trials_the_same_stands_for_a_sweep_in_its_report_and_as_a_name(store, ended):
    from frostline.comparison.runs import Results

    trials, ids = [], {}
    for when, (freeze, seed, number, batched) in enumerate(ended, 1):
        attributes = {BATCHED: True} if batched else {}
        point = {"freeze": freeze, "seed": str(seed)}
        trials.append(Trial(number, point, "complete", (0.5,), user_attrs=attributes))
        tags = {} if batched else {TRIAL_NUMBER: str(number)}
        ids[record(store, when, seed, 0.5, freeze=freeze, **tags)] = number
    trials.sort(key=lambda trial: trial.number)
    reported = settings_of(trials, "val/accuracy")[0].run.number
    named = {word: ids[Results(store).chosen(word)[0].id] for word in ("tied", "best")}
    assert named == {"tied": reported, "best": reported}


def test_the_beginning_of_a_configurations_name_stands_for_its_seeds(store):
    from frostline.comparison.runs import Results

    record(store, 1, 0, 0.5, study="earlier", name="gradual·resnet10t·digits")
    other = record(store, 2, 0, 0.5, study="other", name="full·mlp·labels")
    ids = {record(store, 3, seed, 0.5, name="gradual·mlp·labels") for seed in (0, 1)}
    record(store, 4, 0, 0.5, name="linear_probe·mlp·labels")
    record(store, 5, 0, 0.5, name="linear_probe·mlp·labels_b")
    results = Results(store)
    assert results.words()[2] == "tied"
    assert {run.id for run in results.named("gradual")} == ids  # the earlier study has another one
    assert [run.id for run in results.named("full·mlp")] == [other]
    with pytest.raises(
        FrostlineError, match="did you mean 'linear_probe·mlp·labels' or 'linear_probe·mlp·labels_b'"
    ):
        results.named("linear_probe")
    with pytest.raises(FrostlineError, match="no finished run with that id or name"):
        results.named("grad")


def test_a_repeated_trial_changes_no_tie(store):
    """The command that a sweep prints for its best trial records a further run, which has no number."""
    from frostline.comparison.runs import Results

    best = record(store, 1, 0, 0.5, freeze="full", **{TRIAL_NUMBER: "0"})
    record(store, 2, 0, 0.5, freeze="gradual", **{TRIAL_NUMBER: "1"})
    record(store, 3, 0, 0.5, freeze="full")
    assert [Results(store).chosen(word)[0].id for word in ("tied", "best")] == [best, best]


def test_names_choose_among_runs_whose_weights_exist(store):
    """`dvc repro` after an edit replaces the weights of the earlier version, which may have been better."""
    from frostline.comparison.runs import Results

    earlier = record(store, 1, 0, 0.9, freeze="full")
    middle = record(store, 2, 0, 0.7, freeze="gradual")
    newest = record(store, 3, 0, 0.6, freeze="head")
    results = Results(store)

    def named(*whens):
        sha256 = {f"tied-{freeze}-0-{when}" for when in whens for freeze in ("full", "gradual", "head")}
        return [results.chosen(word, sha256)[0].id for word in ("tied", "best", "last")]

    assert [results.chosen(word)[0].id for word in ("tied", "best", "last")] == [earlier, earlier, newest]
    assert named(2, 3) == [middle, middle, newest]
    assert named(1, 2) == [earlier, earlier, middle]
    for word in ("tied", "best", "last"):
        with pytest.raises(
            FrostlineError, match=rf"^{word}: the weights of all its runs were replaced by a "
        ):
            results.chosen(word, set())
