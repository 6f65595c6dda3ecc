"""`frostline evaluate RUN --on DATA`: measure a finished run on a further labelled test set."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from frostline.base import project
from frostline.base.files import write_text
from frostline.base.formats import canonical_json
from frostline.base.run_folder import TEST_SET, TEST_SETS, classes_of
from frostline.console.errors import FrostlineError
from frostline.console.progress import LIBRARIES, say_once, shown, waiting
from frostline.data.reading.checks import some
from frostline.data.reading.names import telling_name
from frostline.data.reading.sources import name_of
from frostline.data.reading.test_sets import further_tests
from frostline.pipeline import reevaluate
from frostline.pipeline.data_places import further_test
from frostline.pipeline.reevaluate import Metrics
from frostline.runs.data_location import located
from frostline.schema import Dataset, Prepare, Run
from frostline.training.services import Evaluation, Services, Tracker

if TYPE_CHECKING:
    from frostline.data.prepared.index import Index, PreparedData


@dataclass(frozen=True)
class Options:
    """How to measure, and where to write."""

    keys: Sequence[str] = ()
    """Keys of the test set, such as ``dataset.columns.label=diagnosis``."""
    out: Path | None = None
    """The folder of the results; None: test_sets/NAME in the run's."""
    force: bool = False
    """Whether to overwrite other metrics, and to accept an edited config.yaml."""
    tta: str | None = None
    """Test-time augmentation, ``none`` for none of it; None: the run's."""
    home: Path | None = None
    """The folder at which relative paths of the run's config start; None: the current one."""


@dataclass(frozen=True)
class Measured:
    """A finished run's results on a further test set."""

    name: str
    """The test set's."""
    out: Path
    """The folder of the results."""
    metrics: Metrics
    """``test`` → metric → value."""
    warnings: tuple[str, ...]
    """What limits the results, such as images that the run was trained on; sentences."""
    data: Prepare
    """The test set's config."""


def run(folder: Path, place: str, options: Options) -> Measured:
    """Measure a finished run's network on a further test set; the run's own results are not changed.

    Args:
        folder: the run's.
        place: of the test set; see `data_places.further_test`.

    Raises:
        FrostlineError: there is no finished run in `folder`, or it was edited; the test set has classes that
            the run does not know, images that can't be used, or the name of another test set of the run; or
            other metrics would be overwritten.
    """
    config, record = reevaluate.finished(folder, force=options.force)
    if options.tta is not None:
        config = config.with_tta(reevaluate.tta_of(options.tta))
    dataset = further_test(place, config.dataset, options.keys)
    name = name_of_test_set(dataset)
    own = further_tests(config.dataset).get(name)
    _check_name(name, place, own and located(own, folder, options.home))
    out = options.out or _default_out(folder, name)
    from frostline.data.prepared.index import PreparedData
    from frostline.preparation.stage import prepare_test_set

    prepared = Prepare.of(dataset, config.input)
    with _named(dataset):
        index, data = prepare_test_set(prepared, classes_of(folder), project.scratch(), shown)
    tested = PreparedData(dataset, replace(index, name=name), data)
    warnings = [
        *index.warnings,
        *_lacking(tested.index),
        *_seen(tested, folder, config, record, options.home),
    ]
    if source := _pretraining(config, options.home):
        warnings += _seen(tested, *source, options.home)
    for warning in warnings:
        say_once(f"frostline: warning: {warning}")

    def measure(work: Path, services: Services) -> Metrics:
        with waiting(LIBRARIES):
            from frostline.evaluation import evaluate

        about = {
            "name": name,
            "kind": dataset.kind,
            "path": place,
            "fingerprint": index.fingerprint,
            "images": len(index),
            "weights_sha256": record["weights_sha256"],
            "warnings": warnings,
        }
        write_text(work / TEST_SET, canonical_json(about))
        reevaluate.say_if_slow(config, services)
        services = replace(services, tracker=_AsTestSet(services.tracker, name))
        return evaluate.measure_test(config, tested, folder, work, services)

    metrics = reevaluate.written(out, measure, force=options.force)
    return Measured(name, out, metrics, tuple(warnings), prepared)


def name_of_test_set(dataset: Dataset) -> str:
    """Return a test set's name among a run's metrics: its folder's or file's, in letters, digits, - and _.

    The name of a split, as in ``site_b/test``, is preceded by the name of the folder that it is in.
    """
    name = name_of(dataset)
    if dataset.location:  # as it may be typed in its folder
        name = telling_name(Path(getattr(dataset, dataset.location)).expanduser().absolute(), name)
    return re.sub(r"[^\w-]+", "_", name).strip("_") or "test_set"


def _check_name(name: str, place: str, own: Dataset | None) -> None:
    """Refuse another test set of the name of the run's `own` one: MLflow would have both as one."""
    where = Path(getattr(own, own.location)) if own else Path(place)
    if where.expanduser().resolve() != Path(place).expanduser().resolve():
        raise FrostlineError(
            f"{place}: the run has another test set of this name (dataset.test_sets.{name}); rename {place}"
        )


def _default_out(folder: Path, name: str) -> Path:
    """Return the folder of the results in the run's folder, where a study or a cache does not own that."""
    reevaluate.check_not_of_study(folder)
    if project.scratch().resolve() in folder.resolve().parents:
        raise FrostlineError(f"{folder}: is a cache; name a folder for the metrics with --out")
    return folder / TEST_SETS / name


@contextmanager
def _named(dataset: Dataset) -> Iterator[None]:
    """Name a test set by its path in the errors of the block, in place of a config's key."""
    try:
        yield
    except FrostlineError as error:
        key = f"dataset.{dataset.location}: "
        error.args = (str(error).removeprefix(key), *error.args[1:])
        raise


def _lacking(index: "Index") -> list[str]:
    """Say which of the run's classes a test set lacks; they do not count in its metrics."""
    if index.several_labels:
        present = index.labels.any(axis=0)
    else:
        present = np.bincount(index.labels, minlength=len(index.classes)) > 0
    absent = [index.classes[number] for number in np.flatnonzero(~present)]
    if not absent:
        return []
    known = len(index.classes)
    return [
        f"{index.name} has images of {known - len(absent)} of the run's {known} classes, none of"
        f" {some(map(repr, absent))}"
    ]


def _pretraining(config: Run, home: Path | None) -> tuple[Path, Run, Mapping[str, Any]] | None:
    """Return folder, config and record of the run that made a run's initial weights; None: none is there."""
    if (path := getattr(config.weights, "path", None)) is None:
        return None
    folder = ((home or Path.cwd()) / Path(path).expanduser()).parent
    with suppress(FrostlineError):  # weights of another program, or of a run that is gone
        return folder, *reevaluate.finished(folder, force=True)
    return None


def _seen(
    tested: "PreparedData", trained: Path, run: Run, record: Mapping[str, Any], home: Path | None
) -> list[str]:
    """Warn about images of a test set that a run was trained on, or whose copies look like such images.

    Args:
        trained: the folder of the run, or of its pretraining.
    """
    from frostline.data.loading.label_budget import label_budget
    from frostline.data.prepared.index import PreparedData
    from frostline.leakage.source_target import overlap
    from frostline.pipeline import standalone

    which, whose = (
        ("pretraining", "the pretraining's") if run.stage == "pretrain" else ("run", "the run's own")
    )
    unchecked = f"{tested.index.name} was not compared with the images that the {which} was trained on"
    dataset = located(run.dataset, trained, home)
    try:
        index, folder = standalone.prepared_from(Prepare.of(dataset, run.input))
    except FrostlineError as error:
        return [f"{unchecked}, which can't be read: {error}"]
    if (data := record.get("data")) and data["fingerprint"] != index.fingerprint:
        counts = f"{data['images']} images then, {len(index)} now"
        return [f"{unchecked}, since its data set has changed ({counts})"]
    budget = label_budget(index, dataset, run.seed)
    splits = np.where(index.splits == "val", "val", "none").astype("<U5")
    splits[budget.train], splits[budget.selection] = "train", "val"
    return overlap(PreparedData(dataset, replace(index, splits=splits), folder), tested, whose)


@dataclass(frozen=True)
class _AsTestSet(Tracker):
    """A tracker that records an evaluation beside the run's own: as test/NAME, in a subfolder."""

    tracker: Tracker
    name: str

    def annotate(self, evaluation: Evaluation) -> None:
        values = {
            f"test/{self.name}{key.removeprefix('test')}": value for key, value in evaluation.values.items()
        }
        subfolder = f"{TEST_SETS}/{self.name}"
        self.tracker.annotate(replace(evaluation, values=values, subfolder=subfolder))
