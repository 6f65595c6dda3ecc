"""The names of timm's models, read from its source code: importing timm, and torch with it, takes seconds."""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_REGISTERED = re.compile(r"^@register_model\s+def (\w+)\(", re.MULTILINE)
_DEPRECATED = re.compile(r"^register_model_deprecations\(.*?^\}\)", re.MULTILINE | re.DOTALL)


@cache
def names() -> frozenset[str]:
    """Return what ``timm.list_models()`` does; empty if timm is laid out in another way."""
    return frozenset(name for text in _sources() for name in _REGISTERED.findall(text))


@cache
def deprecated() -> frozenset[str]:
    """Return earlier names of models, for which timm itself has an error."""
    tables = (table for text in _sources() for table in _DEPRECATED.findall(text))
    return frozenset(name for table in tables for name in re.findall(r"'(\w+)' ?:", table))


@cache
def _sources() -> tuple[str, ...]:
    spec = find_spec("timm")
    folders = spec.submodule_search_locations or [] if spec else []
    files = sorted(path for folder in folders for path in Path(folder, "models").glob("*.py"))
    return tuple(path.read_text(encoding="utf-8") for path in files)
