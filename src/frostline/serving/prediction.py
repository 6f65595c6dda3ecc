"""`frostline predict`: what a trained network sees in pictures, computed as `evaluate` computes it."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch

from frostline.base.files import write_text
from frostline.base.formats import csv_text
from frostline.base.parallel import in_order
from frostline.base.project import scratch
from frostline.console.errors import FrostlineError, resource_errors
from frostline.console.progress import shown
from frostline.data.loading.pixel_files import Pixels
from frostline.data.loading.pixels import Images, normalise, to_pixels
from frostline.data.reading.checks import tally
from frostline.data.reading.decode import (
    IMAGE_SUFFIXES,
    BadImage,
    Note,
    decode,
    printable,
    read_bytes,
    suffix,
)
from frostline.evaluation.evaluate import parts_of
from frostline.features.execution import autocast, device_of
from frostline.features.reuse import BATCH
from frostline.preparation.examine import noted
from frostline.runs.trained_run import Trained
from frostline.training import machine
from frostline.training.inference import logits_behind, logits_of, reuse_of
from frostline.training.services import Services

T = TypeVar("T")
CONVERTED: tuple[Note, ...] = ("16-bit", "dim", "cmyk")
"""Of the notes, those that say that pixels are not as they were."""
BAD_SHOWN = 10
"""Sentences on standard error; the rest is counted."""


@dataclass(frozen=True)
class Prediction:
    """What the network says of one picture."""

    image: str
    """Its path as it was given, or below the folder that was."""
    best: tuple[tuple[str, float], ...]
    """Class and confidence, the likeliest first; empty: it could not be used."""
    error: str
    """Why not, as a clause that follows its name."""
    notes: tuple[Note, ...] = ()
    """What was done to its pixels that its owner should know."""


@resource_errors("predicting", ["--batch-size"])
def run(
    found: Trained,
    given: Sequence[str],
    form: Literal["csv", "json"] = "csv",
    out: Path | None = None,
    top_k: int = 1,
    batch_size: int | None = None,
) -> int:
    """Predict pictures and write a row for each, in the order given; a folder's by name.

    Args:
        found: the run whose network is asked.
        given: files, and folders of files.
        form: csv, or json.
        out: the file; None: standard output, batch by batch.
        top_k: the likeliest classes that are written.
        batch_size: images a forward pass; None: the run's own.

    Returns:
        How many pictures could not be used.

    Raises:
        FrostlineError: there is no picture, or fewer classes than `top_k`.
    """
    paths = pictures(given)
    if top_k > len(found.classes):
        raise FrostlineError(
            f"--top-k: found {top_k}, and the model knows {len(found.classes)} classes; give fewer"
        )
    bad = 0
    converted: dict[Note, list[str]] = {note: [] for note in CONVERTED}

    def checked(predictions: Iterable[Prediction]) -> Iterator[Prediction]:
        nonlocal bad
        with shown("predict", len(paths)) as advance:
            for each in predictions:
                if each.error:
                    bad += 1
                    if bad <= BAD_SHOWN:
                        print(f"frostline: {printable(each.image)} {each.error}", file=sys.stderr)
                for note in CONVERTED:
                    if note in each.notes:
                        converted[note].append(each.image)
                yield each
                advance(1)

    text = (_csv if form == "csv" else _json)(checked(predict(found, paths, top_k, batch_size)), top_k)
    if out:
        write_text(out, "".join(text))
    else:
        for piece in text:
            sys.stdout.write(piece)
            sys.stdout.flush()
    for note, names in converted.items():
        for sentence in noted(note, names):
            print(f"frostline: warning: {sentence}", file=sys.stderr)
    return bad


def pictures(given: Sequence[str]) -> list[Path]:
    """Return the files that are meant: those named, and those in folders whose names are images'.

    Raises:
        FrostlineError: a folder holds none.
    """
    found: list[Path] = []
    for each in map(Path, given):
        if not each.is_dir():
            found.append(each)
            continue
        inside = sorted(path for path in each.rglob("*") if _is_picture(path, each))
        if not inside:
            others = [path.name for path in each.rglob("*") if path.is_file()]
            holds = f"no image file but {tally(others)}" if others else "no file"
            raise FrostlineError(f"{each}: holds {holds}; name another folder, or the files")
        found += inside
    return found


def predict(
    found: Trained, paths: Sequence[Path], top_k: int = 1, batch_size: int | None = None
) -> Iterator[Prediction]:
    """Yield a prediction for each picture, in order; a batch is decoded while the one before is computed.

    Args:
        found: the run whose network it is.
        paths: of the pictures.
        top_k: the likeliest classes, at most so many.
        batch_size: images a forward pass; None: the run's own.
    """
    network = Network(found, batch_size)
    decoded, done = in_order(lambda path: _pixels(path, found), paths), iter(paths)
    pieces = iter(lambda: list(islice(decoded, network.batch_size)), [])
    for piece in _ahead(pieces):
        good = [each for each, _ in piece if not isinstance(each, str)]
        rows = iter(network.probabilities(torch.from_numpy(np.stack(good)))) if good else iter(())
        for path, (each, notes) in zip(islice(done, len(piece)), piece, strict=True):
            name = str(path).encode(errors="backslashreplace").decode()
            if isinstance(each, str):
                yield Prediction(name, (), each)
            else:
                # Stable, so that ties go to the lower class, as in metrics.
                values, classes = next(rows).sort(descending=True, stable=True)
                likeliest = zip(values[:top_k].tolist(), classes[:top_k].tolist(), strict=True)
                # Seven digits: a float32 network has no more to say.
                best = tuple((found.classes[k], float(f"{p:.7g}")) for p, k in likeliest)
                yield Prediction(name, best, "", notes)


class Network:
    """A trained network that computes in the precision, and with the parts, that its run was measured with.

    Args:
        found: the run.
        batch_size: images a forward pass; None: the run's own.
    """

    def __init__(self, found: Trained, batch_size: int | None = None) -> None:
        trainer = found.run.trainer
        self.batch_size = batch_size or trainer.eval_batch_size
        trainer = trainer.model_copy(update={"eval_batch_size": self.batch_size})
        self._run = found.run.model_copy(update={"trainer": trainer})
        self._images = found.training_images
        self._spec = found.spec
        self._network = found.network().to(device_of(trainer.device))
        self._reuse = reuse_of(self._run, self._run.seeds[0], self._spec, Services(scratch()))
        self._execution = self._reuse.execution(self._network)
        self._parts: Any = None
        self._tried = False
        machine.keep_freed_memory()

    @torch.no_grad()
    def probabilities(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return class probabilities, (N, K) float64, of images, (N, C, H, W) uint8."""
        # In one precision a network in two parts gives what the whole gives; in two it does not.
        if not self._tried and self._execution.frozen != "fp32":
            images = Images(pixels, torch.zeros(len(pixels), dtype=torch.int64))
            self._parts = parts_of(self._run, self._network, self._images, self._reuse, images)
        self._tried = True
        if not self._parts:
            logits = logits_of(self._network, pixels, self._spec, self._run.trainer)
        else:
            cut, precision = self._parts
            self._network.eval()
            device = next(self._network.parameters()).device
            with autocast(self._execution.frozen, device):
                features = torch.cat(
                    [
                        cut.features(self._execution.arranged(normalise(part.to(device), self._spec))).cpu()
                        for part in pixels.split(BATCH)
                    ]
                )
            logits = logits_behind(cut, features, precision, self.batch_size)
        return logits.double().softmax(1)


def _pixels(path: Path, found: Trained) -> tuple[Pixels | str, tuple[Note, ...]]:
    """The picture at the network's size, or why there is none; and what was done to it."""
    name = str(path)
    try:
        decoded = decode(read_bytes(path, name), name)
        return to_pixels(decoded.image, found.spec), decoded.notes
    except BadImage as bad:
        return bad.reason, ()


def _is_picture(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return suffix(path.name) in IMAGE_SUFFIXES and not hidden and not path.is_dir()


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield items, the next of which is being made in a thread meanwhile."""
    with ThreadPoolExecutor(1, "decodes pictures") as pool:
        coming = pool.submit(next, items, None)
        while (ready := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield ready


def _csv(predictions: Iterable[Prediction], top_k: int) -> Iterator[str]:
    more = [f"{what}_{i}" for i in range(2, top_k + 1) for what in ("prediction", "confidence")]
    yield csv_text(["image", "prediction", "confidence", *more, "error"], [])
    for each in predictions:
        cells: list[Any] = [cell for pair in each.best for cell in pair] or [None] * (2 * top_k)
        _, _, row = csv_text([], [[each.image, *cells, each.error]]).partition("\n")
        yield row


def _json(predictions: Iterable[Prediction], top_k: int) -> Iterator[str]:
    """A list with a line for each picture."""
    before = "[\n  "
    for each in predictions:
        said: dict[str, Any] = {"image": each.image}
        if each.error:
            said["error"] = each.error
        else:
            said["predictions"] = [{"class": name, "confidence": value} for name, value in each.best]
        yield before + json.dumps(said, ensure_ascii=False)
        before = ",\n  "
    yield "\n]\n"
