"""Output folders of runs, and names that file systems take."""

import re
from pathlib import Path
from typing import Any

from frostline.base.formats import read_yaml
from frostline.base.hashes import content_key
from frostline.base.keys import named_value, short_key
from frostline.config.overrides import split
from frostline.console.errors import FrostlineError
from frostline.schema import PretrainWeights, Run
from frostline.schema.validation import validated

IN_NAME = ("freeze", "backbone", "dataset", "dataset.fold", "seed", "backbone.name")
"""Keys whose values a run's name has anyway."""
NAME_BYTES = 200
"""Length limit of a run folder's name; file systems take 255."""


def out_folder(
    run: Run, out: str | None, label: str = "", pretraining: Run | None = None, *, drawn: bool = False
) -> Path:
    """Return a run's output folder: `out`, in a sweep `out/<label>`, else runs/<stage>/<name>-<hash>.

    If `out/<label>` holds another run, a hash is appended.

    Args:
        out: the experiment's `out`, if set.
        label: in a sweep, the overrides that distinguish the run; else empty.
        pretraining: config of the pretraining that runs first, if any.
        drawn: whether values were sampled from an interval: labels have three digits, so two may be
            equal, and a hash is appended.
    """
    content: Any = run.model_dump()
    if pretraining is not None:
        content = [content, pretraining.model_dump()]
    if out is None:
        from frostline.training.run_info import run_name

        return named_folder(run.stage, run_name(run), content)
    if not label:
        return Path(out)
    plain, hashed = Path(out) / safe_name(label), Path(out) / f"{safe_name(label)}-{content_key(content)[:8]}"
    return hashed if drawn or _holds_another(plain, run, pretraining) else plain


def _holds_another(folder: Path, config: Run, pretraining: Run | None) -> bool:
    """Return whether `folder` holds a run that is not, or may not be, this one."""
    if not (folder / "config.yaml").is_file():
        return False
    try:
        there = validated(Run, read_yaml(folder / "config.yaml"))
        if pretraining is not None:
            weights = Path(getattr(there.weights, "path", None) or "")
            source = validated(Run, read_yaml(weights.parent / "config.yaml"))
            if _comparable(source) != _comparable(pretraining):
                return True
    except FrostlineError:
        return True
    return _comparable(there) != _comparable(config)


def _comparable(run: Run) -> dict[str, Any]:
    """Return what a run's results depend on, without the path of its own pretraining's weights."""
    data = run.model_dump(exclude={"study"})
    if isinstance(run.weights, PretrainWeights):
        data["weights"]["path"] = None
    return data


def named_folder(stage: str, name: str, content: Any) -> Path:
    """Return runs/<stage>/<name>-<hash> for results that depend on the plain data `content`."""
    return Path("runs", stage, f"{_readable(name)}-{content_key([name, content])[:8]}")


def short_label(label: str) -> str:
    """Return what a label adds to a run's name: ``freeze=full,optimizer.lr=3e-4`` becomes ``lr3e-4``."""
    pairs = _assignments(label)
    keys = {*IN_NAME, *(key for key, _ in pairs)}
    return "·".join(named_value(short_key(key, keys), value) for key, value in pairs if key not in IN_NAME)


def title_label(label: str) -> str:
    """Return what a label adds to a progress line, which names schedule, seed and fold.

    >>> title_label("freeze=full,optimizer=adamw,optimizer.lr=3e-4,seed=1")
    'optimizer=adamw, optimizer.lr=3e-4'
    """
    in_title = ("freeze", "dataset.fold", "seed")
    return ", ".join(f"{key}={value}" for key, value in _assignments(label) if key not in in_title)


def _assignments(label: str) -> list[tuple[str, str]]:
    """Return the keys and values of a label."""
    parts = (part.partition("=") for part in split(label))
    return [(key, value) for key, _, value in parts if value]


def safe_name(name: str) -> str:
    """Return a name that any file system takes, different for different names.

    A changed name ends in a hash. So does a name that a file system may not tell from another: with capitals,
    beyond ASCII, or with dots at its end.

    >>> safe_name("freeze=full,seed=1"), safe_name("Freeze=full")
    ('freeze=full,seed=1', 'Freeze=full-93899c0a')
    """
    safe = _readable(name)
    plain = re.fullmatch(r"[a-z0-9_=][a-z0-9_=.,+@-]*", name) and not re.search(r"-[0-9a-f]{8}$", name)
    return safe if safe == name and plain else f"{safe}-{content_key(name)[:8]}"


def _readable(name: str) -> str:
    """Return a name without what a file system may refuse; several names may become the same."""
    safe = re.sub(r"[^\w=.,+@-]+", "-", name).strip(".") or "-"
    return safe.encode()[:NAME_BYTES].decode(errors="ignore")
