"""Data sets of image files in class folders: `root/class/*` or `root/{train,val,test}/class/*`."""

import os
import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from PIL import Image

from frostline.base.names import nfc, unicode_form
from frostline.console.errors import FrostlineError
from frostline.data.reading.checks import NAMED, check_class_sets, check_classes, some, tally
from frostline.data.reading.decode import FORMATS, printable, unreadable
from frostline.data.reading.source import FileEntry, FileSource
from frostline.data.reading.walk import Identity, Problem, ScanLog, identity, is_image_name, list_folder, walk

SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Folder name in lower case → the split that it means."""

_LIKE_SPLIT = re.compile(
    r"(?P<before>|.*[^a-z])(?P<word>train(ing)?|val(id(ation)?)?|dev|test(ing)?|pred(ict(ion)?s?)?)"
    r"(?P<after>|[^a-z].*|set|data|images)"
)
_OF_SPLITS = re.compile(r"set|split|data|images?|imgs?|seg|[-_. 0-9]")
"""What the names of splits have beside the split: seg_train, test_set, val2017."""


def scan(root: Path, only: str | None = None) -> FileSource:
    """List the images under `root` by split, class and path, without reading them.

    Classes are folders, numbered by name in code-point order; folders inside a class belong to it. If the
    folders of the root are named train, val and test (also valid, validation, training, testing), they are
    splits.

    Args:
        only: the split of a further test set, which alone is listed where the root has it; otherwise all
            are, and none has to be there. None: all, which need a train split and the same classes.

    Raises:
        FrostlineError: the tree is not a data set: missing, flat, fewer than two classes, an empty class,
            class names that differ only by case, or splits with different classes. Files that can't be used
            don't raise an error; they are in `problems`.
    """
    log = ScanLog(Path(os.path.realpath(root)))
    place = f"dataset.root: {root}"
    _check_root(root, place)
    try:
        class_folders = _class_folders(root, log, place, only)
        _check_forms(class_folders, place)
        names = sorted({folder.name for folder in class_folders})
        numbers = {name: number for number, name in enumerate(names)}
        files: list[FileEntry] = []
        empty: list[_ClassFolder] = []
        for folder in class_folders:
            keys = list(walk(folder.path, folder.key, log, folder.above))
            files += [FileEntry(key, numbers[folder.name], folder.split) for key in keys]
            if not keys:
                empty.append(folder)
        if not names:
            raise FrostlineError(f"{place} {_nothing(log)}")
        if len(names) == 1:
            _check_depth(class_folders, place)
        _check_empty(empty, log, place)
        check_classes(names, place)
        if only is None:
            check_class_sets(_class_sets(class_folders), place)
    except FrostlineError as error:
        if not log.problems:
            raise
        first = log.problems[0]
        raise FrostlineError(f"{error}; also, {first.key} {first.reason}") from None
    warnings = (*log.warnings(), *_alike_inside(class_folders))
    return FileSource(root, tuple(names), tuple(files), tuple(sorted(log.problems)), warnings)


@dataclass(frozen=True)
class _ClassFolder:
    name: str
    """In NFC."""
    path: Path
    key: str
    split: str
    above: frozenset[Identity]


def _check_root(root: Path, place: str) -> None:
    """Refuse a root that can't be listed, and that of the file system."""
    if os.path.realpath(root) == os.sep:
        raise FrostlineError(f"{place} is the root of the file system: give the folder of the images")
    try:
        next(root.iterdir(), None)
    except FileNotFoundError:
        dangling = f" (a link to {root.readlink()})" if root.is_symlink() else ""
        raise FrostlineError(f"{place}{dangling} doesn't exist: give the folder of the images") from None
    except NotADirectoryError:
        raise FrostlineError(f"{place} is a file: give a folder (unpack it, if it is an archive)") from None
    except OSError as error:
        raise FrostlineError(f"{place} {unreadable(root, error)}") from None


def _class_folders(root: Path, log: ScanLog, place: str, only: str | None) -> list[_ClassFolder]:
    """Return the class folders by split and name; the split is '' if the root has no split folders."""
    folders, loose = list_folder(root, "", log)
    _refuse_loose(loose, folders, place, log)
    splits = {name: SPLIT_FOLDERS[name.lower()] for name in folders if name.lower() in SPLIT_FOLDERS}
    others = [printable(name) for name in folders if name not in splits]
    # A single folder with such a name may be a class, such as train beside car and bus.
    if not splits or (len(splits) == 1 and others):
        if splits:
            _check_splits_names(root, next(iter(splits)), folders, place)
        _check_like_splits(root, folders, place)
        above = frozenset({identity(root)})
        return [_ClassFolder(nfc(name), root / name, nfc(name), "", above) for name in folders]
    if others:
        raise FrostlineError(
            f"{place} has both split folders ({', '.join(splits)}) and others ({some(others)}): "
            "move the others out, or all classes into the splits"
        )
    if only in splits.values():
        splits = {name: split for name, split in splits.items() if split == only}
    elif only is None and "train" not in splits.values():
        raise FrostlineError(f"{place} has {' and '.join(splits)} but no train folder: add one")
    return list(_split_folders(root, splits, log, place))


def _split_folders(root: Path, splits: dict[str, str], log: ScanLog, place: str) -> Iterator[_ClassFolder]:
    for split in ("train", "val", "test"):
        named = [folder for folder, meaning in splits.items() if meaning == split]
        if len(named) > 1:
            raise FrostlineError(f"{place} has {' and '.join(named)}, which mean the same split: merge them")
        for folder in named:
            path = root / folder
            above = frozenset({identity(root), identity(path)})
            classes, loose = list_folder(path, folder, log)
            _refuse_loose([f"{folder}/{name}" for name in loose], classes, place, log)
            if not classes:
                raise FrostlineError(
                    f"{place} has no classes in {folder}: add a folder for each, or remove {folder}"
                )
            for name in classes:
                yield _ClassFolder(nfc(name), path / name, f"{folder}/{nfc(name)}", split, above)


def _refuse_loose(loose: list[str], classes: list[str], place: str, log: ScanLog) -> None:
    """Refuse images outside class folders; if there are class folders, record them as problems."""
    if loose and not classes:
        kinds = f" ({tally(loose)})" if len(loose) > NAMED else ""
        raise FrostlineError(
            f"{place} is flat: {some(loose)} lie{'s' * (len(loose) == 1)} in no class folder{kinds}; put "
            f"each image into a folder named after its class, such as {PurePath(loose[0]).parent / 'cat'}/"
        )
    log.problems += [Problem(key, "lies beside the class folders: move it into one") for key in loose]


def _nothing(log: ScanLog) -> str:
    """Say what a root without class folders and images contains."""
    left_out = [*log.other_files, *log.hidden_files, *log.resource_forks]
    if left_out:
        holds = f"has no class folders and no images, but {tally(left_out)}"
    elif log.hidden_folders:
        holds = f"has nothing but hidden folders ({some(sorted(log.hidden_folders))})"
    else:
        holds = "is empty"
    return f"{holds}: put the images into folders named after their classes, such as cat/1.jpg and dog/2.jpg"


def _check_empty(folders: Sequence[_ClassFolder], log: ScanLog, place: str) -> None:
    """Refuse classes without images; one whose files are all problems is reported with them."""

    def inside(folder: _ClassFolder, keys: Iterable[str]) -> list[str]:
        return [key for key in keys if f"{key}/".startswith(f"{folder.key}/")]

    empty = [folder for folder in folders if not inside(folder, (problem.key for problem in log.problems))]
    if not empty:
        return
    others = [key for folder in empty for key in inside(folder, log.other_files)]
    holds = f" but {tally(others)}, which can't be read as images" if others else ""
    if len(empty) == 1:
        which, what = f"class folder {empty[0].key!r}", "add some or remove the folder"
    else:
        which = f"{len(empty)} class folders, {some(repr(folder.key) for folder in empty)}"
        what = "add some or remove the folders"
    if any(_is_image_inside(log.root / key) for key in others[:NAMED]):
        holds = f" but {tally(others)}, with the content of images"
        what = f"give the files their format's suffix, such as .jpg or .png, {what}"
    elif others:
        what = f"convert them to JPEG or PNG, {what}"
    raise FrostlineError(f"{place} has no images in {which}{holds}: {what}")


def _is_image_inside(path: Path) -> bool:
    """Return whether a file without an image's name has the content of an image."""
    try:
        with Image.open(path, formats=FORMATS):
            return True
    except Exception:  # Pillow raises many kinds for files that are no images
        return False


def _only_folders(folder: Path) -> list[str]:
    """Return the sorted names of the folders in `folder`, or none if it contains images."""
    try:
        inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
        if any(is_image_name(path.name) for path in inside):
            return []
        return sorted(printable(nfc(path.name)) for path in inside if path.is_dir())
    except OSError:
        return []


def _check_depth(folders: Sequence[_ClassFolder], place: str) -> None:
    """Refuse a single class that contains only folders, which may be the classes or splits."""
    inside = _only_folders(folders[0].path)
    if len(inside) > 1:
        raise FrostlineError(
            f"{place} has only one class, {printable(folders[0].name)!r}, which holds the folders "
            f"{some(inside)}: if these are the classes or the splits, set dataset.root={folders[0].path}"
        )


def _check_splits_names(root: Path, split: str, folders: Sequence[str], place: str) -> None:
    """Refuse splits if only one has a known name, such as train beside eval with the same folders."""
    inside = {name: set(_only_folders(root / name)) for name in folders}
    free = " or ".join(name for name in ("train", "val", "test") if name != SPLIT_FOLDERS[split.lower()])
    for folder in folders:
        if folder != split and (shared := sorted(inside[split] & inside[folder])):
            other = printable(folder)
            raise FrostlineError(
                f"{place} has {split} and {other}, which both hold {some(shared)}: if they are splits, "
                f"rename {other} to {free}; if they are classes, rename {split} to something else"
            )


def _check_like_splits(root: Path, folders: Sequence[str], place: str) -> None:
    """Refuse class folders whose names are those of splits with the same prefix and suffix, as seg_train."""
    named: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for folder in folders:
        if match := _LIKE_SPLIT.fullmatch(folder.lower()):
            beside = _OF_SPLITS.sub("", match["before"]), _OF_SPLITS.sub("", match["after"])
            named[beside][SPLIT_FOLDERS.get(match["word"], match["word"])].append(folder)
    for splits in named.values():
        found = sorted(folder for same in splits.values() for folder in same)
        inside = [set(_only_folders(root / folder)) for folder in found]
        if len(splits) > 1 and (len(found) == len(folders) or _share(inside)):
            first = root / splits.get("train", found)[0]
            while len(below := _only_folders(first)) == 1 and _only_folders(first / below[0]):
                first /= below[0]
            raise FrostlineError(
                f"{place} has the class folders {some(found)}, whose names are those of splits: if they are "
                "classes, rename them; if not, name them train, val and test, or use one of them alone: "
                f"{shlex.quote(f'dataset.root={first}')}"
            )


def _share(sets: Sequence[set[str]]) -> bool:
    """Return whether two of the sets have an element in common."""
    return sum(map(len, sets)) > len(set[str]().union(*sets))


def _alike_inside(folders: Sequence[_ClassFolder]) -> Iterator[str]:
    """Warn about classes that contain only folders of the same names, which may be the classes."""
    inside = [_only_folders(folder.path) for folder in folders if folder.split in ("", "train")]
    if len(inside) > 1 and len(inside[0]) > 1 and all(names == inside[0] for names in inside):
        named = some(printable(folder.name) for folder in folders[: len(inside)])
        yield (
            f"the classes are {named}; each holds the folders {some(inside[0])}, which are passed over (if "
            "these are the classes, make them the folders of dataset.root)"
        )


def _check_forms(folders: Iterable[_ClassFolder], place: str) -> None:
    """Refuse folders of a split whose names differ only by their Unicode form: they may be one class."""
    seen: dict[str, _ClassFolder] = {}
    for folder in folders:
        other = seen.setdefault(folder.key, folder)
        if other is not folder:
            named = " and ".join(
                f"{printable(same.key)!r} ({unicode_form(same.path.name)})" for same in (other, folder)
            )
            raise FrostlineError(
                f"{place} has class folders whose names differ only by their Unicode form, {named}: move the "
                "images of one into the other"
            )


def _class_sets(folders: Iterable[_ClassFolder]) -> dict[str, set[str]]:
    sets: dict[str, set[str]] = defaultdict(set)
    for folder in folders:
        sets[folder.split].add(folder.name)
    return sets
