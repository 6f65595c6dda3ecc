"""Where in this project the weights of recorded runs are."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from frostline.base import project
from frostline.base.formats import flat, read_json, read_yaml
from frostline.base.hashes import sha256_cached
from frostline.base.run_folder import CONFIG, TRAINING, WEIGHTS
from frostline.console.errors import FrostlineError

GONE = (
    "replaced by a later run, or deleted; check out the commit that has them (git checkout COMMIT && dvc"
    " checkout), or train again"
)
"""What became of weights that are nowhere, and how to get them, as the end of a sentence."""


def local_weights() -> set[str]:
    """Return the sha256 of the weights of all runs in this project, as their folders record them."""
    return {sha256 for sha256, _ in _recorded()}


def local_copy(sha256: str, params: Mapping[str, str]) -> Path | None:
    """Return the folder of a run in this project that has these weights; None: there is none.

    Args:
        params: the run's parameters in MLflow. Of several folders with these weights, the one whose config
            shares most of them is the run's own: a hyperparameter may have had no effect.
    """
    folders = []
    for recorded, folder in _recorded():
        with suppress(OSError):
            if recorded == sha256 and sha256_cached(folder / WEIGHTS) == sha256:
                folders.append(folder)

    def shared(folder: Path) -> int:
        config = {key: str(value) for key, value in flat(read_yaml(folder / CONFIG)).items()}
        return sum(config.get(key) == value for key, value in params.items())

    return max(folders, key=shared) if len(folders) > 1 else next(iter(folders), None)


def _recorded() -> Iterator[tuple[str, Path]]:
    """Yield the sha256 that the folder of each finished run records, and the folder."""
    roots = dict.fromkeys((Path.cwd(), project.find_root(), project.home()))
    places = [root / name for root in roots for name in ("runs", "artifacts")]
    for place in (*places, project.project_scratch() / "pretrain"):
        for path in sorted(place.rglob(TRAINING)):
            with suppress(FrostlineError, OSError):
                recorded = read_json(path).get("weights_sha256")
                if recorded and path.with_name(WEIGHTS).is_file():
                    yield recorded, path.parent
