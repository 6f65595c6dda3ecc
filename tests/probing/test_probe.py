"""`frostline probe`: what it prints and leaves, and that its best head is what fine-tuning gives."""

import json
import re
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from tests.tiny import PROBE, files, run_config

from frostline.base.formats import read_csv
from frostline.commands import main as cli
from frostline.console.progress import say_once
from frostline.evaluation import evaluate
from frostline.probing import batched_finetune as together
from frostline.probing import probe, results
from frostline.training.services import Services, Tracker

TINY = [
    *("dataset=digits", "backbone=timm", "backbone.name=test_resnet", "input.size=32"),
    *("trainer.epochs=3", "trainer.batch_size=64", "trainer.threads=1", "trainer.device=cpu"),
    *("weights=file", "weights.path=start/weights.safetensors", "weights.head=reset"),
]
GRID = ["optimizer.lr=0.01,0.03", "optimizer.weight_decay=0,0.1", "loss.label_smoothing=0,0.1", "seed=1,0"]
LEFT = {
    *("probe.json", "heads.csv", "weights.safetensors", "config.yaml", "history.csv", "training.json"),
    *("metrics.json", "predictions.csv"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the weights of a tiny network that has seen digits; features in it are kept."""
    folder = tmp_path_factory.mktemp("probe")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("FROSTLINE_TRACKING", "off")
        trainer = [f"pretrain.{each}" for each in TINY if each.startswith("trainer.")]
        assert (
            cli.main(
                ["pretrain", *TINY[1:4], *trainer, "pretrain.trainer.epochs=1", "source=digits", "out=start"]
            )
            == 0
        )
    return folder


@pytest.fixture
def frostline(place, monkeypatch, capsys):
    """Runs a command there: what it prints, or its error without the program's name."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("FROSTLINE_TRACKING", "off")
    say_once.cache_clear()  # another test of this process may have said the same

    def run(command, *words, status=0, tiny=TINY):
        assert cli.main([command, *tiny, *words]) == status
        printed = capsys.readouterr()
        run.stderr = printed.err
        return printed.out if status == 0 else printed.err.splitlines()[-1].removeprefix("frostline: error: ")

    return run


def number(text: str) -> float:
    return float(text.split(" ")[0])


def test_a_grid_of_heads_writes_a_table_and_the_best_as_a_run(frostline, place):
    out = frostline("probe", *GRID, "out=grid")
    first, header, *rows, last = out.splitlines()
    assert re.fullmatch(
        r"features at fc:input of 1078 train, 362 val, 357 test images took \d+\.\d s;"
        r" 16 heads took \d+\.\d s",
        first,
    )
    columns = ["probe", "lr", "weight_decay", "label_smoothing", "val accuracy", "val loss", "test accuracy"]
    assert re.split(r" {2,}", header.strip()) == columns
    assert re.fullmatch(
        r"grid: the best head, lr=\S+ weight_decay=\S+ label_smoothing=\S+ seed=[01], as a run;"
        r" heads\.csv, probe\.json",
        last,
    )
    cells = [re.split(r" {2,}", row.strip()) for row in rows]
    assert [row[0] for row in cells] == ["heads"] * 8 + [cells[-2][0], cells[-1][0]]
    accuracies = [number(row[4]) for row in cells[:8]]
    assert accuracies == sorted(accuracies, reverse=True)
    assert [len(row) for row in cells[:8]] == [7] + [6] * 7
    assert re.match(r"ridge, penalty \S+", cells[-2][0])
    assert re.match(r"kNN, k \d+", cells[-1][0])
    assert set(files(place / "grid")) == LEFT

    heads = read_csv(place / "grid" / "heads.csv")
    assert len(heads) == 16
    assert [row["seed"] for row in heads] == ["0", "1"] * 8
    found = json.loads((place / "grid" / "probe.json").read_text())
    assert set(found) == {"features", "settings", "best", "ridge", "knn"}
    best, setting = found["best"], found["settings"][0]
    keys = ("optimizer.lr", "optimizer.weight_decay", "loss.label_smoothing")
    assert [best[key] for key in keys] == [setting[key] for key in keys]
    mine = [row for row in heads if all(float(row[key]) == best[key] for key in keys)]
    values = [float(row["val/accuracy"]) for row in mine]
    assert setting["val"]["accuracy"]["mean"] == pytest.approx(sum(values) / 2)
    winner = max(mine, key=lambda row: (float(row["val/accuracy"]), -float(row["val/loss"])))
    assert int(winner["seed"]) == best["seed"]
    assert best["test"]["accuracy"]["n"] == 2
    config = yaml.safe_load((place / "grid" / "config.yaml").read_text())
    assert (config["freeze_name"], config["seed"], config["optimizer"]["lr"]) == (
        "linear_probe",
        best["seed"],
        best["optimizer.lr"],
    )


def test_the_same_heads_in_another_order_give_the_same_bytes_on_features_that_are_there(frostline, place):
    frostline("probe", *GRID, "out=once")
    out = frostline("probe", "-m", *(_turned(each) for each in GRID), "out=again")
    assert "test images were cached; 16 heads" in out
    assert files(place / "again") == files(place / "once")


def _turned(override: str) -> str:
    key, _, values = override.partition("=")
    return f"{key}={','.join(reversed(values.split(',')))}"


def test_the_best_head_is_what_fine_tuning_gives(frostline, place):
    frostline("probe", *GRID, "out=judged")
    best = json.loads((place / "judged" / "probe.json").read_text())["best"]
    words = [f"{key}={best[key]}" for key in (*(each.partition("=")[0] for each in GRID),)]
    frostline("finetune", "freeze=linear_probe", *words, "out=tuned")
    judged, tuned = files(place / "judged"), files(place / "tuned")
    assert set(judged) - set(tuned) == {"probe.json", "heads.csv"}
    assert judged["config.yaml"] == tuned["config.yaml"]
    alike(read_csv(place / "judged" / "history.csv"), read_csv(place / "tuned" / "history.csv"))
    one, other = (json.loads(each["metrics.json"]) for each in (judged, tuned))
    assert one["test"]["accuracy"] == other["test"]["accuracy"]
    assert one["test"] == pytest.approx(other["test"], rel=1e-4)
    one, other = (json.loads(each["training.json"]) for each in (judged, tuned))
    assert one.pop("weights_sha256") != ""
    assert one == {key: value for key, value in other.items() if key != "weights_sha256"}


def alike(rows, others):
    assert len(rows) == len(others)
    for row, other in zip(rows, others, strict=True):
        assert list(row) == list(other)
        for name, cell in row.items():
            assert (cell and float(cell)) == (other[name] and pytest.approx(float(other[name]), rel=1e-4))


def test_the_best_head_can_be_measured_again(frostline, place):
    frostline("probe", "out=measured")
    before = files(place / "measured")
    frostline("evaluate", "measured", tiny=[])
    assert files(place / "measured") == before


def test_a_folder_named_by_itself_and_one_head(frostline, place):
    out = frostline("probe", "optimizer.lr=0.02")
    assert re.search(r"^ heads +0\.\d{4} +\d\.\d{4} +0\.\d{4} *$", out, re.M)
    (folder,) = (place / "runs" / "probe").iterdir()
    assert re.fullmatch(r"test_resnet-digits-[0-9a-f]{8}", folder.name)
    assert f"runs/probe/{folder.name}: the best head, seed=0, as a run" in out


def test_seeds_with_images_or_networks_of_their_own(frostline, place):
    frostline("probe", "dataset.shots=5", "seed=0,1", "out=shots")
    rows = read_csv(place / "shots" / "heads.csv")
    assert rows[0]["train/loss"] != rows[1]["train/loss"]
    assert json.loads((place / "shots" / "probe.json").read_text())["features"]["images"]["train"] == 40
    frostline("probe", "seed=0,1", "weights=none", "out=none", tiny=TINY[:-3])
    assert len({row["val/loss"] for row in read_csv(place / "none" / "heads.csv")}) == 2


def test_a_head_that_fails_does_not_affect_the_others(frostline, place):
    given = ["optimizer=sgd", "optimizer.schedule.kind=constant"]
    out = frostline("probe", *given, "optimizer.lr=1e38,0.01", "out=broken")
    assert re.search(r"^ heads +0\.01 .*\n heads +1e\+38 +1 of 1 failed *$", out, re.M)
    fine, broken = read_csv(place / "broken" / "heads.csv")
    assert (fine["failure"], broken["val/loss"]) == ("", "")
    assert broken["failure"].startswith("the loss became")
    error = frostline("probe", *given, "optimizer.lr=1e38", "out=gone", status=3)
    assert re.fullmatch(
        r"in every configuration a head failed, for example since the loss became \w+ at step \d, phase 0;"
        r" lower optimizer\.lr, or set optimizer\.clip_norm=1\.0",
        error,
    )
    assert not (place / "gone").exists()


class Heard(Tracker):
    """Remembers what is recorded."""

    def __init__(self):
        self.about, self.values, self.said, self.files = [], {}, {}, set()

    @contextmanager
    def run(self, about):
        self.about.append(about)
        yield self

    def log_metrics(self, values):
        self.values |= values

    def set_tags(self, values):
        self.said |= values

    def log_initial_weights(self, sha256):
        self.said["start"] = sha256

    def log_outputs(self, folder):
        self.files |= set(files(folder))

    def annotate(self, *arguments):
        raise AssertionError("there is no run but the probe's")


def test_one_run_is_recorded_and_the_test_split_read_after_all_is_chosen(digits, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(
        probe,
        "_fit_closed_form",
        lambda *given, choose=probe._fit_closed_form: read.append("chosen") or choose(*given),
    )
    monkeypatch.setattr(
        evaluate,
        "measure",
        lambda *given, measure=evaluate.measure: read.append("measured") or measure(*given),
    )
    heard = Heard()
    runs = [
        run_config(
            {
                "freeze": PROBE,
                "freeze_name": "linear_probe",
                "dataset.shots": None,
                "optimizer.lr": lr,
                "loss.label_smoothing": smoothing,
                "seed": seed,
            }
        )
        for lr in (0.01, 0.1)
        for smoothing in (0.0, 0.1)
        for seed in (0, 3)
    ]
    judged = probe.run(runs, digits, tmp_path / "out", Services(tmp_path, tracker=heard))
    assert read == ["chosen", "measured"]
    (about,) = heard.about
    assert (about.name, about.stage, about.tags["heads"]) == ("probe·mlp·digits", "probe", "8")
    assert about.config["optimizer"]["lr"] == [0.01, 0.1]
    assert (about.config["optimizer"]["weight_decay"], about.config["seed"]) == (0.01, [0, 3])
    assert heard.said["best"] == results.label(judged)
    assert heard.files >= {"heads.csv", "probe.json", "history.csv", "metrics.json"}
    best = judged.configurations[0]
    assert heard.values["val/accuracy/mean"] == best.val["accuracy"]["mean"]
    assert heard.values["test/accuracy/mean"] == judged.test["accuracy"]["mean"]
    assert heard.values["knn/k"] == judged.knn.chosen
    named = {name for name in heard.values if name.endswith("/val/loss")}
    assert named == {f"lr {lr} label_smoothing {s}/val/loss" for lr in (0.01, 0.1) for s in (0, 0.1)}


SWEEP = ["freeze=linear_probe", "optimizer.lr=0.01,0.03", "seed=0,1", "-m"]


def test_a_sweep_of_heads_is_trained_at_once_to_the_same_as_one_by_one(frostline, place, monkeypatch):
    monkeypatch.setattr("frostline.probing.batched_finetune.BATCH_RUNS", 3)
    out = frostline("finetune", *SWEEP, "study=heads", "out=at-once")
    for some in (3, 1):
        assert f"train {some} heads, by epochs" in frostline.stderr
    monkeypatch.setattr("frostline.probing.batched_finetune.finetune", lambda jobs, on_done: None)
    expected = frostline("finetune", *SWEEP, "study=heads", "out=by-turns")
    assert out.endswith("compare them: frostline compare; in the browser: frostline ui\n")
    rows, others = (
        {tuple(row.split()[:3]) for row in text.splitlines() if "=" in row} for text in (out, expected)
    )
    assert len(rows) == 4
    assert rows <= others
    one, other = files(place / "at-once"), files(place / "by-turns")
    assert list(one) == list(other)
    assert len(one) == 4 * 6
    for folder in sorted({name.partition("/")[0] for name in one}):
        alike(*(read_csv(place / out / folder / "history.csv") for out in ("at-once", "by-turns")))
        assert one[f"{folder}/config.yaml"] == other[f"{folder}/config.yaml"]
        mine, theirs = (json.loads(each[f"{folder}/metrics.json"]) for each in (one, other))
        assert mine["test"]["accuracy"] == theirs["test"]["accuracy"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (
            "freeze=linear_probe,full seed=0,1",
            "they differ in more than optimizer.lr, optimizer.weight_dec",
        ),
        ("freeze=full seed=0,1", "freeze: training more than the head is not supported by batched"),
    ],
)
def test_another_sweep_runs_job_by_job_and_says_why(frostline, words, why):
    frostline("finetune", "trainer.epochs=1", "dataset.shots=2", "out=job-by-job", "-m", *words.split())
    assert f" runs one by one, since {why}" in frostline.stderr


@pytest.mark.slow
def test_a_sweep_of_heads_that_is_killed_resumes_with_the_missing_ones(frostline, place, monkeypatch):
    """Killed after its second run was written, which is as it would be undisturbed."""
    expected = frostline("finetune", *SWEEP, "out=whole", "sweep.name=whole")
    write_run, written = together._write_run, []

    def write(*arguments):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(write_run(*arguments))
        return written[-1]

    with monkeypatch.context() as patched:
        patched.setattr(together, "_write_run", write)
        frostline("finetune", *SWEEP, "out=parts", "sweep.name=parts", status=130)
    there = {path: path.stat().st_mtime_ns for path in (place / "parts").rglob("weights.safetensors")}
    assert len(there) == 2
    out = frostline("finetune", *SWEEP, "out=parts", "sweep.name=parts")
    assert "train 2 heads, by epochs" in frostline.stderr
    assert all(path.stat().st_mtime_ns == when for path, when in there.items())
    numbers = [[row.split()[:3] for row in text.splitlines() if "=" in row] for text in (out, expected)]
    assert numbers[0] == numbers[1]
    assert len(numbers[0]) == 4


def test_a_failing_job_fails_as_it_would_standalone(frostline, place):
    given = ["freeze=linear_probe", "optimizer=sgd", "optimizer.schedule.kind=constant", "-m"]
    error = frostline("finetune", *given, "optimizer.lr=0.01,1e38", "out=half", status=3)
    assert error.startswith("optimizer.lr=1e+38: the loss became ")
    assert (
        "; lower optimizer.lr, or set optimizer.clip_norm=1.0;"
        " the weights of the best epoch so far, 0, are in" in error
    )
    assert [path.name for path in (place / "half").iterdir()] == ["optimizer.lr=0.01"]


AGAIN = "or train them one by one: frostline finetune -m freeze=linear_probe"
MORE = "is not supported by batched linear heads"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("optimizer=lamb", f"optimizer.name: lamb {MORE}; set optimizer=adamw, adam or sgd, {AGAIN}"),
        (
            "trainer.sampling=balanced",
            f"trainer.sampling: balanced {MORE}; set trainer.sampling=shuffle, {AGAIN}",
        ),
        ("augment.mixup=0.2", f"augment.mixup: 0.2 {MORE}; set augment.mixup=0, {AGAIN}"),
        (
            "augment=light",
            f"augment: drawing images anew at each step {MORE}; set features.views=4, or augment=none,"
            f" {AGAIN}",
        ),
        ("features=off", f"features: off {MORE}; set features=auto, {AGAIN}"),
        ("backbone.drop_rate=0.1", f"backbone.drop_rate: 0.1 {MORE}; set backbone.drop_rate=0, {AGAIN}"),
        ("adapter=lora", f"adapter: lora {MORE}; set adapter=none, {AGAIN}"),
        ("regularizer=l2_sp", f"regularizer: l2_sp {MORE}; set regularizer=none, {AGAIN}"),
        ("averaging=ema", f"averaging: ema {MORE}; set averaging=none, {AGAIN}"),
        ("freeze=gradual", f"freeze: gradual {MORE}; set freeze=linear_probe, {AGAIN}"),
        (
            "+optimizer.options.amsgrad=true",
            f"optimizer.options: amsgrad=True {MORE}; remove it, {AGAIN}",
        ),
        (
            "dataset.shots=5,10",
            "dataset.shots=5,10: takes one value here; lists are for optimizer.lr, optimizer.weight_decay,"
            " loss.label_smoothing, seed",
        ),
        ("seed=range(0,0)", "seed=range(0,0): not a list; name values, such as seed=1,2"),
        ("seed=", "seed: found '', must be a valid integer"),
        ("optimizer.lr=0.1,x", "optimizer.lr: found 'x', must be a valid number"),
        ("optimizer.lr=0.1,-1", "optimizer.lr: found -1, must be greater than 0"),
        ("loss=mse loss.label_smoothing=0,0.1", "loss.label_smoothing: unknown key; "),
        ("backbone=resnet10t,mlp", "backbone: no option 'resnet10t,mlp'; "),
        (
            "freeze=full",
            f"freeze: training more than the head {MORE}; set freeze=linear_probe, {AGAIN}",
        ),
        (
            "freeze=surgical",
            f"freeze: training more than the head {MORE}; set freeze=linear_probe, {AGAIN}",
        ),
        (
            "backbone=timm backbone.name=deit_tiny_distilled_patch16_224 weights=none input.size=32",
            "backbone: the head of deit_tiny_distilled_patch16_224, which is not a single linear layer at"
            f" its end, {MORE}; choose another, {AGAIN}",
        ),
    ],
)
def test_what_can_not_be_probed_is_one_sentence(frostline, place, words, sentence):
    tiny = TINY[4:-3] if "backbone=" in words else TINY
    error = frostline("probe", *words.split(), "out=refused", status=2, tiny=tiny)
    assert error == sentence if not sentence.endswith("; ") else error.startswith(sentence)
    assert not (place / "refused").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="nobody may write into Linux's /proc, not even root")
def test_a_folder_that_can_not_be_written(frostline):
    error = frostline("probe", "out=/proc/x", status=2)
    assert error == "out: can't write into /proc (No such file or directory); name another folder"


def test_out_that_is_a_file(frostline, place):
    Path(place, "file").write_text("")
    assert frostline("probe", "out=file", status=2) == "out: file is a file; name a folder"
