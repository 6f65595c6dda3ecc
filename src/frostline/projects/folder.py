"""Whether the current folder is a study's, for commands that read its files by their usual names."""

from pathlib import Path

from frostline.base import project
from frostline.console.errors import FrostlineError

PIPELINE = "dvc.yaml"


def require(path: Path, how_to_make: str) -> None:
    """Refuse to continue without a file of the study in the current folder.

    Args:
        path: relative to the current folder.
        how_to_make: what to do in a study's folder.

    Raises:
        FrostlineError: it is missing; the folder may have no study, or be below a study's.
    """
    if path.exists():
        return
    root = project.find_root()
    if Path(PIPELINE).is_file():
        advice = how_to_make
    elif (root / PIPELINE).is_file():
        advice = f"run this in {root}, the folder of the study"
    else:
        advice = (
            "this folder has no study; change to a study's folder, or begin one here with"
            " `frostline init NAME --source DIR --target DIR`"
        )
    raise FrostlineError(f"{path} is missing: {advice}")
