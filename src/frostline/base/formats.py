"""JSON, CSV and YAML with reproducible bytes."""

import csv
import io
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from frostline.base.yaml_guard import read_checked
from frostline.console.errors import FrostlineError

HOW_TO_RESTORE = "restore it, or run the command that makes it again"


def canonical_json(value: Any) -> str:
    """Return `value` as sorted, indented JSON that ends in a newline; NaN and infinity raise ValueError."""
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def number(value: float) -> str:
    """Return `value` in the fewest digits that read back as the same double."""
    return repr(float(value))


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    r"""Return a CSV with Unix line ends; None becomes an empty cell and floats the shortest exact form.

    Text that a spreadsheet would run as a formula, such as a class named ``=cmd()``, gets an apostrophe in
    front, which `read_csv` takes off again.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(cell) for cell in row])
    return stream.getvalue()


_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return number(value)
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def csv_rows(path: Path) -> Iterator[list[str]]:
    """Yield the header of the CSV at `path`, then its rows, one at a time; all have as many cells.

    Raises:
        ValueError: a row has another number of cells, or the file is no UTF-8.
        csv.Error: it can't be parsed.
    """
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.reader(stream)
        header = next(reader, [])
        yield header
        for row in reader:
            if len(row) != len(header):
                raise ValueError(f"line {reader.line_num} has {len(row)} cells, the header {len(header)}")
            yield [_text(cell) for cell in row]


def read_csv(path: Path, columns: Collection[str] = ()) -> list[dict[str, str]]:
    """Return the rows of the CSV at `path` as dictionaries of text.

    Args:
        columns: required columns; others are read too.

    Raises:
        FrostlineError: it is not UTF-8, lacks a column, or has a cell that is too large.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            there = reader.fieldnames or ()
            rows = [{key: _text(cell) for key, cell in row.items()} for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise FrostlineError(
            f"{path} can't be read ({error}), as if another program had saved it; {HOW_TO_RESTORE}"
        ) from None
    if missing := [name for name in columns if name not in there]:
        raise FrostlineError(
            f"{path} has no column {missing[0]!r}, as if it had been edited; {HOW_TO_RESTORE}"
        )
    return rows


def _text(cell: Any) -> Any:
    """Undo `_cell`."""
    return cell[1:] if isinstance(cell, str) and cell[:1] == "'" and _FORMULA.match(cell) else cell


def read_json(path: Path) -> Any:
    """Return the JSON at `path`.

    Raises:
        FrostlineError: it is missing or not JSON.
    """
    try:
        return parsed_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FrostlineError(
            f"{path} is missing: run the stage that makes it, or name another folder"
        ) from None
    except ValueError as error:
        raise FrostlineError(
            f"{path} is not valid JSON ({error}): run the stage that makes it again"
        ) from None


def parsed_json(text: str | bytes) -> Any:
    """Return the content of JSON of unknown origin.

    Raises:
        ValueError: it is not JSON, or nested too deeply to read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested content as {dotted key: value}.

    >>> flat({"seed": 0, "optimizer": {"lr": 0.1}})
    {'seed': 0, 'optimizer.lr': 0.1}
    """
    values: dict[str, Any] = {}
    for key, value in content.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return values


def yaml_text(value: Any, *, flow: bool = False) -> str:
    """Return plain data as YAML in its own key order; `flow`: innermost collections on one line each."""
    import yaml

    _, dumper = _yaml_12()
    style = None if flow else False
    return str(
        yaml.dump(
            value, Dumper=dumper, sort_keys=False, allow_unicode=True, default_flow_style=style, width=100
        )
    )


def read_yaml(path: Path) -> Any:
    """Return the content of the YAML file at `path`.

    Like OmegaConf and unlike PyYAML: duplicate keys are errors, 1e-5 is a number, and a date is text.

    Raises:
        FrostlineError: the file can't be read, or isn't YAML.
    """
    import yaml

    loader, _ = _yaml_12()
    text = read_checked(path)
    try:
        return yaml.load(text, loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise FrostlineError(yaml_error(error, str(path))) from None
    except ValueError as error:  # such as 0x_ and 2:99999999999999999999, which look like numbers
        raise FrostlineError(f"{path}: invalid number ({error}); put it in quotes if it is text") from None


def yaml_error(error: Exception, name: str) -> str:
    """Return a sentence for an error of PyYAML in the file `name`."""
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}: " if mark else ""
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    return f"{name}: {place}{problem}; fix the YAML"


@cache
def _yaml_12() -> tuple[Any, Any]:
    """Return a loader and a dumper that agree on what is a number."""
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            seen: set[tuple[str, str]] = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    continue
                if (key.tag, key.value) in seen:
                    raise yaml.composer.ComposerError(
                        None, None, f"found duplicate key {key.value}", key.start_mark
                    )
                seen.add((key.tag, key.value))
            return node

    class Dumper(yaml.SafeDumper):
        """Quotes text that the loader would take for a number."""

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    # PyYAML's YAML 1.1 wants a point and a sign: 1.0e-5, 1.0e+5.
    power = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")
    for kind in (Loader, Dumper):
        kind.add_implicit_resolver("tag:yaml.org,2002:float", power, list("-+.0123456789"))
    return Loader, Dumper
