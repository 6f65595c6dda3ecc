"""What every call does around its work, as the command line does around a command."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from frostline.base import project
from frostline.console.errors import check_addresses, is_out_of_memory, system_error
from frostline.console.progress import in_notebook, say_once
from frostline.training.garbage import untouched


@contextmanager
def call(*, reads_records: bool = False) -> Iterator[None]:
    """Do a command's work in the block.

    Args:
        reads_records: whether it reads runs from MLflow; the recording of earlier calls is finished first.

    Raises:
        FrostlineError: also instead of an OSError, such as a missing permission.
    """
    if in_notebook():  # a warning of libraries that would show their own bars
        warnings.filterwarnings("ignore", "IProgress not found")
    check_addresses()
    _note_lock()
    _finish_recording(reads_records)
    try:
        with untouched():
            yield
    except OSError as error:
        if is_out_of_memory(error):
            raise
        raise system_error(error) from error


_recorded_in: tuple[object, ...] | None = None
"""The project and the MLflow store of the last call."""


def _finish_recording(reads_records: bool) -> None:
    """Wait until earlier calls are recorded, if this call reads their records or belongs to another project.

    Otherwise the recorder process runs beside the next calls, and nothing waits for it.
    """
    global _recorded_in
    from frostline.pipeline.session import finish_recording

    now = project.home(), project.store_uri(), project.experiment()
    if reads_records or now != _recorded_in:
        finish_recording()
    _recorded_in = now


def _note_lock() -> None:
    """Print a note, once, if the project was made with other code of frostline."""
    from frostline.projects import lock

    if sentence := lock.check():
        say_once(f"frostline: note: {sentence}")
