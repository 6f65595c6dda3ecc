"""docs/architecture.md shows the packages and libraries in the order of pyproject.toml's contracts."""

import re
import tomllib
from itertools import pairwise

from tests.imports import SRC, direct

ROOT = SRC.parent
MOST_LINES = 400
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONTRACTS = {contract["id"]: contract for contract in PYPROJECT["tool"]["importlinter"]["contracts"]}
LAYERS = CONTRACTS["layers"]["layers"]


def diagram() -> str:
    """The Mermaid source: packages from top to bottom, and the libraries that a single package imports."""
    lines = ["flowchart TD", *(f"  {upper} --> {lower}" for upper, lower in pairwise(LAYERS))]
    for contract in CONTRACTS.values():
        if contract["type"] == "forbidden":
            forbidden = {module.removeprefix("frostline.") for module in contract["source_modules"]}
            lines += [
                f"  {package} -.-> {contract['forbidden_modules'][0]}"
                for package in LAYERS
                if package not in forbidden
            ]
    return "\n".join(lines) + "\n"


def test_the_diagram_is_generated_from_the_contracts():
    (block,) = re.findall(r"```mermaid\n(.*?)```", PAGE, re.DOTALL)
    assert block == diagram()


def test_the_table_lists_the_packages_in_the_contracts_order():
    table = PAGE.partition("| package |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == LAYERS


def test_every_package_is_in_the_contract():
    packages = {path.parent.name for path in (SRC / "frostline").glob("*/__init__.py")}
    assert packages == set(LAYERS)


def test_commands_and_python_functions_are_beside_each_other():
    """Layers keep `api` from importing `commands`; what both need is below."""
    api = SRC / "frostline" / "api"
    for path in (SRC / "frostline" / "commands").rglob("*.py"):
        assert not any(api in imported.parents for imported in direct(path)), path


def test_no_module_is_longer_than_one_reads_at_once():
    lengths = {path.name: len(path.read_text().splitlines()) for path in SRC.rglob("*.py")}
    assert not {name: length for name, length in lengths.items() if length > MOST_LINES}
