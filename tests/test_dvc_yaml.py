"""dvc.yaml's dependencies on code are exactly what each stage's result depends on."""

from pathlib import Path

import pytest
import yaml

from tests.imports import SRC, closure

ROOT = SRC.parent
PIPELINE = {
    name: stage.get("do", stage)
    for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items()
}
# What a stage imports but its result does not depend on: these show, record or refuse, but compute nothing.
# The schema has no default but None (test_schema.py), so all values are in the resolved files.
APART = frozenset(
    SRC / "frostline" / name
    for name in (
        "__init__.py",
        "devices.py",
        "errors.py",
        "progress.py",
        "services.py",
        "run_folder.py",
        "schema.py",
        "signals.py",
        "validate.py",
        "yaml_guard.py",
    )
)
COMPOSING = APART - {SRC / "frostline" / name for name in ("schema.py", "validate.py")}


@pytest.mark.parametrize("stage", PIPELINE)
def test_a_stage_depends_on_the_code_that_its_result_depends_on(stage):
    module = SRC / "frostline" / "stages" / f"{stage}.py"
    needed = closure(module, COMPOSING if stage == "compose" else APART)
    listed = {dep for dep in PIPELINE[stage]["deps"] if dep.startswith("src/")}
    # The report's page is a template and a style sheet, which no import shows.
    assets = set((SRC / "frostline" / "report").glob("page.[ch]*")) if stage == "report" else set()
    assert listed == {path.relative_to(ROOT).as_posix() for path in needed | assets}


def test_every_stage_calls_the_wrapper_that_finds_the_environment():
    for name, stage in PIPELINE.items():
        command = stage["cmd"]
        assert command.startswith(f"scripts/stage {name}"), command


def test_the_arms_of_finetune_and_evaluate_are_the_same():
    assert PIPELINE["finetune"]["matrix"] == PIPELINE["evaluate"]["matrix"]


def test_no_stage_imports_tracking():
    for stage in PIPELINE:
        module = SRC / "frostline" / "stages" / f"{stage}.py"
        names = {path.relative_to(SRC).as_posix() for path in closure(module)}
        assert not names & {
            "frostline/tracking/store.py",
            "frostline/commands/main.py",
            "frostline/pipeline/standalone.py",
        }


def test_the_lists_name_files_that_exist():
    for stage in PIPELINE.values():
        assert all(Path(ROOT, dep).exists() for dep in stage["deps"] if dep.startswith(("src/", "conf")))
