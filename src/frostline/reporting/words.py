"""Numbers as text, the same in the page, the Markdown and the plots."""

import re
from collections.abc import Iterable, Sequence

from frostline.console.units import counted
from frostline.stats.transfer import Estimate, Gain, TimeToThreshold

MINUS = "−"
NOTHING = "–"
SMALLEST_P = 0.0001


def markdown(text: str) -> str:
    """Return `text` escaped for Markdown, table cells included: no links, tags, code or newlines."""
    escaped = re.sub(r"[\\`*\[\]|]|<(?=[A-Za-z/!?])", r"\\\g<0>", text)
    return re.sub(r"[\r\n]+", " ", escaped)


def markdown_table(rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table whose columns are aligned, for those who read it in a terminal.

    Args:
        rows: the header and the rows below it, of equal lengths; their cells are escaped.
    """
    lines = [[markdown(text) for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "".join(
        f"| {' | '.join(text.ljust(width) for text, width in zip(line, widths, strict=True))} |\n"
        for line in lines
    )


def percent(share: float) -> str:
    """Return a share in per cent: ``94.1 %``."""
    return f"{100 * share:.1f} %"


def points(difference: float, *, signed: bool = True, decimals: int = 1) -> str:
    """Return a difference of two shares in percentage points: ``+7.2``, ``−0.4``, ``0.0``."""
    text = f"{100 * abs(difference):.{decimals}f}"
    if not signed or float(text) == 0:
        return text
    return f"{'+' if difference > 0 else MINUS}{text}"


def equal(n: int) -> str:
    """Say that all values are equal, instead of an interval without width, which would claim precision."""
    return f"all {n} equal"


def interval(estimate: Estimate) -> str:
    """Return the 95 % interval of a share, in per cent: ``92.0 to 95.9``; empty for a single seed.

    Equal values have none: ``all 3 equal``.
    """
    if estimate.low is None or estimate.high is None:
        return ""
    if estimate.std == 0:
        return equal(estimate.n)
    return f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}"


def gain_interval(gain: Gain) -> str:
    """Return the 95 % interval of a gain, in points: ``+5.1 to +9.3``; empty for a single seed.

    An end near zero has more decimals, so that its sign shows: ``+0.03 to +3.7``. Equal gains have no
    interval: ``all 3 equal``.
    """
    if gain.low is None or gain.high is None:
        return ""
    if gain.std == 0:
        return equal(gain.n)
    return f"{_sided(gain.low)} to {_sided(gain.high)}"


def _sided(end: float) -> str:
    texts = [points(end, decimals=decimals) for decimals in (1, 2, 3)]
    return next((text for text in texts if text[0] in f"+{MINUS}"), texts[0])


def p_value(p: float | None) -> str:
    """Return a p-value with its relation: ``p = 0.012``, ``p < 0.0001``."""
    if p is None:
        return "no p-value"
    if p < SMALLEST_P:
        return f"p < {SMALLEST_P:.4f}"
    return f"p = {p:.1g}" if p < 0.001 else f"p = {p:.2g}"


def epochs(value: float) -> str:
    """Return a number of epochs: ``3``, or ``3.5`` for the median of an even number of seeds."""
    return f"{value:g}"


def counted_epochs(value: float) -> str:
    """Return a number of epochs with its noun: ``1 epoch``, ``3.5 epochs``."""
    return f"{value:g} epoch" if value == 1 else f"{value:g} epochs"


def missed(when: TimeToThreshold, noun: str = "seed") -> str:
    """Say in how many seeds a threshold was not reached: ``2 of 5 seeds``; empty where it always was."""
    missing = when.n - when.reached
    return f"{missing} of {counted(when.n, noun)}" if missing else ""


def listed(names: Sequence[str]) -> str:
    """Return names as a list in a sentence: ``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
