"""What every call does around its work, as the command line does around a command."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from frostline.base import project
from frostline.console.errors import FrostlineError, check_addresses, is_out_of_memory, system_error
from frostline.console.progress import in_notebook, say_once
from frostline.training.garbage import untouched

KEY_TO_SET = re.compile(
    r"""\bset\ (?: '([a-z_]+(?:\.\w+)+=[^']*)'
              | ([a-z_]+(?:\.\w+)+=(?:\[[^\]]*\]|[^\s;,:)]+)) )""",
    re.VERBOSE,
)
"""``set KEY=VALUE`` in an error: a key of two parts or more, in quotes or without."""
TABLE = re.compile(r"\bdataset=table (?:'dataset\.file=([^']*)'|dataset\.file=(\S+))")
"""The words of a command line for a table, which in Python is its path alone."""


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
    except FrostlineError as error:
        error.args = (in_python(str(error)), *error.args[1:])
        raise
    except OSError as error:
        if is_out_of_memory(error):
            raise
        raise system_error(error) from error


def in_python(sentence: str) -> str:
    """Return an error's sentence with the config keys to set as Python takes them.

    >>> in_python("x.csv has no such column; set 'dataset.columns.label=my kind'")
    'x.csv has no such column; set overrides=["dataset.columns.label=my kind"]'
    >>> in_python("read that: dataset=table 'dataset.file=my data/x.csv'")
    "read that: 'my data/x.csv'"
    """
    sentence = TABLE.sub(lambda match: repr(match[1] or match[2]), sentence)
    return KEY_TO_SET.sub(lambda match: f'set overrides=["{match[1] or match[2]}"]', sentence)


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
