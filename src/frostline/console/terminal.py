"""Robust standard output and error: any encoding, closed streams, readers that exit early."""

import codecs
import io
import os
import sys
import unicodedata
from contextlib import suppress
from typing import Any, TextIO

HANDLER = "frostline"
ASCII = {
    "•": "*",
    "×": "x",
    "±": "+-",
    "→": "->",
    "←": "<-",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "░": ".",
    "█": "#",
    "✓": "yes",
    **dict.fromkeys("“”", '"'),
    **dict.fromkeys("‘’", "'"),
    **dict.fromkeys("·−–—─━╌╸╺═", "-"),
    **dict.fromkeys("│┃║", "|"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼┏┓┗┛╭╮╰╯", "+"),
}
"""ASCII substitutes for characters that an encoding lacks."""


def configure_streams() -> None:
    """Configure standard output and error to accept any text."""
    codecs.register_error(HANDLER, _replace)
    original: Any = sys.__stderr__
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if stream is None:  # closed before we started
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
        elif stream is original and not isinstance(stream, _UnbreakableStream):
            lasting = _UnbreakableStream(
                stream.detach(), encoding=stream.encoding, errors=HANDLER, line_buffering=True
            )
            # sys.stdout may be the same object as sys.stderr.
            for other in ("stdout", "stderr", "__stderr__"):
                if getattr(sys, other) is stream:
                    setattr(sys, other, lasting)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=HANDLER)


def discard_output(stream: TextIO) -> None:
    """Redirect what is still buffered in `stream` to the null device, so that the exit prints no error."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _UnbreakableStream(io.TextIOWrapper):
    """Standard error that ignores a closed pipe, which must not end a training."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            discard_output(self)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            discard_output(self)


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_in_ascii, error.object[error.start : error.end])), error.end


def _in_ascii(character: str) -> str:
    if character in ASCII:
        return ASCII[character]
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return plain or character.encode("ascii", "backslashreplace").decode()
