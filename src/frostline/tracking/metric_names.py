"""Keys and values that MLflow accepts for names that users choose; different names get different keys."""

import hashlib
import math
import posixpath
import re

KEY_LIMIT = 250
"""Characters of a metric's, a parameter's or a tag's key, and of a run's name."""
BEST_EPOCH = "best_epoch"
INTERNAL = ("images_per_second", "trainable_parameters")
DIGITS = 6
"""Significant digits of a mean over seeds."""
TAG_LIMIT = 5000
"""Characters of a tag's value."""
EXACT = re.compile(r"[^'\"\\`\x00-\x1f]*")
"""Values that MLflow's search can compare exactly; it can't escape other characters."""


def key(name: str) -> str:
    """Return the key of a metric, a parameter or a tag that MLflow accepts.

    Characters that it refuses are replaced; then a hash of the name is appended, so that keys stay unique.

    >>> key("lr/stage 2"), key("lr/head+neck"), key("../a//b")
    ('lr/stage 2', 'lr/head_neck-ff279b03', '_/a/_/b-7a622c6c')
    """
    parts = re.sub(r"[^/\w.\- :]", "_", name).split("/")
    taken = "/".join(part if part.strip(" .") else "_" for part in parts).strip()
    if taken == name and len(name) <= KEY_LIMIT and posixpath.normpath(name) == name:
        return name
    return f"{taken[: KEY_LIMIT - 9].rstrip()}-{_hash(name)}"


def placed(metric: str) -> str:
    """Return the name under which a metric is recorded: internals are below ``system/``.

    MLflow shows these on a tab of their own, so that a run's other metrics are few. Its page that compares
    runs begins with the first metric of the alphabet: ``best/val/accuracy``, without ``best/epoch``.

    >>> placed("lr/head"), placed("test/n"), placed("test/loss"), placed("best/epoch")
    ('system/lr/head', 'system/test/n', 'test/loss', 'best_epoch')
    """
    if metric == "best/epoch":
        return BEST_EPOCH
    internal = metric in INTERNAL or metric.startswith("lr/") or metric.endswith("/n")
    return f"system/{metric}" if internal else metric


def text(value: str, limit: int = TAG_LIMIT) -> str:
    """Return a text that any database stores: no NUL, no lone surrogate, at most `limit` characters."""
    stored = value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
    return stored if len(stored) <= limit else f"{stored[: limit - 10]}…-{_hash(value)}"


def number(value: float) -> float:
    """Return a metric's value; infinity becomes NaN, since MLflow would store 1.8e308."""
    return float(value) if math.isfinite(value) else math.nan


def equals(attribute: str, value: str) -> str:
    """Return a filter of MLflow's search for an attribute or a tag with this value.

    If the value can't be written in a filter, similar values match, too.
    """
    if EXACT.fullmatch(value):
        return f"{attribute} = '{value}'"
    return f"{attribute} LIKE '{_pattern(value)}'"


def begins(attribute: str, value: str) -> str:
    """Return a filter like `equals` for values that begin with `value`."""
    return f"{attribute} LIKE '{_pattern(value)}%'"


def _pattern(value: str) -> str:
    return re.sub(r"['\"\\`\x00-\x1f%]", "_", value)


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]


def rounded(value: float) -> float:
    """Return a mean as MLflow's tables show it, which print every digit.

    >>> rounded(2 / 3)
    0.666667
    """
    return float(f"{value:.{DIGITS}g}")
