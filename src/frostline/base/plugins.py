"""Plug-ins: entry points of installed packages, in the groups frostline.backbones and frostline.datasets."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any, Literal

from frostline.console.errors import FrostlineError, allowed


class Plugin:
    """An installed plug-in.

    Args:
        kind: the config group that chooses it by its key `name`.

    Raises:
        FrostlineError: no installed package brings one of this name.
    """

    def __init__(self, kind: Literal["backbone", "dataset"], name: str) -> None:
        group = f"frostline.{kind}s"
        installed = {point.name: point for point in entry_points(group=group)}
        if name not in installed:
            hint = allowed(name, installed) if installed else "no installed package brings one"
            raise FrostlineError(f"{kind}.name: no plug-in {name!r} in the entry-point group {group}; {hint}")
        self._kind, self._point = kind, installed[name]

    def load(self) -> Any:
        """Import it, and return the object that it names."""
        with self.errors():
            return self._point.load()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn any exception of the plug-in in the block into one sentence; SystemExit, too."""
        try:
            yield
        except FrostlineError:
            raise
        except (Exception, SystemExit) as error:
            what = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
            raise FrostlineError(
                f"{self._kind} plug-in {self._point.name!r} ({self._point.value}) failed: {what}; fix"
                f" the plug-in or {self._kind}.options"
            ) from error
