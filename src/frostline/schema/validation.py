"""Validate plain data: return a schema model, or raise an error with the key and what is allowed."""

import types
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from frostline.console.errors import FrostlineError, allowed

Model = TypeVar("Model", bound=BaseModel)
REASONS = {
    "model_type": "must be keys with values",
    "too_short": "must have at least one item",
    "list_type": "must be a list",
}
"""Plainer texts for some error types of pydantic."""


def validated(model: type[Model], data: Any, where: str = "") -> Model:
    """Return `data` as a `model`.

    Args:
        data: plain dictionaries, lists and scalars.
        where: a prefix for errors, such as a file's name, or one of keys if it ends with a dot; empty for
            configs composed by Hydra.

    Raises:
        FrostlineError: the data is invalid; the sentence names the key, the value found and what is allowed.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        sentences = dict.fromkeys(_sentence(model, data, detail) for detail in error.errors())
        prefix = where if not where or where.endswith(".") else f"{where}: "
        raise FrostlineError("; ".join(f"{prefix}{sentence}" for sentence in sentences)) from None


def _sentence(model: type[BaseModel], data: Any, detail: ErrorDetails) -> str:
    path, holder, field = _locate(model, detail["loc"])
    key = ".".join(path)
    found = detail["input"]
    if field is not None and field.description:
        for step in path:
            data = data[int(step)] if isinstance(data, list) else data.get(step)
        return f"{key}: found {data!r}; allowed: {field.description}"
    if detail["type"] == "extra_forbidden":
        names = holder.model_fields if holder else {}
        return unknown_key(key, path[-1], names)
    if detail["type"] == "missing":
        return f"{key}: missing; give it a value"
    if detail["type"] == "union_tag_invalid":
        context = detail["ctx"]
        tags = [tag.strip("' ") for tag in context["expected_tags"].split(",")]
        return f"{key}.kind: found {context['tag']!r}; {allowed(context['tag'], tags)}"
    if detail["type"] == "literal_error":
        options = [o.strip("' ") for o in detail["ctx"]["expected"].replace(" or ", ", ").split(",")]
        return f"{key}: found {found!r}; {allowed(str(found), options)}"
    if detail["type"] == "value_error":
        return f"{key}: {detail['ctx']['error']}".removeprefix(": ")
    message = detail["msg"].removeprefix("Input ").replace("should", "must")
    reason = REASONS.get(detail["type"], f"{message[0].lower()}{message[1:]}")
    if path[-1:] == ["[key]"]:  # the name of a value in a dictionary is wrong, not the value
        return f"{'.'.join(path[:-2])}: found the name {found!r}, {reason}"
    return f"{key}: found {found!r}, {reason}".removeprefix(": ")


def unknown_key(key: str, name: str, names: Iterable[str]) -> str:
    """Return a sentence for an unknown key: what is allowed.

    Args:
        name: its unknown part, in the form of `names`.
    """
    return f"{key}: unknown key; {allowed(name, names)}"


def _locate(
    model: type[BaseModel], location: Sequence[int | str]
) -> tuple[list[str], type[BaseModel] | None, FieldInfo | None]:
    """Resolve pydantic's location into the user's keys, the model of the last one, and its field if any.

    Pydantic inserts the member of a union between keys; these steps are skipped. A union without a
    discriminator ends the path, since errors of its members mean nothing one by one.
    """
    path: list[str] = []
    holder: type[BaseModel] | None = model
    field: FieldInfo | None = None
    candidates: list[Any] = [model]
    for step in location:
        models = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        tagged = [m for m in models if step in _tags(m)]
        if tagged and len(models) > 1:
            candidates = tagged
            continue
        if isinstance(step, int) or (not models and candidates):
            path.append(str(step))
            candidates = [c for candidate in candidates for c in _inner(candidate)]
            field = None
            continue
        if len(models) > 1 or not models:
            break
        holder = models[0]
        path.append(str(step))
        field = holder.model_fields.get(str(step))
        candidates = members(field.annotation) if field else []
        if field is not None and field.description:
            break
    return path, holder, field


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    kind = model.model_fields.get("kind")
    return get_args(kind.annotation) if kind else ()


def members(annotation: Any) -> list[Any]:
    """Return the types that a value may have, with unions and annotations resolved."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return members(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [member for part in get_args(annotation) for member in members(part)]
    return [annotation]


def _inner(container: Any) -> list[Any]:
    """Return the types of the items of a list, or of the values of a dictionary."""
    arguments = get_args(container)
    return members(arguments[-1]) if arguments else []
