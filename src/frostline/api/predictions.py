"""A network's predictions for images: files, folders, images of Pillow, or arrays."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frostline.api.items import Items
from frostline.config.hints import IMAGES, check_path
from frostline.console.errors import FrostlineError
from frostline.data.loading.resize import format_of
from frostline.data.reading.bands import PLAIN, PixelFormat
from frostline.data.reading.label_sets import joined
from frostline.schema import Dataset
from frostline.serving import prediction
from frostline.serving.image_files import image_files
from frostline.sheets import predictions as sheets
from frostline.sheets.page import Sheet

if TYPE_CHECKING:
    from pandas import DataFrame

    from frostline.runs.trained_run import TrainedRun

COLOURS = (1, 3, 4)
"""Lengths of an array's last dimension that mean channels."""


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image."""

    image: str
    """The file's path; ``image 0``, … for images in memory."""
    label: str | None
    """The most probable class; None: the image can't be used."""
    probabilities: dict[str, float]
    """Class → probability, the most probable first."""
    error: str = ""
    """Why the image can't be used, as a clause that follows its name."""
    labels: tuple[str, ...] = ()
    """With several labels per image: those whose probability reaches their threshold; else `label` alone."""
    confidence: float = 0.0
    """The probability of the label; with several labels per image, of the least certain decision."""


@dataclass(frozen=True)
class Predictions(Items[Prediction]):
    """Predictions in the order of the images. A notebook shows them as a sheet of images."""

    rows: tuple[Prediction, ...]
    model: str
    """The run's name."""
    _images: Sequence[Path | prediction.InMemory] = field(repr=False, default=())
    _predicted: Sequence[prediction.Prediction] = field(repr=False, default=())
    _format: PixelFormat = field(repr=False, default=PLAIN)

    @property
    def _items(self) -> tuple[Prediction, ...]:
        return self.rows

    @property
    def labels(self) -> list[str | None]:
        """The most probable class of each image."""
        return [row.label for row in self.rows]

    def to_pandas(self) -> "DataFrame":
        """Return a row per image: image, prediction, confidence, error, and probability/CLASS of each class.

        The names are those of `frostline predict`; with several labels per image, predictions has those of an
        image, separated by ``;``.
        """
        from pandas import DataFrame

        several = any(row.labels is not None for row in self._predicted)
        first = ("image", "predictions" if several else "prediction", "confidence", "error")
        shares = [{f"probability/{k}": share for k, share in row.probabilities.items()} for row in self.rows]
        predicted = [joined(row.labels) if several else row.label for row in self.rows]
        rows: list[dict[str, Any]] = [
            dict(zip(first, (row.image, own, row.confidence, row.error), strict=True))
            for row, own in zip(self.rows, predicted, strict=True)
        ]
        return DataFrame(
            [row | share for row, share in zip(rows, shares, strict=True)],
            columns=[*first, *sorted({name for own in shares for name in own})],
        )

    def sheet(self) -> Sheet:
        """Return the images with their most probable classes; the first 500."""
        return sheets.sheet_of(self._predicted[: sheets.MOST_IMAGES], self._images, self.model, self._format)

    def _repr_html_(self) -> str:
        return self.sheet()._repr_html_()

    def __repr__(self) -> str:
        counts: dict[str, int] = {}
        for label in self.labels:
            counts[label or "unusable"] = counts.get(label or "unusable", 0) + 1
        listed = ", ".join(
            f"{name}: {count}" for name, count in sorted(counts.items(), key=lambda c: -c[1])[:10]
        )
        return f"Predictions({len(self)} images; {listed})"


def predict(trained: "TrainedRun", images: Any, network: prediction.Network) -> Predictions:
    """Predict the classes of images; `api.runs.Run.predict` says what `images` may be."""
    from frostline.console.progress import shown

    wanted = format_of(trained.spec)
    sources = list(_sources(images, wanted, trained.run.dataset))
    if not sources:
        raise FrostlineError("images: found none; give files, a folder, images of Pillow, or arrays")
    with shown("predict", len(sources)) as advance:
        advance(0, prediction.in_batches(len(sources), network.batch_size))
        predicted = []
        for row in prediction.predict(trained, sources, len(trained.classes), network=network):
            predicted.append(row)
            advance(1)
    rows = tuple(map(_prediction, predicted))
    return Predictions(rows, trained.folder.name, sources, predicted, wanted)


def _prediction(row: prediction.Prediction) -> Prediction:
    label = row.best[0][0] if row.best else None
    single = () if label is None else (label,)
    labels = single if row.labels is None else row.labels
    return Prediction(row.image, label, dict(row.best), row.error, labels, row.confidence or 0.0)


def _sources(images: Any, wanted: PixelFormat, trained_on: Dataset) -> Iterator[Path | prediction.InMemory]:
    """Yield the files and images that `images` means."""
    if isinstance(images, str | os.PathLike):
        check_path("images", os.fspath(images), IMAGES)
        yield from image_files([os.fspath(images)], trained_on)
    elif isinstance(images, Image.Image):
        yield images
    elif hasattr(images, "__array__"):
        yield from _arrays(np.asarray(images), wanted)
    elif isinstance(images, Sequence) or hasattr(images, "__iter__"):
        for image in images:
            yield from _sources(image, wanted, trained_on)
    else:
        raise FrostlineError(
            f"images: found {type(images).__name__}; give files, a folder, images of Pillow, or arrays"
        )


def _arrays(array: NDArray[Any], wanted: PixelFormat) -> Iterator[NDArray[Any]]:
    """Yield the images of an array: one, (H, W) or (H, W, C), or several, (N, H, W) or (N, H, W, C)."""
    if array.dtype not in (np.uint8, np.uint16) or (wanted.depth == 8 and array.dtype != np.uint8):
        kinds = "uint8, values from 0 to 255" + (", or uint16" if wanted.depth == 16 else "")
        raise FrostlineError(f"images: found an array of {array.dtype}; give {kinds}")
    if 0 in array.shape:
        raise FrostlineError(f"images: found an array of shape {array.shape}, which has no pixels")
    coloured = array.ndim >= 3 and array.shape[-1] in {*COLOURS, wanted.channels}
    if array.ndim - coloured not in (2, 3):
        number = wanted.channels or 3
        raise FrostlineError(
            f"images: found an array of shape {array.shape}; give (H, W), (H, W, {number}),"
            f" (N, H, W) or (N, H, W, {number})"
        )
    if not coloured and wanted.channels != 1 and array.ndim == 3 and len(array) in {3, 4, wanted.channels}:
        # Three grey images have this shape, too; as a list they are clear.
        raise FrostlineError(
            f"images: found an array of shape {array.shape}, with channels first; give (H, W, {len(array)}):"
            " array.transpose(1, 2, 0), and grey images as a list"
        )
    yield from [array] if array.ndim - coloured == 2 else array
