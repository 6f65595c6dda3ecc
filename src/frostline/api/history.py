"""The history of a run: a row per epoch, and its plot."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

from frostline.api import html
from frostline.base.formats import read_csv, read_json
from frostline.base.metrics import headline
from frostline.base.run_folder import HISTORY, TRAINING
from frostline.tracking import run_plots

if TYPE_CHECKING:
    from pandas import DataFrame

Row = dict[str, float | int | None]


@dataclass(frozen=True)
class History(Sequence[Row]):
    """A row per epoch; epoch 0 is before training. A notebook shows its plot, with the phases marked."""

    rows: tuple[Row, ...]
    """Keys: epoch, step, phase, lr, train/loss, train/accuracy; val/loss, val/accuracy,
    val/balanced_accuracy, val/f1_macro, and the same of selection. With several labels per image, mAP is the
    only metric besides the loss."""
    trained: tuple[str, ...]
    """The groups that train in each phase."""
    best_epoch: int
    """The epoch whose weights the run saved."""

    @classmethod
    def read(cls, folder: Path) -> "History":
        """Read the history in a run's folder."""
        rows = tuple(
            {name: _number(name, cell) for name, cell in row.items()} for row in read_csv(folder / HISTORY)
        )
        training = read_json(folder / TRAINING)
        return cls(rows, tuple(run_plots.trained_groups(training)), training["best_epoch"])

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Row]: ...
    @overload
    def __getitem__(self, place: str) -> list[float | int | None]: ...
    def __getitem__(self, place: int | slice | str) -> Row | Sequence[Row] | list[float | int | None]:
        """Return the row of an epoch, some rows, or, by its name, a column as a list."""
        return [row[place] for row in self.rows] if isinstance(place, str) else self.rows[place]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def to_pandas(self) -> "DataFrame":
        """Return the rows as a data frame, indexed by epoch, without columns that have no value."""
        from pandas import DataFrame

        return DataFrame(self.rows).set_index("epoch").dropna(axis="columns", how="all")

    def svg(self) -> bytes:
        """Return the plot of accuracy or mAP and loss by epoch as an SVG file."""
        text = [{name: "" if cell is None else repr(cell) for name, cell in row.items()} for row in self.rows]
        return run_plots.curves(text, self.trained, ".svg")

    def _repr_html_(self) -> str:
        return str(html.svg_image(self.svg(), self.caption))

    @property
    def caption(self) -> str:
        """What the plot shows."""
        return f"{headline(self.rows[-1])} and loss by epoch"

    def __repr__(self) -> str:
        name = f"val/{headline(self.rows[-1])}"
        saved = self.rows[self.best_epoch]
        return (
            f"History({len(self) - 1} epochs, saved: epoch {self.best_epoch} with {name} {saved[name]:.4f})"
        )


def _number(name: str, cell: str) -> float | int | None:
    if not cell:
        return None
    return int(cell) if name in ("epoch", "step", "phase") else float(cell)
