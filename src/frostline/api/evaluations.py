"""A finished run's metrics on a further test set."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.api import html
from frostline.base.metrics import headlines
from frostline.schema import Prepare

if TYPE_CHECKING:
    from frostline.api.mistakes import Mistakes


@dataclass(frozen=True, eq=False)
class Evaluation(Mapping[str, float]):
    """Metrics on a further test set: ``evaluation["accuracy"]``. A notebook shows them as a table."""

    name: str
    """The test set's."""
    folder: Path
    """It contains metrics.json, predictions.csv and test_set.json."""
    metrics: dict[str, float]
    """Metric → value."""
    warnings: tuple[str, ...]
    """What limits the metrics, such as images that the run was trained on; sentences."""
    _data: Prepare = field(repr=False)

    def __getitem__(self, metric: str) -> float:
        return self.metrics[metric]

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    def __len__(self) -> int:
        return len(self.metrics)

    def mistakes(self, count: int | None = 24) -> "Mistakes":
        """Return misclassified images, the most confident mistakes first; `count` None: all."""
        from frostline.api.mistakes import Mistakes

        return Mistakes.read(self.folder, self._data, count)

    def __repr__(self) -> str:
        return f"Evaluation({headlines({self.name: self.metrics}, [self.name])}, {str(self.folder)!r})"

    def _repr_html_(self) -> str:
        table = html.metrics_table({self.name: self.metrics})
        return html.block(self.name, str(self.folder), table, html.paragraphs(self.warnings))
