"""The keyword arguments of the functions, and the overrides that they stand for."""

import difflib
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

from frostline.base import project
from frostline.config.hints import KEYS, check_path, check_place
from frostline.config.overrides import FREE_KEYS, PRETRAIN_GROUPS, to_overrides
from frostline.console.errors import FrostlineError, allowed
from frostline.pipeline import unread
from frostline.pipeline.data_places import KINDS, PLACES, kind_at

Path = str | os.PathLike[str]
Overrides = Mapping[str, Any] | Sequence[str]
"""``{"optimizer.weight_decay": 0.1}`` or ``["optimizer.weight_decay=0.1"]``, as on the command line."""


class Options(TypedDict, total=False):
    """Keyword arguments of a run: an option of each config group, common keys, and any other override."""

    source: Path
    """The data set of a pretraining, as `dataset` in `overrides_of`."""
    backbone: str
    weights: str
    freeze: str
    optimizer: str
    loss: str
    augment: str
    adapter: str
    averaging: str
    regularizer: str
    features: str
    trainer: str
    experiment: str
    epochs: int
    """trainer.epochs"""
    lr: float
    """optimizer.lr"""
    batch_size: int
    """trainer.batch_size"""
    seed: int
    out: Path
    """The folder of the results."""
    overrides: Overrides


class ListOptions(TypedDict, total=False):
    """Keyword arguments of a sweep or a probe: as `Options`, but a list means one run, or head, per value."""

    source: Path
    backbone: str | Sequence[str]
    weights: str | Sequence[str]
    freeze: str | Sequence[str]
    optimizer: str | Sequence[str]
    loss: str | Sequence[str]
    augment: str | Sequence[str]
    adapter: str | Sequence[str]
    averaging: str | Sequence[str]
    regularizer: str | Sequence[str]
    features: str | Sequence[str]
    trainer: str | Sequence[str]
    experiment: str | Sequence[str]
    sweep: str
    """The sampler: an option of conf/sweep."""
    epochs: int | Sequence[int]
    lr: float | Sequence[float]
    batch_size: int | Sequence[int]
    seed: int | Sequence[int]
    out: Path
    overrides: Overrides


COMMON = {"epochs": "trainer.epochs", "lr": "optimizer.lr", "batch_size": "trainer.batch_size"}
"""Keyword → key."""
DATA = ("dataset", "source")
PLAIN = ("seed", "out")


def overrides_of(
    dataset: Any,
    options: Mapping[str, Any],
    known: type,
    *,
    command: str = "finetune",
    reads_data: bool = True,
) -> list[str]:
    """Return the overrides that keyword arguments stand for.

    Args:
        dataset: the stage's data set: a folder of images, a table, an .npz file, a folder of
            `save_to_disk`, or the name of an option of conf/dataset; None: the config's.
        options: the keyword arguments.
        known: the TypedDict that lists them; in `ListOptions` a list means each of its values.
        command: the command that reads the overrides, such as ``finetune`` or ``plan --stage pretrain``. For
            a pretraining, `lr` becomes `pretrain.optimizer.lr`, and so on.
        reads_data: whether the data sets have to exist.

    Raises:
        FrostlineError: there is no such keyword, folder or data set, or the command does not read a key.
    """
    several, pretrains = known is ListOptions, command.endswith("pretrain")
    for name in options:
        if name not in known.__annotations__:
            arguments = ("dataset", *known.__annotations__)
            common = {key: argument for argument, key in COMMON.items()}
            meant = common.get(KEYS.get(name, ""))  # what other tools call it
            instead = f"write {meant}=" if meant else allowed(name, arguments)
            raise FrostlineError(f"{name}: no such argument; {instead}; config keys go to overrides=")
    source = options.get("source")
    if pretrains:
        data = {"source": source if dataset is None else dataset}
    else:
        data = {"dataset": dataset, "source": source}
    overrides: list[str] = []
    for key, value in data.items():
        if value is not None:
            overrides += _data(key, value, several=several, exists=reads_data)
    for name, option in options.items():
        value = _plain(option)
        if name in (*DATA, "overrides") or value is None:
            continue
        if _is_list(value) and not several:
            raise FrostlineError(f"{name}: found several values, {value!r}; fl.sweep trains a run for each")
        overrides.append(_override(_key(name, pretrains=pretrains), value, several=several))
    further = options.get("overrides", ())
    if isinstance(further, Mapping):
        for name, value in further.items():
            if isinstance(value, str | os.PathLike) and (reads_data or name.partition(".")[0] not in DATA):
                check_place(name, os.fspath(value))
    overrides += typed_keys(further, several=several)
    unread.check(command, overrides, sweep=several and command in unread.SWEEPING)
    return overrides


def _key(name: str, *, pretrains: bool) -> str:
    """Return the key of a keyword argument."""
    key = COMMON.get(name, name)
    below = key.partition(".")[0] in (*PRETRAIN_GROUPS, "seed")
    return f"pretrain.{key}" if pretrains and below else key


def _data(key: str, value: Any, *, several: bool, exists: bool) -> Iterator[str]:
    """Yield the overrides of a data set: a name of conf/dataset, a folder, or a file of images."""
    names = project.conf_files("dataset")
    if several and _is_list(value):
        yield f"{key}={','.join(map(str, value))}"
    elif isinstance(value, str) and value in names:
        yield f"{key}={value}"
    elif not isinstance(value, str | os.PathLike):
        raise FrostlineError(f"{key}: found {value!r}; give a folder of images, or one of {', '.join(names)}")
    else:
        text, path = os.fspath(value), pathlib.Path(value).expanduser()
        if len(path.parts) == 1 and not path.exists():
            entries = pathlib.Path().iterdir()
            here = [entry.name for entry in entries if entry.is_dir() or kind_at(entry) != "image_folder"]
            near = difflib.get_close_matches(text, here)
            if text in names:  # a Path
                raise FrostlineError(
                    f"{key}: there is no folder or file {text!r}; for the data set of this name, give a str"
                )
            raise FrostlineError(
                f"{key}: there is no folder or file {text!r}, and no such data set;"
                f" {allowed(text, [*names, *near])}"
            )
        if exists:
            check_path(key, text, PLACES)
        kind = kind_at(path)
        yield f"{key}={kind}"
        yield _override(f"{key}.{KINDS[kind].location}", text, several=False)


def typed_keys(overrides: Overrides, *, several: bool = False) -> list[str]:
    """Return overrides as on the command line; with `several`, a list in a dictionary is each of its values.

    Raises:
        FrostlineError: they are neither a dictionary nor a list.
    """
    return list(_typed_keys(overrides, several=several))


def _typed_keys(overrides: Overrides, *, several: bool) -> Iterator[str]:
    if isinstance(overrides, str):
        raise FrostlineError(
            f"overrides: found a text; give a list, such as [{overrides!r}], or a dictionary"
        )
    if isinstance(overrides, Mapping):
        for key, value in overrides.items():
            yield _override(key, _plain(value), several=several)
    elif isinstance(overrides, Sequence):
        yield from map(str, overrides)
    else:
        raise FrostlineError(
            f"overrides: found {overrides!r}; give a dictionary, or a list such as ['seed=1']"
        )


def _plain(value: Any) -> Any:
    """Return a NumPy array, such as that of `np.logspace`, as a list, and a NumPy number as Python's."""
    return value.tolist() if hasattr(value, "tolist") else value


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _override(key: str, value: Any, *, several: bool) -> str:
    """Return ``KEY=VALUE``; with `several`, a list is each of its values."""
    if several and _is_list(value):
        values = [_override(key, one, several=False).partition("=")[2] for one in value]
        return f"{key}={','.join(values)}"
    if value is None:
        return f"{key}=null"
    plain = os.fspath(value) if isinstance(value, os.PathLike) else value
    if isinstance(plain, Mapping) and key.rpartition(".")[2] not in FREE_KEYS:
        raise FrostlineError(f"{key}: found {plain!r}; write keys with dots, such as {{'{key}.KEY': VALUE}}")
    if isinstance(plain, tuple | range):
        plain = list(plain)
    if hasattr(plain, "item") and not isinstance(plain, list):  # numpy's and torch's numbers
        plain = plain.item()
    (override,) = to_overrides({key: plain})
    return override
