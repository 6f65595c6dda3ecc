"""A tree of image files, `root/class/*` or `root/{train,val,test}/class/*`, and what can be wrong with it."""

import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import NamedTuple

from frostline.data.checks import check_class_sets, check_classes, name_fault, some
from frostline.data.decode import IMAGE_SUFFIXES, BadImage, printable, suffix, unreadable
from frostline.errors import FrostlineError
from frostline.names import form, nfc

SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What a folder beside others of this kind stands for; case doesn't matter."""


class Problem(NamedTuple):
    """A file that can't be used; `reason` follows its name in a sentence."""

    key: str
    reason: str


class FileEntry(NamedTuple):
    """An image file of a data set."""

    key: str
    """Its path under the root, with '/' between folders."""
    label: int
    """Its class's number."""
    split: str
    """'train', 'val' or 'test' where the data set has splits of its own, else ''."""


@dataclass(frozen=True)
class Tree:
    """What `scan` found."""

    classes: tuple[str, ...]
    files: tuple[FileEntry, ...]
    """By split, class and path."""
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]


def scan(root: Path) -> Tree:
    """List the images under `root` without reading them.

    Classes are folders, numbered by name in code-point order; folders inside a class belong to it. A root
    whose folders are named train, val and test (also valid, validation, training, testing) brings its own
    splits.

    Raises:
        FrostlineError: the tree is no data set: missing, flat, fewer than two classes, an empty class, class
            names that differ only by case, or splits whose classes differ. Files that can't be used are no
            reason, but `problems`.
    """
    found = _Found()
    place = f"dataset.root: {root}"
    _check_root(root, place)
    try:
        class_folders = _class_folders(root, found, place)
        _check_forms(class_folders, place)
        names = sorted({folder.name for folder in class_folders})
        numbers = {name: number for number, name in enumerate(names)}
        files: list[FileEntry] = []
        for folder in class_folders:
            keys = list(_walk(folder.path, folder.key, found, folder.above))
            files += [FileEntry(key, numbers[folder.name], folder.split) for key in keys]
            _check_empty(folder, keys, found.problems, place)
        check_classes(names, place)
        check_class_sets(_class_sets(class_folders), place)
    except FrostlineError as error:
        if not found.problems:
            raise
        first = found.problems[0]
        raise FrostlineError(f"{error}; also, {first.key} {first.reason}") from None
    return Tree(tuple(names), tuple(files), tuple(sorted(found.problems)), tuple(found.warnings()))


@dataclass
class _Found:
    """What the walk passes over."""

    problems: list[Problem] = field(default_factory=list)
    hidden_folders: list[str] = field(default_factory=list)
    hidden_files: list[str] = field(default_factory=list)
    resource_forks: list[str] = field(default_factory=list)
    other_files: list[str] = field(default_factory=list)

    def warnings(self) -> Iterator[str]:
        """A sentence for each kind of thing that was left out."""
        for keys, singular, plural in (
            (self.hidden_folders, "hidden folder was", "hidden folders were"),
            (self.hidden_files, "hidden file was", "hidden files were"),
            (
                self.resource_forks,
                "macOS resource fork (._ file) was",
                "macOS resource forks (._ files) were",
            ),
            (
                self.other_files,
                "file whose name is not an image's was",
                "files whose names are not images' were",
            ),
        ):
            if keys:
                yield f"{len(keys)} {singular if len(keys) == 1 else plural} left out: {some(sorted(keys))}"


_LITTER = frozenset(("__MACOSX", "@eaDir"))
"""Folders that archives from macOS and network drives leave, as good as hidden."""

_Identity = tuple[int, int]
"""Device and inode: what a folder is, whatever link leads to it."""


@dataclass(frozen=True)
class _ClassFolder:
    name: str
    """In NFC."""
    path: Path
    key: str
    split: str
    above: frozenset[_Identity]


def _check_root(root: Path, place: str) -> None:
    """Refuse a root that can't be listed."""
    try:
        next(root.iterdir(), None)
    except FileNotFoundError:
        dangling = f" (a link to {root.readlink()})" if root.is_symlink() else ""
        raise FrostlineError(f"{place}{dangling} doesn't exist: give the folder of the images") from None
    except NotADirectoryError:
        raise FrostlineError(f"{place} is a file: give a folder (unpack it, if it is an archive)") from None
    except OSError as error:
        raise FrostlineError(f"{place} {unreadable(root, error)}") from None


def _class_folders(root: Path, found: _Found, place: str) -> list[_ClassFolder]:
    """The class folders, by split and name; the split is '' where the root has class folders itself."""
    folders, loose = _listing(root, "", found)
    _refuse_loose(loose, folders, place, found)
    splits = {name: SPLIT_FOLDERS[name.lower()] for name in folders if name.lower() in SPLIT_FOLDERS}
    others = [printable(name) for name in folders if name not in splits]
    # A single folder of such a name may be a class among others: the train among the vehicles.
    if not splits or (len(splits) == 1 and others):
        above = frozenset({_identity(root)})
        return [_ClassFolder(nfc(name), root / name, nfc(name), "", above) for name in folders]
    if others:
        raise FrostlineError(
            f"{place} has both split folders ({', '.join(splits)}) and others ({some(others)}): "
            "move the others out, or all classes into the splits"
        )
    return list(_split_folders(root, splits, found, place))


def _split_folders(root: Path, splits: dict[str, str], found: _Found, place: str) -> Iterator[_ClassFolder]:
    for split in ("train", "val", "test"):
        named = [folder for folder, meaning in splits.items() if meaning == split]
        if len(named) > 1:
            raise FrostlineError(f"{place} has {' and '.join(named)}, which mean the same split: merge them")
        if split == "train" and not named:
            raise FrostlineError(f"{place} has {' and '.join(splits)} but no train folder: add one")
        for folder in named:
            path = root / folder
            above = frozenset({_identity(root), _identity(path)})
            classes, loose = _listing(path, folder, found)
            _refuse_loose([f"{folder}/{name}" for name in loose], classes, place, found)
            if not classes:
                raise FrostlineError(
                    f"{place} has no classes in {folder}: add a folder for each, or remove {folder}"
                )
            for name in classes:
                yield _ClassFolder(nfc(name), path / name, f"{folder}/{nfc(name)}", split, above)


def _refuse_loose(loose: list[str], classes: list[str], place: str, found: _Found) -> None:
    """Images belong into class folders."""
    if loose and not classes:
        raise FrostlineError(
            f"{place} is flat: {some(loose)} lie{'s' * (len(loose) == 1)} in no class folder; put each image "
            f"into a folder named after its class, such as {PurePath(loose[0]).parent / 'cat'}/"
        )
    found.problems += [Problem(key, "lies beside the class folders: move it into one") for key in loose]


def _walk(folder: Path, key: str, found: _Found, above: frozenset[_Identity]) -> Iterator[str]:
    """The keys, in NFC, of the images in a class folder and the folders inside it."""
    if _identity(folder) in above:
        found.problems.append(Problem(key, "is a link to a folder above it (a symlink loop): remove it"))
        return
    folders, images = _listing(folder, key, found)
    for name in _apart(images, key, found):
        yield f"{key}/{nfc(name)}"
    for name in _apart(folders, key, found):
        yield from _walk(folder / name, f"{key}/{nfc(name)}", found, above | {_identity(folder)})


def _apart(names: Iterable[str], key: str, found: _Found) -> Iterator[str]:
    """Pass names that look different; of those that only the Unicode form tells apart, the first."""
    seen: set[str] = set()
    for name in names:
        if nfc(name) in seen:
            reason = "is there twice, under names that differ only by their Unicode form: rename one"
            found.problems.append(Problem(f"{key}/{nfc(name)}", reason))
        else:
            seen.add(nfc(name))
            yield name


def _identity(folder: Path) -> _Identity:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _listing(folder: Path, key: str, found: _Found) -> tuple[list[str], list[str]]:
    """The names of the folders and of the images in `folder`, sorted; everything else goes to `found`."""
    folders: list[str] = []
    images: list[str] = []
    try:
        names = sorted((path.name for path in folder.iterdir()), key=lambda name: (nfc(name), name))
    except OSError as error:
        found.problems.append(Problem(key, unreadable(folder, error)))
        return folders, images
    for name in names:
        path = folder / name
        inner = f"{key}/{nfc(name)}" if key else nfc(name)
        try:
            if fault := name_fault(name):
                raise BadImage(inner, fault)
            if name.startswith("._"):
                found.resource_forks.append(inner)
            elif name.startswith(".") or name in _LITTER:
                (found.hidden_folders if path.is_dir() else found.hidden_files).append(inner)
            elif _is_folder(path, inner):
                folders.append(name)
            elif is_image_name(name):
                images.append(name)
            else:
                found.other_files.append(inner)
        except BadImage as bad:
            found.problems.append(Problem(printable(inner), bad.reason))
        except OSError as error:
            found.problems.append(Problem(inner, unreadable(path, error)))
    return folders, images


def is_image_name(name: str) -> bool:
    """Tell whether a file of this name is meant as an image."""
    return suffix(name) in IMAGE_SUFFIXES


def _is_folder(path: Path, key: str) -> bool:
    """True for a folder, False for a file, links followed; anything else is refused."""
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):
        return False
    if not stat.S_ISDIR(mode):
        kind = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket"}.get(stat.S_IFMT(mode), "device")
        raise BadImage(key, f"is a {kind}, not a file: remove it")
    if is_image_name(path.name):
        raise BadImage(key, "is a folder with an image's name: rename or remove it")
    return True


def _check_empty(folder: _ClassFolder, keys: list[str], problems: list[Problem], place: str) -> None:
    """Refuse a class without images; one whose files are all problems is reported with them."""
    if not keys and not any(f"{problem.key}/".startswith(f"{folder.key}/") for problem in problems):
        raise FrostlineError(
            f"{place} has no images in class folder {folder.key!r}: add some or remove the folder"
        )


def _check_forms(folders: Iterable[_ClassFolder], place: str) -> None:
    """Refuse two folders of one split whose names look alike: whether they are one class, nobody can tell."""
    seen: dict[str, _ClassFolder] = {}
    for folder in folders:
        other = seen.setdefault(folder.key, folder)
        if other is not folder:
            named = " and ".join(
                f"{printable(each.key)!r} ({form(each.path.name)})" for each in (other, folder)
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
