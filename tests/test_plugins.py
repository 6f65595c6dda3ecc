"""docs/extend.md: its example is installed as a package and runs."""

import importlib
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from torch import nn

from frostline import schema
from frostline.config import compose
from frostline.console.errors import FrostlineError
from frostline.evaluation import evaluate
from frostline.freezing.layers import layers_of
from frostline.models.backbones import build, default_input
from frostline.models.input_spec import InputSpec
from frostline.pipeline.finetune.stage import finetune
from frostline.training.services import Services
from tests.tiny import arm_of, files, run_config

DOCS = (Path(__file__).parents[1] / "docs" / "extend.md").read_text(encoding="utf-8")
SPEC = InputSpec(16, 1, "bicubic", 1.0, (0.5,), (0.5,))


def block(kind, number=0):
    return re.findall(rf"```{kind}\n(.*?)```", DOCS, re.DOTALL)[number]


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a module whose function `build` is a backbone, as pip would."""
    installed = []

    def install(module, code, entry):
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (tmp_path / f"{module}.py").write_text(code)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[frostline.backbones]\n{entry}\n")
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()
        installed.append(module)

    yield install
    for module in installed:
        sys.modules.pop(module, None)


@pytest.fixture
def shallow(install):
    entries = tomllib.loads(block("toml"))["project"]["entry-points"]["frostline.backbones"]
    (name,) = entries
    install(name, block("python"), f"{name} = {entries[name]}")


def plugin(name="shallow", **options):
    return schema.PluginBackbone(kind="plugin", name=name, options=options)


def test_the_documented_backbone_is_found_by_its_name(shallow):
    assert default_input(plugin()) == SPEC
    network = build(plugin(width=8), SPEC, 5, seed=0)
    assert network(torch.zeros(2, 1, 16, 16)).shape == (2, 5)
    assert network.fc.in_features == 8
    layers = layers_of(network)
    assert layers.match("head") == {"fc.weight", "fc.bias"}
    assert "body.1.running_mean" in layers.match("stage:1")


def test_the_documented_command_composes(shallow):
    line = next(line for line in DOCS.splitlines() if line.startswith("frostline finetune backbone=plugin"))
    made, _ = compose.experiment(shlex.split(line)[2:])
    assert made.backbone == plugin(width=16)


def test_it_trains_under_a_schedule_and_is_measured(shallow, digits, tmp_path):
    schedule = {
        "groups": {"head": "head", "top": "stage:-1", "rest": "*"},
        "phases": [{"train": ["head"], "until": {"epochs": 1}}, {"train": ["head", "top"], "until": "end"}],
    }
    backbone = {"kind": "plugin", "name": "shallow", "options": {"width": 8}}
    config = run_config({"backbone": backbone, "freeze": schedule, "input": {"size": None, "channels": None}})
    finetune(arm_of(config), digits, tmp_path / "out", Services(tmp_path / "scratch"))
    trained = tmp_path / "out" / "seed-0"
    evaluate.measure(config, digits, trained, trained, Services(tmp_path / "scratch"))
    assert {"metrics.json", "predictions.csv", "weights.safetensors"} <= files(trained).keys()


def test_the_documented_methods_are_those_that_are_asked_for():
    """The class of the second example, given a body."""
    names: dict = {"nn": nn}
    exec(block("python", 1), names)
    model = names["Shallow"]()
    model.stem, model.body, model.fc = (
        nn.Conv2d(1, 2, 1),
        nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)),
        nn.Linear(2, 2),
    )
    layers = layers_of(model)
    assert layers.match("stem") == {"stem.weight", "stem.bias"}
    assert layers.match("block:1") == {"body.1.weight", "body.1.bias"}
    assert layers.match("head") == {"fc.weight", "fc.bias"}
    assert model.no_weight_decay() == {"position"}


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (
            "def build(classes, channels, size, width=3): ...",
            "backbone plug-in 'mine' (mine:build) failed: TypeError: build() got an unexpected",
        ),
        (
            "def build(**options): return options",
            "backbone plug-in 'mine' (mine:build) failed: TypeError: it returned a dict, not a torch module",
        ),
        (
            "import nothing_of_that_name",
            "backbone plug-in 'mine' (mine:build) failed: ModuleNotFoundError: No module",
        ),
        (
            "from torch import nn\ndef build(**o): return nn.Sequential(nn.Flatten(), nn.Linear(256, 7))",
            "backbone.name: mine gives (1, 7) for one image, not (1, 2) logits; choose an image classifier",
        ),
        (
            "from torch import nn\ndef build(**o): return nn.Linear(3, 2)",
            "input.size: mine can't take 1×16×16 images (",
        ),
        (
            "from torch import nn\nclass Net(nn.Module):\n    def forward(self, x): return self.fc(x)\n"
            "def build(**o): return Net()",
            "backbone plug-in 'mine' (mine:build) failed: AttributeError: 'Net' object has no attribute 'fc'",
        ),
        (
            "from torch import nn\nclass Net(nn.Module):\n    def forward(self, x): return x, x\n"
            "def build(**o): return Net()",
            "backbone.name: mine returns a tuple, not a tensor of logits; choose an image classifier",
        ),
        ("raise SystemExit", "backbone plug-in 'mine' (mine:build) failed: SystemExit; fix"),
        ("raise SystemExit(0)", "backbone plug-in 'mine' (mine:build) failed: SystemExit: 0; fix"),
        (
            "def build(**o): raise ValueError('one\\n  two')",
            "backbone plug-in 'mine' (mine:build) failed: ValueError: one two; fix",
        ),
    ],
)
def test_a_plugin_that_fails_is_one_sentence(code, sentence, install):
    install("mine", code, "mine = mine:build")
    with pytest.raises(FrostlineError) as caught:
        build(plugin("mine", depth=3), SPEC, 2, seed=0)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_a_wrong_default_input_is_one_sentence(install):
    install("mine", "def build(**o): ...\nbuild.default_input = {'size': 3}", "mine = mine:build")
    with pytest.raises(FrostlineError, match=r"^backbone plug-in 'mine' \(mine:build\) failed: KeyError"):
        default_input(plugin("mine"))


def test_a_plugin_that_is_not_installed_is_one_sentence(shallow):
    with pytest.raises(FrostlineError) as caught:
        default_input(plugin("shalow"))
    assert str(caught.value) == (
        "backbone.name: no plug-in 'shalow' in the entry-point group frostline.backbones;"
        " did you mean 'shallow'? (allowed: shallow)"
    )
