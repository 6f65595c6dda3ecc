import json
from contextlib import contextmanager

import pytest
import yaml
from tests.tiny import ALL, PROBE, arm_of, files, run_config, tensors

from frostline.console.errors import FrostlineError
from frostline.data.prepared.index import Index
from frostline.models import weights
from frostline.models.backbones import build
from frostline.models.initial_weights import NO_WEIGHTS
from frostline.models.pretrained import input_spec
from frostline.pipeline.evaluate import stage
from frostline.pipeline.finetune.stage import finetune
from frostline.preparation.stage import prepare
from frostline.schema import Evaluate, Prepare
from frostline.training.services import Services


@pytest.fixture(scope="module")
def arm(digits, tmp_path_factory):
    """An arm of three seeds."""
    folder = tmp_path_factory.mktemp("arm")
    config = run_config({"arm": "full"})
    finetune(
        arm_of(config, (0, 1, 7)),
        digits,
        folder / "out",
        Services(folder / "scratch"),
        folder / "timing.json",
    )
    return folder


def test_an_arm_leaves_a_folder_a_seed(arm):
    names = ("config.yaml", "history.csv", "training.json", "weights.safetensors")
    assert list(files(arm / "out")) == [f"seed-{seed}/{name}" for seed in (0, 1, 7) for name in names]
    assert list(json.loads((arm / "timing.json").read_text())["seeds"]) == ["0", "1", "7"]
    assert not files(arm / "scratch" / "resume")
    config = yaml.safe_load((arm / "out" / "seed-7" / "config.yaml").read_text())
    assert config == {**run_config({"arm": "full"}).model_dump(), "seed": 7}


def test_each_seed_draws_its_own_weights_images_and_order(arm):
    outs = files(arm / "out")
    assert len({outs[f"seed-{seed}/history.csv"] for seed in (0, 1, 7)}) == 3


def test_a_seed_does_not_depend_on_the_others(arm, digits, tmp_path):
    finetune(arm_of(run_config({"arm": "full"}), [7]), digits, tmp_path / "out", Services(tmp_path))
    alone = files(tmp_path / "out")
    assert alone == {name: content for name, content in files(arm / "out").items() if name in alone}


def test_a_linear_probe_leaves_the_body_as_it_was(digits, tmp_path):
    config = run_config({"freeze": PROBE})
    finetune(arm_of(config), digits, tmp_path / "out", Services(tmp_path))
    spec = input_spec(config.backbone, NO_WEIGHTS, config.input)
    start = tensors(build(config.backbone, spec, 10, seed=0))
    trained, _ = weights.load(tmp_path / "out" / "seed-0" / "weights.safetensors")
    moved = {name for name in start if not (trained[name] == start[name]).all()}
    assert moved == {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"freeze": {**ALL, "groups": {"head": "haed", "rest": "*"}}},
            "freeze.groups.head: no layers are called 'haed'; did you mean 'head'?",
        ),
        (
            {"freeze": {**ALL, "groups": {"stem": "stem", "rest": "*"}}},
            "freeze.groups.stem: 'stem' matches no parameter of this network",
        ),
        ({"dataset": {"shots": 500}}, "dataset.shots=500: class '8' has only 104 training images"),
        (
            {"weights": {"kind": "pretrain", "path": None, "head": "keep"}},
            "weights.path: not set, but weights=pretrain needs it",
        ),
        (
            {"weights": {"kind": "file", "path": "no.pth", "head": "keep"}},
            "weights.path: no.pth is not a file",
        ),
        ({"optimizer": {"name": "adamx"}}, "optimizer.name: no optimizer 'adamx'"),
        (
            {"optimizer": {"options": {"betas": [2.0, 2.0]}}},
            "optimizer: adamw can't be made with the options",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence_before_any_training(changes, message, digits, tmp_path):
    with pytest.raises(FrostlineError) as caught:
        finetune(arm_of(run_config(changes)), digits, tmp_path / "out", Services(tmp_path))
    assert str(caught.value).startswith(message)
    assert not files(tmp_path / "resume")
    assert not (tmp_path / "out").exists()


# ── folds ───────────────────────────────────────────────────────────────────────────────────────────────────


class Shown:
    """A progress that records the titles of what is trained."""

    def __init__(self):
        self.titles = []

    @contextmanager
    def __call__(self, title, total, **more):
        self.titles.append(title)
        yield lambda *words: None


@pytest.fixture(scope="module")
def folded(tmp_path_factory):
    """UCI digits in three folds; and their config."""
    out = tmp_path_factory.mktemp("folded") / "digits"
    run = run_config({"arm": "full", "trainer.epochs": 1})
    dataset = run.dataset.model_copy(update={"folds": 3})
    prepare(Prepare(dataset=dataset.without_budget()), out)
    return out, run.model_copy(update={"dataset": dataset})


def over(run, seeds, folds):
    return arm_of(run, seeds).model_copy(update={"folds": folds})


def test_the_runs_of_all_folds_are_one_configuration(folded, tmp_path):
    """Folds differ in how many images of a class they have, which is no hyperparameter."""
    from frostline.data.loading.label_budget import label_budget
    from frostline.tracking.run_tags import tags_of
    from frostline.training.run_info import run_info

    _, run = folded
    dataset = run.dataset.model_copy(update={"shots": None, "selection": "within", "folds": 7})
    prepare(Prepare(dataset=dataset), tmp_path / "data")
    runs = [
        run.model_copy(update={"dataset": dataset.model_copy(update={"fold": fold}), "seed": seed})
        for fold in range(7)
        for seed in range(2)
    ]
    index = [Index.read(tmp_path / "data").at_fold(one.dataset.fold) for one in runs]
    budgets = [label_budget(i, one.dataset, one.seed) for i, one in zip(index, runs, strict=True)]
    records = [b.record(i, one.dataset) for b, i, one in zip(budgets, index, runs, strict=True)]
    assert len({str(record) for record in records}) > 1
    infos = [run_info(one, i, b) for one, i, b in zip(runs, index, budgets, strict=True)]
    assert len({tags_of(info, "", {})["setting"] for info in infos}) == 1


def test_more_folds_or_seeds_train_the_new_runs_alone(folded, tmp_path):
    data, run = folded

    def trained(seeds, folds, scratch="scratch"):
        shown = Shown()
        services = Services(tmp_path / scratch, shown)
        finetune(over(run, seeds, folds), data, tmp_path / "out", services, tmp_path / "timing.json")
        assert not files(tmp_path / scratch / "resume")
        return [title for title in shown.titles if title.startswith("finetune")]

    assert trained([0], [0, 1]) == [
        "finetune full · fold 0, seed 0 (1/2)",
        "finetune full · fold 1, seed 0 (2/2)",
    ]
    first = files(tmp_path / "out")
    assert trained([0], [0, 1, 2]) == ["finetune full · fold 2, seed 0 (3/3)"]
    more = files(tmp_path / "out")
    assert first.items() <= more.items()
    assert list(json.loads((tmp_path / "timing.json").read_text())["folds"]) == ["0", "1", "2"]
    assert trained([0, 4], [0, 2]) == [
        "finetune full · fold 0, seed 4 (2/4)",
        "finetune full · fold 2, seed 4 (4/4)",
    ]
    before = files(tmp_path / "out")
    assert trained([0, 4], [0, 2]) == []
    assert files(tmp_path / "out") == before
    assert len(trained([0, 4], [0, 2], "other scratch")) == 4
    assert files(tmp_path / "out") == before


def test_each_fold_is_tested_on_images_that_its_run_has_not_seen(folded, tmp_path):
    data, run = folded
    finetune(over(run, [0], [0, 1, 2]), data, tmp_path / "out", Services(tmp_path))
    config = Evaluate(
        study="s", arm="full", dataset=run.dataset, seeds=[0], folds=[0, 1, 2], trainer=run.trainer
    )
    stage.run(config, data, tmp_path / "out", tmp_path / "evaluated", Services(tmp_path))
    measured = json.loads((tmp_path / "evaluated" / "metrics.json").read_text())
    accuracies = [measured["folds"][fold]["seeds"]["0"]["test"]["accuracy"] for fold in "012"]
    assert measured["test"]["accuracy"]["n"] == 3
    assert measured["test"]["accuracy"]["mean"] == pytest.approx(sum(accuracies) / 3)
    assert measured["soups"] == {"skipped": stage.FOLDS_DIFFER}
    tested = [
        row.split(",")[0]
        for fold in "012"
        for row in (tmp_path / f"evaluated/fold-{fold}/seed-0/predictions.csv").read_text().splitlines()[1:]
    ]
    assert len(tested) == len(set(tested)) == 1797
