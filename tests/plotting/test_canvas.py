"""Labels that keep apart, and SVGs that fit a page."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline.plotting import theme
from frostline.plotting.canvas import new_figure, spread_apart, svg


def test_labels_that_are_apart_stay() -> None:
    assert spread_apart([0.9, 0.1, 0.5], 0.1) == pytest.approx([0.9, 0.1, 0.5])


def test_labels_on_one_spot_fan_out_around_it() -> None:
    assert spread_apart([0.5, 0.5, 0.5], 0.1) == pytest.approx([0.4, 0.5, 0.6])


@given(st.lists(st.floats(0, 1), max_size=12), st.floats(0.01, 0.2))
def test_spread_keeps_order_and_distance(positions: list[float], gap: float) -> None:
    moved = spread_apart(positions, gap)
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    assert all(moved[b] - moved[a] >= gap - 1e-9 for a, b in itertools.pairwise(order))
    assert sum(moved) == pytest.approx(sum(positions))


def test_an_svg_has_its_own_ids_and_the_pages_colours() -> None:
    with new_figure(2, 2) as figure:
        axes = figure.add_axes((0.2, 0.2, 0.7, 0.7))
        axes.plot([0, 1], [0, 1], color=theme.ARMS[0].light)
        axes.text(0, 0, "$x$ & <b>")
        element = svg(figure, "mine", 'says "so" & <so>')
    assert element.startswith(
        '<svg viewBox="0 0 144 144" role="img" aria-label="says &#34;so&#34; &amp; &lt;so&gt;"'
    )
    assert "var(--arm-1)" in element
    assert theme.ARMS[0].light not in element
    assert element.count('id="') == element.count('id="mine-')
    assert 'width="' not in element.split(">", 1)[0]


def test_a_users_matplotlibrc_has_no_effect() -> None:
    import matplotlib

    def drawn() -> str:
        with new_figure(2, 2) as figure:
            figure.add_axes((0.2, 0.2, 0.7, 0.7)).plot([0, 1], [0, 1])
            return svg(figure, "x", "x")

    plain = drawn()
    with matplotlib.rc_context({"axes.facecolor": "red", "lines.linewidth": 9, "font.size": 30}):
        assert drawn() == plain


def test_colours_go_round_and_the_baseline_is_grey() -> None:
    arms = ["scratch", *(f"arm {i}" for i in range(10))]
    colours = theme.arm_colours(arms)
    assert colours["scratch"] is theme.BASELINE_COLOUR
    assert colours["arm 0"] is colours["arm 8"]
    assert len({colour.light for colour in theme.ALL}) == len(theme.ALL)
