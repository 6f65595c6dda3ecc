"""Turns names that users chose into what MLflow takes; two different names never become one."""

import hashlib
import math
import posixpath
import re

KEY_LIMIT = 250
"""Characters of a metric's, a parameter's or a tag's key, and of a run's name."""
TAG_LIMIT = 5000
"""Characters of a tag's value."""
EXACT = re.compile(r"[^'\"\\`\x00-\x1f]*")
"""Values that MLflow's search can compare; it knows no way to escape the rest."""


def key(name: str) -> str:
    """Return a metric's, a parameter's or a tag's name as a key that MLflow takes.

    What it refuses is replaced; then a hash of the whole name is appended, so that no other name becomes it.

    >>> key("lr/stage 2"), key("lr/head+neck"), key("../a//b")
    ('lr/stage 2', 'lr/head_neck-97447ca1', '_/a/_/b-1c43f0cd')
    """
    parts = re.sub(r"[^/\w.\- :]", "_", name).split("/")
    taken = "/".join(part if part.strip(" .") else "_" for part in parts).strip()
    if taken == name and len(name) <= KEY_LIMIT and posixpath.normpath(name) == name:
        return name
    return f"{taken[: KEY_LIMIT - 9].rstrip()}-{_hash(name)}"


def text(value: str, limit: int = TAG_LIMIT) -> str:
    """Return a value that any database stores: no NUL, no half of a character, at most `limit`."""
    stored = value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
    return stored if len(stored) <= limit else f"{stored[: limit - 10]}…-{_hash(value)}"


def number(value: float) -> float:
    """Return a metric's value; an infinity becomes NaN, since MLflow would make 1.8e308 of it."""
    return float(value) if math.isfinite(value) else math.nan


def equals(attribute: str, value: str) -> str:
    """Return a condition of MLflow's search that holds where an attribute or a tag has a value.

    Where the value can't be written in a search, the condition holds for values that are alike, too.
    """
    if EXACT.fullmatch(value):
        return f"{attribute} = '{value}'"
    return f"{attribute} LIKE '{_pattern(value)}'"


def begins(attribute: str, value: str) -> str:
    """Return a condition like that of `equals` for what begins with a value."""
    return f"{attribute} LIKE '{_pattern(value)}%'"


def _pattern(value: str) -> str:
    return re.sub(r"['\"\\`\x00-\x1f%]", "_", value)


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
