"""`frostline predict`: classify images with a trained network."""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.commands import options
from frostline.console.errors import FrostlineError, resource_errors
from frostline.console.progress import NETWORK, Advance, shown, waiting

if TYPE_CHECKING:
    from frostline.data.reading.decode import Note
    from frostline.models.input_spec import InputSpec
    from frostline.schema import Dataset, Run
    from frostline.serving.prediction import Prediction

CONVERTED: "tuple[Note, ...]" = ("16-bit", "dim", "cmyk")
"""The notes on converted pixels, which are printed as warnings."""
BAD_SHOWN = 10
"""Errors printed on standard error; further ones are only counted."""

EPILOG = f"""\
examples:
  frostline predict models:/digits@champion FOLDER --out predictions.csv
  frostline predict runs/finetune/NAME one.jpg two.png --top-k 3 --format json
  frostline predict runs/finetune/NAME FOLDER --html sheet.html --out predictions.csv

{options.RUN_HELP}

Images are resized and normalized as in training, so a test image gets the same prediction as in the run's
predictions.csv. A folder means all image files in it and its subfolders, a table (CSV, TSV, Parquet) those
in the column that the model was trained with (dataset.columns.image), or in its column image. Paths in a
table are relative to its folder, or, if none exists there, in the model's own table to its dataset.root.

The CSV has a row per image. Its columns are image, prediction, confidence, with --top-k the same two for the
next classes, and error. With several labels per image, they are image, predictions (separated by ;),
confidence, a probability per class, and error; a class that is called like one of the others has the prefix
"class ". Columns that predictions.csv has, too, mean the same; it names images by id, their path in the data
set, since the path that you type may be any. The JSON has an object per image: image, and predictions or
error. If an image can't be read, error says why,
the others are classified, and the exit status is 2.

--html also writes the images with their most probable classes as one HTML page that needs no other file."""


def add(commands: Any, summary: str) -> None:
    """Add the command's parser."""
    parser = options.add_command(commands, "predict", run, summary, EPILOG)
    options.add_model(parser, "model")
    parser.add_argument(
        "images", metavar="IMAGE|FOLDER|TABLE", nargs="+", help="image files, folders or tables"
    )
    parser.add_argument(
        "--format", choices=["csv", "json"], default="csv", help="format of the output (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="file of the output (default: standard output)"
    )
    parser.add_argument(
        "--html", type=options.html_path, metavar="FILE", help="also write a sheet of the images"
    )
    parser.add_argument(
        "--top-k",
        type=options.positive,
        metavar="K",
        default=1,
        help="classes per image (default: %(default)s)",
    )
    parser.add_argument(
        "--batch-size",
        type=options.positive,
        metavar="N",
        help="images per batch (default: the run's eval_batch_size)",
    )
    options.add_tta(parser)


@resource_errors("predicting", ["--batch-size"])
def run(arguments: argparse.Namespace) -> None:
    """Print or write a prediction for each image.

    Raises:
        FrostlineError: there is no such model, a folder has no image, or the model has too few classes.
            Also if some images could not be used, after the others' predictions are written.
    """
    from frostline.serving import resolve
    from frostline.serving.image_files import image_files

    folder = resolve.folder(arguments.model)
    dataset = _config(folder).dataset
    _check_top_k(arguments.top_k, dataset, folder)
    paths = image_files(arguments.images, dataset)
    with waiting(NETWORK):
        from frostline.runs.trained_run import TrainedRun
        from frostline.serving import prediction

        trained = TrainedRun.read(folder)
    if arguments.tta:
        trained = trained.with_tta(None if arguments.tta == "none" else arguments.tta)
    classes = len(trained.classes)
    sheet = _Sheet(arguments.html, classes)
    top_k = max(arguments.top_k, sheet.top_k)
    predictions = prediction.predict(trained, paths, top_k, arguments.batch_size)
    shown_classes = classes if trained.several_labels else arguments.top_k
    if trained.several_labels and arguments.format == "csv":
        lines = partial(prediction.label_lines, classes=trained.classes)
    else:
        formatted = prediction.csv_lines if arguments.format == "csv" else prediction.json_lines
        lines = partial(formatted, top_k=arguments.top_k)
    problems = Problems()
    batch_size = arguments.batch_size or trained.run.trainer.eval_batch_size
    with shown("predict", len(paths)) as advance:
        advance(0, prediction.in_batches(len(paths), batch_size))
        rows = sheet.of(problems.of(predictions, advance), shown_classes)
        _write(lines(rows), arguments.out)
    named = "/" in arguments.model or os.sep in arguments.model
    sheet.write(paths, arguments.model if named else f"{arguments.model} ({folder})", trained.spec)
    problems.print_warnings()
    if problems.errors:
        what, whose = ("1 image", "its") if problems.errors == 1 else (f"{problems.errors} images", "their")
        others = ", the others are classified" if problems.errors < len(paths) else ""
        raise FrostlineError(f"predict: {what} could not be used; {whose} error says why{others}")


def _config(folder: Path) -> "Run":
    """Return the config of the run in `folder`, without importing torch."""
    from frostline.base.formats import read_yaml
    from frostline.base.run_folder import CONFIG
    from frostline.schema import Run
    from frostline.schema.validation import validated

    return validated(Run, read_yaml(folder / CONFIG), str(folder / CONFIG))


def _check_top_k(top_k: int, dataset: "Dataset", folder: Path) -> None:
    """Refuse more classes than the model in `folder` knows, before torch is imported."""
    if top_k == 1:
        return
    from frostline.base.run_folder import classes_of
    from frostline.schema import is_multi_label

    if is_multi_label(dataset):
        raise FrostlineError(
            "--top-k: is for one label per image, and this model predicts every label whose probability"
            " reaches its threshold; leave it out"
        )
    if (classes := len(classes_of(folder))) and top_k > classes:
        raise FrostlineError(
            f"--top-k: found {top_k}, and the model knows {classes} classes; give at most {classes}"
        )


def _write(lines: Iterable[str], out: Path | None) -> None:
    """Write the file `out`, or print each line when it comes."""
    if out:
        from frostline.base.files import write_text

        write_text(out, "".join(lines))
        return
    for line in lines:
        sys.stdout.write(line)
        sys.stdout.flush()


class _Sheet:
    """Collects predictions for the HTML sheet at `path`.

    Args:
        path: None: there is no sheet.
        classes: number of classes.
    """

    def __init__(self, path: Path | None, classes: int) -> None:
        from frostline.sheets.predictions import BARS

        self._path, self._collected = path, list["Prediction"]()
        self.top_k = min(BARS, classes) if path else 0
        """Classes per image that it needs."""

    def of(self, predictions: "Iterable[Prediction]", top_k: int) -> "Iterator[Prediction]":
        """Pass predictions on with their `top_k` most likely classes."""
        from frostline.sheets.predictions import MOST_IMAGES

        for prediction in predictions:
            if self._path and len(self._collected) < MOST_IMAGES:
                self._collected.append(prediction)
            yield replace(prediction, best=prediction.best[:top_k])

    def write(self, paths: Sequence[Path], model: str, spec: "InputSpec") -> None:
        """Write the sheet, if there is one, and print its path on standard error."""
        if not self._path:
            return
        from frostline.base.files import write_text
        from frostline.data.loading.resize import format_of
        from frostline.sheets.predictions import sheet_of

        write_text(self._path, sheet_of(self._collected, paths, model, format_of(spec)).page())
        print(f"frostline: the sheet of images: {self._path}", file=sys.stderr)


class Problems:
    """Counts images that could not be used, and collects the names of those that were converted."""

    def __init__(self) -> None:
        self.errors = 0
        self._converted: dict[Note, list[str]] = {note: [] for note in CONVERTED}

    def of(self, predictions: "Iterable[Prediction]", advance: Advance) -> "Iterator[Prediction]":
        """Pass predictions on, and print the first errors on standard error."""
        from frostline.data.reading.decode import printable

        for prediction in predictions:
            if prediction.error:
                self.errors += 1
                if self.errors <= BAD_SHOWN:
                    print(f"frostline: {printable(prediction.image)} {prediction.error}", file=sys.stderr)
            for note in CONVERTED:
                if note in prediction.notes:
                    self._converted[note].append(prediction.image)
            yield prediction
            advance(1)

    def print_warnings(self) -> None:
        """Print a sentence for each kind of conversion on standard error."""
        from frostline.preparation.examine import noted

        for note, names in self._converted.items():
            for sentence in noted(note, names):
                print(f"frostline: warning: {sentence}", file=sys.stderr)
