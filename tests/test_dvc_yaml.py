"""dvc.yaml's dependencies on code are exactly what each stage's result depends on."""

from pathlib import Path

import pytest
import yaml

from frostline.base.code import FOLDERS
from tests.imports import SRC, closure

ROOT = SRC.parent
PACKAGE = SRC / "frostline"
PIPELINE = {
    name: stage.get("do", stage)
    for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items()
}
MODULES = {
    "compose": "pipeline/compose/stage.py",
    "prepare": "preparation/stage.py",
    "leakage": "leakage/stage.py",
    "pretrain": "pipeline/pretrain/stage.py",
    "finetune": "pipeline/finetune/stage.py",
    "evaluate": "pipeline/evaluate/stage.py",
    "report": "pipeline/report/stage.py",
    "gate": "stats/gate.py",
}
# What a stage imports but its result does not depend on: it shows or refuses, but computes nothing. The
# schema has no default but None (test_schema.py), so all values are in the resolved files.
APART = frozenset(path for room in ("console", "schema") for path in (PACKAGE / room).rglob("*.py"))
COMPOSING = frozenset((PACKAGE / "console").rglob("*.py"))


def needed(stage):
    """The modules that a stage's result depends on; an `__init__.py` that holds only a docstring is none."""
    apart = (COMPOSING if stage == "compose" else APART) | {PACKAGE / "__init__.py"}
    return {path for path in closure(PACKAGE / MODULES[stage], apart) if path.name != "__init__.py"}


@pytest.mark.parametrize("stage", PIPELINE)
def test_what_a_stage_imports_lies_in_its_folders(stage):
    folders = [PACKAGE / folder for folder in FOLDERS[stage]]
    outside = [path for path in needed(stage) if not any(folder in path.parents for folder in folders)]
    assert outside == []


@pytest.mark.parametrize("stage", PIPELINE)
def test_what_lies_in_a_stages_folders_is_imported_by_it(stage):
    """But for `base`, which every stage depends on as a whole."""
    found = {
        path
        for folder in FOLDERS[stage]
        if folder != "base"
        for path in (PACKAGE / folder).rglob("*.py")
        if path.name != "__init__.py" or path.parent.name == "schema"
    }
    schema = {PACKAGE / "schema" / "__init__.py"} if stage == "compose" else set()
    assert found - needed(stage) - schema == set()
    assert "base" in FOLDERS[stage]


@pytest.mark.parametrize("stage", PIPELINE)
def test_dvc_watches_these_folders_and_no_file_of_code(stage):
    listed = [dep for dep in PIPELINE[stage]["deps"] if dep.startswith("src/")]
    assert listed == [f"src/frostline/{folder}" for folder in sorted(FOLDERS[stage])]


def test_packages_without_code_of_their_own_hold_a_docstring_alone():
    """A stage that depends on a folder in a package does not depend on the package's `__init__.py`."""
    for path in PACKAGE.rglob("__init__.py"):
        if path.parent not in (PACKAGE, PACKAGE / "schema", PACKAGE / "tracking"):
            assert path.read_text().count('"""') == 2, path
            assert path.read_text().rstrip().endswith('"""'), path


def test_a_resolved_config_is_a_file_that_its_stage_depends_on():
    for name, stage in PIPELINE.items():
        assert ("params" in stage) == (name == "compose"), name
        resolved = [dep for dep in stage["deps"] if dep.startswith("artifacts/resolved/")]
        assert len(resolved) == (name != "compose"), name


def test_every_stage_calls_the_wrapper_that_finds_the_environment():
    for name, stage in PIPELINE.items():
        command = stage["cmd"]
        assert command.startswith(f"scripts/stage {name}"), command


def test_the_arms_of_finetune_and_evaluate_are_the_same():
    assert PIPELINE["finetune"]["matrix"] == PIPELINE["evaluate"]["matrix"]


def test_no_stage_imports_tracking():
    for stage in PIPELINE:
        rooms = {path.relative_to(PACKAGE).parts[0] for path in closure(PACKAGE / MODULES[stage])}
        assert not rooms & {"tracking", "commands", "sweeps", "serving"}


def test_the_lists_name_files_that_exist():
    for stage in PIPELINE.values():
        assert all(Path(ROOT, dep).exists() for dep in stage["deps"] if dep.startswith(("src/", "conf")))
