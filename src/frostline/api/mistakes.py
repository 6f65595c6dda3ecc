"""A run's misclassified images: rows, a data frame, and a sheet of the images."""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Self

from frostline.api.items import Items
from frostline.schema import Prepare
from frostline.sheets import mistakes
from frostline.sheets.mistakes import Mistake
from frostline.sheets.page import Sheet

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Mistakes(Items[Mistake]):
    """Misclassified images, the most confident mistakes first. A notebook shows them as a sheet of images."""

    rows: tuple[Mistake, ...]
    wrong: int
    """Number of all misclassified images."""
    images: int
    """Number of all images that were measured."""
    _data: Prepare = field(repr=False)

    @classmethod
    def read(cls, folder: Path, data: Prepare, count: int | None) -> Self:
        """Read the mistakes of the run measured in `folder`.

        Args:
            data: the config of the images.
            count: the largest number of rows; None: all.

        Raises:
            FrostlineError: there is no predictions.csv, or images have several labels.
        """
        wrong, images = mistakes.read(folder, data)
        return cls(tuple(wrong[:count]), len(wrong), images, data)

    @property
    def _items(self) -> tuple[Mistake, ...]:
        return self.rows

    def to_pandas(self) -> "DataFrame":
        """Return a row per image: image, label, prediction, confidence."""
        from pandas import DataFrame

        return DataFrame(map(asdict, self.rows), columns=[column.name for column in fields(Mistake)])

    def sheet(self) -> Sheet:
        """Return the images with their classes and predictions."""
        return mistakes.sheet_of(self.rows, self.wrong, self.images, self._data)

    def _repr_html_(self) -> str:
        return self.sheet()._repr_html_()

    def __repr__(self) -> str:
        return f"Mistakes({len(self)} of {self.wrong}; {self.images} images measured)"
