"""What a config with folds may be."""

import pytest

from frostline.config import compose, stage_configs
from frostline.console.errors import FrostlineError
from frostline.training.run_info import run_name
from frostline.training.services import setting_of


def test_folds_that_do_not_fit_are_refused():
    for words, sentence in (
        (["dataset.fold=1"], "dataset: fold is 1 and folds is null; set folds too, such as folds=5"),
        (["dataset.folds=3", "dataset.fold=3"], "fold is 3, and folds=3 allows 0 to 2; set one of them"),
        (["dataset.folds=1"], "dataset.folds: found 1, must be greater than or equal to 2"),
    ):
        with pytest.raises(FrostlineError) as raised:
            compose.experiment(words)
        assert sentence in str(raised.value)


def test_a_run_needs_a_fold():
    composed, choices = compose.experiment(["dataset.folds=3"])
    with pytest.raises(FrostlineError) as raised:
        stage_configs.finetune_config(composed, choices)
    assert str(raised.value) == (
        "dataset.fold: null, and dataset.folds=3; set dataset.fold=0, or run all folds with "
        "frostline finetune -m dataset.fold=0,1,2"
    )
    composed, choices = compose.experiment(["dataset.folds=3", "dataset.fold=1", "seed=4"])
    name = run_name(stage_configs.finetune_config(composed, choices))
    assert name == "full·resnet10t·digits·f1·s4"
    assert setting_of(name) == "full·resnet10t·digits"


@pytest.mark.parametrize(("key", "words"), [("dataset", ["dataset.folds=3"]), ("source", ["source.folds=3"])])
def test_what_shows_one_run_takes_the_first_fold(key, words, capsys):
    composed, choices = compose.experiment(words)
    stage, config = {
        "dataset": ("finetune", stage_configs.finetune_config),
        "source": ("pretrain", stage_configs.pretrain_config),
    }[key]
    assert config(stage_configs.at_first_fold(composed, stage), choices).dataset.fold == 0
    assert capsys.readouterr().err == f"frostline: {key}.fold=0 is used, of 3 folds\n"


@pytest.mark.parametrize("words", [[], ["dataset.folds=3", "dataset.fold=2"]])
def test_a_fold_that_is_chosen_stays(words, capsys):
    composed, _ = compose.experiment(words)
    assert stage_configs.at_first_fold(composed) is composed
    assert capsys.readouterr().err == ""


def test_configs_without_folds_are_as_before():
    """Their hashes are the keys of caches and of runs."""
    composed, choices = compose.experiment([])
    dataset = stage_configs.finetune_config(composed, choices).model_dump()["dataset"]
    assert dataset.keys() == {"kind", "split", "shots", "fraction", "selection", "on_bad_image"}


def test_a_study_runs_on_all_folds_or_on_those_that_are_named():
    for words, folds in (
        ([], None),
        (["dataset.folds=3"], [0, 1, 2]),
        (["dataset.folds=3", "folds=[2,0]"], [0, 2]),
        (["dataset.folds=3", "dataset.fold=1"], None),
    ):
        composed, choices = compose.experiment(words)
        arm = stage_configs.arm_config(composed, choices, "full")
        assert arm.folds == folds
        assert ("folds" in arm.model_dump()) == (folds is not None)
    fold = composed.dataset.fold
    assert [run.dataset.fold for run in arm.runs().values()] == [fold] * len(arm.seeds)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["folds=[0]"], "folds: found [0], but dataset.folds is null; set it, or folds=null"),
        (["dataset.folds=3", "folds=[3]"], "folds: found [3]; dataset.folds=3 allows each of 0 to 2 once"),
        (
            ["dataset.folds=3", "folds=[1,1]"],
            "folds: found [1, 1]; dataset.folds=3 allows each of 0 to 2 once",
        ),
        (
            ["dataset.folds=3", "dataset.fold=0", "folds=[1]"],
            "folds: found [1], but dataset.fold=0 is one fold; set one of the two to null",
        ),
    ],
)
def test_folds_of_a_study_that_do_not_fit_are_refused(words, sentence):
    composed, choices = compose.experiment(words)
    with pytest.raises(FrostlineError) as raised:
        stage_configs.arm_config(composed, choices, "full")
    assert str(raised.value) == sentence
