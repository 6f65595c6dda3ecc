"""Each command of the documentation runs as it is written, in a project whose defaults are small.

The README, the tutorial, and the guides to models, schedules and Python have tests of their own. What needs
other machines, or more than seconds, is listed here with the reason; test_docs_commands.py composes it.
"""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from frostline.commands import main as cli
from tests.study import ROOT, replace
from tests.test_docs_commands import FENCE, words_of
from tests.test_readme import photos

pytestmark = [
    pytest.mark.slow,
    # MLflow 3.17 uses what SQLAlchemy 2.1 will drop.
    pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated"),
]
RUN_WHOLE = {
    "README.md": "tests/test_readme.py",
    "tutorial.md": "tests/test_tutorial.py",
    "models.md": "tests/test_models_guide.py",
}
"""Page → the test that runs its commands in order."""
ELSEWHERE = {
    "frostline init my-study": "tests/test_wheel.py",
    "frostline prepare dataset=plugin": "tests/test_plugins.py",
    "frostline finetune backbone=plugin": "tests/test_plugins.py",
    "dvc repro": "tests/test_wheel.py",
    "dvc exp run -S": "tests/test_pipeline.py",
    "dvc exp show": "tests/test_wheel.py",
    "dvc exp run --queue": "tests/test_pipeline.py",
    "dvc params diff": "tests/test_wheel.py",
    "dvc metrics diff": "tests/test_wheel.py",
    "frostline experiments": "tests/test_wheel.py",
    "python -m tests.faults": "tests/test_faults.py",
    "python -m tests.fuzz": "tests/test_fuzz.py",
    "python -m benchmarks": "tests/test_benchmarks.py",
    "scripts/gpu-check": "tests/test_gpu_check.py",
    "frostline plan experiment=null": "tests/test_schedule_guide.py",
    "frostline plan freeze=full 'freeze.phases": "tests/test_schedule_guide.py",
    "RAY_AUTH_MODE=token frostline finetune": "tests/sweeps/test_ray.py",
}
"""Beginning of a command → the test that runs it, or one of its form."""
NOT_RUN = {
    "frostline finetune -m hydra/launcher=submitit_slurm": "needs a SLURM cluster",
    "frostline finetune -m sweep.store=postgresql": "needs a PostgreSQL server",
    "frostline finetune -m sweep=random sweep.trials=50": "50 trials in four processes take a minute",
    "frostline finetune backbone=vit_tiny weights=imagenet": "downloads weights",
    "ray get-auth-token": "writes a token into the home folder",
    "RAY_AUTH_MODE=token ray start": "starts a Ray cluster",
    "mlflow server": "needs PostgreSQL and S3",
    "export ": "sets credentials",
    "createdb ": "needs a PostgreSQL server",
    "pip install": "downloads packages",
}
"""Beginning of a command → why no test runs it."""
PROGRAMS = r"frostline|dvc|python|scripts/|ray |mlflow |pip |createdb|export |RAY_AUTH_MODE"
SMALL = {
    "config.yaml": {"size: null,": "size: 32,"},
    "trainer/default.yaml": {"epochs: 20": "epochs: 4", "${fitting_threads:${backbone.kind}}": "1"},
    "dataset/digits.yaml": {"val: 0.2, test: 0.2": "val: 0.05, test: 0.05", "shots: null": "shots: 4"},
    "dataset/mnist5k.yaml": {"val: 0.2, test: 0.2": "val: 0.02, test: 0.02", "shots: null": "shots: 4"},
    "backbone/resnet10t.yaml": {"name: resnet10t": "name: test_resnet"},
    "backbone/resnet18.yaml": {"name: resnet18": "name: test_resnet"},
    "sweep/tpe.yaml": {"trials: 40": "trials: 2"},
}
"""File of conf/ → what is replaced in the project's copy."""


def commands():
    """(page, command) of the shell's lines in code blocks."""
    for page in sorted((ROOT / "docs").glob("*.md")):
        for block in FENCE.findall(page.read_text(encoding="utf-8")):
            text = re.sub(r" *\\\n *|\n {8,}(?=\S*=)", " ", block)  # a command over two lines
            for line in re.findall(rf"^(?:\$ )?(?:\.venv/bin/)?((?:{PROGRAMS}).*)$", text, re.M):
                if page.name not in RUN_WHOLE and not line.startswith("frostline: "):
                    yield page.name, line


def known(line, listed):
    """Return the beginning of a command in a list; None: it is not listed."""
    return next((beginning for beginning in listed if line.startswith(beginning)), None)


FOUND = list(dict.fromkeys(commands()))
RUN = [
    pytest.param(line, id=f"{page}: {line}")
    for page, line in FOUND
    if not known(line, {**ELSEWHERE, **NOT_RUN})
]


def test_every_command_is_run_or_listed():
    assert len(RUN) > 20
    assert all(param.values[0].startswith("frostline ") for param in RUN)
    used = {known(line, listed) for _, line in FOUND for listed in (ELSEWHERE, NOT_RUN)}
    assert {*ELSEWHERE, *NOT_RUN} <= used
    assert all((ROOT / test).is_file() for test in (*ELSEWHERE.values(), *RUN_WHOLE.values()))


@pytest.fixture(scope="module")
def project(tmp_path_factory, no_runs):
    """A project with the data that the pages name, and small defaults."""
    root = tmp_path_factory.mktemp("the döcs")
    shutil.copytree(ROOT / "conf", root / "conf")
    for name, changes in SMALL.items():
        for old, new in changes.items():
            replace(root / "conf" / name, old, new)
    for name in ("photos", "photos_a", "photos_b"):
        photos(root / name)
    for image in (root / "photos_b").rglob("*.png"):  # a test set has no image of the data set
        image.write_bytes((root / "photos" / image.parent.name / image.name).read_bytes())
    shift(root / "photos_b")
    rows = [f"{path.relative_to(root / 'photos')}" for path in sorted((root / "photos").rglob("*.png"))]
    lines = [f"{row},{Path(row).parent},{int(Path(row).stem) % 10}" for row in rows]
    (root / "photos/labels.csv").write_text("\n".join(["image,label,patient", *lines]))
    others = [f"photos_b/{row},{Path(row).parent}" for row in rows]
    (root / "site_b.csv").write_text("\n".join(["image,diagnosis", *others]))
    lines = [f"photos/{line}" for line in lines]
    (root / "labels.csv").write_text("\n".join(["image,label,patient", *lines]))
    fields(root / "fields")
    checkpoint(root / "checkpoint.pth")
    shutil.copy(no_runs, root)
    record(root)
    named(root)
    return root


def named(root):
    """The run and the folder that pages call NAME and FOLDER."""
    shutil.copytree(root / "photos" / "dawn", root / "FOLDER")
    words = ["dataset=image_folder", "dataset.root=photos", "weights=none", "out=runs/finetune/NAME"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("FROSTLINE_TRACKING", "off")
        assert cli.main(["finetune", *words]) == 0


def shift(folder):
    """Make other images of those in a folder."""
    from PIL import Image

    for path in folder.rglob("*.png"):
        Image.fromarray(np.roll(np.asarray(Image.open(path)), 7, axis=0) // 2).save(path)


def fields(root):
    """Images with five channels of 16 bits."""
    draw = np.random.default_rng(0)
    for level, label in ((0.02, "bare"), (0.2, "grown")):
        (root / label).mkdir(parents=True)
        for number in range(12):
            image = (65535 * np.clip(level + draw.normal(0, 0.01, (40, 40, 5)), 0, 1)).astype(np.uint16)
            tifffile.imwrite(
                root / label / f"{number}.tif", image, photometric="minisblack", planarconfig="contig"
            )


def checkpoint(path):
    """A checkpoint of a moving average of weights."""
    import timm

    state = timm.create_model("test_resnet", num_classes=10).state_dict()
    torch.save({"model_ema": state}, path)


def record(root):
    """The runs that docs/comparing.md compares."""
    from frostline.base.processes import process_key
    from frostline.tracking.store import Store
    from frostline.training.services import RunInfo

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        store = Store()
        for freeze, values in {"full": (0.9, 0.92), "gradual": (0.93, 0.95)}.items():
            for seed, value in enumerate(values):
                config = {"freeze_name": freeze, "seed": seed, "stage": "finetune"}
                data = {"name": "digits", "kind": "digits", "fingerprint": "ab" * 16}
                name, study = f"{freeze}·resnet10t·digits", "mnist_to_digits"
                tags = {"dataset": "digits", "freeze": freeze, "seed": str(seed)}
                about = RunInfo(name, "finetune", study, config, data, "training", tags, seed)
                run = store.begin(about, process_key(), when=1000 + seed)
                measured = ("best/val/accuracy", "test/accuracy", "test/f1_macro", "test/loss")
                run.metrics(dict.fromkeys(measured, value))
                run.tags({"weights.sha256": f"{freeze}{seed}"})
                run.end("FINISHED")


@pytest.fixture
def inside(project, monkeypatch):
    """In the project; nothing is recorded, which would start processes."""
    monkeypatch.chdir(project)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("FROSTLINE_TRACKING", "off")
    return project


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize("line", RUN)
def test_it_runs(line, capsys):
    words = words_of(line)
    assert cli.main(words[1:]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    if "finetune" in words:
        headline = "mAP" if "dataset.task=multi_label" in words else "accuracy"
        assert re.search(rf"(test|val) {headline}", out)
    elif words[1] == "evaluate":
        out_of = {"--out": "", "--on": f"{words[2]}/test_sets/"}
        option = "--out" if "--out" in words else "--on"
        assert (Path(out_of[option] + words[words.index(option) + 1]) / "metrics.json").is_file()
    elif "--out" in words:
        assert Path(words[words.index("--out") + 1]).is_file()
    else:
        assert out
