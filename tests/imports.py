"""Which modules of frostline a module imports, anywhere in it, directly or through others."""

import ast
from functools import cache
from pathlib import Path

SRC = Path(__file__).parents[1] / "src"


@cache
def direct(module: Path) -> frozenset[Path]:
    """The files of frostline that the file `module` imports; imports for type checkers do not count."""
    found: set[Path] = set()
    for node in _runtime_nodes(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        found.update(path for name in names if name.split(".")[0] == "frostline" for path in _files(name))
    return frozenset(found - {module})


def closure(module: Path, without: frozenset[Path] = frozenset()) -> frozenset[Path]:
    """The files that `module` needs, itself included, not looking into or through those of `without`."""
    seen: set[Path] = set()
    todo = [module]
    while todo:
        path = todo.pop()
        if path not in seen and path not in without:
            seen.add(path)
            todo.extend(direct(path))
    return frozenset(seen)


def _files(name: str) -> list[Path]:
    path = SRC.joinpath(*name.split("."))
    return [p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()]


def _runtime_nodes(tree: ast.AST) -> list[ast.AST]:
    nodes: list[ast.AST] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        nodes += [node, *_runtime_nodes(node)]
    return nodes
