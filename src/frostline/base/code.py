"""The source folders that the result of each stage depends on, and their fingerprint.

The folders are the code dependencies in dvc.yaml; keys of caches and checkpoints contain their fingerprint.
What only displays, records or validates (`console`, `schema`, `tracking`, `reporting`, `planning`,
`commands`) is in no folder of a stage that trains.
"""

from functools import cache
from importlib.metadata import version
from pathlib import Path

from frostline.base.hashes import content_key, sha256_of

PACKAGE = Path(__file__).parents[1]
_TRAINING = ("base", "data", "features", "freezing", "models", "training")
FOLDERS = {
    "compose": (
        *("base", "config", "data/reading", "freezing", "models"),
        *("pipeline/compose", "schema", "stats"),
    ),
    "prepare": ("base", "data/prepared", "data/reading", "duplicates", "preparation"),
    "leakage": ("base", "data/prepared", "data/reading", "duplicates", "leakage"),
    "pretrain": (*_TRAINING, "evaluation", "pipeline/pretrain"),
    "finetune": (*_TRAINING, "pipeline/finetune"),
    "evaluate": (*_TRAINING, "evaluation", "pipeline/evaluate"),
    "report": ("base", "pipeline/report", "plotting", "reporting", "stats"),
    "gate": ("base", "stats"),
}
"""Stage → folders below the package; files in folders below them count too."""


@cache
def fingerprint(stage: str) -> str:
    """Return the sha256, in hex, of all source files that the result of a stage depends on."""
    files = {
        path.relative_to(PACKAGE).as_posix(): sha256_of(path)
        for folder in FOLDERS[stage]
        for path in (PACKAGE / folder).rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    return content_key(files)


def code_versions(stage: str) -> list[str]:
    """Return the fingerprint of a stage's code and the versions of the libraries that it trains with."""
    return [fingerprint(stage), *(version(name) for name in ("torch", "pytorch-lightning", "timm"))]
