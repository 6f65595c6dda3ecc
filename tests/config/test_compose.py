"""Overrides become an experiment, or one sentence; see test_validate.py for what the schema refuses."""

import shutil

import pytest
from tests.imports import SRC

from frostline.base.processes import cores
from frostline.config import compose
from frostline.console.errors import FrostlineError
from frostline.pipeline.compose import study

CONF = SRC.parent / "conf"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with configs of its own."""
    shutil.copytree(CONF, tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_threads_fit_the_model_and_are_pinned_in_what_is_resolved():
    for backbone, threads in (("mlp", 1), ("resnet18", cores())):
        composed, _ = compose.experiment([f"backbone={backbone}"])
        assert composed.trainer.threads == composed.pretrain.trainer.threads == threads
    assert compose.experiment(["trainer.threads=3"])[0].trainer.threads == 3


def test_a_choice_and_a_value():
    made, choices = compose.experiment(["backbone=mlp", "backbone.hidden=[32,16]", "seed=7", "source=digits"])
    assert made.backbone.hidden == [32, 16]
    assert made.seed == 7
    assert made.source.kind == "digits"
    assert choices["backbone"] == "mlp"


def test_pretraining_has_choices_of_its_own():
    made, _ = compose.experiment(["optimizer=sgd", "pretrain.optimizer=adam", "pretrain.freeze=linear_probe"])
    assert (made.optimizer.name, made.pretrain.optimizer.name) == ("sgd", "adam")
    assert made.pretrain.freeze.phases[0].train == ["head"]
    assert made.freeze.phases[0].train == "all"


def test_an_experiment_gives_way_to_what_is_typed():
    made, _ = compose.experiment(["experiment=article_mlp", "optimizer=sgd", "trainer.epochs=2"])
    assert (made.backbone.kind, made.optimizer.name, made.trainer.epochs) == ("mlp", "sgd", 2)
    assert made.pretrain.trainer.epochs == 10


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["+optimizer.lrr=3"], "optimizer.lrr: unknown key; did you mean 'lr'?"),
        (["optimizer.lrr=3"], "optimizer.lrr: unknown key; did you mean 'optimizer.lr'"),
        (
            ["trainer.accumulate_grad_batches=4"],
            "trainer.accumulate_grad_batches: unknown key; write trainer.accumulate=4",
        ),
        (
            ["+trainer.grad_accumulation=4"],
            "trainer.grad_accumulation: unknown key; did you mean 'accumulate'?",
        ),
        (["trainer.accumulate=0"], "trainer.accumulate: found 0, must be greater than or equal to 1"),
        (["optimzer=adam"], "optimzer: unknown key; did you mean 'optimizer'?"),
        (["a b"], "'a b' is not an override; write key=value, such as seed=1"),
        (["=3"], "'=3' is not an override; write key=value"),
        (
            ["freeze=gradul"],
            "freeze: no option 'gradul'; did you mean 'gradual'?",
        ),
        (["dataset=mnist"], "dataset: no option 'mnist'; did you mean 'mnist5k'"),
        (["experiment=nul"], "experiment: no option 'nul'; allowed: article_mlp, mnist_to_digits"),
        (["pretrain.loss=l2"], "pretrain.loss: no option 'l2'; allowed: bce, cross_entropy, mse"),
        (["dataset=image_folder"], "dataset.root: needs a value; add dataset.root=…"),
        (["backbone=timm"], "backbone.name: needs a value; add backbone.name=…"),
        (["weights=file"], "weights.path: needs a value; add weights.path=…"),
        (["seed=x"], "seed: found 'x', must be a valid integer"),
        (["seed=-1"], "seed: found -1, must be greater than or equal to 0"),
        (["optimizer.lr=0"], "optimizer.lr: found 0, must be greater than 0"),
        (["trainer.monitor=val/acc"], "trainer.monitor: found 'val/acc'; did you mean 'val/accuracy' or "),
        (["~optimizer.lr"], "optimizer.lr: missing; give it a value"),
        (
            ["optimizer.options.betas=[0.8,0.9]"],
            "optimizer.options.betas: not in the config yet; add it with a plus, +opt",
        ),
        (
            ["freeze.phases.0.lr.head=2"],
            "freeze.phases.0.lr: not in the config yet; add it with a plus, +freeze.phases.0.lr",
        ),
        (
            ["seed=1,2"],
            "seed: found several values, 1,2; to run each, add -m (finetune and pretrain have it);"
            " a list is written [1,2]",
        ),
        (["freeze.groups=[head]"], "freeze.groups: found a list where keys with values are; give it as {KEY"),
        (["freeze.phases.9.train=all"], "freeze.phases.9.train: the list has no such item; give the whole"),
        (["seed=${sed}"], "seed: refers to sed, which is not in the config"),
        (["dataset.selection=lats"], "dataset.selection: found 'lats'; did you mean 'last'?"),
        (
            ["dataset.shots=1"],
            "dataset: shots=1 leaves no labelled image to choose the epoch on, as",
        ),
        (
            ["dataset.selection=last", "freeze=gradual"],
            "dataset.selection: found 'last', with which no images choose the epoch, but freeze.phases.1"
            ".until waits for val/loss; give the phase a length, such as 30%, or set dataset.selection=",
        ),
        (
            ["dataset.selection=last", "freeze.phases=[{train: all, until: end, restore: best}]"],
            "dataset.selection: found 'last', with which no images choose the epoch, but freeze.phases.0.r",
        ),
        (
            ["dataset.selection=last", "averaging=wise_ft"],
            "dataset.selection: found 'last', with which no images choose the epoch, but averaging chooses",
        ),
        (
            ["source.selection=last", "freeze@pretrain.freeze=gradual"],
            "source.selection: found 'last', with which no images choose the epoch, but pretrain.freeze.p",
        ),
    ],
)
def test_a_wrong_override_is_one_sentence(overrides, sentence):
    with pytest.raises(FrostlineError) as caught:
        compose.experiment(overrides)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_null_is_no_experiment():
    assert compose.experiment(["experiment=null", "seed=3"])[0] == compose.experiment(["seed=3"])[0]
    assert compose.composed_yaml(["experiment=null"]) == compose.composed_yaml([])


def test_free_and_optional_keys_are_added_with_a_plus():
    made, _ = compose.experiment(
        ["+optimizer.options.betas=[0.8,0.9]", "+freeze.phases.0.lr.head=2", "+freeze.phases.0.bn=eval"]
    )
    assert made.optimizer.options == {"betas": [0.8, 0.9]}
    assert made.freeze.phases[0].lr == {"head": 2}
    assert made.freeze.phases[0].bn == "eval"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("optimizer/adam.yaml", "name: adam\nlr: 0.1\nlr: 0.2\n", "found duplicate key lr"),
        ("optimizer/adam.yaml", "name: [adam\n", "fix the YAML"),
        (
            "optimizer/adam.yaml",
            "name: adam\nlr: ${lr}\n",
            "optimizer.lr: refers to lr, which is not in the config",
        ),
        ("optimizer/adam.yaml", "name: adam\n", "optimizer.lr: missing; give it a value"),
    ],
)
def test_a_wrong_file_is_one_sentence(name, content, sentence, project):
    (project / "conf" / name).write_text(content)
    with pytest.raises(FrostlineError) as caught:
        compose.experiment(["optimizer=adam"])
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_projects_own_option_is_found_and_listed(project):
    (project / "conf" / "optimizer" / "lion.yaml").write_text(
        "name: lion\nlr: 0.1\nweight_decay: 0.0\nmomentum: null\noptions: {}\nclip_norm: null\n"
        "schedule: {kind: constant, warmup: 0.0, final: 0.0}\n"
    )
    assert compose.experiment(["optimizer=lion"])[0].optimizer.name == "lion"
    with pytest.raises(FrostlineError, match=r"allowed: adam, adamw, lamb, lion, sgd"):
        compose.experiment(["optimizer=x"])


# ── a study ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_study_is_one_file_a_stage_each_with_its_own_keys_alone():
    arms = ["scratch", "linear_probe"]
    first = study.resolve({"experiment": "mnist_to_digits"}, arms).resolved
    assert list(first) == [
        "prepare-source",
        "prepare-target",
        "pretrain",
        "leakage",
        "finetune-scratch",
        "evaluate-scratch",
        "finetune-linear_probe",
        "evaluate-linear_probe",
        "report",
    ]
    scratch, probe = first["finetune-scratch"], first["finetune-linear_probe"]
    assert (scratch["weights"]["kind"], scratch["freeze_name"]) == ("none", "full")
    assert (probe["weights"]["kind"], probe["freeze_name"]) == ("pretrain", "linear_probe")
    differ = {key for key in scratch if scratch[key] != probe[key]}
    assert differ == {"arm", "weights", "freeze", "freeze_name"}
    assert first["prepare-target"]["dataset"]["shots"] is None
    assert scratch["seeds"] == [0, 1, 2, 3, 4]


def test_a_changed_choice_changes_the_stages_that_it_concerns():
    arms = ["scratch", "full"]
    before = study.resolve({"experiment": "mnist_to_digits"}, arms).resolved
    finetunes = {"finetune-full", "finetune-scratch"}
    for params, changed in (
        ({"optimizer": {"lr": 0.5}}, finetunes | {"report"}),  # which names it
        ({"pretrain": {"optimizer": {"lr": 0.5}}}, {"pretrain"}),
        ({"dataset": {"shots": 3}}, finetunes | {"evaluate-full", "evaluate-scratch"}),
    ):
        after = study.resolve({"experiment": "mnist_to_digits", **params}, arms).resolved
        assert {stem for stem in before if before[stem] != after[stem]} == changed, params


@pytest.mark.parametrize("content", ["", "# nothing\n", "{}"])
def test_an_empty_params_file_selects_what_conf_does(content, tmp_path):
    (tmp_path / "params.yaml").write_text(content)
    assert study.read_selection(tmp_path / "params.yaml") == {}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("seed: 1\nseed: 2\n", "params.yaml: line 2: found duplicate key seed; fix the YAML"),
        ("- freeze\n", "params.yaml: found ['freeze'], must be keys with values"),
    ],
)
def test_a_wrong_params_file_is_one_sentence(content, sentence, tmp_path):
    (tmp_path / "params.yaml").write_text(content)
    with pytest.raises(FrostlineError) as caught:
        study.read_selection(tmp_path / "params.yaml")
    assert str(caught.value) == f"{tmp_path}/{sentence}"


def test_a_sweep_chooses_by_the_metric_of_its_loss(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "params.yaml").write_text("experiment: photos\n")
    (tmp_path / "conf/experiment/photos.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /loss: bce\n"
    )
    for overrides, objective in (
        ([], "val/accuracy"),
        (["loss=bce"], "val/mAP"),
        (["experiment=photos"], "val/mAP"),
        (["experiment=photos", "sweep=tpe"], "val/mAP"),
        (["loss=bce", "sweep.objectives=[val/loss]"], "val/loss"),
    ):
        _, _, sweep = compose.space_of([*overrides, "seed=0,1"])
        assert sweep.objectives == [objective]


def test_points_of_a_sweep_compose_as_each_would_alone():
    points = [
        [
            f"optimizer={name}",
            f"optimizer.lr={rate}",
            "trainer.device=cpu",
            f"freeze={freeze}",
            f"seed={seed}",
        ]
        for freeze in ("full", "gradual")
        for name in ("sgd", "adamw")
        for rate in ("0.1", "1e-3")
        for seed in (0, 7)
    ]
    points += [
        [*points[0], "++optimizer.options.momentum=0.5"],
        [*points[0], "optimizer@pretrain.optimizer=adam"],
    ]
    points += [["dataset.shots=null"], ["dataset.shots=3"], ["dataset.shots=null"], ["out='a b'"], []]
    fixed = ["backbone=mlp", "trainer.epochs=3"]
    composed = compose.compose_points(fixed, points)
    assert composed == [compose.experiment([*fixed, *point]) for point in points]


def test_a_point_that_is_wrong_is_found_before_anything_runs():
    points = [["optimizer.lr=0.1"], ["optimizer.lr=-1"]]
    with pytest.raises(FrostlineError, match=r"optimizer\.lr: found -1"):
        compose.compose_points([], points)
    with pytest.raises(FrostlineError, match=r"optimizer\.lrr: unknown key; did you mean 'optimizer\.lr'"):
        compose.compose_points([], [["optimizer.lrr=0.1"]])


@pytest.mark.parametrize(
    "override",
    [
        "optimizer.lr=inf",
        "optimizer.lr=1e400",
        "optimizer.clip_norm=inf",
        "input.mean=[inf,0,0]",
        "input.crop=1e-9",
    ],
)
def test_numbers_that_are_not_finite_are_refused(override):
    with pytest.raises(FrostlineError, match=rf"^{override.partition('=')[0]}.*: found "):
        compose.experiment([override])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trainer.threads=3"], (3, 3)),
        (["trainer.threads=3", "pretrain.trainer.threads=1"], (3, 1)),
        (["pretrain.trainer.threads=1"], (cores(), 1)),
        (["backbone=mlp"], (1, 1)),
        (["backbone=mlp", "trainer.threads=2"], (2, 2)),
    ],
)
def test_the_pretraining_has_as_many_threads_as_the_fine_tuning(words, expected):
    composed, _ = compose.experiment(words)
    assert (composed.trainer.threads, composed.pretrain.trainer.threads) == expected
