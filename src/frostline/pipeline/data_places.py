"""The data set that is at a path: its kind, and its config with the defaults of conf/dataset."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from frostline import schema
from frostline.base import project
from frostline.base.formats import read_yaml
from frostline.config import hints
from frostline.console.errors import FrostlineError
from frostline.data.reading.table_file import TABLES
from frostline.data.reading.tables import Columned
from frostline.data.reading.test_sets import as_test_set
from frostline.schema.data import LATER_KEYS
from frostline.schema.validation import validated

KINDS: dict[str, Any] = {
    "image_folder": schema.ImageFolder,
    "table": schema.Table,
    "npz": schema.Npz,
    "huggingface": schema.HuggingFace,
}
"""Kind → its config."""
SAVED = ("dataset_dict.json", "dataset_info.json", "state.json")
"""Files of a folder that Hugging Face's `save_to_disk` wrote."""
PLACES = (
    f"give a folder of images, a table ({', '.join(TABLES)}), an .npz file, or a folder that save_to_disk of"
    " Hugging Face's datasets wrote"
)


def kind_at(path: Path) -> str:
    """Return the kind of the data set at a path, a key of `KINDS`; a folder is one of images."""
    if path.suffix == ".npz":
        return "npz"
    if path.suffix in TABLES:
        return "table"
    return "huggingface" if any((path / name).is_file() for name in SAVED) else "image_folder"


def config_of(kind: str, keys: Mapping[str, Any], where: str) -> Any:
    """Return the config of a data set, with the defaults of conf/.

    Args:
        keys: nested; they take precedence over the defaults.
        where: precedes the keys in errors, such as ``--target: dataset.``.
    """
    return validated(KINDS[kind], merged(read_yaml(project.conf_files("dataset")[kind]), keys), where)


def further_test(place: str, trained_on: schema.Dataset, words: Sequence[str]) -> schema.Dataset:
    """Return the config of a further test set for a finished run.

    Args:
        place: a folder of images, a table, an .npz file, or a saved Hugging Face data set.
        trained_on: the run's data set. A test set of its kind is read as it is, with the same columns.
        words: further keys, such as ``dataset.columns.label=diagnosis``.

    Raises:
        FrostlineError: there is nothing at `place`, a key is not valid, or the run has several labels per
            image and a folder of images has one.
    """
    hints.check_path("test set", place, PLACES)
    path = Path(place).expanduser()
    kind = kind_at(path)
    if path.is_file() and kind == "image_folder":
        raise FrostlineError(f"{place}: is not a data set; {PLACES}")
    several = schema.is_multi_label(trained_on)
    if several and kind == "image_folder":
        raise FrostlineError(
            f"{place}: the run was trained with several labels per image, and a class folder gives each image"
            " one; list the images with their labels in a table, and name that"
        )
    keys: dict[str, Any] = {}
    if trained_on.kind == kind:
        keys = trained_on.model_dump(exclude={"root", *LATER_KEYS})
    elif {trained_on.kind, kind} == {"table", "huggingface"}:
        assert isinstance(trained_on, Columned)
        keys = {"columns": trained_on.columns.model_dump()}
    if several:
        keys["task"] = "multi_label"
    location = KINDS[kind].location
    typed = parsed_keys(words, ["dataset"], "all others are the run's")["dataset"]
    config = config_of(kind, merged({**keys, location: place}, typed), f"{place}: dataset.")
    return as_test_set(config, {location: place})


def parsed_keys(words: Sequence[str], groups: Collection[str], others: str) -> dict[str, dict[str, Any]]:
    """Return keys that were typed as KEY=VALUE, nested below their groups.

    Args:
        groups: the allowed first parts of the keys.
        others: what to do about other keys, for the error.

    >>> parsed_keys(["dataset.group=patient", "dataset.folds=5"], ["source", "dataset"], "")
    {'source': {}, 'dataset': {'group': 'patient', 'folds': 5}}

    Raises:
        FrostlineError: a word is no KEY=VALUE of the groups.
    """
    parsed: dict[str, dict[str, Any]] = {group: {} for group in groups}
    for word in words:
        key, equals, value = word.partition("=")
        first, *steps = key.split(".")
        if not equals or first not in parsed or not all(steps) or not steps:
            raise FrostlineError(
                f"{word}: give KEY=VALUE with a key below {' or '.join(groups)}, such as"
                f" dataset.columns.label=diagnosis; {others}; quote a path that has spaces"
            )
        inner = parsed[first]
        for step in steps[:-1]:
            inner = inner.setdefault(step, {})
        try:
            inner[steps[-1]] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise FrostlineError(f"{word}: the value is not valid YAML; quote it") from None
    return parsed


def merged(defaults: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested `defaults` with `changes`."""
    result = dict(defaults)
    for key, value in changes.items():
        before = result.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            result[key] = merged(before, value)
        else:
            result[key] = value
    return result
