"""`frostline plan`: tables, the schedule as YAML that is run as it stands, JSON, and the picture."""

import io
import json
import re
import shutil
from xml.etree import ElementTree

import pytest
import yaml
from PIL import Image
from tests.data.trees import picture
from tests.imports import SRC
from tests.tiny import PROBE, Bench, run_config
from tests.tiny import RESNET as TIMM
from torch import nn

from frostline.commands import main as cli
from frostline.planning import plan, text
from frostline.training import schedules
from frostline.training.inference import reuse_of
from frostline.training.services import Services

CONF = SRC.parent / "conf"
MLP = ["backbone=mlp", "backbone.hidden=[32,16]", "input.size=8", "trainer.batch_size=20", "--images", "100"]
RESNET = ["backbone=timm", "backbone.name=test_resnet", "--images", "100"]
OWN = {
    "groups": {"head": "head", "norms": ["norm", "bias - head"], "rest": "*"},
    "phases": [
        {
            "train": ["head", "norms"],
            "until": "25%",
            "lr": {"norms": 1e-6, "layer_decay": 0.5},
            "bn": "eval",
            "restore": "best",
            "schedule": {"kind": "linear", "warmup": 0.1, "final": 0.01},
        },
        {
            "train": ["head"],
            "until": {"reaches": "val/accuracy", "value": 0.9, "max": {"epochs": 1.5}},
            "weight_decay": 0.0,
        },
        {"train": "all", "until": "end", "optimizer": {"rest": {"weight_decay": 0.2}}},
    ],
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with configs of its own."""
    shutil.copytree(CONF, tmp_path / "conf")
    (tmp_path / "conf" / "freeze" / "own.yaml").write_text(yaml.safe_dump(OWN, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ready():
    return sorted(path.stem for path in (CONF / "freeze").glob("*.yaml"))


@pytest.fixture
def run(project, capsys):
    def call(*words, status=0):
        assert cli.main(["plan", *words]) == status
        out, err = capsys.readouterr()
        assert err == ""
        return out

    return call


def facts(text):
    """A plan without the name of its schedule, and without how that was written."""
    made = json.loads(text)
    return {key: value for key, value in made.items() if key not in ("freeze", "schedule")}


def test_tables(run):
    out = run("freeze=gradual", "trainer.epochs=10", *MLP)
    head, *_ = out.splitlines()
    assert head == (
        "freeze=gradual on mlp, 2,778 parameters; 100 images of digits in batches of 20: 10 epochs of 5 steps"
    )
    rows = [line.split() for line in out.splitlines()]
    assert ["top", "stage:-1", "528", "19", "%"] in rows
    # 64 → 32 → 16 → 10 are 2,048 + 512 + 160 products an image; phase 0 takes 2 epochs of 100 images.
    assert ["0", "0", "5.44", "k", "320", "1.15", "M", "1.25", "KiB", "680", "B"] in rows
    assert ["1", "0", "5.44", "k", "1.66", "k", "1.42", "M", "3.75", "KiB", "2.73", "KiB"] in rows
    assert (
        "phase 1 ends on time, since its patience of 3 epochs is too long to end it early,"
        " and restores its best epoch" in out
    )


def test_the_shape_and_the_fit_of_images(run):
    assert "images are" not in run("freeze=full", *MLP)
    out = run("freeze=full", *MLP, "input.size=[8,24]", "input.fit=pad")
    assert out.splitlines()[1] == "images are padded to 24×8 px (input.fit=pad)"
    made = json.loads(run("freeze=full", *MLP, "input.size=[8,24]", "--format", "json"))
    assert (made["input"], made["fit"], made["parameters"]) == ([1, 8, 24], "crop", 192 * 32 + 32 + 714 - 16)


def test_a_crop_that_cuts_much_is_warned_about(project, capsys):
    for label in "ab":
        (project / "photos" / label).mkdir(parents=True)
        for i in range(6):
            picture(i + 10 * (label == "b"), (90, 30)).save(project / "photos" / label / f"{i}.png")
    words = [*MLP[:3], "weights=none", "freeze=full", "dataset=image_folder", "dataset.root=photos"]
    assert cli.main(["plan", *words]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "images of photos in batches" in printed
    warning = "warning: the centre crop to 8×8 px cuts off 67 % of the median image of photos (90×30 px)"
    assert warning in printed
    for chosen in ("input.fit=crop", "input.fit=pad", "input.size=[8,24]"):
        assert cli.main(["plan", *words, chosen]) == 0
        assert "warning" not in capsys.readouterr().out


def test_a_run_that_may_stop_early_is_at_most_so_long(run):
    until = "freeze.phases.0.until={plateau: val/loss, patience: 3, max: 100%}"
    out = run("freeze=full", "trainer.epochs=10", until, *MLP)
    assert "in batches of 20: at most 10 epochs of 5 steps" in out
    assert "phase 0 ends early if val/loss stalls for 3 epochs" in out
    out = run("freeze=full", "trainer.epochs=10", until.replace("100%", "50%"), *MLP)
    assert "at most 5 epochs of 5 steps" in out
    out = run("freeze=full", "trainer.epochs=3", until, *MLP)
    assert "batches of 20: 3 epochs of 5 steps" in out
    assert "phase 0 ends on time, since its patience of 3 epochs is too long to end it early" in out


WIDE = ["backbone=mlp", "backbone.hidden=[512,16]", "input.size=8", "--images", "100"]


def once(out):
    """The lines of a plan's tables that say what runs once."""
    return [line.strip() for line in out.splitlines() if " features " in line or " runs all " in line]


def test_tables_say_what_runs_once(run):
    # 64 → 512 → 16 are 65,536 and 16,384 operations an image, and 64 bytes.
    out = run("freeze=gradual", "trainer.epochs=10", *WIDE)
    assert once(out) == [
        "phase 0 trains on features at head:input, 16 numbers (64 B in float32) per image; the layers before"
        " it run once",
        "phase 1 runs all layers at every step: caching the features at hidden.1:input would save"
        " little: 32 FLOPs per byte in float32, less than the minimum of 100",
        "phase 2 runs all layers at every step: every layer trains",
    ]
    # 81,920 once, and 320 forward and 320 backward for 2 epochs, of 100 images.
    rows = [line.split() for line in out.splitlines()]
    assert ["0", "81.9", "k", "320", "320", "8.32", "M", "2", "KiB", "680", "B"] in rows


def test_augmentation_asks_for_views(run):
    words = ["freeze=gradual", "trainer.epochs=10", "augment=light", *WIDE]
    first, second, third = once(run(*words))
    reason = "augmentation changes the images at each step; features.views=4 caches four versions of each"
    assert first == f"phase 0 runs all layers at every step: {reason}"
    # It would not help where nothing can be cut.
    assert "would save little" in second
    assert third == "phase 2 runs all layers at every step: every layer trains"
    out = run(*words, "features.views=4")
    assert once(out)[0] == (
        "phase 0 trains on features at head:input, 16 numbers (64 B in float32) for each of 4 views per"
        " image; the layers before it run once"
    )
    assert ["0", "81.9", "k", "320", "320", "32.9", "M"] in [line.split()[:7] for line in out.splitlines()]


def test_phases_alike_share_a_line(run):
    assert once(run("freeze=gradual", "features=off", "trainer.epochs=10", *WIDE)) == [
        "phases 0–2, each runs all layers at every step: features=off"
    ]


def test_features_above_the_cache_limit_are_not_expected(run, monkeypatch):
    monkeypatch.setenv("FROSTLINE_CACHE_GIB", "1e-6")
    assert once(run("freeze=linear_probe", *WIDE)) == [
        "phase 0 runs all layers at every step: features at head:input would take 6.25 KiB, but the"
        " cache is limited to 1.05 KiB; FROSTLINE_CACHE_GIB=1 raises the limit"
    ]


@pytest.mark.parametrize("freeze", [*ready(), "own"])
def test_the_yaml_is_a_schedule_with_the_same_plan(run, project, freeze):
    words = ["trainer.epochs=20", *RESNET]
    text = run(f"freeze={freeze}", *words, "--format", "yaml")
    (project / "conf" / "freeze" / "again.yaml").write_text(text)
    before = run(f"freeze={freeze}", *words, "--format", "json")
    after = run("freeze=again", *words, "--format", "json")
    assert facts(after) == facts(before)
    assert json.loads(after)["schedule"] == json.loads(before)["schedule"]
    assert schedules.load(project / "conf" / "freeze" / "again.yaml").model_dump(
        exclude_none=True
    ) == yaml.safe_load(text)


def test_the_yaml_describes_each_phase_in_comments(run):
    lines = run("freeze=own", "trainer.epochs=20", *RESNET, "--format", "yaml").splitlines()
    assert lines[0].startswith("# freeze=own on test_resnet, ")
    assert lines[1].startswith("# parameters: head ")
    start = lines.index("  - train: [head]")
    assert lines[start - 4].startswith(
        "  # phase 1: epochs 5–6.5, 6 steps; ends early if val/accuracy reaches 0.9"
    )
    assert "parameters train, " in lines[start - 3]
    assert "; learning rates: head " in lines[start - 3]
    assert lines[start - 2].startswith("  #   FLOPs: ")
    assert " once, " in lines[start - 2]
    assert "; memory: activations " in lines[start - 2]
    assert lines[start - 1].startswith("  #   trains on features at fc:input, ")
    # What the phase is given by the one before.
    inherited = lines[start + 1 : lines.index("  - train: all")]
    assert "    lr: {layer_decay: 0.5}" in inherited
    assert "    bn: eval" in inherited
    assert "    schedule: {kind: linear, warmup: 0.1, final: 0.01}" in inherited


def test_json_holds_all_of_it(run):
    made = json.loads(run("freeze=gradual", "trainer.epochs=10", *MLP, "--format", "json"))
    assert made["input"] == [1, 8, 8]
    assert made["schedule"]["groups"] == {"head": "head", "top": "stage:-1", "rest": "*"}
    assert [section["name"] for section in made["sections"]] == ["stage:0", "stage:1", "head"]
    first, *_ = made["phases"]
    assert first["cost"] == {"once": 0, "forward": 5440, "backward": 320, "activations": 64}
    assert (first["features"], first["whole"][:38]) == (None, "caching the features at head:input wou")
    assert first["course"]["rates"]["head"][0] == first["rates"]["head"][0]


def test_json_holds_what_runs_once(run):
    made = json.loads(run("freeze=linear_probe", *WIDE, "--format", "json"))
    (phase,) = made["phases"]
    assert phase["features"] == {
        "at": "head:input",
        "bytes": 64,
        "sections": ["stage:0", "stage:1"],
        "shape": [16],
        "views": 1,
    }
    assert phase["whole"] is None
    assert phase["cost"]["once"] == 2 * (64 * 512 + 512 * 16)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
@pytest.mark.parametrize("freeze", ["linear_probe", "gradual", "norm_only"])
def test_a_run_finds_what_is_expected(backbone, freeze, tmp_path):
    size = 160 if backbone == "test_vit" else 64
    bench = Bench(
        {
            "backbone": {**TIMM, "name": backbone},
            "input": {"size": size, "channels": 3},
            "freeze": schedules.load(freeze).model_dump(exclude_none=True),
            "trainer.epochs": 5,
        },
        train=20,
    )
    made = plan.of_run(bench.config, bench.plan, bench.network, bench.data.spec, 20)
    expected = [p.features.at if p.features else f"whole network: {p.whole}" for p in made.phases]
    reuse = reuse_of(bench.config, bench.data.spec, Services(tmp_path))
    assert bench.fit(tmp_path, reuse=reuse).features == expected


def test_the_guide_shows_what_is_printed(run):
    guide = (CONF.parent / "docs" / "feature-reuse.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^\$ frostline plan (.*?)```", guide, flags=re.MULTILINE | re.DOTALL)
    command, *shown = block.splitlines()
    printed = [line.rstrip() for line in run(*command.split()).splitlines()]
    assert [line for line in shown if line not in ("…", *printed)] == []


def test_the_head_has_as_many_classes_as_one_says(run):
    made = json.loads(run("freeze=full", *MLP, "--classes", "3", "--format", "json"))
    assert made["groups"][0]["parameters"] == 16 * 3 + 3


def test_an_unknown_cost_is_said(project, capsys):
    class Looks(nn.Linear):
        def forward(self, images):
            assert images.sum().item() is not None
            return super().forward(images.flatten(1))

    network = nn.Sequential(nn.Identity(), Looks(64, 4), nn.Linear(4, 2))
    config = run_config({"freeze": PROBE})
    from frostline.models.initial_weights import NO_WEIGHTS
    from frostline.models.pretrained import input_spec
    from frostline.training.run import plan_of

    spec = input_spec(config.backbone, NO_WEIGHTS, config.input)
    made = plan.of_run(config, plan_of(config, network, 100), network, spec, 100)
    assert made.phases[0].cost is None
    text.show(made)
    out = capsys.readouterr().out
    assert out.count("unknown") == 5
    assert once(out) == [
        "phase 0 runs all layers at every step: without data this network shows no split point"
    ]
    assert "FLOPs: unknown forward" in text.as_yaml(made)
    assert json.loads(made.as_json())["phases"][0]["cost"] is None


@pytest.mark.parametrize("freeze", ["gradual", "zero_shot", "own"])
def test_the_plot_is_an_image(run, project, freeze):
    words = [f"freeze={freeze}", "trainer.epochs=20", *RESNET, "--picture"]
    run(*words, "deep/er/plan.png")
    with Image.open(project / "deep" / "er" / "plan.png") as image:
        assert image.format == "PNG"
        assert image.width == 1800
    run(*words, "plan.svg")
    first = (project / "plan.svg").read_bytes()
    assert ElementTree.parse(io.BytesIO(first)).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    run(*words, "plan.svg")
    assert (project / "plan.svg").read_bytes() == first


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--format ymal", "--format: there is no 'ymal'; did you mean 'yaml'? (allowed: json, table, yaml)"),
        ("--stage finetun", "--stage: there is no 'finetun'; did you mean 'finetune'?"),
        ("--picture plan.jpg", "--picture: found plan.jpg; name a file that ends in .svg or .png"),
    ],
)
def test_mistakes_are_one_sentence(project, capsys, words, sentence):
    with pytest.raises(SystemExit) as ended:
        cli.main(["plan", *words.split()])
    assert ended.value.code == cli.EXIT_USER
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_a_plot_that_can_not_be_written(project, capsys):
    (project / "file").write_text("")
    assert cli.main(["plan", "freeze=full", *MLP, "--picture", "file/plan.png"]) == cli.EXIT_USER
    assert "file" in capsys.readouterr().err.splitlines()[-1]


def test_what_trials_share_is_worked_out_once_and_nothing_else(run, monkeypatch):
    """Each is as it would be alone: cuts and costs of one that differs in anything but rates are not its."""
    tried = [
        [*MLP, "freeze=linear_probe"],
        [*MLP, "freeze=linear_probe", "optimizer.lr=0.5", "seed=3"],
        [*MLP, "freeze=gradual"],
        [*MLP, "freeze=gradual", "features=off"],
        [*MLP, "freeze=linear_probe", "input.size=9"],
        [*MLP, "freeze=linear_probe", "--classes", "7"],
        [*RESNET, "freeze=top_k"],
        [*RESNET, "freeze=top_k", "augment=light"],
        [*RESNET, "freeze=top_k", "augment=light", "features.views=2"],
    ]
    monkeypatch.setattr(plan, "_CACHE", {})
    together = [run(*words, "--format", "json") for words in tried]
    assert len(plan._CACHE) == len(tried) - 1
    for words, shown in zip(tried, together, strict=True):
        monkeypatch.setattr(plan, "_CACHE", {})
        assert run(*words, "--format", "json") == shown
    assert once(run(*WIDE, "freeze=linear_probe"))[0].startswith("phase 0 trains on features at head:input")
    monkeypatch.setenv("FROSTLINE_CACHE_GIB", "1e-6")
    assert "limited to 1.05 KiB" in once(run(*WIDE, "freeze=linear_probe"))[0]


def test_a_project_plans_the_study_that_it_selects(run, project):
    (project / "params.yaml").write_text(
        "experiment: article_mlp\nfreeze: full\nbackbone: {hidden: [32, 16]}\nweights: {head: null}\n"
        "trainer: {epochs: 7}\ndata: {source: requirements.lock, target: requirements.lock}\n"
    )
    assert run("--images", "64").startswith("freeze=full on mlp, 25,818 parameters; 64 images of digits in")
    assert "7 epochs of 2 steps" in run("--images", "64")
    # What is typed goes before, a typed experiment before all of it.
    assert "3 epochs of 4 steps" in run("--images", "64", "trainer.epochs=3", "trainer.batch_size=16")
    assert "1 epoch of 1 step\n" in run("--images", "64", "trainer.epochs=1", "trainer.batch_size=64")
    assert run("--images", "64", "freeze=gradual").startswith("freeze=gradual on mlp, 25,818 parameters")
    assert run("--images", "64", "experiment=null", "backbone=mlp").startswith("freeze=full on mlp, 50,890 ")
