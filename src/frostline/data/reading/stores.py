"""Where the encoded images of a data set are: in files below a folder, or in another container."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from frostline.base.names import locate
from frostline.data.reading.decode import read_bytes


class Store(Protocol):
    """Reads encoded images (JPEG, PNG, …) by their keys, in any thread."""

    @property
    def place(self) -> str:
        """The absolute path of the folder or container."""

    def read(self, key: str) -> bytes:
        """Return an encoded image.

        Raises:
            BadImage: it is missing or unreadable.
        """

    def stamp(self, key: str) -> tuple[int, ...]:
        """Return numbers that change when an image changes, without reading it; empty: it is missing."""


@dataclass(frozen=True)
class FolderStore:
    """Image files below a folder; keys are their paths."""

    root: Path

    @property
    def place(self) -> str:
        """The absolute path of the folder."""
        return str(self.root.resolve())

    def read(self, key: str) -> bytes:
        """Return the content of a file."""
        return read_bytes(locate(self.root, key), key)

    def stamp(self, key: str) -> tuple[int, ...]:
        """Return the size and the times of the last changes of a file."""
        return stamp(locate(self.root, key))


def stamp(path: Path) -> tuple[int, ...]:
    """Return the size and the times of the last changes of a file; empty: it is missing."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
