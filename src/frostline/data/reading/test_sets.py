"""Further test sets: the config of each."""

from typing import Any

from frostline import schema
from frostline.console.errors import FrostlineError


def further_tests(dataset: schema.Dataset) -> dict[str, schema.Dataset]:
    """Return the configs of a data set's further test sets: of its kind, with its columns, at other places.

    Raises:
        FrostlineError: a test set has another key than its kind needs.
    """
    configs: dict[str, schema.Dataset] = {}
    for name, where in (dataset.test_sets or {}).items():
        given = {key: value for key, value in where.model_dump().items() if value is not None}
        needed, more = _PLACES.get(dataset.kind, ("", ()))
        key = f"dataset.test_sets.{name}"
        if not needed:
            raise FrostlineError(
                f"{key}: data sets of the kind {dataset.kind} have no further test sets; allowed: "
                f"{', '.join(_PLACES)}; or set dataset.test_sets=null"
            )
        if needed not in given or set(given) - {needed, *more}:
            found = ", ".join(given) or "nothing"
            raise FrostlineError(
                f"{key}: found {found}; a test set of the kind {dataset.kind} needs {needed}: write "
                f"{key}.{needed}=…"
            )
        change: dict[str, Any] = {
            "test_sets": None,
            "folds": None,
            "fold": None,
            "shots": None,
            "fraction": None,
        }
        place = {"root": None, **given} if dataset.kind == "table" else given
        if isinstance(dataset, schema.Table | schema.HuggingFace | schema.Npz):
            # Of use to training and splits only: a test set may lack these columns.
            unused = dict.fromkeys(("group", "fold", "weight"))
            columns = dataset.columns.model_copy(update=unused)
            change |= {"group": None, "columns": columns}
            if dataset.kind != "npz":  # whose numbers are positions in the data set's classes
                change["classes"] = None
        configs[name] = dataset.model_copy(update={**change, **place})
    return configs


_PLACES: dict[str, tuple[str, tuple[str, ...]]] = {
    "image_folder": ("root", ()),
    "table": ("file", ("root",)),
    "huggingface": ("path", ()),
    "npz": ("file", ()),
}
"""Kind → the key that a test set needs, and those that it may have."""
