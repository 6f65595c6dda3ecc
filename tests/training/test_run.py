"""Runs that repeat bit by bit, whatever happens to them in between."""

import csv
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.damage import DAMAGE
from tests.shell import RESUMABLE
from tests.tiny import NOTHING, RESNET, SGD, Started, arm_of, files, in_process, run_config

from frostline.base import code
from frostline.base.formats import read_csv
from frostline.base.run_folder import HISTORY, WEIGHTS
from frostline.console import signals
from frostline.console.errors import TrainingFailed
from frostline.pipeline.finetune.stage import finetune
from frostline.pipeline.pretrain.stage import train_once
from frostline.tracking.tracker import contents
from frostline.training import earlier_runs
from frostline.training import run as training_run
from frostline.training.inputs import load_inputs
from frostline.training.services import Services, Tracker

# Three phases in 8 epochs of 5 steps; the second rises to a rate that is far too high, until it is noticed.
GRADUAL = {
    "groups": {"head": "head", "top": "stage:-1", "rest": "*"},
    "phases": [
        {"train": ["head"], "until": {"steps": 7}},
        {
            "train": ["head", "top"],
            "until": {"plateau": "val/loss", "patience": 2, "min_delta": 0.3, "max": {"epochs": 4}},
            "restore": "best",
            "lr": {"head": 300.0, "top": 300.0},
            "schedule": {"kind": "constant", "warmup": 0.9, "final": 1.0},
        },
        {
            "train": "all",
            "until": "end",
            "lr": {"layer_decay": 0.7},
            "schedule": {"kind": "cosine", "warmup": 0.0, "final": 0.0},
            "restore": "none",
        },
    ],
}
MLP = {
    "backbone": {"kind": "mlp", "hidden": [12, 8], "activation": "tanh", "dropout": 0.2},
    "augment": {"rotate": 10.0},
    "freeze": GRADUAL,
    "trainer.epochs": 8,
}
CONV = {**MLP, "backbone": RESNET, "optimizer": SGD, "augment": {"flip": 0.5}}
SMOOTHED = {"kind": "cross_entropy", "label_smoothing": 0.1, "class_weights": None}
EMA = {
    **CONV,
    "averaging": {"kind": "ema", "decay": 0.9, "warmup": True},
    "augment": {"flip": 0.5, "mixup": 0.2, "cutmix": 1.0},
    "loss": SMOOTHED,
    "trainer.sampling": "balanced",
}
LORA = {"kind": "lora", "rank": 2, "alpha": 4, "dropout": 0.1, "layers": "*"}
WISE_FT = {"kind": "wise_ft", "alphas": [0.0, 0.5, 1.0]}
SWA = {**CONV, "averaging": {"kind": "swa", "start": 0.4}}
WITHIN = {**MLP, "dataset": {"selection": "within", "shots": 13}}  # 10 of them train
STEPS = 40


def services(scratch, progress=None):
    return Services(scratch, progress) if progress else Services(scratch)


class Told(Tracker):
    """A tracker that writes down what it is told, a line each."""

    def __init__(self, path):
        self.path = path

    @contextmanager
    def run(self, about):
        self.tell("begin", about.name, dict(about.tags), about.late)
        yield self
        self.tell("end")

    def tell(self, what, *values):
        with self.path.open("a") as file:
            print(json.dumps([what, *values]), file=file)

    def log_plan(self, run, plan, network, spec, images):
        self.tell("planned", repr(plan.phases), list(network.state_dict()), images)

    def log_images(self, data, classes):
        """Draw nothing."""

    def log_epoch(self, row):
        self.tell("epoch", dict(row))

    def log_metrics(self, values):
        self.tell("metrics", dict(values))

    def set_tags(self, values):
        self.tell("tags", dict(values))

    def log_initial_weights(self, sha256):
        self.tell("started_from", sha256)

    def log_outputs(self, folder):
        self.tell("finished", sorted(contents(folder)))


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def run(stage, config, data, folder, end=None, out="out"):
    """Run a stage with a checkpoint an epoch; count its steps in folder/steps; be killed at a moment."""
    import pytorch_lightning as pl

    from frostline.training import module as lit_module
    from frostline.training import trainer

    trainer.SAVE_EVERY_SECONDS, trainer.SAVE_SHARE = 0.0, 1e9
    rows = 0
    steps = folder / "steps"
    steps.mkdir(parents=True, exist_ok=True)
    start_step, save = lit_module.Classifier.on_train_batch_start, pl.Trainer.save_checkpoint

    def counted(self, batch, batch_idx):
        (steps / f"{os.getpid()}-{time.monotonic_ns()}").touch()
        if end == ("step", self.global_step):
            kill()
        start_step(self, batch, batch_idx)

    def saved(self, *arguments, **options):
        save(self, *arguments, **options)
        if end == ("saving", self.global_step):
            kill()

    @contextmanager
    def progress(description, total):
        def advance(n=1, note=""):
            nonlocal rows
            rows += 1
            if end == ("row", rows):
                kill()

        yield advance

    def shared(source, target):
        if end == ("publishing", target.parent.name):
            kill()
        share(source, target)

    share, training_run.link_or_copy = training_run.link_or_copy, shared
    lit_module.Classifier.on_train_batch_start, pl.Trainer.save_checkpoint = counted, saved

    def say(text):
        with (folder / "said").open("a") as file:
            print(text, file=file)

    stage(config, data, folder / out, Services(folder / "scratch", progress, say, Told(folder / "told")))


def said(folder):
    path = folder / "said"
    return path.read_text().splitlines() if path.exists() else []


def steps_of(folder):
    return len(list((folder / "steps").iterdir()))


@pytest.fixture(scope="module")
def undisturbed(digits, tmp_path_factory):
    """What each config's run leaves, when nothing happens to it."""
    known = {}

    def outs(name, config):
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            assert in_process(run, finetune, arm_of(config), digits, folder) == (0, "")
            assert steps_of(folder) == STEPS
            known[name] = files(folder / "out")
        return known[name]

    return outs


@pytest.fixture(scope="module")
def killed(digits, tmp_path_factory):
    """Copies what a run that is killed at a moment leaves into a folder."""
    known = {}

    def leave(config, end, folder):
        key = config.model_dump_json(), end
        if key not in known:
            made = tmp_path_factory.mktemp("killed")
            assert in_process(run, finetune, arm_of(config), digits, made, end) == (-signal.SIGKILL, "")
            known[key] = made
        shutil.copytree(known[key], folder, dirs_exist_ok=True)

    return leave


# ── determinism ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_same_run_in_two_processes_and_folders_writes_the_same_bytes(digits, tmp_path):
    config = run_config({**MLP, "stage": "pretrain"})
    other = config.model_copy(update={"seed": 1})
    runs = {"one": config, "some other folder": config, "seed": other}
    started = [Started(run, train_once, c, digits, tmp_path / name) for name, c in runs.items()]
    assert [process.wait() for process in started] == [(0, "")] * 3
    one, two, seed = (files(tmp_path / name / "out") for name in runs)
    assert sorted(one) == [
        "config.yaml",
        "history.csv",
        "metrics.json",
        "predictions.csv",
        "training.json",
        "weights.safetensors",
    ]
    assert one == two
    assert not [name for name in one if one[name] == seed[name]]
    assert not [name for name, content in one.items() if str(tmp_path).encode() in content]


# ── going on after a kill ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "end", "left"),
    [
        ("mlp", ("step", 3), STEPS),  # before the first checkpoint
        ("mlp", ("saving", 10), 35),  # the second checkpoint is half there; phase 1 is two steps old
        ("mlp", ("row", 5), 25),  # an epoch is over, its checkpoint not begun; inside the plateau
        ("mlp", ("step", 18), 25),  # in the middle of an epoch
        ("mlp", ("step", 30), 10),  # at an epoch's first step, in the last phase
        ("mlp", ("row", 9), 5),  # all is trained but not written: after the last epoch there is no checkpoint
        ("mlp", ("publishing", "seed-0"), 0),  # all is done but the stage's
        ("conv", ("step", 13), 30),
        ("conv", ("step", 32), 10),
        ("ema", ("step", 13), 30),
        ("ema", ("step", 32), 10),
        ("swa", ("step", 24), 20),
        ("swa", ("step", 37), 5),
        ("within", ("row", 5), 25),  # inside the plateau, which is one of the selection images
        ("within", ("step", 18), 25),
    ],
)
def test_a_killed_run_resumes_to_the_same_bytes(name, end, left, digits, tmp_path, undisturbed, killed):
    config = run_config({"mlp": MLP, "conv": CONV, "ema": EMA, "swa": SWA, "within": WITHIN}[name])
    expected = undisturbed(name, config)
    killed(config, end, tmp_path)
    assert not (tmp_path / "out").exists()
    before = steps_of(tmp_path)
    assert in_process(run, finetune, arm_of(config), digits, tmp_path) == (0, "")
    assert steps_of(tmp_path) - before == left
    assert files(tmp_path / "out") == expected
    assert not files(tmp_path / "scratch" / "resume")
    resumed = [line for line in said(tmp_path) if "resuming" in line]
    epochs = config.trainer.epochs
    first = epochs - left // (STEPS // epochs) + 1
    started = [f"finetune None · seed 0 (1/1): resuming at epoch {first} of {epochs}"]
    assert resumed == (started if 0 < left < STEPS else [])


@pytest.mark.parametrize(
    ("name", "base", "changes"),
    [
        ("held", MLP, {"regularizer": {"kind": "l2_sp", "alpha": 0.1, "beta": 0.01}, "averaging": WISE_FT}),
        ("adapted", CONV, {"adapter": LORA, "averaging": EMA["averaging"], "optimizer": {**SGD, "lr": 1e-4}}),
    ],
)
def test_a_run_from_weights_resumes_to_the_same_bytes(name, base, changes, digits, tmp_path, undisturbed):
    first = tmp_path / "first"
    assert in_process(run, train_once, run_config({**base, "stage": "pretrain"}), digits, first) == (0, "")
    weights = {"kind": "file", "path": str(first / "out" / "weights.safetensors"), "head": "reset"}
    config = run_config({**base, "weights": weights, **changes})
    expected = undisturbed(name, config)
    assert in_process(run, finetune, arm_of(config), digits, tmp_path, ("step", 28)) == (
        -signal.SIGKILL,
        "",
    )
    assert in_process(run, finetune, arm_of(config), digits, tmp_path) == (0, "")
    assert steps_of(tmp_path) == 29 + 15
    assert files(tmp_path / "out") == expected


@pytest.mark.parametrize(("name", "config"), [("mlp", MLP), ("conv", CONV)])
def test_the_second_phase_of_these_runs_ends_early_and_goes_back(name, config, digits, undisturbed):
    """Else the tests above would show less than they say."""
    outs = undisturbed(name, run_config(config))
    starts = [phase["first_step"] for phase in json.loads(outs["seed-0/training.json"])["phases"]]
    assert starts == [0, 7, 20]
    rows = csv.DictReader(outs["seed-0/history.csv"].decode().splitlines())
    losses = [float(row["val/loss"]) for row in rows if row["phase"] == "1"]
    # The best of its three epochs lies before both checkpoints that runs are killed after.
    assert losses.index(min(losses)) == 0


def test_a_run_that_stops_early_resumes_to_the_same_bytes(digits, tmp_path):
    """It stalls after a rate that is far too high; its length is then not that of trainer.epochs."""
    rule = {"plateau": "val/loss", "patience": 2, "min_delta": 0.3, "max": "100%"}
    last = {**GRADUAL["phases"][1], "until": rule}
    changes = {"freeze": {**GRADUAL, "phases": [GRADUAL["phases"][0], last]}}
    config = run_config({**MLP, **changes})
    assert in_process(run, finetune, arm_of(config), digits, tmp_path / "whole") == (0, "")
    outs = files(tmp_path / "whole" / "out")
    for end in (("step", 17), ("saving", 15), ("row", 5), ("publishing", "seed-0")):
        folder = tmp_path / end[0]
        killed = in_process(run, finetune, arm_of(config), digits, folder, end)
        assert killed == (-signal.SIGKILL, ""), end
        assert in_process(run, finetune, arm_of(config), digits, folder) == (0, ""), end
        assert files(folder / "out") == outs, end
    told = json.loads(outs["seed-0/training.json"])
    assert told["epochs"] < 8
    assert told["steps"] == told["epochs"] * 5
    assert len(outs["seed-0/history.csv"].decode().splitlines()) == told["epochs"] + 2


def test_a_run_killed_twice_resumes_twice(digits, tmp_path, undisturbed):
    config = run_config(MLP)
    for end in (("step", 12), ("step", 27)):
        assert in_process(run, finetune, arm_of(config), digits, tmp_path, end) == (-signal.SIGKILL, "")
    assert in_process(run, finetune, arm_of(config), digits, tmp_path) == (0, "")
    assert steps_of(tmp_path) == 13 + 18 + 15
    assert files(tmp_path / "out") == undisturbed("mlp", config)


def test_a_seed_that_is_done_is_not_trained_again(digits, tmp_path, undisturbed):
    config = run_config(MLP)
    arm = arm_of(config, [0, 1])
    end = ("publishing", "seed-1")
    assert in_process(run, finetune, arm, digits, tmp_path, end) == (-signal.SIGKILL, "")
    assert steps_of(tmp_path) == 2 * STEPS
    assert in_process(run, finetune, arm, digits, tmp_path) == (0, "")
    assert steps_of(tmp_path) == 2 * STEPS
    alone = {f: c for f, c in files(tmp_path / "out").items() if f.startswith("seed-0")}
    assert alone == undisturbed("mlp", config)


def test_a_run_that_ended_in_a_killed_process_is_recorded_as_it_was(digits, tmp_path):
    """The tracker may have died with that process, so it is told once more, and that it is late."""

    def told():
        return [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()]

    config = run_config(MLP)
    assert in_process(run, finetune, arm_of(config), digits, tmp_path, ("publishing", "seed-0"))[0] != 0
    (begin, *first) = told()
    assert [what for what, *_ in first] == ["planned", *["epoch"] * 9, "metrics", "tags", "finished", "end"]
    (tmp_path / "told").unlink()
    assert in_process(run, finetune, arm_of(config), digits, tmp_path) == (0, "")
    assert steps_of(tmp_path) == STEPS
    assert told() == [[*begin[:-1], True], *first]
    assert begin[-1] is False
    assert begin[2]["run.key"]


def test_two_processes_that_want_the_same_run_train_it_once(digits, tmp_path, undisturbed):
    config = run_config(MLP)
    started = [Started(run, finetune, arm_of(config), digits, tmp_path, None, out) for out in ("a", "b")]
    assert [process.wait() for process in started] == [(0, "")] * 2
    assert steps_of(tmp_path) in (STEPS, 2 * STEPS)  # the first may have finished, and tidied up, before
    assert files(tmp_path / "a") == files(tmp_path / "b") == undisturbed("mlp", config)


def run_in(package, *arguments):
    """`run`, with the code of another copy of the package as that which results depend on."""
    code.PACKAGE = package
    code.fingerprint.cache_clear()
    run(*arguments)


@pytest.mark.parametrize(
    ("file", "left"), [("reporting/words.py", 25), ("console/progress.py", 25), ("training/losses.py", STEPS)]
)
def test_a_killed_run_resumes_unless_code_that_computes_has_changed(
    file, left, digits, tmp_path, undisturbed
):
    package, config = tmp_path / "frostline", run_config(MLP)
    shutil.copytree(code.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    arguments = package, finetune, arm_of(config), digits, tmp_path
    assert in_process(run_in, *arguments, ("step", 18)) == (-signal.SIGKILL, "")
    with (package / file).open("a") as source:
        source.write("# another wording\n")
    before = steps_of(tmp_path)
    assert in_process(run_in, *arguments) == (0, "")
    assert steps_of(tmp_path) - before == left
    assert files(tmp_path / "out") == undisturbed("mlp", config)


# ── damaged caches ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_run_with_a_damaged_checkpoint_begins_again(kind, digits, tmp_path, undisturbed, killed):
    config = run_config(MLP)
    killed(config, ("step", 18), tmp_path)
    (checkpoint,) = tmp_path.glob("scratch/resume/*/*.ckpt")
    DAMAGE[kind](checkpoint)
    before = steps_of(tmp_path)
    assert in_process(run, finetune, arm_of(config), digits, tmp_path) == (0, "")
    assert steps_of(tmp_path) - before == STEPS
    assert files(tmp_path / "out") == undisturbed("mlp", config)


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_set_aside_with_one_warning(kind, tmp_path, capsys, monkeypatch):
    from frostline.training.trainer import _Checkpoint

    monkeypatch.setattr(signals._State, "sentence", signals.SENTENCE)
    content = b"numbers" * 99
    path = tmp_path / f"{hashlib.sha256(content).hexdigest()}.ckpt"
    path.write_bytes(content)
    assert _Checkpoint.latest(tmp_path) == str(path)
    assert signals._State.sentence == RESUMABLE
    DAMAGE[kind](path)
    monkeypatch.setattr(signals._State, "sentence", signals.SENTENCE)
    assert _Checkpoint.latest(tmp_path) is None
    assert signals._State.sentence == signals.SENTENCE
    if kind != "deleted":
        assert capsys.readouterr().err == (
            f"frostline: warning: {path} is damaged (its content is not what was written);"
            f" it was set aside as {path.name}.damaged and is made again\n"
        )


@pytest.mark.parametrize("kind", ["flipped", "deleted"])
@pytest.mark.parametrize("name", [WEIGHTS, HISTORY])
def test_a_damaged_result_that_was_not_published_is_made_again(
    name, kind, digits, tmp_path, undisturbed, killed
):
    config = run_config(MLP)
    killed(config, ("publishing", "seed-0"), tmp_path)
    (path,) = tmp_path.glob(f"scratch/resume/*/done/{name}")
    DAMAGE[kind](path)
    assert in_process(run, finetune, arm_of(config), digits, tmp_path) == (0, "")
    assert files(tmp_path / "out") == undisturbed("mlp", config)


def test_of_two_checkpoints_a_sound_one_is_taken(digits, tmp_path, undisturbed, killed):
    """A process that is killed between two steps of saving leaves both."""
    config = run_config(MLP)
    killed(config, ("step", 18), tmp_path)
    (checkpoint,) = tmp_path.glob("scratch/resume/*/*.ckpt")
    (checkpoint.parent / f"{'0' * 64}.ckpt").write_bytes(checkpoint.read_bytes()[:-9])
    (checkpoint.parent / "last.partial").write_bytes(b"half")
    before = steps_of(tmp_path)
    assert in_process(run, finetune, arm_of(config), digits, tmp_path) == (0, "")
    assert steps_of(tmp_path) - before == 25
    assert files(tmp_path / "out") == undisturbed("mlp", config)


# ── what a result depends on ────────────────────────────────────────────────────────────────────────────────


def test_a_checkpoint_belongs_to_all_that_the_result_depends_on(digits, tmp_path, monkeypatch):
    from frostline.models.initial_weights import NO_WEIGHTS

    def key(changes={}):  # noqa: B006
        config = run_config({**MLP, **changes})
        given = load_inputs(config, digits, NO_WEIGHTS, services(tmp_path))
        return earlier_runs.run_key(config, given)

    others = [
        key({"optimizer": {"lr": 0.02}}),
        key({"trainer.batch_size": 21}),
        key({"dataset": {"shots": 9}}),
        key({"input.mean": [0.5]}),
        key({"seed": 1}),
    ]
    assert key({"study": "another", "arm": "full"}) == key()
    assert len({key(), *others}) == 6
    before = key()
    monkeypatch.setattr(earlier_runs, "code_versions", lambda stage: ["another version"])
    assert key() != before


# ── what ends a run ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_loss_that_is_not_a_number_publishes_nothing_and_keeps_the_checkpoint(digits, tmp_path):
    schedule = {**GRADUAL, "phases": [*GRADUAL["phases"][:2], {**GRADUAL["phases"][2], "lr": {"head": 1e38}}]}
    config = run_config({**MLP, "freeze": schedule})
    status, said = in_process(run, finetune, arm_of(config), digits, tmp_path)
    assert status == 2
    assert said.startswith("TrainingFailed: the loss became ")
    advice = "; lower optimizer.lr, or set optimizer.clip_norm=1.0"
    assert f", phase 2{advice}; the weights of the best epoch so far, " in said
    assert not (tmp_path / "out").exists()
    left = sorted(Path(name).suffix for name in files(tmp_path / "scratch" / "resume"))
    assert left == [".ckpt", ".safetensors"]
    assert not list(tmp_path.glob(".out*"))


def run_in_a_small_space(config, data, folder, limit, saves):
    from frostline.training import trainer

    trainer.SAVE_EVERY_SECONDS, trainer.SAVE_SHARE = (0.0, 1e9) if saves else (1e9, 1.0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    finetune(arm_of(config), data, folder / "out", services(folder / "scratch"))


@pytest.mark.parametrize("saves", [True, False], ids=["checkpoint", "weights"])
def test_a_full_disk_is_one_sentence_and_publishes_nothing(saves, digits, tmp_path, undisturbed):
    config = run_config(MLP)
    # Linux gives another error for a file above a limit than for a full disk; to frostline they are one.
    status, said = in_process(run_in_a_small_space, config, digits, tmp_path, 3000, saves)
    assert (status, said) == (
        2,
        "OutOfResources: the disk is full (File too large); make room and run the same command again",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["scratch"]
    assert not [name for name in files(tmp_path) if name.endswith((".partial", ".ckpt", ".safetensors"))]
    assert in_process(run, finetune, arm_of(config), digits, tmp_path) == (0, "")
    assert files(tmp_path / "out") == undisturbed("mlp", config)


def run_in_little_memory(config, data, folder, spare):
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + spare
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    finetune(arm_of(config), data, folder / "out", services(folder / "scratch"))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_no_memory_is_one_sentence_and_publishes_nothing(digits, tmp_path):
    # One request, the 431 MB of a training batch's hidden units, is above what is left; none is near it.
    config = run_config(
        {
            "backbone.hidden": [100_000],
            "dataset": {"shots": None},
            "trainer": {"epochs": 1, "batch_size": 1078, "eval_batch_size": 16},
        }
    )
    status, said = in_process(run_in_little_memory, config, digits, tmp_path, 300 << 20)
    assert status == 2
    assert re.fullmatch(
        r"OutOfResources: out of memory: training needed 411 MiB more"
        r" \(ulimit -v allows the process .* GiB\);"
        r" close other programs, or lower trainer\.batch_size or input\.size, and run again",
        said,
    )
    assert not (tmp_path / "out").exists()


# ── one run, in this process ────────────────────────────────────────────────────────────────────────────────


def test_test_images_have_no_part_in_training(digits, tmp_path):
    """Spoil every test image: training does not notice, evaluation does."""
    from frostline.console.errors import FrostlineError
    from frostline.data.prepared.index import Index
    from frostline.evaluation import evaluate

    spoilt = tmp_path / "spoilt"
    spoilt.mkdir()
    for name, content in files(digits).items():
        (spoilt / name).write_bytes(content)
    index = Index.read(spoilt)
    images = np.load(spoilt / "images.npy")
    images[index.rows("test")] = 255 - images[index.rows("test")]
    np.save(spoilt / "images.npy", images)

    config = run_config({"trainer.epochs": 2})
    for name, data in (("clean", digits), ("poisoned", spoilt)):
        finetune(arm_of(config), data, tmp_path / name, services(tmp_path / f"scratch-{name}"))
    assert files(tmp_path / "clean") == files(tmp_path / "poisoned")
    with pytest.raises(FrostlineError, match=r"images\.npy has changed since prepare wrote it"):
        evaluate.measure(config, spoilt, tmp_path / "clean" / "seed-0", tmp_path, services(tmp_path))


def test_a_run_says_what_it_did(digits, tmp_path):
    told = []

    @contextmanager
    def progress(description, total):
        told.append((description, total))
        yield lambda n=1, note="": told.append((n, note))

    config = run_config({**MLP, "arm": "gradual", "trainer.epochs": 6})
    finetune(arm_of(config), digits, tmp_path / "out", services(tmp_path / "scratch", progress))
    assert told[0] == ("finetune gradual · seed 0 (1/1)", 6)
    # The network before training is measured, too, but is no epoch.
    assert [n for n, _ in told[1:]] == [0, 1, 1, 1, 1, 1, 1, 0]
    assert told[1][1].startswith("val/accuracy 0.")
    done = json.loads((tmp_path / "out" / "seed-0" / "training.json").read_text())
    best = done["best_epoch"]
    value = float(read_csv(tmp_path / "out" / "seed-0" / "history.csv")[best]["val/accuracy"])
    assert told[-1] == (0, f"val/accuracy {value:.4f} after epoch {best}")  # of the weights that are saved
    assert (done["epochs"], done["steps"], done["training_images"]) == (6, 30, 100)
    assert done["load_report"] == {"loaded": 0, "missing": 6, "unexpected": 0, "reset": []}
    first, second, *_ = done["phases"]
    assert first == {
        "index": 0,
        "train": ["head"],
        "first_step": 0,
        "first_epoch": 1,
        "trainable_parameters": 8 * 10 + 10,
    }
    assert (second["train"], second["first_step"], second["first_epoch"]) == (["head", "top"], 7, 2)


def test_a_run_that_was_trained_before_says_what_it_measured(digits, tmp_path):
    said = []
    again = replace(services(tmp_path / "scratch"), say=said.append)
    for seeds in ([0], [0, 1]):
        finetune(arm_of(run_config({**MLP, "arm": "full"}), seeds), digits, tmp_path / "out", again)
    record = json.loads((tmp_path / "out" / "seed-0" / "training.json").read_text())
    history = read_csv(tmp_path / "out" / "seed-0" / "history.csv")
    (best,) = (row for row in history if row["epoch"] == str(record["best_epoch"]))
    measured = f"val/accuracy {float(best['val/accuracy']):.4f}"
    lines = [line for line in said if "trained before" in line]
    assert lines == [f"finetune full · seed 0 (1/2): trained before, {measured}"]


def test_nothing_trains_and_the_weights_are_those_of_the_start(digits, tmp_path):
    config = run_config({"freeze": NOTHING})
    finetune(arm_of(config), digits, tmp_path / "first", services(tmp_path / "scratch"))
    weights = tmp_path / "first" / "seed-0" / "weights.safetensors"
    again = run_config({"freeze": NOTHING, "weights": {"kind": "file", "path": str(weights), "head": "keep"}})
    finetune(arm_of(again), digits, tmp_path / "second", services(tmp_path / "scratch"))
    assert (tmp_path / "second" / "seed-0" / "weights.safetensors").read_bytes() == weights.read_bytes()


def test_an_error_inside_training_leaves_the_old_results_alone(digits, tmp_path):
    finetune(arm_of(run_config()), digits, tmp_path / "out", services(tmp_path / "scratch"))
    before = files(tmp_path / "out")
    config = run_config({"optimizer": {"lr": 1e38}})
    with pytest.raises(TrainingFailed):
        finetune(arm_of(config), digits, tmp_path / "out", services(tmp_path / "scratch"))
    assert files(tmp_path / "out") == before
