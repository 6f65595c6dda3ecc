"""Matplotlib in the report's style, with reproducible bytes."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from frostline.plotting import theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Style = dict[str, Any]
PNG_DPI = 200
DOTTED_LINE: Style = {"linewidth": 1.2, "linestyle": (0, (1.5, 2))}
TEXT_BACKGROUND: Style = {"facecolor": theme.PAPER.light, "alpha": 0.6, "linewidth": 0, "pad": 0.5}
"""The background of text that lines may cross."""
STYLE: Style = {
    "font.family": "DejaVu Sans",  # part of matplotlib, so that plots are the same on every machine
    "font.size": 10,
    "text.color": theme.INK.light,
    "text.parse_math": False,
    "axes.edgecolor": theme.LINE.light,
    "axes.labelcolor": theme.SOFT.light,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.color": theme.LINE.light,
    "xtick.labelcolor": theme.SOFT.light,
    "ytick.color": theme.LINE.light,
    "ytick.labelcolor": theme.SOFT.light,
    "ytick.left": False,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "grid.color": theme.LINE.light,
    "grid.linewidth": 0.8,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "path",
}


@contextmanager
def new_figure(width: float, height: float) -> Iterator["Figure"]:
    """Yield an empty figure of `width` × `height` inches in the report's style; save it within the block."""
    from matplotlib import style
    from matplotlib.figure import Figure

    # matplotlib's defaults first: a user's matplotlibrc must have no effect.
    with style.context(["default", STYLE]):
        yield Figure(figsize=(width, height))


def shortened(name: str, letters: int) -> str:
    """Shorten a name in the middle, as names often differ in their last letters: ``slow_t…_layer_2``."""
    front = (letters - 1) // 2
    return name if len(name) <= letters else f"{name[:front]}…{name[front + 1 - letters :]}"


def text_width(text: str, size: float) -> float:
    """Return the width of `text` in inches at `size` points."""
    from matplotlib import style
    from matplotlib.textpath import TextPath

    with style.context(["default", STYLE]):
        return float(TextPath((0, 0), text, size=size).get_extents().width) / 72


def png(figure: "Figure") -> bytes:
    """Return `figure` as a PNG on white, 200 pixels per inch, without date or version."""
    stream = io.BytesIO()
    figure.savefig(
        stream, format="png", dpi=PNG_DPI, facecolor=theme.PAPER.light, metadata={"Software": None}
    )
    return stream.getvalue()


def svg_file(figure: "Figure") -> bytes:
    """Return `figure` as an SVG file on white, text as paths, without date or version."""
    import matplotlib

    stream = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "frostline"}):
        metadata = {"Date": None, "Creator": None}
        figure.savefig(stream, format="svg", facecolor=theme.PAPER.light, metadata=metadata)
    return stream.getvalue()


def svg(figure: "Figure", name: str, description: str) -> str:
    """Return `figure` as an SVG element for a page: transparent, in the page's colours, with unique ids.

    Args:
        description: the text for screen readers.
    """
    import matplotlib
    from markupsafe import escape

    stream = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'(?<= d=")[^"]*', lambda path: _rounded(path[0]), text)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>',
        lambda box: (
            f'<svg viewBox="{box[1]}" role="img" aria-label="{escape(description)}" '
            'xmlns:xlink="http://www.w3.org/1999/xlink">'
        ),
        text,
        count=1,
    )
    return theme.with_variables(text)


def _rounded(path: str) -> str:
    """Round an SVG path's numbers to hundredths of a point, and join its lines."""
    return re.sub(r"\d+\.\d+", lambda n: f"{float(n[0]):.2f}".rstrip("0").rstrip("."), path).replace(
        "\n", " "
    )


def percent_axis(axes: "Axes", low: float, high: float, *, along: str = "y", ticks: int = 5) -> None:
    """Show shares from `low` to `high` in per cent along one axis, with grid lines across it."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis = getattr(axes, f"{along}axis")
    getattr(axes, f"set_{along}lim")(low, high)
    axis.set_major_locator(MaxNLocator(nbins=ticks, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.6g} %"))
    axis.grid(True)


def label_line(axes: "Axes", x: float, text: str) -> None:
    """Write text along a vertical line at `x`, from the bottom upwards."""
    axes.annotate(
        text,
        (x, 0.03),
        (4, 0),
        xycoords=axes.get_xaxis_transform(),
        textcoords="offset points",
        rotation=90,
        fontsize=8.5,
        color=theme.SOFT.light,
        va="bottom",
        bbox=TEXT_BACKGROUND,
    )


def epoch_axis(axes: "Axes", epochs: int) -> None:
    """Show epochs from 0 to `epochs` along x, in whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(-0.015 * max(epochs, 1), max(epochs, 1))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True))


def inches_high(axes: "Axes") -> float:
    """Return the height of `axes` on paper."""
    return float(axes.bbox.height / axes.figure.dpi)


def write_text(
    axes: "Axes", place: tuple[float, float], text: str, *, in_rows: bool = False, **properties: Any
) -> None:
    """Write `text` at `place` in axes coordinates; if `in_rows`, the height is in data units.

    Args:
        place: x and y.
        properties: those of matplotlib's text, such as `fontsize` and `ha`.
    """
    transform = axes.get_yaxis_transform() if in_rows else axes.transAxes
    axes.text(*place, text, transform=transform, **{"fontsize": 10, "color": theme.INK.light, **properties})


def spread_apart(positions: Sequence[float], gap: float) -> list[float]:
    """Move `positions` as little as it takes for neighbours to be `gap` apart, keeping their order.

    Least squares, by the pool-adjacent-violators algorithm on positions minus rank × gap.
    """
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    pools: list[list[float]] = []
    for rank, index in enumerate(order):
        pools.append([positions[index] - rank * gap])
        while len(pools) > 1 and sum(pools[-2]) / len(pools[-2]) > sum(pools[-1]) / len(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    level = [sum(pool) / len(pool) for pool in pools for _ in pool]
    moved = [0.0] * len(positions)
    for rank, index in enumerate(order):
        moved[index] = level[rank] + rank * gap
    return moved
