"""The stage `prepare`: read a data set once, check it, split it, write the index that all stages use."""

import atexit
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frostline import schema
from frostline.base import omitted
from frostline.base.files import (
    is_intact,
    is_writable,
    publish,
    remove_leftovers,
    write_bytes,
    write_checksums,
    write_text,
)
from frostline.base.formats import csv_text
from frostline.base.hashes import content_key
from frostline.base.locks import exclusive
from frostline.console.errors import FrostlineError, OutOfResources, resource_errors
from frostline.console.progress import Progress, no_progress
from frostline.data.prepared.index import FORMAT, TEST_SETS, Index
from frostline.data.reading.bands import PixelFormat
from frostline.data.reading.checks import check_rows, some, tally
from frostline.data.reading.source import Source
from frostline.data.reading.sources import name_of, open_source, open_test_set, place_of
from frostline.data.reading.test_sets import further_tests
from frostline.data.reading.walk import Problem
from frostline.duplicates.contact_sheet import MOST_PAIRS, NEAR_DUPLICATES_FILE, Shown, contact_sheet
from frostline.duplicates.hashes import HASHES_FILE, hashes, write_hashes
from frostline.duplicates.search import DIGESTS, Pair, groups_of, near_pairs, near_pairs_over_folds, repeated
from frostline.preparation.assignment import assign
from frostline.preparation.examine import Reading, examine
from frostline.preparation.test_sets import check_apart, check_known, index_of_test_set, open_named

OnNew = Callable[[Path], None]
NAMED = 5
"""Maximum number of images that an error names; a file lists all if there are more."""


def ignore(folder: Path) -> None:
    """Do nothing."""


@resource_errors()
def prepare(config: schema.Prepare, out: Path, progress: Progress = no_progress) -> Index:
    """Prepare a data set.

    Args:
        config: config of the data set; its `shots` and `fraction` have no effect here.
        out: folder for index.csv, dataset.json and, for data sets in memory, images.npy; written atomically.
        progress: shows the images that are read.

    Raises:
        FrostlineError: the data set is not available, can't be split, or contains images that can't be used;
            `<out>.bad-images.csv` lists them if there are many.
    """
    index = _prepare(_open(config, progress), config.dataset, out, progress)
    omitted.remove_reason(out)
    return index


@resource_errors()
def prepare_cached(
    config: schema.Prepare, scratch: Path, progress: Progress = no_progress, on_new: OnNew = ignore
) -> tuple[Index, Path]:
    """Prepare a data set, or return it from the cache if neither config nor data have changed.

    Files are identified by name, size and modification times, arrays by content. The cached output is
    verified by checksums (1 to 2 s per GiB of arrays; image files are not part of it), and made again if
    damaged. If `scratch` is read-only, a missing output is prepared for this process only.

    Args:
        scratch: folder of the cache; outputs are in `data/`.
        on_new: called with the folder if the data set is prepared now.

    Returns:
        The index, and its folder.

    Raises:
        FrostlineError: as in `prepare`.
    """
    opened = _open(config, progress)

    def make(out: Path) -> Index:
        index = _prepare(opened, config.dataset, out, progress, checksums=True)
        on_new(out)
        return index

    index, out = _cached(_cache_folder(config.dataset, opened, scratch), make)
    return index.at_fold(config.dataset.fold), out


@resource_errors()
def prepare_test_set(
    config: schema.Prepare, classes: Sequence[str], scratch: Path, progress: Progress = no_progress
) -> tuple[Index, Path]:
    """Prepare a test set that belongs to no data set, or return it from the cache, as `prepare_cached` does.

    Args:
        config: of `as_test_set`. If the test set has a test split, that alone is used, else all of it.
        classes: those of the network, whose numbers the labels get.
        scratch: folder of the cache; outputs are in `data/`.

    Returns:
        The index, with all images in the split test, and its folder.

    Raises:
        FrostlineError: as in `prepare`; or the test set has other classes.
    """
    dataset, place = config.dataset, place_of(config.dataset)
    opened = _Opened(open_test_set(dataset), {}, PixelFormat(config.channels, config.depth or 8))
    check_known(opened.source.classes, classes, place)

    def make(out: Path) -> Index:
        bad_images = out.parent / f"{out.name}.bad-images.csv"
        reading = _examined(opened.source, dataset, bad_images, progress, opened.wanted)
        index = index_of_test_set(name_of(dataset), dataset, reading, classes, place)
        index = replace(index, warnings=(*_skipped(reading.problems), *index.warnings))
        with publish(out) as folder:
            _write(folder, index, reading)
            write_checksums(folder)
        return index

    return _cached(_cache_folder(dataset, opened, scratch, classes), make)


def _cached(out: Path, make: Callable[[Path], Index]) -> tuple[Index, Path]:
    """Return the index in the cache's folder `out`, and the folder; if there is no sound one, make it."""
    if not is_writable(out.parent):
        if (index := _verified(out)) is None:
            out = Path(tempfile.mkdtemp(prefix="frostline-")) / out.name
            atexit.register(shutil.rmtree, out.parent, ignore_errors=True)
            index = make(out)
        return index, out
    with exclusive(out.with_name(f"{out.name}.lock")):
        remove_leftovers(out.parent, locked_key=out.name)
        return _verified(out) or make(out), out


def set_aside_if_damaged(config: schema.Prepare, scratch: Path) -> None:
    """Verify the cached output of a data set; set it aside if damaged, for the next run to make again."""
    if not (scratch / "data").is_dir():
        return
    out = _cache_folder(config.dataset, _open(config), scratch)
    if is_writable(out.parent):
        with exclusive(out.with_name(f"{out.name}.lock")):
            remove_leftovers(out.parent, locked_key=out.name)
            _verified(out)


@dataclass(frozen=True)
class _Opened:
    """A data set and its further test sets, listed."""

    source: Source
    tests: dict[str, tuple[schema.Dataset, Source]]
    wanted: PixelFormat


def _open(config: schema.Prepare, progress: Progress = no_progress) -> _Opened:
    source = open_source(config.dataset, progress)
    tests = {name: (test, open_named(name, test)) for name, test in further_tests(config.dataset).items()}
    return _Opened(source, tests, PixelFormat(config.channels, config.depth or 8))


def _cache_folder(
    dataset: schema.Dataset, opened: _Opened, scratch: Path, classes: Sequence[str] = ()
) -> Path:
    whole = dataset.model_dump(exclude={"shots", "fraction", "selection", "fold"})
    tests = [source.identity() for _, source in opened.tests.values()]
    pixels = [] if opened.wanted.plain else [asdict(opened.wanted)]
    numbered = [["test set", *classes]] if classes else []
    parts = [FORMAT, DIGESTS, whole, opened.source.identity(), *tests, *pixels, *numbered]
    return scratch / "data" / content_key(parts)


def _verified(folder: Path) -> Index | None:
    """Read the output of `prepare_cached`; set it aside if it is damaged. None: there is no sound one."""
    if not is_intact(folder):
        return None
    index = Index.read(folder)
    # Earlier versions wrote no hashes.
    return index if index.storage == "arrays" or (folder / HASHES_FILE).is_file() else None


def _prepare(
    opened: _Opened, dataset: schema.Dataset, out: Path, progress: Progress, *, checksums: bool = False
) -> Index:
    bad_images = out.parent / f"{out.name}.bad-images.csv"
    bad_images.unlink(missing_ok=True)
    reading = _examined(opened.source, dataset, bad_images, progress, opened.wanted)
    index, pairs = _index(dataset, reading)
    splits = index.splits.tolist()
    sheet = []
    for i, j in pairs[:MOST_PAIRS]:
        first, second = _splits_of_pair(index.splits, index.fold_splits, i, j)
        sheet.append((_shown(reading, i, first), _shown(reading, j, second)))
    with publish(out) as folder:
        for name, (config, test_source) in opened.tests.items():
            tested = _examined(test_source, config, bad_images, progress, opened.wanted)
            alike = check_apart(name, tested, reading, index)
            place = f"dataset.test_sets.{name}"
            test_index = index_of_test_set(name, config, tested, index.classes, place)
            _write(folder / TEST_SETS / name, test_index, tested)
            more = [f"test set {name}: {text}" for text in test_index.warnings]
            more += _near_duplicates(
                f"{reading.rows.keys[i]} ({splits[i]}) ≈ {tested.rows.keys[j]} ({name})" for i, j in alike
            )
            index = replace(index, warnings=(*index.warnings, *more))
            sheet += [(_shown(reading, i, splits[i]), _shown(tested, j, name)) for i, j in alike[:MOST_PAIRS]]
        _write(folder, index, reading)
        if sheet:
            write_bytes(folder / NEAR_DUPLICATES_FILE, contact_sheet(sheet))
        if checksums:
            write_checksums(folder)
    return index


def _write(folder: Path, index: Index, reading: Reading) -> None:
    """Write an index, the images of a data set in memory, and the hashes of any other."""
    folder.mkdir(parents=True, exist_ok=True)
    images = reading.source.images
    index.write(folder, None if images is None else images[reading.positions])
    if images is None:
        write_hashes(folder, hashes(reading.digests, reading.thumbnails))


def _examined(
    source: Source, dataset: schema.Dataset, bad_images: Path, progress: Progress, wanted: PixelFormat
) -> Reading:
    """Read all images; raise an error about bad ones unless they are skipped."""
    try:
        reading = examine(source, name_of(dataset), progress, wanted)
    except MemoryError:
        raise OutOfResources(
            f"{place_of(dataset)}: there is no memory to examine {len(source)} images; close other programs, "
            "or prepare fewer images, and run again"
        ) from None
    if reading.problems and dataset.on_bad_image == "error":
        raise _refusal(source, reading.problems, place_of(dataset), bad_images)
    if not len(reading.rows):
        raise FrostlineError(
            f"{place_of(dataset)} has no image that can be used: {_named(reading.problems)}; repair some of"
            " them"
        )
    return reading


def _shown(reading: Reading, row: int, split: str) -> Shown:
    return Shown(reading.picture(row), reading.rows.keys[row], split)


def _refusal(source: Source, problems: Sequence[Problem], place: str, bad_images: Path) -> FrostlineError:
    """Return the error that names the first bad images; the file `bad_images` lists all if there are more."""
    what = "" if source.images is None else "image "
    named = "; ".join(f"{what}{problem.key} {problem.reason}" for problem in problems[:NAMED])
    if len(problems) > NAMED:
        write_text(bad_images, csv_text(("key", "reason"), problems))
        kinds = f" ({tally(problem.key for problem in problems)} in all)" if what == "" else ""
        named += f"; and {len(problems) - NAMED} more{kinds}, all listed in {bad_images}"
    many = f"{len(problems)} files" if len(problems) > 1 else "a file"
    return FrostlineError(
        f"{place} has {many} that can't be used: {named}; or leave such files out: dataset.on_bad_image=skip"
    )


def _index(dataset: schema.Dataset, reading: Reading) -> tuple[Index, list[Pair]]:
    """Return the index, and the pairs of near-duplicates in different splits."""
    rows, classes = reading.rows, reading.source.classes
    check_rows(rows, classes, place_of(dataset))
    groups = groups_of(reading.digests)
    assignment = assign(rows, groups, dataset, classes)
    splits = assignment.splits
    if assignment.fold_splits is None:
        pairs = near_pairs(reading.thumbnails, splits, groups)
    else:
        pairs = near_pairs_over_folds(reading.thumbnails, assignment.fold_splits)
    in_splits = ((i, j, _splits_of_pair(splits, assignment.fold_splits, i, j)) for i, j in pairs)
    index = reading.index(
        name_of(dataset),
        dataset.kind,
        splits,
        warnings=(
            *_skipped(reading.problems),
            *reading.warnings,
            *assignment.warnings,
            *_exact_duplicates(rows.keys, groups),
            *_near_duplicates(
                f"{rows.keys[i]} ({first}) ≈ {rows.keys[j]} ({second})" for i, j, (first, second) in in_splits
            ),
        ),
        weights=rows.weights,
        groups=rows.groups,
        fold_splits=assignment.fold_splits,
    )
    return index, pairs


def _skipped(problems: Sequence[Problem]) -> Iterator[str]:
    if problems:
        were = "file was" if len(problems) == 1 else "files were"
        yield f"{len(problems)} {were} skipped (dataset.json lists all): {_named(problems)}"


def _named(problems: Sequence[Problem]) -> str:
    """Return the first few bad images with their reasons, without the fixes."""
    return some(f"{problem.key} {problem.reason.partition(':')[0]}" for problem in problems)


def _exact_duplicates(keys: Sequence[str], groups: NDArray[np.int64]) -> Iterator[str]:
    """Warn about exact copies with the same label and split; `examine` has reported the others."""
    copies = list(repeated(groups))
    if copies:
        surplus = sum(len(positions) - 1 for positions in copies)
        named = some(" = ".join(keys[i] for i in positions[:2]) for positions in copies)
        are = "image is an exact copy" if surplus == 1 else "images are exact copies"
        yield f"{surplus} {are} of another; copies stay in one split: {named}"


def _splits_of_pair(
    splits: NDArray[np.str_], fold_splits: NDArray[np.str_] | None, first: int, second: int
) -> tuple[str, str]:
    """Return the splits of two images; with folds, those for the first fold that one of them is tested in."""
    if fold_splits is None:
        return str(splits[first]), str(splits[second])
    pair = fold_splits[[first, second]]
    apart = pair[0] != pair[1]
    tested = apart & (pair == "test").any(axis=0)
    fold = int((tested if tested.any() else apart).argmax())
    return f"fold {fold}: {pair[0, fold]}", f"fold {fold}: {pair[1, fold]}"


def _near_duplicates(pairs: Iterable[str]) -> Iterator[str]:
    """Warn about pairs of images that look alike, each named."""
    if named := list(pairs):
        look = "image looks" if len(named) == 1 else "images look"
        yield (
            f"{len(named)} {look} like one in another split; if they show the same thing, accuracies are "
            f"overestimated ({NEAR_DUPLICATES_FILE} shows them): {some(named)}"
        )
