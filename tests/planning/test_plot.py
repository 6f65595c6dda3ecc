"""The picture of a plan: what is in it, that nothing is written over anything else, and odd plans."""

import json
from dataclasses import asdict

import pytest
from tests.tiny import run_config

from frostline.freezing.build import RunLength, build_plan
from frostline.freezing.curves import Curve
from frostline.freezing.layers import layers_of
from frostline.models.input_spec import InputSpec
from frostline.models.mlp import Mlp
from frostline.planning import plan, plot
from frostline.plotting import theme
from frostline.plotting.canvas import new_figure
from frostline.schema import Freeze

SPEC = InputSpec(size=8, channels=1, interpolation="bicubic", crop=1.0, mean=(0.0,), std=(1.0,))
HIDDEN = [16, 12, 8]
GROUPS = {"head": "head", "top": "stage:-1", "rest": "*"}
STALLS = {"plateau": "val/loss", "patience": 2, "max": "30%"}


def planned(phases, groups=GROUPS, hidden=HIDDEN, epochs=20, curve=None):
    """A plan as plan.json holds it."""
    network = Mlp(64, hidden, 10)
    schedule = Freeze.model_validate({"groups": groups, "phases": phases})
    run = run_config({"freeze": schedule.model_dump(exclude_none=True)})
    made = build_plan(schedule, layers_of(network), curve or Curve("cosine", 0.1), RunLength(epochs, 10))
    return json.loads(json.dumps(asdict(plan.of_run(run, made, network, SPEC, 200))))


GRADUAL = [
    {"train": ["head"], "until": "20%"},
    {"train": ["head", "top"], "until": STALLS, "lr": {"top": 0.5}},
    {"train": "all", "until": "end", "lr": {"layer_decay": 0.8}},
]


@pytest.fixture
def both():
    """The two axes of a figure, as the picture has them."""
    with new_figure(9, 6) as figure:
        yield figure.subplots(2, 1, sharex=True)


def test_a_line_for_each_group_in_each_phase(both):
    made = planned(GRADUAL)
    plot._rates(both[0], made)
    wide = [line for line in both[0].get_lines() if line.get_linewidth() > 1]
    colours = [colour.light for colour in theme.ARMS]
    assert [line.get_color() for line in wide] == [*colours[:1], *colours[:2], *colours[:3]]
    assert [(min(line.get_xdata()), max(line.get_xdata())) for line in wide] == [
        *[(0, 40)],
        *[(40, 100)] * 2,
        *[(100, 200)] * 3,
    ]
    # Layer decay spreads the rates of `rest` alone: the other groups are one layer each.
    assert len(both[0].get_lines()) - len(wide) == len(both[0].collections) == 1
    assert both[0].get_yscale() == "log"


def test_what_trains_is_filled(both):
    made = planned(GRADUAL)
    plot._thaw(both[1], made)
    assert [label.get_text() for label in both[1].get_yticklabels()] == [
        "stage:0",
        "stage:1",
        "stage:2",
        "head",
    ]
    filled = [p for p in both[1].patches if p.get_alpha() is None]
    assert [(round(p.get_y()), p.get_x(), p.get_width()) for p in filled] == [
        *[(0, 100, 100), (1, 100, 100)],
        *[(2, 40, 60), (2, 100, 100)],
        *[(3, 0, 40), (3, 40, 60), (3, 100, 100)],
    ]


def test_what_runs_once_is_hatched(both):
    made = planned(GRADUAL, hidden=[512, 64, 16])
    plot._thaw(both[1], made)
    hatched = [p for p in both[1].patches if p.get_hatch()]
    # Before the last stage, features take more room than they save arithmetic.
    assert [(round(p.get_y()), p.get_x(), p.get_width()) for p in hatched] == [
        *[(0, 0, 40), (0, 40, 60)],
        *[(1, 0, 40), (1, 40, 60)],
        (2, 0, 40),
    ]
    assert "hatched" in both[1].get_title(loc="left") + both[1].get_title()


def test_groups_that_share_a_stage_share_its_row(both):
    made = planned([{"train": ["biases"], "until": "end"}], {"biases": "bias", "rest": "*"})
    plot._thaw(both[1], made)
    filled = [p for p in both[1].patches if p.get_alpha() is None]
    assert len(filled) == len(made["sections"])
    assert all(0.1 < p.get_height() < 0.3 for p in filled)


def test_words_give_way_where_room_is_short():
    texts = ["phase 1, early if val/loss stalls", "phase 1", "1"]
    with new_figure(9, 6) as figure:
        axes = figure.subplots()
        for room, expected in ((4.0, texts[0]), (0.8, texts[1]), (0.2, texts[2]), (0.05, "")):
            label = axes.text(0, 0, "")
            plot._fit(label, texts, room)
            assert label.get_text() == expected


def overlaps(made):
    """Pairs of words in the picture that lie over each other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    with new_figure(*plot.size(made)) as figure:
        plot.fill(figure, made)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        beyond = {
            tick.label1
            for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis))
            for tick in axis.get_major_ticks()
            if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
        }
        texts = [t for t in figure.findobj(Text) if t.get_text() and t.get_visible() and t not in beyond]
        frame = figure.bbox
        boxes = [(t.get_text(), t.get_window_extent(canvas.get_renderer())) for t in texts]
    boxes = [(text, box) for text, box in boxes if box.width and frame.overlaps(box)]
    return [
        (a, b)
        for i, (a, one) in enumerate(boxes)
        for b, two in boxes[i + 1 :]
        if one.overlaps(two) and (one.x0, one.y0) != (two.x0, two.y0)
    ]


MANY = {"head": "head", **{f"layer {i}": f"stage:{i}" for i in range(29, -1, -1)}}
ODD = {
    "nothing trains": planned([], {"all": "*"}),
    "a single step": planned([{"train": "all", "until": {"steps": 1}}, GRADUAL[2]]),
    "short phases": planned(
        [*({"train": ["head"], "until": {"steps": n}} for n in (1, 2, 30, 1, 15)), GRADUAL[2]]
    ),
    "constant rates": planned(GRADUAL, curve=Curve("constant")),
    "rates that end at nothing": planned(GRADUAL, curve=Curve("linear")),
    "thirty groups": planned(
        [
            *({"train": ["head", f"layer {i}"], "until": {"steps": 4}} for i in range(30)),
            {"train": "all", "until": "end"},
        ],
        MANY,
        [8] * 30,
    ),
    "long names": planned([{"train": "all", "until": "end"}], {"a long name " * 6: "bias", "rest": "*"}),
    "names with signs": planned(
        [{"train": "all", "until": "end"}], {"$\\frac{$": "head", "_<b>a|b`&": "stage:-1", "ö $x$": "*"}
    ),
    "longer names": planned(
        [{"train": "all", "until": "end"}], {f"{i}" * 99: f"stage:{i}" for i in range(3)} | {"r": "*"}
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_unusual_plans_are_drawn_without_overlapping_words(name):
    assert overlaps(ODD[name]) == []
    assert plot.draw(ODD[name]).startswith(b"\x89PNG")


def test_the_same_plan_draws_the_same_bytes():
    made = planned(GRADUAL)
    for suffix in (".png", ".svg"):
        assert plot.draw(made, suffix) == plot.draw(made, suffix)
