"""The page of all config keys, from the schema (types, meanings) and conf/ (options, defaults)."""

import ast
import inspect
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from docs.site import comments
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from frostline import schema
from frostline.schema import data, network, stages, sweep, training
from frostline.schema.validation import members

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
GROUPS = (
    *("backbone", "dataset", "weights", "freeze", "optimizer", "loss", "adapter", "regularizer", "averaging"),
    *("augment", "features", "trainer", "sweep", "experiment"),
)
"""The folders of conf/ that the page shows, in this order; hydra/launcher follows."""
SCALARS = {int: "integer", float: "number", str: "text", bool: "`true` or `false`", Any: "any value"}
INTRO = """\
# Config keys

Write `KEY=VALUE` after a command, as in `frostline finetune optimizer=sgd optimizer.lr=0.03`, or put the keys
into a file of your own, `conf/experiment/NAME.yaml`. A key is a folder of `conf/` (`optimizer`), whose files
are its options, or a value (`optimizer.lr`). [Common keys](../runs.md#set-hyperparameters) has examples, and
`frostline finetune --cfg job` prints all keys with their values.

Pretraining has the same keys with `pretrain.` before them, such as `pretrain.trainer.epochs`. The keys of its
data set begin with `source` in place of `dataset`: `source=image_folder source.root=DIR`. In lists, such as
`freeze.phases`, 0 is the first item.
"""
EPILOG = """\
## params.yaml

The file selects the study that `dvc repro` runs ([the pipeline](../pipeline.md)):

```yaml
{params}```
"""


@dataclass(frozen=True)
class Key:
    """A row of a table."""

    name: str
    allowed: str
    meaning: str


def page() -> str:
    """Return the page as Markdown."""
    models = dict(_group_models())
    parts = [INTRO, _general()]
    parts += [_group(name, models.get(name, ())) for name in GROUPS]
    params = (ROOT / "params.yaml").read_text(encoding="utf-8")
    return "\n".join([*parts, _launchers(), EPILOG.format(params=params)])


def general_keys() -> list[Key]:
    """Return the keys that are in no group."""
    fields = schema.Experiment.model_fields
    single = [name for name in fields if name not in (*GROUPS, "source", "pretrain")]
    return [key for name in single for key in _field(name, fields[name], _docs(schema.Experiment)[name])]


def keys_of(model: type[BaseModel], prefix: str) -> list[Key]:
    """Return the keys of a model, those of the models inside it included.

    Raises:
        AssertionError: a key has no meaning: give its field a docstring.
    """
    documented = _docs(model)
    found: dict[str, Key] = {}
    for name, field in model.model_fields.items():
        for key in _field(f"{prefix}.{name}", field, documented.get(name, "")):
            found[key.name] = _either(found[key.name], key) if key.name in found else key
    return list(found.values())


def _either(key: Key, other: Key) -> Key:
    """Return the key that several forms of a group have, with the values that each allows."""
    allowed = dict.fromkeys((*key.allowed.split(", "), *other.allowed.split(", ")))
    return replace(key, allowed=", ".join(allowed)) if key.name.endswith(".kind") else key


def _field(name: str, field: FieldInfo, meaning: str) -> Iterator[Key]:
    """Yield the key of a field and those of the models that its value may be."""
    if name.endswith(".kind"):
        meaning = meaning or "Which of these it is."
    models = list(_models(field.annotation))
    meaning = meaning or " ".join(_first_sentence(model) for model in models)
    assert meaning, f"{name} has no docstring in src/frostline/schema"
    # Of a model, or of one of several, only the keys inside have values.
    nested = not field.description and models and set(models) == set(members(field.annotation))
    if not nested:
        yield Key(name, _allowed(field), meaning)
    inner = name
    if get_origin(field.annotation) is list:
        inner = f"{name}.0"
    elif get_origin(field.annotation) is dict:
        inner = f"{name}.KEY"
    for model in models:
        yield from keys_of(model, inner)


def _general() -> str:
    defaults = _yaml(CONF / "config.yaml")
    rows = [_row(key, _text(_value(defaults, key.name))) for key in general_keys()]
    return "\n".join(["## Study, input, seeds, output { #general }", "", *_table(rows)])


def _group(group: str, models: Sequence[type[BaseModel]]) -> str:
    """Return the section of a group: its options, then the keys of each form."""
    options = {path.stem: _yaml(path) for path in sorted((CONF / group).glob("*.yaml"))}
    default = _defaults().get(group)
    lines = [f"## {group} {{ #{group} }}", ""]
    lines += [f"| `{group}=` | meaning | example |", "| --- | --- | --- |"]
    for name in options:
        about = comments.read(CONF / group / f"{name}.yaml")
        what = " (default)" if name == default else ""
        example = f"`{about.command}`".replace("|", "&#124;") if about.command else ""
        text = re.sub(r"docs/([\w-]+)\.md", r"[\1](../\1.md)", about.text)
        lines.append(f"| `{name}`{what} | {text} | {example} |")
    forms = {_kind(model): keys_of(model, group) for model in models}
    shared = _shared(list(forms.values()))
    if len(forms) > 1 and shared:
        rows = [_row(key, _default_text(key, options, default)) for key in shared]
        lines += ["", f"### {group}: keys of all options {{ #{group}-keys }}", "", *_table(rows)]
    for model, (kind, keys) in zip(models, forms.items(), strict=True):
        fitting = {n: option for n, option in options.items() if kind in (None, option.get("kind"))}
        own = [
            key for key in keys if not (key.name.endswith(".kind") and kind) and not (kind and key in shared)
        ]
        rows = [_row(key, _default_text(key, fitting, default)) for key in own]
        if rows:
            title = f"{group}: {kind} {{ #{group}-{kind} }}" if kind else f"{group}: keys {{ #{group}-keys }}"
            lines += ["", f"### {title}", "", inspect.getdoc(model) or "", "", *_table(rows)]
    if any(forms):
        lines += [f"`{group}.kind` is set by the option: {', '.join(f'`{kind}`' for kind in forms)}.", ""]
    return "\n".join(lines) + "\n"


def _shared(forms: Sequence[Sequence[Key]]) -> list[Key]:
    """Return the keys that all forms of a group have."""
    return [key for key in forms[0] if all(key in form for form in forms[1:])] if len(forms) > 1 else []


def _launchers() -> str:
    lines = [
        "## hydra/launcher { #launcher }",
        "",
        "Where a sweep's workers run ([clusters and teams](../scale.md)).",
        "",
    ]
    lines += ["| `hydra/launcher=` | meaning | keys of `hydra.launcher` |", "| --- | --- | --- |"]
    for path in sorted((CONF / "hydra/launcher").glob("*.yaml")):
        keys = ", ".join(f"`{key}`" for key in _yaml(path) if not key.startswith("_"))
        lines.append(f"| `{path.stem}` | {comments.read(path).text} | {keys} |")
    return "\n".join(lines) + "\n"


def _group_models() -> Iterator[tuple[str, tuple[type[BaseModel], ...]]]:
    """Yield each group with the models of its forms."""
    for name, field in schema.Experiment.model_fields.items():
        if name in GROUPS:
            yield name, tuple(_models(field.annotation))


def _table(rows: Sequence[str]) -> list[str]:
    return ["| key | type, allowed values | default | meaning |", "| --- | --- | --- | --- |", *rows, ""]


def _row(key: Key, default: str) -> str:
    cells = (f"`{key.name}`", key.allowed, default, key.meaning)
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _default_text(key: Key, options: Mapping[str, dict], default: str | None) -> str:
    """Return the value in the group's default option, and in options that differ from it."""
    values: dict[str, list[str]] = {}
    for name, option in options.items():
        value = _value({key.name.partition(".")[0]: option}, key.name)
        values.setdefault(_text(value), []).append(name)
    if len(values) <= 1:
        return next(iter(values), "—")
    if len(values) > 7:  # freeze schedules
        return "as the option"
    first = [text for text, names in values.items() if default in names]
    others = [f"{', '.join(names)}: {text}" for text, names in values.items() if text not in first]
    return "; ".join([*first, *others])


def _text(value: Any) -> str:
    if value is _MISSING:
        return "—"
    if value == "???":
        return "required"
    if "${" in str(value):
        return "computed"
    dumped = yaml.safe_dump(value, default_flow_style=True, width=1000)
    return f"`{dumped.strip().removesuffix('...').strip()}`"


_MISSING = object()


def _value(options: Any, key: str) -> Any:
    """Return what a dotted key has in an option, or _MISSING."""
    for name in key.split("."):
        if isinstance(options, Mapping) and name in options:
            options = options[name]
        else:
            return _MISSING
    return options


@cache
def _defaults() -> dict[str, str]:
    """Return group → option that conf/config.yaml chooses."""
    chosen = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))["defaults"]
    return {group: option for entry in chosen if isinstance(entry, dict) for group, option in entry.items()}


def _yaml(path: Path) -> dict[str, Any]:
    """Return an option with what it inherits from others of its group."""
    values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    whole: dict[str, Any] = {}
    for entry in values.pop("defaults", []) if path.parent != CONF else []:
        if isinstance(entry, str) and entry != "_self_":
            whole |= _yaml(path.with_name(f"{entry}.yaml"))
    return whole | values


def _kind(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("kind")
    tags = get_args(field.annotation) if field else ()
    return str(tags[0]) if len(tags) == 1 else None


def _first_sentence(model: type[BaseModel]) -> str:
    return (inspect.getdoc(model) or "").partition("\n")[0]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models that a value of this type may be or contain."""
    for member in members(annotation):
        if isinstance(member, type) and issubclass(member, BaseModel):
            yield member
        elif get_origin(member) in (list, dict):
            yield from _models(get_args(member)[-1])


def _allowed(field: FieldInfo) -> str:
    """Return the type of a field's value and its limits."""
    if field.description:
        return field.description
    return _type(field.annotation, field.metadata)


def _type(annotation: Any, limits: Sequence[Any] = ()) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *metadata = get_args(annotation)
        found = [limit for item in metadata for limit in getattr(item, "metadata", [item])]
        return _type(inner, [*limits, *found])
    if origin in (Union, types.UnionType):
        return " or ".join(_type(part, limits) for part in get_args(annotation))
    if annotation is types.NoneType:
        return "`null`"
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if origin is list:
        return f"list: {_type(get_args(annotation)[0])}"
    if origin is dict:
        return f"keys with values: {_type(get_args(annotation)[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"keys: {', '.join(f'`{name}`' for name in annotation.model_fields)}"
    return f"{SCALARS[annotation]}{_limits(limits)}"


def _limits(limits: Sequence[Any]) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = [
        f"{sign} {getattr(limit, name)}"
        for limit in limits
        for name, sign in signs.items()
        if getattr(limit, name, None) is not None
    ]
    return f" {' and '.join(found)}" if found else ""


@cache
def _docs(model: type[BaseModel]) -> dict[str, str]:
    """Return field → docstring; a field without one has that of the name of its type."""
    found: dict[str, str] = {}
    for part in reversed(model.__mro__):
        if not issubclass(part, BaseModel) or part is BaseModel:
            continue
        (definition,) = ast.parse(inspect.getsource(part)).body
        assert isinstance(definition, ast.ClassDef)
        for statement, text in _documented(definition.body):
            if isinstance(statement, ast.AnnAssign):
                name = ast.unparse(statement.target)
                found[name] = text or _aliases().get(ast.unparse(statement.annotation), "")
    return found


@cache
def _aliases() -> dict[str, str]:
    """Return name of a type → its docstring."""
    modules = [
        ast.parse(inspect.getsource(module)).body for module in (data, network, stages, sweep, training)
    ]
    return {
        ast.unparse(statement.targets[0]): text
        for body in modules
        for statement, text in _documented(body)
        if isinstance(statement, ast.Assign) and text
    }


def _documented(body: Sequence[ast.stmt]) -> Iterator[tuple[ast.stmt, str]]:
    """Yield each statement with the text below it."""
    for statement, below in zip(body, [*body[1:], None], strict=True):
        match below:
            case ast.Expr(ast.Constant(str(text))):
                yield statement, " ".join(text.split())
            case _:
                yield statement, ""
