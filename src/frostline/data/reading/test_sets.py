"""Further test sets: the config of each."""

from collections.abc import Mapping
from typing import Any

from frostline import schema
from frostline.console.errors import FrostlineError

_KINDS = ("image_folder", "table", "huggingface", "npz")


def further_tests(dataset: schema.Dataset) -> dict[str, schema.Dataset]:
    """Return the configs of a data set's further test sets: of its kind, with its columns, at other places.

    Raises:
        FrostlineError: a test set has another key than its kind needs.
    """
    configs: dict[str, schema.Dataset] = {}
    for name, where in (dataset.test_sets or {}).items():
        given = {key: value for key, value in where.model_dump().items() if value is not None}
        needed, more = dataset.location, {"root"} if isinstance(dataset, schema.Table) else set()
        key = f"dataset.test_sets.{name}"
        if dataset.kind not in _KINDS:
            raise FrostlineError(
                f"{key}: data sets of the kind {dataset.kind} have no further test sets; allowed: "
                f"{', '.join(_KINDS)}; or set dataset.test_sets=null"
            )
        if needed not in given or set(given) - {needed, *more}:
            found = ", ".join(given) or "nothing"
            raise FrostlineError(
                f"{key}: found {found}; a test set of the kind {dataset.kind} needs {needed}: write "
                f"{key}.{needed}=…"
            )
        configs[name] = as_test_set(dataset, {"root": None, **given} if dataset.kind == "table" else given)
    return configs


def as_test_set(dataset: schema.Dataset, place: Mapping[str, Any]) -> schema.Dataset:
    """Return the config of a further test set: a data set's kind and columns, without splits and budget.

    Args:
        place: the keys that say where it is, such as ``root``.
    """
    change: dict[str, Any] = dict.fromkeys(("test_sets", "folds", "fold", "shots", "fraction"))
    if isinstance(dataset, schema.Table | schema.HuggingFace | schema.Npz):
        # Of use to training and splits only: a test set may lack these columns.
        unused = dict.fromkeys(("group", "fold", "weight"))
        change |= {"group": None, "columns": dataset.columns.model_copy(update=unused)}
        if dataset.kind != "npz":  # whose numbers are positions in the data set's classes
            change["classes"] = None
    return dataset.model_copy(update={**change, **place})
