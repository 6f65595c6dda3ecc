"""docs/environment-variables.md lists each variable that the code reads, and no other."""

import re

from tests.imports import SRC

ROOT = SRC.parent
PAGE = (ROOT / "docs" / "environment-variables.md").read_text(encoding="utf-8")


def code():
    paths = [*SRC.rglob("*.py"), *(path for path in (ROOT / "scripts").iterdir() if path.is_file())]
    return "".join(path.read_text(encoding="utf-8") for path in paths)


def test_it_lists_the_variables_of_frostline():
    assert set(re.findall(r"FROSTLINE_[A-Z_]+", PAGE)) == set(re.findall(r"FROSTLINE_[A-Z_]+", code()))


def test_the_tables_variables_are_frostlines_or_of_its_libraries():
    names = re.findall(r"`([A-Z][A-Z_]+)(?:=[^`]*)?`", PAGE)
    assert len(names) > 12
    libraries = ("MLFLOW_", "HF_", "CUDA_", "OMP_")
    assert [name for name in names if not name.startswith(("FROSTLINE_", *libraries))] == []
