"""Predict the classes of image files, computed as in evaluation."""

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from frostline.base.formats import csv_text
from frostline.base.multi_label_metrics import least_certain
from frostline.base.parallel import in_order
from frostline.base.project import scratch
from frostline.console.errors import FrostlineError, first_line, is_out_of_memory
from frostline.console.progress import say_once
from frostline.data.loading.pixel_files import Pixels
from frostline.data.loading.pixels import Images
from frostline.data.loading.resize import format_of, to_pixels
from frostline.data.reading.bands import PixelFormat, conform, decode_as
from frostline.data.reading.decode import BadImage, DecodedImage, Note, read_bytes
from frostline.data.reading.label_sets import joined
from frostline.evaluation import tta
from frostline.evaluation.evaluate import split_for_inference
from frostline.features.execution import device_of
from frostline.models.input_spec import InputSpec
from frostline.runs.trained_run import TrainedRun
from frostline.training import machine
from frostline.training.inference import logits_after_split, logits_of, reuse_of
from frostline.training.services import Services

T = TypeVar("T")
InMemory = Image.Image | NDArray[Any]
"""An image of Pillow, or an array."""


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image file."""

    image: str
    """The path as typed, or the typed folder and the path in it; of an image in memory, ``image 0``, …"""
    best: tuple[tuple[str, float], ...]
    """(class, confidence), the most likely first; empty: the file could not be used."""
    error: str
    """The reason, as a clause that follows the file's name."""
    labels: tuple[str, ...] | None = None
    """The labels whose probability reaches their threshold; None with one label per image."""
    confidence: float | None = None
    """As in a run's predictions.csv: of the most likely class, or with several labels per image of the least
    certain decision on a label; None: the file could not be used."""
    notes: tuple[Note, ...] = ()
    """Conversions of its pixels that the user should know about."""


def predict(
    trained: TrainedRun,
    images: Sequence[Path | InMemory],
    top_k: int = 1,
    batch_size: int | None = None,
    network: "Network | None" = None,
) -> Iterator[Prediction]:
    """Yield a prediction for each image, in order; batches are decoded in the background.

    Args:
        images: files, or images in memory, which are called ``image 0``, ``image 1``, …
        top_k: number of most likely classes; with several labels per image, all.
        batch_size: images per forward pass; None: the run's.
        network: of `trained`, if there is one already.
    """
    network, thresholds = network or Network(trained, batch_size), trained.thresholds
    network.configure()
    count = len(trained.classes) if thresholds else top_k
    sizes = tta.specs(trained.run.tta, trained.spec)
    decoded = in_order(lambda image: _pixels(image, sizes), images)
    names = (_name(image, place) for place, image in enumerate(images))
    pieces = iter(lambda: list(islice(decoded, network.batch_size)), [])
    for piece in _prefetched(pieces):
        good = [pixels for pixels, _ in piece if not isinstance(pixels, str)]
        stacks = [torch.from_numpy(np.stack(pixels)) for pixels in zip(*good, strict=True)]
        rows = iter(network.probabilities(stacks)) if good else iter(())
        for name, (pixels, notes) in zip(islice(names, len(piece)), piece, strict=True):
            if isinstance(pixels, str):
                yield Prediction(name, (), pixels)
            else:
                # A stable sort: ties go to the lower class, as in the metrics.
                row = next(rows)
                values, classes = row.sort(descending=True, stable=True)
                ranked = zip(values[:count].tolist(), classes[:count].tolist(), strict=True)
                best = tuple((trained.classes[k], _digits(p)) for p, k in ranked)
                labels, confidence = None, best[0][1]
                if thresholds is not None:
                    labels, confidence = _decided(row.cpu().numpy(), thresholds, trained.classes)
                yield Prediction(name, best, "", labels, confidence, notes)


def in_batches(images: int, batch_size: int) -> str:
    """Return a note for a bar, which advances by whole batches: other sizes would change the rounding."""
    return f"in batches of {batch_size}" if images > 1 else ""


def _decided(
    shares: NDArray[np.float64], thresholds: Sequence[float], classes: Sequence[str]
) -> tuple[tuple[str, ...], float]:
    """Return the labels of an image, and the probability of the least certain decision."""
    chosen = shares >= np.asarray(thresholds)
    labels = tuple(classes[k] for k in np.flatnonzero(chosen).tolist())
    return labels, _digits(float(least_certain(shares[None], chosen[None])[0]))


def _digits(value: float) -> float:
    """Round to seven digits, the precision of float32."""
    return float(f"{value:.7g}")


class Network:
    """A trained network, in the precision and with the split point of its run's evaluation.

    Args:
        batch_size: images per forward pass; None: the run's.
    """

    def __init__(self, trained: TrainedRun, batch_size: int | None = None) -> None:
        trainer = trained.run.trainer
        self.batch_size = batch_size or trainer.eval_batch_size
        trainer = trainer.model_copy(update={"eval_batch_size": self.batch_size})
        self._run = trained.run.model_copy(update={"trainer": trainer})
        self._images = trained.training_images
        self._spec, self._several_labels = trained.spec, trained.several_labels
        self._network = trained.network().to(device_of(trainer.device))
        self._reuse = reuse_of(self._run, self._spec, Services(scratch()))
        self._execution = self._reuse.inference_execution(self._network)
        self._parts: Any = None
        self._tried = False

    def configure(self) -> None:
        """Use the run's number of threads in this process; another run may have set its own since."""
        trainer = self._run.trainer
        machine.configure_inference(trainer.threads, device_of(trainer.device), say_once)

    @torch.no_grad()
    def probabilities(self, stacks: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return class probabilities, (N, K) float64, averaged over views if the run is measured so.

        Args:
            stacks: the images, (N, C, H, W) uint8 or uint16, resized for each of `evaluation.tta.specs`.
        """
        further = tta.views(self._run.tta)
        views = [tta.Viewed(stacks[view.source], view, self._spec)[:] for view in further]
        logits = [self._logits(pixels) for pixels in (stacks[0], *views)]
        several = self._several_labels
        averaged = (tta.averaged(logits, several_labels=several) if views else logits[0]).double()
        return averaged.sigmoid() if several else averaged.softmax(1)

    def _logits(self, pixels: torch.Tensor) -> torch.Tensor:
        # Splitting the network changes results only if its parts have different precisions.
        if not self._tried and self._execution.frozen_precision != "fp32":
            images = Images(pixels, torch.zeros(len(pixels), dtype=torch.int64))
            self._parts = split_for_inference(self._run, self._network, self._images, self._reuse, images)
        self._tried = True
        if not self._parts:
            return logits_of(self._network, pixels, self._spec, self._run.trainer)
        split, precision = self._parts
        self._network.eval()
        features = self._reuse.uncached_features(split, pixels)
        return logits_after_split(split, features, precision, self.batch_size)


def _name(image: Path | InMemory, place: int) -> str:
    if isinstance(image, Path):
        return str(image).encode(errors="backslashreplace").decode()
    return f"image {place}"


def in_memory(image: InMemory, wanted: PixelFormat) -> DecodedImage:
    """Return an image in memory as `decode_as` returns a file's.

    Args:
        image: of Pillow, or an array, (H, W) or (H, W, C), uint8 or uint16.

    Raises:
        BadImage: it can't be read, or has other channels.
    """
    try:
        return _decoded(image, wanted)
    except FrostlineError:
        raise
    except (OSError, ValueError) as error:  # of Pillow, which reads a file's pixels when they are needed
        if is_out_of_memory(error):
            raise
        raise BadImage("the image", f"can't be used ({first_line(error)})") from None


def _decoded(image: InMemory, wanted: PixelFormat) -> DecodedImage:
    if isinstance(image, np.ndarray):
        values = np.atleast_3d(image)
        if not wanted.plain:
            return DecodedImage(conform(values, wanted, "the image"), "", str(values.dtype), ())
        image = Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)
    image = ImageOps.exif_transpose(image)
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        if wanted.plain:
            return DecodedImage(image, image.format or "", image.mode, ())
        return _decoded(np.asarray(image), wanted)
    stream = io.BytesIO()
    image.save(stream, format="tiff" if image.mode == "CMYK" else "png")
    return decode_as(stream.getvalue(), "the image", wanted)


def _pixels(
    image: Path | InMemory, sizes: Sequence[InputSpec]
) -> tuple[tuple[Pixels, ...] | str, tuple[Note, ...]]:
    """Return the image resized for each of `sizes`, or the reason why there is none; and its conversions."""
    wanted = format_of(sizes[0])
    try:
        if isinstance(image, Path):
            name = str(image)
            decoded = decode_as(read_bytes(image, name), name, wanted)
        else:
            decoded = in_memory(image, wanted)
        return tuple(to_pixels(decoded.image, size) for size in sizes), decoded.notes
    except BadImage as bad:
        return bad.reason, ()


def _prefetched(items: Iterator[T]) -> Iterator[T]:
    """Yield items while a thread computes the next one."""
    with ThreadPoolExecutor(1, "decodes images") as pool:
        coming = pool.submit(next, items, None)
        while (ready := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield ready


def _row(cells: list[Any]) -> str:
    return csv_text([], [cells]).partition("\n")[2]


def label_lines(predictions: Iterable[Prediction], classes: Sequence[str]) -> Iterator[str]:
    """Yield the lines of a CSV file with the labels of each image, and a column per class.

    A class that is called like another column has the prefix ``class ``.
    """
    decided = "image", "predictions", "confidence"
    named = [f"class {name}" if name in (*decided, "error") else name for name in classes]
    yield csv_text([*decided, *named, "error"], [])
    for prediction in predictions:
        shares = dict(prediction.best)
        cells = [joined(prediction.labels or ()), prediction.confidence, *map(shares.get, classes)]
        yield _row([prediction.image, *cells, prediction.error])


def csv_lines(predictions: Iterable[Prediction], top_k: int) -> Iterator[str]:
    """Yield the lines of a CSV file, the header first."""
    more = [f"{what}_{i}" for i in range(2, top_k + 1) for what in ("prediction", "confidence")]
    yield csv_text(["image", "prediction", "confidence", *more, "error"], [])
    for prediction in predictions:
        cells: list[Any] = [cell for pair in prediction.best for cell in pair] or [None] * (2 * top_k)
        yield _row([prediction.image, *cells, prediction.error])


def json_lines(predictions: Iterable[Prediction], top_k: int) -> Iterator[str]:
    """Yield a JSON list, a line per image."""
    before = "[\n  "
    for prediction in predictions:
        row: dict[str, Any] = {"image": prediction.image}
        if prediction.error:
            row["error"] = prediction.error
        elif prediction.labels is not None:
            row["predictions"] = list(prediction.labels)
            row["confidence"] = prediction.confidence
            row["probabilities"] = dict(prediction.best)
        else:
            row["predictions"] = [{"class": name, "confidence": value} for name, value in prediction.best]
        yield before + json.dumps(row, ensure_ascii=False)
        before = ",\n  "
    yield "\n]\n"
