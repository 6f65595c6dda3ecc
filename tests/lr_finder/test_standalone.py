"""`frostline lr-find`: repeatable files, features of frozen layers, and mistakes in one sentence."""

import csv
import re

import pytest
from tests.imports import SRC

from frostline.base.formats import read_csv
from frostline.commands import main as cli
from frostline.config import compose, stage_configs
from frostline.console.errors import FrostlineError
from frostline.console.progress import no_output, say_once
from frostline.lr_finder import standalone
from frostline.lr_finder.range_test import run_test
from frostline.lr_finder.suggestion import Settings
from frostline.models.initial_weights import NO_WEIGHTS
from frostline.pipeline import standalone as pipeline
from frostline.training.inputs import load_inputs
from frostline.training.services import Services

DIGITS = ["dataset=digits", "weights=none", "trainer.threads=1", "dataset.shots=20"]
MLP = [*DIGITS, "input.size=8", "backbone=mlp", "backbone.hidden=[16]", "freeze=full"]
THIRTY = Settings(1e-5, 1, 30)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_it_suggests_a_learning_rate_that_trains(tmp_path, capsys):
    words = ["lr-find", *MLP, "--out", "here"]
    say_once.cache_clear()
    assert cli.main(words) == 0
    printed = capsys.readouterr()
    first, second, path = printed.out.splitlines()
    assert path == "here/lr.svg"
    rates = [float(re.match(r"optimizer\.lr=(\S+) ", line)[1]) for line in (first, second)]
    assert all(1e-4 < rate < 1 for rate in rates)
    rows = read_csv(tmp_path / "here" / "lr.csv")
    assert [*rows[0]] == ["lr", "loss", "smoothed"]
    lowest = min(float(row["smoothed"]) for row in rows)
    assert lowest < 0.7 * float(rows[0]["smoothed"])
    assert len(rows) < standalone.STEPS  # the loss diverges before
    rate, last = float(rows[-1]["lr"]), float(rows[-1]["smoothed"])
    said = f"lr-find: stopped after {len(rows)} of 100 learning rates, at {rate:.1e}: the loss diverged"
    assert f"{said}, {last:.3g} after {lowest:.3g}\n" in printed.err
    written = {name: (tmp_path / "here" / name).read_bytes() for name in ("lr.csv", "lr.svg")}
    assert cli.main(words) == 0
    assert {name: (tmp_path / "here" / name).read_bytes() for name in written} == written
    assert {path.name for path in (tmp_path / "here").iterdir()} == set(written)
    assert not (tmp_path / "runs").exists()


def test_frozen_layers_run_once_and_give_the_same_losses(tmp_path):
    words = [*DIGITS, "backbone=resnet10t", "freeze=linear_probe", "input.size=32", "trainer.precision=fp32"]
    cached, whole = (range_test([*words, *more], tmp_path) for more in ([], ["features=off"]))
    assert cached.trains_on.startswith("features at ")
    assert whole.trains_on == "the whole network: features=off"
    assert cached.losses == pytest.approx(whole.losses, rel=1e-3)


def test_accumulated_gradients_give_the_losses_of_the_larger_batch(tmp_path):
    sizes = (["trainer.batch_size=20"], ["trainer.batch_size=5", "trainer.accumulate=4"])
    whole, parts = (range_test([*MLP, *size], tmp_path) for size in sizes)
    assert parts.losses == pytest.approx(whole.losses, rel=1e-3)


def range_test(words, scratch, say=no_output, settings=THIRTY):
    """The range test of a fine-tuning, whatever it suggests."""
    composed, choices = compose.experiment(words)
    run = stage_configs.finetune_config(composed, choices)
    _, data = pipeline.prepared(composed, "target")
    services = Services(scratch, say=say)
    return run_test(run, load_inputs(run, data, NO_WEIGHTS, services), services, settings)


@pytest.mark.parametrize("more", [["augment=light"], ["optimizer=lamb", "loss=mse"], ["freeze=layer_decay"]])
def test_it_follows_the_config(more):
    done = standalone.run([*MLP, *more, "optimizer.clip_norm=1.0", "trainer.sampling=balanced"])
    with (done.out / "lr.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == len(done.test.losses) > 10


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["freeze=zero_shot"], "freeze: nothing trains in zero_shot"),
        (["--low", "1", "--high", "0.1"], "--low, --high: found 1 and 0.1"),
        (["--low", "0"], "--low, --high: found 0 and 10"),
        (["--steps", "3"], "--steps: found 3; give at least 10"),
        (["optimizer.name=nope"], "optimizer.name: no optimizer 'nope'"),
        (["--low", "1e-12", "--high", "1e-11"], "the loss falls at no learning rate from 1e-12"),
    ],
)
def test_mistakes_are_one_sentence(words, sentence, capsys):
    assert cli.main(["lr-find", *MLP, *words]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error


def test_a_loss_that_is_not_finite_ends_the_test(tmp_path):
    said = []
    test = range_test([*MLP, "loss=mse", "optimizer=sgd"], tmp_path, said.append, Settings(1e30, 1e38, 10))
    assert said[-1].startswith(f"lr-find: stopped after {len(test.rates)} of 10 learning rates, at ")
    assert re.search(r": the loss (is (nan|inf)|diverged, \S+ after \S+)$", said[-1])


def test_a_test_that_takes_all_steps_says_nothing(tmp_path):
    said = []
    range_test(MLP, tmp_path, said.append, Settings(1e-6, 1e-4, 10))
    assert [text for text in said if "stopped" in text] == []


def test_an_empty_schedule_has_no_learning_rate():
    with pytest.raises(FrostlineError, match="freeze: nothing trains"):
        standalone.run([*MLP, "freeze.phases=[]"])


def test_the_guides_command(capsys):
    guide = (SRC.parent / "docs" / "runs.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^frostline (lr-find .*)$", guide, re.MULTILINE)
    assert cli.main(line.split()) == 0
    assert capsys.readouterr().out.startswith("optimizer.lr=")
