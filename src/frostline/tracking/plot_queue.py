"""The plots of runs, drawn after everything else is recorded, those of the best runs first."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from frostline.console.errors import FrostlineError
from frostline.tracking.mlflow_errors import reason
from frostline.training.services import Misclassified

if TYPE_CHECKING:
    from frostline.tracking.store import Store


@dataclass
class PendingPlots:
    """The data of a run's plots that are not drawn yet."""

    files: dict[str, bytes] = field(default_factory=dict)
    mistakes: Sequence[Misclassified] = ()
    val_headline: float = 0.0
    """Validation accuracy or mAP; the plots of runs with the highest are drawn first."""


class Place(NamedTuple):
    """Where plots go."""

    run_id: str
    subfolder: str
    """Among the run's artifacts; empty: beside its own."""


class PlotQueue:
    """The runs of a store whose plots are still to be drawn; `len` is their number."""

    def __init__(self, store: "Store") -> None:
        self._store = store
        self._pending: dict[Place, PendingPlots] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, run_id: str, plots: PendingPlots, subfolder: str = "") -> None:
        """Add the data of a run's plots to what is known of them already.

        Args:
            subfolder: where the plots go among the run's artifacts.
        """
        known = self._pending.setdefault(Place(run_id, subfolder), PendingPlots())
        known.files |= plots.files
        known.mistakes = plots.mistakes or known.mistakes
        known.val_headline = plots.val_headline or known.val_headline

    def draw(self) -> tuple[Place, list[tuple[str, bytes]]]:
        """Draw the plots of the best run that lacks some; return its place, and names and contents."""
        from frostline.tracking import mistakes_plot, run_plots

        place = max(self._pending, key=lambda place: self._pending[place].val_headline)
        pending = self._pending[place]
        drawn: list[tuple[str, bytes]] = []
        with tempfile.TemporaryDirectory() as folder:
            try:
                for name, content in pending.files.items():
                    write_inside(Path(folder), name, content)
                drawn += run_plots.draw(Path(folder))
                if pending.mistakes:
                    drawn.append(("mistakes.png", mistakes_plot.draw(pending.mistakes)))
            except Exception as error:
                self._store.warn(f"a run's plots can't be drawn ({reason(error)}); its files are complete")
        return place, [(below(place.subfolder, name), content) for name, content in drawn]

    def record(self, place: Place, drawn: Sequence[tuple[str, bytes]]) -> None:
        """Record what `draw` returned."""
        try:
            self._store.log_files(place.run_id, drawn)
        except Exception as error:
            if not self._store.answers():
                raise
            self._store.warn(f"a run's plots can't be recorded ({reason(error)}); its files are complete")
        del self._pending[place]


def below(subfolder: str, name: str) -> str:
    """Return the path of an artifact in a subfolder."""
    return f"{subfolder}/{name}" if subfolder else name


def write_inside(folder: Path, name: str, content: bytes) -> None:
    """Write a file below a folder; refuse a path outside of it, which a journal may name."""
    path = Path(folder, name)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise FrostlineError(f"{name!r} is no file of a run")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
