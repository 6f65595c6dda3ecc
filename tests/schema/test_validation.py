import copy
import json

import pytest
from tests.tiny import RUN, run_config

from frostline import schema
from frostline.config import compose
from frostline.console.errors import FrostlineError
from frostline.schema.validation import validated

UNTIL = (
    "end, 30%, {epochs: 3}, {steps: 100}, {plateau: val/loss, patience: 2, max: 60%}"
    " or {reaches: val/accuracy, value: 0.9, max: 60%}"
)


def changed(**values):
    """The tiny run, with values at dotted keys; `...` removes one."""
    config = copy.deepcopy(RUN)
    for dotted, value in values.items():
        *path, last = dotted.split("__")
        inner = config
        for step in path:
            inner = inner[int(step) if step.isdigit() else step]
        if value is ...:
            del inner[last]
        else:
            inner[last] = value
    return config


def test_what_is_right_comes_back_as_a_model():
    assert validated(schema.Run, RUN) == run_config()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"optimizer__lrr": 1.0},
            "optimizer.lrr: unknown key; did you mean 'lr'?"
            " (allowed: clip_norm, lr, momentum, name, options, schedule, weight_decay)",
        ),
        ({"backbone__hiden": [3]}, "backbone.hiden: unknown key; did you mean 'hidden'?"),
        ({"optmizer": {}}, "optmizer: unknown key; did you mean 'optimizer'?"),
        ({"optimizer__lr": ...}, "optimizer.lr: missing; give it a value"),
        ({"backbone__activation": ...}, "backbone.activation: missing; give it a value"),
        ({"optimizer__lr": "fast"}, "optimizer.lr: found 'fast', must be a valid number"),
        ({"optimizer__lr": 0}, "optimizer.lr: found 0, must be greater than 0"),
        ({"trainer__epochs": 1.5}, "trainer.epochs: found 1.5, must be a valid integer"),
        ({"trainer__epochs": "3"}, "trainer.epochs: found '3', must be a valid integer"),
        ({"trainer__epochs": True}, "trainer.epochs: found True, must be a valid integer"),
        (
            {"input__size": 2},
            "input.size: found 2; allowed: 4 to 2048 pixels, the side of a square, or [height",
        ),
        ({"input__std": [0.5, 0.0]}, "input.std.1: found 0.0, must be greater than 0"),
        ({"dataset__split__val": 1.0}, "dataset.split.val: found 1.0, must be less than 1"),
        ({"backbone__hidden": [16, 0]}, "backbone.hidden.1: found 0, must be greater than or equal to 1"),
        ({"study": "", "stage": "x"}, "stage: found 'x'; allowed: finetune, pretrain"),
        (
            {"averaging": {"kind": "wise_ft", "alphas": []}},
            "averaging.alphas: found [], must have at least one item",
        ),
        (
            {"backbone__activation": "rellu"},
            "backbone.activation: found 'rellu'; did you mean 'relu'?"
            " (allowed: bipolar_sigmoid, exponential, linear, relu, sigmoid, tanh)",
        ),
        (
            {"backbone__kind": "mpl"},
            "backbone.kind: found 'mpl'; did you mean 'mlp'? (allowed: mlp, plugin, timm)",
        ),
        ({"input__channels": 0}, "input.channels: found 0, must be greater than or equal to 1"),
        ({"input__channels": "rgb"}, "input.channels: found 'rgb', must be a valid integer"),
        ({"input__depth": 12}, "input.depth: found 12; allowed: 16, 8"),
        ({"input__size": []}, "input.size: found []; allowed: 4 to 2048 pixels, the side of a square, or [h"),
        (
            {"input__size": [32, 64, 3]},
            "input.size: found [32, 64, 3]; allowed: 4 to 2048 pixels, the side of",
        ),
        (
            {"input__size": [32, 3]},
            "input.size: found [32, 3]; allowed: 4 to 2048 pixels, the side of a squar",
        ),
        ({"input__fit": "padd"}, "input.fit: found 'padd'; did you mean 'pad'? (allowed: crop, pad, squash)"),
        ({"trainer__accumulate": 0}, "trainer.accumulate: found 0, must be greater than or equal to 1"),
        ({"trainer__threads": 1000000}, "trainer.threads: found 1000000, must be less than or equal to 1024"),
        ({"trainer__threads": 0}, "trainer.threads: found 0, must be greater than or equal to 1"),
        ({"dataset__fraction": 0.5}, "dataset: shots and fraction are both set; set one of them to null"),
        ({"freeze__phases__0__until": "eend"}, f"freeze.phases.0.until: found 'eend'; allowed: {UNTIL}"),
        (
            {"freeze__phases__0__until": {"plateau": "val/loss"}},
            "freeze.phases.0.until: found {'plateau': 'val/loss'}; allowed: " + UNTIL,
        ),
        (
            {"freeze__phases__0__train": "head"},
            "freeze.phases.0.train: found 'head'; allowed: all, or a list of",
        ),
        ({"freeze__phases__0__lr": {"head": 0}}, "freeze.phases.0.lr.head: found 0, must be greater than 0"),
        ({"freeze__phases__0__tarin": []}, "freeze.phases.0.tarin: unknown key; did you mean 'train'?"),
        (
            {"freeze__groups": {"head": 3}},
            "freeze.groups: found {'head': 3}; allowed: group name → a pattern",
        ),
        ({"freeze__phases": {}}, "freeze.phases: found {}, must be a list"),
        ({"augment": None}, "augment: found None, must be keys with values"),
    ],
)
def test_what_is_wrong_is_one_sentence(change, sentence):
    with pytest.raises(FrostlineError) as caught:
        validated(schema.Run, changed(**change))
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_every_mistake_is_named_at_once_and_only_once():
    with pytest.raises(FrostlineError) as caught:
        validated(schema.Run, changed(optimizer__lr=-1.0, trainer__epoch=3, freeze__phases__0__until="0.5"))
    sentences = str(caught.value).split("; ")
    assert (
        sum(s.startswith(("optimizer.lr: ", "trainer.epoch: ", "freeze.phases.0.until: ")) for s in sentences)
        == 3
    )


def test_a_file_is_named():
    with pytest.raises(FrostlineError, match=r"^a/run\.yaml: seed: found '3', must be a valid integer"):
        validated(schema.Run, changed(seed="3"), "a/run.yaml")


def test_a_run_of_an_earlier_config_has_its_one_seed_in_a_list():
    earlier = {key: value for key, value in RUN.items() if key != "seed"}
    assert validated(schema.Run, {**earlier, "seeds": [7]}) == run_config({"seed": 7})
    with pytest.raises(FrostlineError, match=r"seeds: unknown key; did you mean .seed"):
        validated(schema.Run, {**earlier, "seeds": [0, 1]})


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_what_is_no_mapping_at_all_is_one_sentence(data):
    with pytest.raises(FrostlineError, match=r"must be keys with values$") as caught:
        validated(schema.Run, data, "run.yaml")
    assert str(caught.value).startswith(f"run.yaml: found {data!r}")


@pytest.mark.parametrize(
    "typed",
    [
        ["out="],
        ["dataset=image_folder", "dataset.root="],
        ["dataset=table", "dataset.file=' '"],
        ["dataset=table", "dataset.file=x.csv", "dataset.root="],
        ["dataset=huggingface", "dataset.path="],
        ["source=npz", "source.file="],
        ["weights=file", "weights.path="],
        ["sweep.store="],
    ],
)
def test_an_empty_path_is_not_the_current_folder(typed):
    key = typed[-1].partition("=")[0]
    with pytest.raises(FrostlineError, match=rf"^{key}: found an empty text; give a path"):
        compose.experiment(typed)


@pytest.mark.parametrize("key", ["dataset.root", "weights.path", "out"])
def test_the_home_of_an_unknown_user(key):
    words = [
        "dataset=image_folder",
        "dataset.root=.",
        "weights=file",
        "weights.path=x",
        f"{key}=~nobody-here/x",
    ]
    with pytest.raises(FrostlineError, match=rf"^{key}: found '~nobody-here/x', but there is no such user"):
        compose.experiment(words)


@pytest.mark.parametrize(
    ("out", "typed", "sentence"),
    [
        ("photos", ["dataset=image_folder", "dataset.root=photos"], "out: photos is dataset.root=photos;"),
        ("./photos/run", ["dataset=image_folder", "dataset.root=photos"], "out: ./photos/run is inside "),
        (".", ["dataset=image_folder", "dataset.root=photos"], "out: . contains dataset.root=photos;"),
        ("link", ["dataset=huggingface", "dataset.path=photos"], "out: link is dataset.path=photos;"),
        ("photos", ["dataset=table", "dataset.file=photos/x.csv"], "out: photos contains dataset.file="),
        ("photos", ["source=npz", "source.file=photos/x.npz"], "out: photos contains source.file="),
    ],
)
def test_an_output_folder_is_apart_from_the_data(out, typed, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to("photos")
    with pytest.raises(FrostlineError) as caught:
        compose.experiment([*typed, f"out={out}"])
    assert str(caught.value).startswith(sentence)
    assert compose.experiment([*typed, "out=photos of a run"])[0].out == "photos of a run"


def test_runs_may_be_beside_a_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    composed, _ = compose.experiment(["dataset=table", "dataset.file=x.csv", "dataset.root=.", "out=run"])
    assert composed.out == "run"


@pytest.mark.parametrize(
    ("typed", "quoted"),
    [("[false,true]", '["false","true"]'), ("[0.0,1.0]", '["0.0","1.0"]'), ("[a,null]", '["a","null"]')],
)
def test_names_of_classes_that_are_no_text_are_to_be_quoted(typed, quoted):
    table = ["dataset=table", "dataset.file=x.csv"]
    with pytest.raises(
        FrostlineError, match=r"^dataset\.classes: found .*, which are not all text"
    ) as caught:
        compose.experiment([*table, f"dataset.classes={typed}"])
    assert f"quote each name: {quoted}" in str(caught.value)
    names = compose.experiment([*table, f"dataset.classes={quoted}"])[0].dataset.classes
    assert names == json.loads(quoted)
