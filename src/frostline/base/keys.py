"""Short names of config keys, for names of runs."""

from collections.abc import Collection

GENERIC = frozenset(("root", "file", "path", "kind", "name"))
"""Last parts of keys that say nothing without the part before."""


def suffixes(key: str) -> list[str]:
    """Return a key from its last part to all of it.

    >>> suffixes("pretrain.optimizer.lr")
    ['lr', 'optimizer.lr', 'pretrain.optimizer.lr']
    """
    parts = key.split(".")
    return [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]


def short_key(key: str, others: Collection[str]) -> str:
    """Return the end of a key that no other one has, and that says what it is.

    >>> short_key("optimizer.lr", ["trainer.epochs"]), short_key("optimizer.lr", ["pretrain.optimizer.lr"])
    ('lr', 'optimizer.lr')
    >>> short_key("dataset.test_sets.night.root", [])
    'night.root'
    """
    taken = {suffix for other in others if other != key for suffix in suffixes(other)}
    telling = [suffix for suffix in suffixes(key) if suffix not in GENERIC]
    return next((suffix for suffix in telling if suffix not in taken), key)


def named_value(name: str, value: str) -> str:
    """Return what a value adds to a run's name: ``lr3e-4``, ``size=null``."""
    return f"{name}{'' if value[:1].isdigit() else '='}{value}"
