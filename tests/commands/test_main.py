"""The command line: help and its imports, a whole study, mistakes and exit statuses."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from tests.shell import TINY
from tests.study import environment

from frostline.commands.main import COMMANDS, MEANT, SYNONYMS

SRC = Path(__file__).parents[2] / "src"


def test_every_command_has_help(shell):
    out, _ = shell("--help")
    listed = re.findall(r"^    ([\w-]+)(?: |$)", out, re.MULTILINE)
    modules = {
        path.stem for path in (SRC / "frostline/commands").glob("*.py") if "def add(" in path.read_text()
    }
    assert {name.replace("-", "_") for name in listed} == modules
    for name in listed:
        shown = shell(name, "--help")[0]
        assert shown.startswith(f"usage: frostline {name}")
        assert COMMANDS[name] in " ".join(shown.split())
    assert re.fullmatch(r"frostline \d+\.\d+\.\d+\n", shell("--version")[0])


def test_the_process_ends_without_destructors_but_with_its_exit_handlers(tmp_path):
    """Destroying the modules of torch and MLflow would take two seconds."""
    code = """if True:
        import atexit, sys
        from frostline import __main__
        from frostline.commands import main as cli
        class Slow:
            def __del__(self):
                print("destroyed")
        slow = Slow()
        def command():
            atexit.register(print, "handled", end="")
            return 4
        cli.main = command
        sys.exit(__main__.main())
    """
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(tmp_path, PYTHONPATH=str(SRC)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (4, "handled", "")


def test_an_exception_of_a_command_still_ends_the_process_with_a_traceback(tmp_path):
    code = """if True:
        import sys
        from frostline import __main__
        from frostline.commands import main as cli
        cli.main = lambda: 1 / 0
        sys.exit(__main__.main())
    """
    command, settings = [sys.executable, "-c", code], environment(tmp_path, PYTHONPATH=str(SRC))
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"


HEAVY = ("torch", "timm", "pytorch_lightning", "mlflow", "sklearn", "matplotlib")


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        (["--help"], ()),
        (["finetune", "--help"], ()),
        (["finetune", "--cfg", "job"], ()),
        (["finetune", "-m", "freeze=nope,full"], ()),
        (["finetune", "seed=x"], ()),
        (["finetune", "backbone=resnet50"], ()),
        (["plan", "backbone=timm", "backbone.name=resnet5O"], ()),
        (["pretrain", "source=image_folder", "source.root=nowhere"], ()),
        (["probe", "--help"], ()),
        (["probe", "seed=0,x"], ()),
        (["gate"], ()),
        (["ui", "--port", "0"], ()),
        (["cache"], ()),
        (["cache", "prune", "--to", "1GiB"], ()),
        (["cache", "clear"], ()),
        (["predict", "--help"], ()),
        (["register", "runs/nope"], ()),
        (["prepare", "dataset=digits"], ("sklearn",)),
    ],
    ids=" ".join,
)
def test_what_a_command_does_not_need_it_does_not_import(tmp_path, words, allowed):
    run = f"""
from frostline.commands.main import main
try:
    main({words!r})
except SystemExit:
    pass
"""
    assert imported(run, tmp_path) <= set(allowed)


def imported(code, folder, names=HEAVY):
    """Return which of the modules a process has imported after some code."""
    code += f"\nimport sys\nprint('imported:', *(name for name in {names!r} if name in sys.modules))"
    settings = environment(folder / "x", PYTHONPATH=str(SRC))
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=settings, capture_output=True, text=True, check=True
    )
    return set(result.stdout.splitlines()[-1].split()[1:])


def test_faults_of_the_data_are_reported_before_torch_is_imported(tmp_path):
    (tmp_path / "labels.csv").write_text("image,species\n1.png,cat\n2.png,dog\n")
    run = """
import contextlib, io
from frostline.commands.main import main
for command in ("finetune", "finetune -m seed=0,1", "pretrain", "probe", "lr-find", "show", "plan"):
    group = "source" if command == "pretrain" else "dataset"
    words = [f"{group}=table", f"{group}.file=labels.csv", *["weights=none"] * (group == "dataset")]
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert main([*command.split(), *words]) == 2
    assert "labels.csv has no column 'label'" in said.getvalue(), said.getvalue()
"""
    assert not imported(run, tmp_path, ("torch", "timm", "pytorch_lightning", "mlflow"))


@pytest.mark.parametrize(
    ("module", "unneeded"),
    [
        ("pipeline.compose.stage", ("torch", "timm", "mlflow", "matplotlib")),
        ("preparation.stage", ("torch", "mlflow", "matplotlib")),
        ("leakage.stage", ("torch", "mlflow", "matplotlib")),
        ("pipeline.evaluate.stage", ("pytorch_lightning", "torchvision", "mlflow", "matplotlib")),
        ("serving.prediction", ("pytorch_lightning", "torchvision", "mlflow", "matplotlib")),
        ("pipeline.report.stage", ("torch", "mlflow", "matplotlib")),
        ("stats.gate", ("torch", "mlflow", "matplotlib")),
    ],
)
def test_a_stage_does_not_import_what_it_does_not_need(module, unneeded, tmp_path):
    assert not imported(f"import frostline.{module}", tmp_path, unneeded)


@pytest.mark.parametrize("command", ["finetune", "lr-find", "plan", "probe", "leakage", "pretrain"])
def test_errors_of_the_source_name_the_keys_of_the_source(command, shell):
    images, labels = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8), np.arange(40) % 2
    np.savez(shell.folder / "a.npz", x=images, y=labels)
    np.savez(shell.folder / "b.npz", images=images, labels=labels)
    words = ["source=npz", "source.file=a.npz", "backbone=mlp"]
    if command != "pretrain":
        words += ["dataset=npz", "dataset.file=b.npz", "dataset.columns.label=labels", "weights=pretrain"]
    assert shell.refused(command, *words) == (
        "source.file: a.npz has no column 'images' (source.columns.image); allowed: x, y; set"
        " source.columns.image=COLUMN"
    )


def test_a_study_by_hand(shell):
    """What dvc.yaml runs, without DVC."""
    params = {
        "experiment": "article_mlp",
        "source": "digits",
        "backbone": {"hidden": [16]},
        "input": {"size": 8},
        "seeds": [0, 1],
        "trainer": {"epochs": 2},
        "pretrain": {"trainer": {"epochs": 2}},
        "gate": {"arms.full.test.accuracy.mean": 0.999},
    }
    (shell.folder / "params.yaml").write_text(yaml.safe_dump(params))
    out, _ = shell("compose", "--arms", "scratch", "full")
    assert out == "artifacts/resolved: resolved for the arms scratch, full\n"
    resolved, data = "artifacts/resolved", "artifacts/data"
    for role in ("source", "target"):
        shell("prepare", "--resolved", f"{resolved}/prepare-{role}.yaml", "--out", f"{data}/{role}")
    words = [
        "--resolved",
        f"{resolved}/pretrain.yaml",
        "--data",
        f"{data}/source",
        "--out",
        "artifacts/pretrain",
    ]
    shell("pretrain", *words, "--timing", "artifacts/timing/pretrain.json")
    for arm in ("scratch", "full"):
        inputs = ["--data", f"{data}/target", "--pretrained", "artifacts/pretrain"]
        outs = ["--out", f"artifacts/finetune/{arm}", "--timing", f"artifacts/timing/{arm}.json"]
        shell("finetune", "--resolved", f"{resolved}/finetune-{arm}.yaml", *inputs, *outs)
        inputs = ["--data", f"{data}/target", "--finetuned", f"artifacts/finetune/{arm}"]
        shell(
            "evaluate",
            "--resolved",
            f"{resolved}/evaluate-{arm}.yaml",
            *inputs,
            "--out",
            f"artifacts/evaluate/{arm}",
        )
    out, _ = shell("report")
    assert "| full " in out
    assert out.endswith("artifacts/report/index.html\n")
    assert "below its bound 0.999" in shell.refused("gate", status=4)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("finetun", "no command 'finetun'; did you mean 'finetune'?"),
        ("train freeze=full", "no command 'train'; write frostline finetune; see frostline --help"),
        ("sweep", "no command 'sweep'; write frostline finetune -m; see frostline --help"),
        ("reproduce", "no command 'reproduce'; write dvc repro; see frostline --help"),
        ("", "the following arguments are required: COMMAND; see frostline --help"),
        ("init", "the following arguments are required: NAME; see frostline init --help"),
        ("finetune --nope", "unrecognized arguments: --nope"),
        ("finetune bakbone=mlp", "bakbone: unknown key; did you mean 'backbone'?"),
        ("finetune backbone=mpl", "backbone: no option 'mpl'; did you mean 'mlp'"),
        ("finetune seed=0,1", "seed: found several values, 0,1; to run each, add -m"),
        ("finetune dataset=image_folder", "dataset.root: needs a value; add dataset.root=…"),
        ("finetune dataset=image_folder dataset.root=nowhere", "dataset.root"),
        ("finetune weights=file weights.path=nowhere.pt", "weights.path"),
        ("pretrain --resolved nowhere.yaml", "--resolved: needs --data and --out too"),
        ("pretrain --resolved nowhere.yaml --data d --out o", "nowhere.yaml can't be read"),
        ("evaluate", "evaluate: name a finished run: its folder, id or name, best or last"),
        ("evaluate nowhere", "nowhere: no such folder, and there is no MLflow store at "),
        ("evaluate --resolved x.yaml --data d", "--resolved: needs --finetuned and --out too"),
        ("compose", "params.yaml is missing: this folder has no study"),
        ("compose --params mine.yaml", "mine.yaml can't be read"),
        ("report", "artifacts/resolved/report.yaml is missing: this folder has no study"),
        ("gate", "artifacts/resolved/report.yaml is missing: this folder has no study"),
        ("plan --images 0", "argument --images: found 0; give at least 1"),
        ("plan freeze=gradual backbone=mlp --images 9", "freeze.groups.rest: empty"),
        ("ui --port 0", "--port: found 0; name one from 1 to 65535"),
        ("prepare out=/proc/nowhere", "/proc"),
    ],
)
def test_a_mistake_is_a_sentence(shell, words, sentence):
    assert sentence in shell.refused(*words.split())


def test_commands_of_other_tools_mean_commands_that_exist():
    for command in SYNONYMS:
        tool, name, *_ = command.split()
        assert tool == "dvc" or name == "--version" or name in COMMANDS
    assert not MEANT.keys() & COMMANDS.keys()


@pytest.mark.parametrize("words", [["plan", f"backb{'a' * 5000}one=mlp"], ["pl" + "a" * 5000]])
def test_what_was_typed_is_repeated_as_far_as_it_helps(shell, words):
    sentence = shell.refused(*words)
    assert re.search(r"… \(5,\d{3} characters\)", sentence)
    assert len(sentence) < 1000


def test_a_traceback_is_there_for_those_who_ask(shell):
    with shell.start("finetune", "seed=x", FROSTLINE_TRACEBACK="1") as process:
        _, err = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "Traceback" in err


@pytest.mark.parametrize(
    "words", [("finetune", "--cfg", "job"), ("plan", *TINY, "weights=none", "--images", "100")]
)
def test_a_closed_pipe_is_no_error(words, shell):
    settings = environment(shell.folder / "x", PYTHONPATH=str(SRC))
    read, write = os.pipe()
    os.close(read)
    command = [str(shell.python), "-m", "frostline", *words]
    result = subprocess.run(
        command, cwd=shell.folder, env=settings, stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert (result.returncode, result.stderr) == (0, "")
