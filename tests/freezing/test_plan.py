import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tiny import total_steps

from frostline.console.errors import FrostlineError
from frostline.freezing.build import RunLength, build_plan
from frostline.freezing.curves import Curve
from frostline.freezing.layers import layers_of
from frostline.freezing.plan import PlateauRule
from frostline.models.mlp import Mlp
from frostline.schema import Freeze

LAYERS = layers_of(Mlp(8, [6, 5, 4], 3))
GROUPS = {"head": "head", "top": "stage:-1", "rest": "*"}
FLAT = Curve("constant")


def plan(phases, groups=GROUPS, epochs=10, steps=4):
    schedule = Freeze.model_validate({"groups": groups, "phases": phases})
    return build_plan(schedule, LAYERS, FLAT, RunLength(epochs, steps))


GRADUAL = [
    {"train": ["head"], "until": "20%"},
    {
        "train": ["head", "top"],
        "until": {"plateau": "val/loss", "patience": 2, "max": {"epochs": 3}},
        "lr": {"top": 0.5},
    },
    {"train": "all", "until": "end", "lr": {"layer_decay": 0.5}},
]


def test_groups_take_what_is_first_theirs():
    assert plan(GRADUAL).groups == {
        "head": ("head.weight", "head.bias"),
        "top": ("hidden.2.weight", "hidden.2.bias"),
        "rest": ("hidden.0.weight", "hidden.0.bias", "hidden.1.weight", "hidden.1.bias"),
    }


def test_lengths_are_steps():
    assert [phase.length for phase in plan(GRADUAL).phases] == [8, 12, None]


def test_phases_follow_each_other_at_their_budgets():
    made, starts, seen = plan(GRADUAL), (), []
    for step in range(total_steps(made)):
        starts = made.advanced(starts, step)
        seen.append(len(starts) - 1)
    assert starts == (0, 8, 20)
    assert seen == [0] * 8 + [1] * 12 + [2] * 20


def test_a_plateau_ends_a_phase_early_and_the_last_one_takes_the_rest():
    made = plan(GRADUAL)
    starts = made.advanced((0, 8), 12, ended_early=True)
    assert starts == (0, 8, 12)
    assert made.phase_end(starts) == 40
    assert made.advanced(starts, 13, ended_early=True) == starts


def test_rates_fall_towards_the_input():
    made = plan(GRADUAL)
    assert made.lr_factor((0,), 3, "head", 4) == 1.0
    assert made.lr_factor((0,), 3, "top", 3) == 0.0
    assert made.lr_factor((0, 8), 9, "top", 3) == 0.5
    last = (0, 8, 20)
    assert [made.lr_factor(last, 25, "rest", depth) for depth in (1, 2)] == [0.125, 0.25]
    assert made.lr_factor(last, 25, "head", 4) == 1.0


def test_what_is_not_given_is_as_before():
    made = plan(
        [
            {"train": ["head", "top"], "until": "50%", "lr": {"top": 0.1}, "bn": "eval", "restore": "best"},
            {"train": "all", "until": "end"},
        ]
    )
    assert made.phases[1].lr == {"head": 1.0, "top": 0.1, "rest": 1.0}
    assert made.phases[1].bn == "eval"
    assert made.phases[1].restore


def resized(phases, epochs=10):
    schedule = Freeze.model_validate({"groups": GROUPS, "phases": phases})
    return build_plan(schedule, LAYERS, FLAT, RunLength(epochs, 4, steps_at=lambda size: 128 // size))


def test_a_batch_size_changes_the_steps_of_an_epoch_and_not_the_epochs():
    made = resized(
        [
            {"train": ["head"], "until": "30%"},
            {"train": "all", "until": {"plateau": "val/loss", "patience": 1, "max": "40%"}, "batch_size": 16},
            {"train": "all", "until": "end", "batch_size": 64},
        ]
    )
    assert [(phase.length, phase.steps_per_epoch) for phase in made.phases] == [(12, 4), (32, 8), (None, 2)]
    assert total_steps(made) == 12 + 32 + 3 * 2
    assert made.phase_end((0, 12, 12 + 16)) == 12 + 16 + 5 * 2  # a plateau after two epochs leaves five


@pytest.mark.parametrize("until", [{"epochs": 1.5}, {"steps": 3}])
def test_where_the_batch_size_changes_phases_take_whole_epochs(until):
    with pytest.raises(FrostlineError, match=r"freeze\.phases\.0\.until: .* phases take whole epochs"):
        resized([{"train": ["head"], "until": until}, {"train": "all", "until": "end", "batch_size": 16}])


def stopping(most, before=()):
    rule = {"plateau": "val/loss", "patience": 2, "max": most}
    return plan([*before, {"train": "all", "until": rule}])


@pytest.mark.parametrize(
    ("most", "end"),
    [
        ("100%", 40),
        ({"epochs": 99}, 40),  # the run is over before
        ("50%", 20),
        ({"epochs": 2}, 8),
        ({"steps": 9}, 12),  # a run ends with an epoch
    ],
)
def test_the_last_phase_ends_early_at_the_end_of_an_epoch(most, end):
    made = stopping(most)
    assert (total_steps(made), made.phase_end((0,))) == (end, end)
    assert not made.is_over((0,), end - 1, ended_early=False)
    assert made.is_over((0,), end, ended_early=False)
    assert made.is_over((0,), 4, ended_early=True)
    assert made.advanced((0,), 4, ended_early=True) == (0,)


def test_only_the_last_phase_ends_the_run():
    made = stopping("100%", before=[{"train": ["head"], "until": {"steps": 6}}])
    assert not made.is_over((0,), 6, ended_early=True)
    assert made.phase_end((0, 6)) == 40
    assert stopping({"steps": 3}, before=[{"train": ["head"], "until": {"steps": 6}}]).phase_end((0, 6)) == 12


def test_a_schedule_without_phases_trains_nothing():
    assert plan([], groups={"all": "*"}).phases == ()


@pytest.mark.parametrize(
    ("groups", "phases", "message"),
    [
        (
            {"head": "head"},
            GRADUAL[-1:],
            "freeze.groups: 6 parameters are in no group, such as hidden.0.weight",
        ),
        (
            {**GROUPS, "more": "head"},
            GRADUAL,
            "freeze.groups.more: empty, since the groups before it take all",
        ),
        ({"x": "stem", "rest": "*"}, [], "freeze.groups.x: 'stem' matches no parameter of this network"),
        ({"x": "stage:7", "rest": "*"}, [], "freeze.groups.x: 'stage:7': the network has 3 stages"),
        ({"layer_decay": "head", "rest": "*"}, [], "freeze.groups.layer_decay: the name is reserved"),
        (
            {"a\nb": "head", "rest": "*"},
            [],
            "freeze.groups: found 'a\\nb' as a group's name; must be one line",
        ),
        ({" ": "head", "rest": "*"}, [], "freeze.groups: found ' ' as a group's name; must be one line"),
        (
            GROUPS,
            [{"train": ["hed"], "until": "end"}],
            "freeze.phases.0.train: no group 'hed'; did you mean 'head'?",
        ),
        (GROUPS, [{"train": [], "until": "end"}], "freeze.phases.0.train: empty"),
        (
            GROUPS,
            [{"train": "all", "until": "50%"}],
            "freeze.phases.0.until: the last phase has no fixed length; set until: end, or a rule that"
            " may end the run early, such as until: {plateau: val/loss, patience: 3, max: 100%}",
        ),
        (
            GROUPS,
            [{"train": "all", "until": "end"}] * 2,
            "freeze.phases.0.until: only the last phase may have `end`",
        ),
        (
            GROUPS,
            [{"train": ["head"], "until": "end", "lr": {"top": 0.1}}],
            "freeze.phases.0.lr.top: the group does not train in this phase",
        ),
        (
            GROUPS,
            [{"train": ["head"], "until": "end", "lr": {"tpo": 0.1}}],
            "freeze.phases.0.lr: no group 'tpo'; did you mean 'top'?",
        ),
        (
            GROUPS,
            [{"train": ["head"], "until": {"epochs": 11}}, GRADUAL[-1]],
            "freeze.phases: the phases before the last take 11 epochs, but the run has 10 (trainer.epochs)",
        ),
        (
            GROUPS,
            [{"train": ["head"], "until": {"plateau": "val/los", "patience": 1, "max": "5%"}}, GRADUAL[-1]],
            "freeze.phases.0.until.plateau: no metric 'val/los'; did you mean 'val/loss'?",
        ),
        (
            GROUPS,
            [{"train": ["head"], "until": {"reaches": "val/acc", "value": 0.5, "max": "5%"}}, GRADUAL[-1]],
            "freeze.phases.0.until.reaches: no metric 'val/acc'; did you mean 'val/accuracy' or ",
        ),
        (
            GROUPS,
            [
                {"train": ["head"], "until": {"reaches": "val/accuracy", "value": 90, "max": "5%"}},
                GRADUAL[-1],
            ],
            "freeze.phases.0.until.value: found 90; val/accuracy is at most 1",
        ),
        (
            GROUPS,
            [{"train": ["head"], "until": "0%"}, GRADUAL[-1]],
            "freeze.phases.0.until: found 0%; give more than 0%, or remove the phase",
        ),
        (
            GROUPS,
            [{**GRADUAL[-1], "optimizer": {"hed": {}}}],
            "freeze.phases.0.optimizer: no group 'hed'; did you mean 'head'?",
        ),
        (
            GROUPS,
            [{**GRADUAL[-1], "batch_size": 8}],
            "freeze.phases.0.batch_size: the DataLoader's batch size can't be changed; remove it",
        ),
    ],
)
def test_a_schedule_that_does_not_fit_is_one_sentence(groups, phases, message):
    with pytest.raises(FrostlineError) as caught:
        plan(phases, groups)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("values", "reached"),
    [([], False), ([3, 2, 1], False), ([3, 2, 2, 2], True), ([1, 2, 0.5, 0.6], False), ([1, 1.5, 2], True)],
)
def test_a_loss_has_reached_its_plateau(values, reached):
    assert PlateauRule("val/loss", patience=2, min_delta=0.0).reached(values) is reached


def test_an_accuracy_is_better_when_it_is_higher():
    assert not PlateauRule("val/accuracy", 1, 0.0).reached([0.1, 0.2])
    assert PlateauRule("val/accuracy", 1, 0.15).reached([0.1, 0.2])


@st.composite
def schedules(draw):
    names = list(GROUPS)
    count = draw(st.integers(1, 4))
    phases = []
    for i in range(count):
        train = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
        until = "end" if i == count - 1 else {"steps": draw(st.integers(1, 10))}
        phases.append({"train": train, "until": until, "lr": {g: draw(st.floats(0.1, 2)) for g in train}})
    return phases


@given(schedules(), st.data())
def test_what_trains_is_a_function_of_step_and_starts(phases, data):
    made = plan(phases, epochs=20)
    plateaus = data.draw(st.sets(st.integers(1, total_steps(made) - 1), max_size=3))
    starts, log = (), []
    for step in range(total_steps(made)):
        starts = made.advanced(starts, step, ended_early=step in plateaus)
        log.append(starts)
    # Monotone: phases only follow each other; and a run that is cut anywhere goes on as it would have.
    assert all(later[: len(earlier)] == earlier for earlier, later in itertools.pairwise(log))
    cut = data.draw(st.integers(0, total_steps(made) - 1))
    again = log[cut]
    for step in range(cut, total_steps(made)):
        again = made.advanced(again, step, ended_early=step in plateaus and step > cut)
        assert again == log[step]
    for step, now in enumerate(log):
        phase = made.phases[len(now) - 1]
        for group in GROUPS:
            assert (made.lr_factor(now, step, group, 1) > 0) == (group in phase.train)
