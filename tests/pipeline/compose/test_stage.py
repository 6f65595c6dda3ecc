"""The stage that resolves a selection: whole or not at all, and nothing that can't work gets past it."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from tests.tiny import files

from frostline.console.errors import FrostlineError
from frostline.pipeline.compose.stage import compose_study

CONF = Path(__file__).parents[3] / "conf"
ARMS = ["scratch", "full"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose default network is the smallest."""
    shutil.copytree(CONF, tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("experiment: article_mlp\nfreeze: full\nseeds: [0, 1]\n")
    return tmp_path


def resolve(arms=ARMS, out="resolved"):
    compose_study(Path("params.yaml"), arms, Path(out))
    return {path.stem: yaml.safe_load(path.read_text()) for path in Path(out).glob("*.yaml")}


def test_one_file_a_stage(project):
    resolved = resolve(["scratch", "full", "full"])
    assert set(resolved) == {
        "prepare-source",
        "prepare-target",
        "leakage",
        "pretrain",
        "finetune-scratch",
        "finetune-full",
        "evaluate-scratch",
        "evaluate-full",
        "report",
    }
    assert resolved["report"]["arms"] == ["scratch", "full"]
    assert resolved["report"]["setup"]["source"] == "mnist5k"
    assert resolved["report"]["setup"]["backbone"] == "mlp"
    assert resolved["finetune-full"]["seeds"] == [0, 1]
    assert resolved["finetune-full"]["weights"] == {"kind": "pretrain", "path": None, "head": "auto"}


def test_what_is_stale_goes_and_what_is_the_same_stays_byte_for_byte(project):
    resolve(["scratch", "full", "zero_shot"])
    before = files(project / "resolved")
    resolve(["scratch", "full"])
    after = files(project / "resolved")
    assert before.keys() - after.keys() == {"finetune-zero_shot.yaml", "evaluate-zero_shot.yaml"}
    assert {name for name in after if after[name] != before[name]} == {"report.yaml"}


@pytest.mark.parametrize(
    ("params", "arms", "sentence"),
    [
        ("experiment: nope\n", ARMS, "experiment: no option 'nope'; allowed: article_mlp, mnist_to_digits"),
        ("experiment: article_mlp\n", ["full"], "--arms: scratch is missing; add the from-scratch baseline"),
        ("experiment: article_mlp\n", ["scratch", "ful"], "freeze: no option 'ful'; did you mean 'full'?"),
        ("experiment: article_mlp\nseed: x\n", ARMS, "seed: found 'x', must be a valid integer"),
        ("experiment: article_mlp\nsed: 1\n", ARMS, "sed: unknown key; did you mean 'seed'"),
        ("a: [1\n", ARMS, "params.yaml: "),
        ("seed: 1\nseed: 2\n", ARMS, "params.yaml: "),
        (
            "experiment: article_mlp\nbackbone: {hidden: [8]}\n",
            ["scratch", "gradual"],
            "arm gradual: freeze.groups.rest: empty, since the groups before it take all that '*' matches",
        ),
        (
            "experiment: article_mlp\noptimizer: {name: adamm}\n",
            ARMS,
            "optimizer.name: ",
        ),
        (
            "backbone: resnet18\ninput: {size: 3}\n",
            ARMS,
            "input.size: found 3; allowed: 4 to 2048 pixels, the side of a square, or [height, width]",
        ),
        (
            "experiment: article_mlp\ngate: {arms.ful.test.accuracy.mean: 1}\n",
            ARMS,
            "gate",
        ),
    ],
)
def test_what_can_not_work_is_refused_and_nothing_is_written(project, params, arms, sentence):
    (project / "params.yaml").write_text(params)
    with pytest.raises(FrostlineError) as caught:
        resolve(arms)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (project / "resolved").exists()


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ("seeds: [0, a]\n", "params.yaml: seeds.1: found 'a', must be a valid integer"),
        ("seeds: {a: 1}\n", "params.yaml: seeds: found keys where a list is; give it as [a,b]"),
        ("gate: {full.gain: {min: 2}}\n", "params.yaml: gate.full.gain: found {'min': 2}, must be a valid n"),
        ("gate: {full: {gain: 2}}\n", "params.yaml: gate.full: found {'gain': 2}, must be a valid number"),
        ("a b: 1\n", "params.yaml: 'a b' is not a key; "),
        ("on: 1\n", "params.yaml: True is not a key; "),
        (
            "+optimizer.options.eps: 1\n",
            "params.yaml: '+optimizer.options.eps' is not a key; write keys as opti",
        ),
        (
            "weights: [none]\n",
            "params.yaml: weights: takes one option; to run several, dvc exp run --queue",
        ),
        (
            "backbone: timm\n",
            "conf/backbone/timm.yaml: backbone.name: needs a value; add `backbone: {name: …}` to"
            " conf/experiment/article_mlp.yaml",
        ),
        (
            "dataset: {test_sets: {a b: {root: x}}}\n",
            "params.yaml: dataset.test_sets: found the name 'a b', string must match pattern",
        ),
        (
            "freeze: null\n",
            "params.yaml: freeze: found null, but dvc.yaml runs the arm that it names; name a schedule",
        ),
    ],
)
def test_the_fix_of_an_error_is_one_for_a_study(project, params, sentence):
    (project / "params.yaml").write_text(f"experiment: article_mlp\n{params}")
    with pytest.raises(FrostlineError) as caught:
        resolve()
    assert str(caught.value).startswith(sentence)


def test_options_of_an_optimizer_are_added_without_a_plus(project):
    options = "{optimizer: {options: {betas: [0.8, 0.9]}}, pretrain: {optimizer: {options: {eps: 0.1}}}"
    (project / "params.yaml").write_text(f"{options}, experiment: article_mlp}}\n")
    resolved = resolve()
    assert resolved["finetune-full"]["optimizer"]["options"] == {"betas": [0.8, 0.9]}
    assert resolved["pretrain"]["optimizer"]["options"] == {"eps": 0.1}


def test_the_schedule_of_the_selection_is_an_arm(project):
    (project / "conf/freeze/my-plan.v2.yaml").write_bytes((CONF / "freeze/gradual.yaml").read_bytes())
    (project / "params.yaml").write_text("experiment: mnist_to_digits\nfreeze: my-plan.v2\n")
    assert resolve(["scratch", "full"])["report"]["arms"] == ["scratch", "full", "my-plan.v2"]


# Written as in a YAML file.
NO_ARMS = [
    "my plan",
    "ä",
    "a=b",
    "sub/plan",
    "../full",
    "a@b",
    "'a:b'",
    "1",
    "'1'",
    "'true'",
    "'null'",
    "Nan",
]
NO_ARMS += [
    "d$x",
    '"x\'y"',
    ".hidden",
    "-v",
    "<b>x",
    "'a,b'",
    "x;y",
    "a#1",
    "'*a'",
    "a%20b",
    "''",
    '"a\\nb"',
    "[a]",
]


@pytest.mark.parametrize("name", NO_ARMS)
def test_a_name_that_is_no_arm_is_refused_before_a_shell_reads_it(project, name):
    (project / "params.yaml").write_text(f"experiment: article_mlp\nfreeze: {name}\n")
    with pytest.raises(
        FrostlineError, match=r"^params\.yaml: freeze: found .*, which can't name an arm; "
    ) as caught:
        resolve()
    assert "\n" not in str(caught.value)


def test_a_schedule_can_not_take_the_name_of_the_baseline(project):
    (project / "params.yaml").write_text("experiment: article_mlp\nfreeze: scratch\n")
    with pytest.raises(
        FrostlineError, match=r"^params\.yaml: freeze: found 'scratch', the name of the from-scratch"
    ):
        resolve()


def test_a_missing_selection_is_a_sentence(project):
    (project / "params.yaml").unlink()
    with pytest.raises(FrostlineError, match=r"^params\.yaml can't be read \(No such file or directory\)"):
        resolve()


FOLDERS = """\
experiment: article_mlp
source: image_folder
dataset: image_folder
backbone: {hidden: [8]}
input: {size: 8}
data: {source: theirs, target: mine}
"""


@pytest.fixture
def folders(project):
    """Two folders of images without a class in common."""
    for folder, names in (("theirs", "abc"), ("mine", "xy")):
        for name in names:
            place = project / folder / name
            place.mkdir(parents=True)
            for number in range(3):
                (place / f"{number}.png").write_bytes(b"not read")
    return project


def test_images_are_listed_and_not_read(folders):
    (folders / "params.yaml").write_text(FOLDERS)
    resolved = resolve(["scratch", "zero_shot", "full"])
    assert resolved["prepare-target"]["dataset"]["root"] == "mine"


@pytest.mark.parametrize(
    ("params", "arms", "sentence"),
    [
        (
            "gate: {arms.zero_shot.test.accuracy.mean: 0.1}\n",
            ["scratch", "zero_shot"],
            "params.yaml: gate: arms.zero_shot.test.accuracy.mean belongs to an arm that is omitted,"
            " since the",
        ),
        (
            "gate: {arms.full.jumpstart.mean: 0.1}\n",
            ARMS,
            "params.yaml: gate: arms.full.jumpstart.mean has no value, since the head of this arm is reset",
        ),
        (
            "weights: {head: keep}\n",
            ARMS,
            "params.yaml: arm full: weights.head: found keep for the pretraining, but the classes differ:",
        ),
        (
            "weights: {path: no.pt}\n",
            ARMS,
            "params.yaml: data.weights: found 'requirements.lock', but weights",
        ),
        ("weights: none\n", ARMS, "params.yaml: weights: found none, with which nothing is transferred"),
        (
            "weights: imagenet\n",
            ARMS,
            "params.yaml: arm full: weights: a mlp backbone has no ImageNet weights",
        ),
        (
            "pretrain: {freeze: gradual}\n",
            ARMS,
            "conf/freeze/gradual.yaml: pretrain.freeze.groups.rest: empty",
        ),
        ("pretrain: {optimizer: {name: adamm}}\n", ARMS, "params.yaml: pretrain.optimizer.name: "),
    ],
)
def test_what_does_not_fit_together_names_the_file_the_arm_and_the_key(folders, params, arms, sentence):
    (folders / "params.yaml").write_text(FOLDERS + params)
    with pytest.raises(FrostlineError) as caught:
        resolve(arms)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("{source: theirs, target: nowhere}", "params.yaml: data.target: nowhere doesn't exist: "),
        ("{source: nowhere, target: mine}", "params.yaml: data.source: nowhere doesn't exist: "),
        ("{source: theirs}", "params.yaml: data.target: missing; give it a value"),
        (
            "{source: theirs, target: requirements.lock}",
            "params.yaml: data.target: found requirements.lock, but",
        ),
    ],
)
def test_a_folder_that_can_not_be_used_names_its_key(folders, data, sentence):
    text = FOLDERS.replace("{source: theirs, target: mine}", data)
    (folders / "params.yaml").write_text(text)
    with pytest.raises(FrostlineError) as caught:
        resolve()
    assert str(caught.value).startswith(sentence)


def test_a_renamed_folder_is_renamed_in_the_experiment_too(folders):
    experiment = folders / "conf" / "experiment" / "own.yaml"
    experiment.parent.mkdir(parents=True, exist_ok=True)
    defaults = "defaults: [article_mlp, override /dataset: image_folder]"
    experiment.write_text(f"# @package _global_\n{defaults}\ndataset: {{root: gone}}\n")
    text = FOLDERS.replace("article_mlp", "own").replace("dataset: image_folder\n", "")
    (folders / "params.yaml").write_text(text)
    expected = (
        "params.yaml: data.target: found 'mine', but dataset.root is 'gone', which doesn't exist; set "
        "dataset.root=mine where it is set, in params.yaml or the experiment"
    )
    with pytest.raises(FrostlineError, match=f"^{re.escape(expected)}$"):
        resolve()


def test_a_path_that_the_chosen_kind_of_data_set_lacks_is_where_the_experiment_sets_it(folders):
    experiment = folders / "conf" / "experiment" / "own.yaml"
    experiment.write_text("# @package _global_\ndefaults: [article_mlp]\ndataset: {root: mine}\n")
    text = FOLDERS.replace("article_mlp", "own").replace("dataset: image_folder", "dataset: npz")
    (folders / "params.yaml").write_text(text)
    expected = r"^conf/experiment/own\.yaml: dataset\.root: unknown key; allowed: "
    with pytest.raises(FrostlineError, match=expected):
        resolve()


def test_an_option_that_the_experiment_chooses_is_named_with_its_file(folders):
    experiment = folders / "conf" / "experiment" / "own.yaml"
    experiment.write_text("# @package _global_\ndefaults: [article_mlp, override /loss: bc]\n")
    (folders / "params.yaml").write_text("experiment: own\nloss: {label_smoothing: null}\n")
    with pytest.raises(FrostlineError, match=r"^conf/experiment/own\.yaml: loss: no option 'bc'"):
        resolve()


@pytest.mark.parametrize(
    ("path", "kind"), [("theirs", "image_folder"), ("a/labels.csv", "table"), ("data.npz", "npz")]
)
def test_a_path_for_a_data_set_that_has_none_is_refused(folders, path, kind):
    (folders / "params.yaml").write_text(f"experiment: article_mlp\ndata: {{source: {path}, target: mine}}\n")
    expected = rf"^params\.yaml: data\.source: found '{path}', which nothing reads; .* or source: {kind}$"
    with pytest.raises(FrostlineError, match=expected):
        resolve()
