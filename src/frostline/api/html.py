"""Parts of HTML that objects show in a notebook."""

import base64
from collections.abc import Iterable, Mapping, Sequence

from markupsafe import Markup, escape

METRICS = ("accuracy", "top5_accuracy", "balanced_accuracy", "mAP", "f1_micro", "f1_macro", "loss")
"""The metrics that are shown, as far as they were measured."""
TABLE = "border-collapse:collapse;margin:6px 0"
CELL = "padding:3px 14px 3px 0;text-align:left;border-bottom:1px solid rgba(128,128,128,.3)"


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> Markup:
    """Return a table; names are escaped."""
    head = Markup("").join(Markup('<th style="{}">{}</th>').format(CELL, name) for name in headers)
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(Markup('<td style="{}">{}</td>').format(CELL, cell) for cell in row)
        )
        for row in rows
    )
    return Markup('<table style="{}"><tr>{}</tr>{}</table>').format(TABLE, head, body)


def metrics_table(measured: Mapping[str, Mapping[str, float]]) -> Markup:
    """Return a table of metrics.

    Args:
        measured: first cell of a row, such as a split → metric → value.
    """
    names = [name for name in METRICS if any(name in metrics for metrics in measured.values())]
    rows = [
        [first, *(f"{metrics[name]:.4f}" if name in metrics else "" for name in names)]
        for first, metrics in measured.items()
    ]
    return table(["", *(name.replace("_", " ") for name in names)], rows)


def svg_image(svg: bytes, description: str) -> Markup:
    """Return an SVG file as an image: as part of the page, its ids could be those of another one."""
    return image(svg, "svg+xml", description)


def image(content: bytes, kind: str, description: str, width: int = 720) -> Markup:
    """Return an image file of the type image/`kind`, at most `width` pixels wide."""
    data = base64.b64encode(content).decode()
    return Markup('<img style="max-width:100%;width:{}px" alt="{}" src="data:image/{};base64,{}">').format(
        width, description, kind, data
    )


def detailed(text: str, detail: str) -> Markup:
    """Return a text, and a detail in smaller print below it."""
    small = Markup("<br><small>{}</small>").format(detail) if detail else Markup()
    return escape(text) + small


def block(title: str, subtitle: str, *parts: Markup) -> str:
    """Return parts below a title."""
    head = Markup("<div><strong>{}</strong><br><small>{}</small></div>").format(title, subtitle)
    return str(head + Markup("").join(parts))


def paragraphs(texts: Iterable[str]) -> Markup:
    """Return a small paragraph for each text."""
    return Markup("").join(Markup("<p><small>{}</small></p>").format(escape(text)) for text in texts)
