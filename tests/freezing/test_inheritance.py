"""What a phase has from the one before it; and schedules with all of that written out."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from frostline.freezing.build import RunLength, build_plan
from frostline.freezing.curves import Curve
from frostline.freezing.inheritance import resolve_inheritance
from frostline.freezing.layers import layers_of
from frostline.models.mlp import Mlp
from frostline.schema import Freeze, Phase

LAYERS = layers_of(Mlp(8, [6, 5, 4], 3))
GROUPS = {"head": "head", "top": ["stage:-1", "re:^nowhere|hidden.2"], "rest": "*"}
LENGTHS = st.sampled_from(["10%", {"epochs": 1}, {"epochs": 2}])
METRICS = st.sampled_from(["val/loss", "val/accuracy"])
FACTORS = st.floats(1e-6, 1e3)
SHARES = st.floats(0, 0.99)
KINDS = st.sampled_from(["constant", "linear", "cosine", "exponential"])
CURVE = {"warmup": SHARES, "final": SHARES}
RATES = st.one_of(
    st.fixed_dictionaries({"kind": KINDS, **CURVE}, optional={"start": SHARES}),
    st.fixed_dictionaries(
        {"kind": st.just("polynomial"), **CURVE}, optional={"power": FACTORS, "start": SHARES}
    ),
)
UNTIL = st.one_of(
    LENGTHS,
    st.fixed_dictionaries(
        {"plateau": METRICS, "patience": st.integers(1, 9), "max": LENGTHS}, optional={"min_delta": SHARES}
    ),
    st.fixed_dictionaries({"reaches": METRICS, "value": SHARES, "max": LENGTHS}),
)


@st.composite
def phases(draw, last):
    train = draw(st.one_of(st.just("all"), st.lists(st.sampled_from(list(GROUPS)), min_size=1, unique=True)))
    groups = list(GROUPS) if train == "all" else train
    per_group = st.sampled_from(groups)
    optional = {
        "lr": st.dictionaries(st.sampled_from([*groups, "layer_decay"]), FACTORS),
        "optimizer": st.dictionaries(per_group, st.fixed_dictionaries({"weight_decay": SHARES})),
        "weight_decay": SHARES,
        "bn": st.sampled_from(["eval", "train", "recalibrate"]),
        "dropout": SHARES,
        "drop_path": SHARES,
        "batch_size": st.sampled_from([5, 10, 20]),
        "restore": st.sampled_from(["best", "none"]),
        "schedule": RATES,
    }
    until = "end" if last else draw(UNTIL)
    return {"train": train, "until": until, **draw(st.fixed_dictionaries({}, optional=optional))}


@st.composite
def random_schedules(draw):
    before = draw(st.lists(phases(last=False), max_size=4))
    return Freeze.model_validate({"groups": GROUPS, "phases": [*before, draw(phases(last=True))]})


def planned(schedule):
    return build_plan(schedule, LAYERS, Curve("constant"), RunLength(20, 10, lambda batch: 200 // batch))


@given(random_schedules())
def test_it_is_yaml_that_reads_back(schedule):
    text = yaml.safe_dump(resolve_inheritance(schedule).model_dump(exclude_none=True), sort_keys=False)
    assert planned(Freeze.model_validate(yaml.safe_load(text))) == planned(schedule)


@given(random_schedules())
def test_each_phase_is_complete_by_itself(schedule):
    """Without those before it, it is planned alike: nothing is left for it to inherit."""
    written = resolve_inheritance(schedule)
    assert resolve_inheritance(written) == written
    alone = written.phases[-1]
    last = planned(written.model_copy(update={"phases": [alone]})).phases[0]
    assert last == planned(schedule).phases[-1]


# ── what a phase inherits, by hand ──────────────────────────────────────────────────────────────────────────

COSINE = {"kind": "cosine", "warmup": 0.1, "final": 0.0}
FIRST = {
    "train": ["head", "top"],
    "until": {"epochs": 1},
    "lr": {"top": 0.1, "layer_decay": 0.5},
    "optimizer": {"head": {"weight_decay": 0.0}, "top": {"betas": [0.8, 0.9]}},
    "weight_decay": 0.2,
    "bn": "eval",
    "dropout": 0.3,
    "drop_path": 0.4,
    "batch_size": 5,
    "restore": "best",
    "schedule": COSINE,
}
OTHERS = {
    "lr": {"head": 2.0},
    "optimizer": {"head": {"momentum": 0.5}},
    "weight_decay": 0.0,
    "bn": "train",
    "dropout": 0.0,
    "drop_path": 0.0,
    "batch_size": 20,
    "restore": "none",
    "schedule": {**COSINE, "kind": "linear"},
}


def second_of(*phases):
    """The phases from the second on, with all that they inherit, but for what each must say itself."""
    ends = [{"until": {"epochs": 1}}] * (len(phases) - 1) + [{"until": "end"}]
    given = [{**phase, **end} for phase, end in zip(phases, ends, strict=True)]
    written = resolve_inheritance(Freeze.model_validate({"groups": GROUPS, "phases": given}))
    return [phase.model_dump(exclude_none=True, exclude={"train", "until"}) for phase in written.phases[1:]]


def test_a_phase_that_says_nothing_is_as_the_one_before():
    (second,) = second_of(FIRST, {"train": "all"})
    assert second == {
        "lr": {"top": 0.1, "layer_decay": 0.5},
        "optimizer": {"head": {"weight_decay": 0.0}, "top": {"betas": [0.8, 0.9]}},
        "weight_decay": 0.2,
        "bn": "eval",
        "dropout": 0.3,
        "drop_path": 0.4,
        "batch_size": 5,
        "restore": "best",
        "schedule": COSINE,
    }


def test_the_first_phase_has_none_before_it():
    schedule = Freeze.model_validate({"groups": GROUPS, "phases": [{"train": "all", "until": "end"}]})
    assert resolve_inheritance(schedule) == schedule
    (phase,) = planned(schedule).phases
    assert (phase.lr, phase.layer_decay, phase.options) == (dict.fromkeys(GROUPS, 1.0), 1.0, {})
    assert (phase.bn, phase.restore, phase.curve) == ("train", False, Curve("constant"))
    assert (phase.weight_decay, phase.dropout, phase.drop_path, phase.batch_size) == (None,) * 4
    assert phase.steps_per_epoch == 10


@pytest.mark.parametrize("key", OTHERS)
def test_what_a_phase_gives_replaces_the_whole_key_and_no_other(key):
    kept = {name: value for name, value in FIRST.items() if name not in ("train", "until", key)}
    assert second_of(FIRST, {"train": "all", key: OTHERS[key]}) == [{**kept, key: OTHERS[key]}]


@pytest.mark.parametrize("key", ["lr", "optimizer"])
def test_nothing_per_group_is_given_too(key):
    assert second_of(FIRST, {"train": "all", key: {}})[0][key] == {}


def test_groups_that_freeze_leave_their_settings_behind_and_thaw_without():
    second, third = second_of(FIRST, {"train": ["head", "rest"]}, {"train": "all"})
    for phase in (second, third):
        assert phase["lr"] == {"layer_decay": 0.5}
        assert phase["optimizer"] == {"head": {"weight_decay": 0.0}}
        assert phase["weight_decay"] == 0.2


def test_it_is_what_is_planned():
    phases = [FIRST, {"train": ["top", "rest"], "until": {"epochs": 2}}, {"train": "all", "until": "end"}]
    first, second, third = planned(Freeze.model_validate({"groups": GROUPS, "phases": phases})).phases
    assert (first.lr, first.layer_decay) == ({"head": 1.0, "top": 0.1}, 0.5)
    assert (second.lr, second.layer_decay) == ({"top": 0.1, "rest": 1.0}, 0.5)
    assert (third.lr, third.layer_decay) == ({"head": 1.0, "top": 0.1, "rest": 1.0}, 0.5)
    assert second.options == third.options == {"top": {"betas": [0.8, 0.9]}}
    for phase in (second, third):
        assert (phase.weight_decay, phase.bn, phase.dropout, phase.drop_path) == (0.2, "eval", 0.3, 0.4)
        assert (phase.batch_size, phase.steps_per_epoch, phase.restore) == (5, 40, True)
        assert phase.curve == Curve("cosine", 0.1, 0.0)


def test_every_optional_key_is_tried():
    optional = {name for name, field in Phase.model_fields.items() if not field.is_required()}
    assert optional == OTHERS.keys() == FIRST.keys() - {"train", "until"}
