import copy
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny import NOTHING, RESNET, SGD, Bench, same, scripted, tensors

from frostline.training.freeze_callback import FreezeSchedule
from frostline.training.module import Classifier

GROUPS = {"head": "head", "top": "stage:-1", "rest": "*"}
# Two steps an epoch: 40 images in batches of 20.
NET = {"backbone": RESNET, "input.size": 16}
MLP = {"backbone.hidden": [6, 5]}


def phases(*given, groups=GROUPS):
    return {"freeze": {"groups": groups, "phases": list(given)}}


THAW = phases(
    {"train": ["head"], "until": {"steps": 3}},
    {"train": ["head", "top"], "until": {"epochs": 1}},
    {"train": "all", "until": {"steps": 1}, "bn": "eval"},
    {"train": ["rest"], "until": "end", "bn": "train"},
)


class Watched(Classifier):
    """Keeps its tensors and its optimizer's state, before the first step and after each, and the rates."""

    def on_train_start(self):
        self.states, self.moments, self.rates = [tensors(self.network)], [{}], []

    def on_train_batch_end(self, *arguments):
        self.states.append(tensors(self.network))
        state = self.optimizers().state
        self.moments.append(
            {
                name: {key: torch.as_tensor(v).clone() for key, v in state[p].items()}
                for name, p in self.network.named_parameters()
                if state.get(p)
            }
        )
        self.rates.append({g["name"]: g["lr"] for g in self.optimizers().param_groups})


@pytest.mark.parametrize("optimizer", [{"lr": 0.01, "weight_decay": 0.1}, SGD], ids=["adamw", "sgd"])
def test_what_is_frozen_is_bit_identical_and_what_trains_moves(optimizer, tmp_path):
    bench = Bench({**NET, **THAW, "optimizer": optimizer, "trainer.epochs": 5}, kind=Watched)
    result = bench.fit(tmp_path)
    assert result.starts == (0, 3, 5, 6)
    assert len(bench.classifier.states) == 11
    does_what_it_says(bench, result)


@st.composite
def schedules(draw):
    """Phases that freeze, thaw, freeze again; 10 steps in all."""
    names = ["head", "top", "rest"]
    count = draw(st.integers(1, 4))
    found = []
    for i in range(count):
        phase = {"train": draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))}
        phase["until"] = "end" if i == count - 1 else {"steps": draw(st.integers(1, 3))}
        for key, values in {
            "bn": ["train", "eval", "recalibrate"],
            "weight_decay": [0.0, 0.5],
            "schedule": [{"kind": "one_cycle", "warmup": 0.3, "final": 0.01, "momentum": [0.9, 0.5]}],
        }.items():
            if draw(st.booleans()):
                phase[key] = draw(st.sampled_from(values))
        found.append(phase)
    return found


@pytest.mark.slow
@settings(max_examples=10)
@given(phases_=schedules(), optimizer=st.sampled_from([{"weight_decay": 0.1}, SGD]))
def test_every_schedule_does_what_it_says(phases_, optimizer):
    # At a higher rate, BatchNorm whose statistics stay lets a random network blow up.
    optimizer = {**optimizer, "lr": 0.0003}
    bench = Bench({**NET, **phases(*phases_), "optimizer": optimizer, "trainer.epochs": 5}, kind=Watched)
    with TemporaryDirectory() as folder:
        does_what_it_says(bench, bench.fit(Path(folder)))


def does_what_it_says(bench, result):
    """Step by step: what is frozen stands still to the bit, its moments too, and what trains moves."""
    module = bench.classifier
    for step, (before, after) in enumerate(zip(module.states, module.states[1:], strict=False)):
        phase = sum(step >= start for start in result.starts) - 1
        trained = bench.plan.trained(phase) | bench.plan.updated_statistics(phase)
        if step in result.starts and bench.plan.phases[phase].bn == "recalibrate":
            trained |= bench.plan.statistics_of_trained_groups(phase)
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        assert moved <= trained, f"step {step}"
        for group in bench.plan.phases[phase].train:
            weights = bench.plan.layers.parameters.intersection(bench.plan.groups[group])
            assert moved & weights, f"step {step}: {group} stood still"
        assert moved >= bench.plan.updated_statistics(phase)
        # The optimizer knows only what has trained so far, and what is frozen again keeps its moments.
        ever = frozenset().union(*(bench.plan.trained(i) for i in range(phase + 1)))
        assert module.moments[step + 1].keys() <= ever
        assert bench.plan.trained(phase) <= module.moments[step + 1].keys()
        for name in module.moments[step].keys() - bench.plan.trained(phase):
            assert same(module.moments[step][name], module.moments[step + 1][name]), f"step {step}: {name}"


def test_rates_follow_the_plan_at_every_step(tmp_path):
    schedule = phases(
        {"train": ["head"], "until": {"steps": 2}, "lr": {"head": 0.5}},
        {"train": "all", "until": "end", "lr": {"layer_decay": 0.5}},
    )
    bench = Bench({**MLP, **schedule, "trainer.epochs": 3}, kind=Watched)
    result = bench.fit(tmp_path)
    plan, module = bench.plan, bench.classifier
    assert [rates["head/3"] for rates in module.rates[:2]] == [
        0.01 * 0.5 * plan.phases[0].curve.factor(step, 2) for step in (0, 1)
    ]
    assert all(rates["top/2"] == rates["rest/1"] == 0 for rates in module.rates[:2])
    for step, rates in enumerate(module.rates[2:]):
        head = 0.01 * plan.phases[1].curve.factor(step, 4)
        assert (rates["head/3"], rates["top/2"], rates["rest/1"]) == (head, head / 2, head / 4)
    assert [row["lr"] for row in result.history[1:]] == [
        max(module.rates[step].values()) for step in (1, 3, 5)
    ]
    assert [row["phase"] for row in result.history] == [None, 0, 1, 1]


@pytest.mark.parametrize("name", ["lamb", "adan"])
def test_an_optimizer_that_counts_by_group_counts_the_steps_that_a_group_trains(name, tmp_path):
    # Else parameters that are unfrozen late would get no bias correction.
    schedule = phases(
        {"train": ["head"], "until": {"steps": 2}},
        {"train": "all", "until": {"steps": 3}},
        {"train": ["top"], "until": {"steps": 2}},
        {"train": "all", "until": "end"},
    )
    bench = Bench({**MLP, **schedule, "optimizer": {"name": name}, "trainer.epochs": 4}, kind=Settings)
    result = bench.fit(tmp_path)
    trained = dict.fromkeys(("head", "top", "rest"), 0)
    for step, groups in enumerate(bench.classifier.log_of):
        phase = bench.plan.phases[sum(step >= start for start in result.starts) - 1]
        for group in phase.train:
            trained[group] += 1
            assert int(groups[group]["step"]) == trained[group], f"step {step}: {group}"
    assert trained == {"head": 6, "top": 6, "rest": 4}


# ── plateaus ────────────────────────────────────────────────────────────────────────────────────────────────

PLATEAU = phases(
    {"train": ["head"], "until": {"plateau": "val/loss", "patience": 2, "max": {"epochs": 5}}},
    {"train": "all", "until": "end"},
)


@pytest.mark.parametrize(
    ("losses", "starts"),
    [
        ([9, 5, 4, 4, 4, 3, 3], (0, 8)),  # epochs 3 and 4 were no better than epoch 2
        ([9, 5, 6, 7, 1, 1, 1], (0, 6)),
        ([1, 5, 4, 3, 2, 1, 0], (0, 10)),  # never: the maximum ends it; the untrained network does not count
    ],
)
def test_a_plateau_ends_a_phase(losses, starts, tmp_path):
    bench = Bench({**MLP, **PLATEAU, "trainer.epochs": 6}, kind=scripted(losses))
    assert bench.fit(tmp_path).starts == starts


def test_a_phase_counts_its_own_epochs_alone(tmp_path):
    rule = {"plateau": "val/accuracy", "patience": 1, "max": {"epochs": 3}}
    schedule = phases(
        {"train": ["head"], "until": rule},
        {"train": ["top"], "until": rule},
        {"train": "all", "until": "end"},
    )
    accuracies = [0, 0.5, 0.4, 0.2, 0.1, 0.3, 0.3, 0.3]
    bench = Bench({**MLP, **schedule, "trainer.epochs": 7}, kind=scripted([1] * 8, accuracies))
    # 0.4 ends the first phase after epoch 2; 0.2 is below it, but 0.1 ends the second, after epoch 4.
    assert bench.fit(tmp_path).starts == (0, 4, 8)


STOPPING = phases({"train": "all", "until": {"plateau": "val/loss", "patience": 2, "max": "100%"}})


@pytest.mark.parametrize(
    ("losses", "last", "best"),
    [
        ([9, 5, 4, 4, 4, 3, 3], 4, 2),
        ([9, 5, 6, 7, 1, 1, 1], 3, 1),
        ([1, 5, 4, 3, 2, 1, 0], 6, 6),  # it never stalls
    ],
)
def test_a_plateau_of_the_last_phase_ends_the_run(losses, last, best, tmp_path):
    changes = {**MLP, **STOPPING, "trainer.epochs": 6, "trainer.monitor": "val/loss"}
    result = Bench(changes, kind=scripted(losses)).fit(tmp_path)
    assert [row["epoch"] for row in result.history] == list(range(last + 1))
    assert (result.best_epoch, result.starts) == (best, (0,))
    assert len(result.epoch_seconds) == last


def test_a_metric_that_is_reached_ends_the_run_and_a_maximum_does(tmp_path):
    for until, last in (
        ({"reaches": "val/accuracy", "value": 0.6, "max": "100%"}, 3),
        ({"reaches": "val/accuracy", "value": 0.9, "max": {"epochs": 2}}, 4),
    ):
        schedule = phases({"train": ["head"], "until": {"epochs": 2}}, {"train": "all", "until": until})
        kind = scripted([9, 5, 4, 4, 4, 3, 3], [0, 0.8, 0.5, 0.7, 0.5, 0.5, 0.5])
        result = Bench({**MLP, **schedule, "trainer.epochs": 6}, kind=kind).fit(tmp_path)
        assert (len(result.history) - 1, result.starts) == (last, (0, 4))


# ── restore: best ───────────────────────────────────────────────────────────────────────────────────────────


class Restored:
    """The network after each epoch of a run, and as the second phase found it."""

    def __init__(self, folder, until, losses, accuracies=None, restore="best"):
        outer = self
        self.after_epoch = []

        class Kept(scripted(losses, accuracies)):
            def on_train_epoch_end(self):
                outer.after_epoch.append(tensors(self.network))

            def forward(self, images):
                freezing = next(c for c in self.trainer.callbacks if isinstance(c, FreezeSchedule))
                if self.network.training and freezing.starts[1:] == (self.global_step,):
                    outer.at_second = tensors(self.network)
                return super().forward(images)

        schedule = phases(
            {"train": "all", "until": until, "restore": restore}, {"train": ["head"], "until": "end"}
        )
        Bench({**NET, **schedule, "trainer.epochs": 5}, kind=Kept).fit(folder)


def test_a_phase_goes_back_to_its_best_epoch(tmp_path):
    run = Restored(tmp_path, {"epochs": 3}, losses=[0, 5, 3, 4, 1, 1])
    assert same(run.at_second, run.after_epoch[1])
    assert not same(run.at_second, run.after_epoch[2])


def test_the_best_epoch_is_the_plateaus_and_the_earlier_of_two(tmp_path):
    until = {"plateau": "val/accuracy", "patience": 2, "max": {"epochs": 4}}
    run = Restored(tmp_path, until, losses=[0, 5, 4, 3, 2, 1], accuracies=[1, 0.6, 0.5, 0.6, 0, 0])
    assert same(run.at_second, run.after_epoch[0])


def test_a_phase_continues_from_its_last_epoch_unless_told_otherwise(tmp_path):
    run = Restored(tmp_path, {"epochs": 3}, losses=[0, 5, 3, 4, 1, 1], restore="none")
    assert same(run.at_second, run.after_epoch[2])


# ── nothing trains ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_plan_without_phases_leaves_every_bit_as_it_was(tmp_path):
    bench = Bench({**NET, "freeze": NOTHING})
    before = tensors(bench.network)
    result = bench.fit(tmp_path)
    assert same(before, tensors(bench.network))
    assert same(before, result.best_state)
    assert [row["epoch"] for row in result.history] == [0]
    assert (result.starts, result.best_epoch, result.images) == ((), 0, 0)


# ── settings that phases change ─────────────────────────────────────────────────────────────────────────────


class Settings(Classifier):
    """Keeps the optimizer's settings and the batch's size at every step."""

    def on_train_start(self):
        self.log_of, self.sizes = [], []

    def on_train_batch_end(self, outputs, batch, index):
        groups = [{**group, "params": None} for group in self.optimizers().param_groups]
        self.log_of.append({group["name"]: copy.deepcopy(group) for group in groups})
        self.sizes.append(len(self.trainer.datamodule.training_rows(self.current_epoch)[batch[0]]))


def test_settings_of_a_phase_hold_in_it_and_go_back_after_it(tmp_path):
    schedule = phases(
        {
            "train": "all",
            "until": {"steps": 2},
            "optimizer": {"head": {"betas": [0.5, 0.6]}, "top": {"weight_decay": 0.3}},
            "weight_decay": 0.2,
        },
        {"train": "all", "until": "end", "optimizer": {}, "weight_decay": 0.05},
    )
    bench = Bench({**MLP, **schedule, "trainer.epochs": 2}, kind=Settings)
    bench.fit(tmp_path)
    first, last = bench.classifier.log_of[0], bench.classifier.log_of[-1]
    assert first["head"]["betas"] == [0.5, 0.6]
    assert last["head"]["betas"] == first["top"]["betas"] == (0.9, 0.999)
    decays = [{name: group["weight_decay"] for name, group in groups.items()} for groups in (first, last)]
    assert [d["head"] for d in decays] == [0.2, 0.05]
    assert [d["top"] for d in decays] == [0.3, 0.05]
    assert [d["head/no_decay"] for d in decays] == [0.0, 0.0]


def test_one_cycle_moves_the_momentum_against_the_rate(tmp_path):
    cycle = {"kind": "one_cycle", "warmup": 0.5, "final": 0.0, "momentum": [0.95, 0.85]}
    schedule = phases({"train": "all", "until": "end", "schedule": cycle})
    bench = Bench({**MLP, **schedule, "trainer.epochs": 2}, kind=Settings)
    bench.fit(tmp_path)
    log = [group for groups in bench.classifier.log_of for name, group in groups.items() if "/" not in name]
    assert [group["betas"] for group in log] == [(pytest.approx(b), 0.999) for b in (0.95, 0.9, 0.85, 0.9)]
    assert [group["lr"] for group in log] == pytest.approx([0.01 / 25, 0.01 * 0.52, 0.01, 0.005])


def test_the_batch_size_may_change_between_phases(tmp_path):
    schedule = phases(
        {"train": ["head"], "until": {"epochs": 1}},
        {
            "train": "all",
            "until": {"plateau": "val/loss", "patience": 1, "max": {"epochs": 2}},
            "batch_size": 10,
        },
        {"train": "all", "until": "end", "batch_size": 40},
    )
    bench = Bench({**MLP, **schedule, "trainer.epochs": 4}, kind=Settings)
    result = bench.fit(tmp_path)
    steps = [row["step"] for row in result.history]
    second = result.starts[2] - 2
    assert second in (4, 8)
    assert bench.classifier.sizes == [20] * 2 + [10] * second + [40] * (3 - second // 4)
    assert (steps[0], steps[1], steps[-1]) == (0, 2, len(bench.classifier.sizes))
    assert result.images == 4 * 40
    assert bench.plan.phase_end(result.starts) == len(bench.classifier.sizes)


def test_a_value_that_is_reached_ends_a_phase(tmp_path):
    until = {"reaches": "val/accuracy", "value": 0.7, "max": {"epochs": 4}}
    schedule = phases({"train": ["head"], "until": until}, {"train": "all", "until": "end"})
    accuracies = [0.9, 0.5, 0.69, 0.7, 0.1, 0.1]
    bench = Bench({**MLP, **schedule, "trainer.epochs": 5}, kind=scripted([1] * 6, accuracies))
    assert bench.fit(tmp_path).starts == (0, 6)


def test_recalibration_happens_once_as_its_phase_begins(tmp_path):
    schedule = phases(
        {"train": ["head"], "until": {"steps": 3}},
        {"train": "all", "until": "end", "bn": "recalibrate"},
    )
    bench = Bench({**NET, **schedule, "trainer.epochs": 3}, kind=Watched)
    bench.fit(tmp_path)
    states = [
        {name: value for name, value in state.items() if "running" in name}
        for state in bench.classifier.states
    ]
    assert all(same(states[0], state) for state in states[:4])
    assert not same(states[3], states[4])
    assert all(same(states[4], state) for state in states[4:])
