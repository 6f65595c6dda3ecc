"""What a command's stages share: the recorder, progress, and the lock of the output folder."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.base import project
from frostline.base.files import remove_temporary
from frostline.base.hashes import content_key
from frostline.base.locks import exclusive
from frostline.base.processes import end_with_dvc
from frostline.console import signals
from frostline.console.progress import say_once, shown
from frostline.pipeline.output_folders import short_label, title_label
from frostline.training.services import LabelledTracker, Services, Tracker, Watch, unwatched

if TYPE_CHECKING:
    from frostline.tracking.tracker import JournalTracker


def make_services(
    label: str = "", watch: Watch = unwatched, tags: Mapping[str, str] | None = None
) -> Services:
    """Return the services of a command's stages: progress, tracker and scratch.

    FROSTLINE_TRACKING=off records nothing. Call it before the imports that training needs: the recorder, a
    process of its own, starts meanwhile.
    """
    tracker: Tracker = Tracker() if os.environ.get("FROSTLINE_TRACKING") == "off" else _recorder()
    if (short := short_label(label)) or tags:
        tracker = LabelledTracker(tracker, short, tags or {})
    return Services(project.scratch(), shown, say_once, tracker, watch, title_label(label))


@cache
def _recorder() -> "JournalTracker":
    """Return the one recorder of this process's runs."""
    from frostline.tracking.tracker import JournalTracker

    return JournalTracker()


def record_study(
    study: str, sentence: str, table: str, values: Mapping[str, float], files: Mapping[str, Path]
) -> None:
    """Record the results of a study or sweep in its own run, unless FROSTLINE_TRACKING=off.

    Args:
        sentence: the verdict.
        table: in Markdown.
        values: the headline metrics.
        files: path of an artifact → the file.
    """
    if os.environ.get("FROSTLINE_TRACKING") == "off":
        return
    contents = {name: path.read_bytes() for name, path in files.items()}
    _recorder().study(
        {"study": study, "sentence": sentence, "table": table, "values": values, "files": contents}
    )


def finish_recording() -> None:
    """Wait until this process's runs are recorded, at most for the recorder's time limit.

    Runs that start later start a new recorder process.
    """
    if _recorder.cache_info().currsize:
        _recorder().close()
        _recorder.cache_clear()


@contextmanager
def writing(out: Path, *, wait: bool = False) -> Iterator[None]:
    """Lock the output folder `out` for the block; exit when the DVC process that started this one exits.

    Args:
        wait: whether to wait for another run that writes there, such as another command's trial with the
            same values.

    Raises:
        ResourceLocked: another run is writing there, and `wait` is false.
    """
    end_with_dvc()
    lock = project.scratch() / "locks" / f"{content_key(str(out.resolve()))[:16]}.lock"
    busy = f"out: another run is writing to {out}; wait for it, or name another folder"
    with signals.interruptible(), exclusive(lock, None if wait else busy):
        remove_temporary(out.parent, out.name)
        _clean_scratch()
        yield


def _clean_scratch() -> None:
    """Remove temporary files of killed processes from the scratch, two folders deep."""
    scratch = project.scratch()
    for folder in (scratch, *scratch.glob("*/"), *scratch.glob("*/*/")):
        remove_temporary(folder)
