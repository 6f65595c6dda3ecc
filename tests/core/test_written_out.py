"""Schedules whose phases say all that they would inherit: planned alike, with nothing left to inherit."""

import yaml
from hypothesis import given
from hypothesis import strategies as st

from frostline.core import freeze
from frostline.core.layers import layers_of
from frostline.core.rates import Curve
from frostline.core.written_out import written_out
from frostline.models.mlp import Mlp
from frostline.schema import Freeze, Phase

LAYERS = layers_of(Mlp(8, [6, 5, 4], 3))
GROUPS = {"head": "head", "top": ["stage:-1", "re:^nowhere|hidden.2"], "rest": "*"}
LENGTHS = st.sampled_from(["10%", {"epochs": 1}, {"epochs": 2}])
METRICS = st.sampled_from(["val/loss", "val/accuracy"])
FACTORS = st.floats(1e-6, 1e3)
SHARES = st.floats(0, 0.99)
KINDS = st.sampled_from(["constant", "linear", "cosine", "exponential"])
RATES = st.fixed_dictionaries(
    {"kind": KINDS, "warmup": SHARES, "final": SHARES}, optional={"power": FACTORS, "start": SHARES}
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
    return freeze.plan(schedule, LAYERS, Curve("constant"), 20, 10, lambda batch: 200 // batch)


@given(random_schedules())
def test_the_plan_is_the_same(schedule):
    assert planned(written_out(schedule)) == planned(schedule)


@given(random_schedules())
def test_it_is_yaml_that_reads_back(schedule):
    text = yaml.safe_dump(written_out(schedule).model_dump(exclude_none=True), sort_keys=False)
    assert planned(Freeze.model_validate(yaml.safe_load(text))) == planned(schedule)


@given(random_schedules())
def test_each_phase_can_stand_alone(schedule):
    """Without those before it, it is planned alike: nothing is left for it to inherit."""
    written = written_out(schedule)
    assert written_out(written) == written
    alone = written.phases[-1]
    last = planned(written.model_copy(update={"phases": [alone]})).phases[0]
    assert last == planned(schedule).phases[-1]


def test_every_optional_key_is_tried():
    tried = {
        "lr",
        "optimizer",
        "weight_decay",
        "bn",
        "dropout",
        "drop_path",
        "batch_size",
        "restore",
        "schedule",
    }
    assert {name for name, field in Phase.model_fields.items() if not field.is_required()} == tried
