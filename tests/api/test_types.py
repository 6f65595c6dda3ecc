"""What `import frostline` offers: complete, light, and typed."""

import subprocess
import sys

from tests.imports import SRC

import frostline

HEAVY = ("torch", "timm", "pytorch_lightning", "mlflow", "pandas", "matplotlib", "hydra", "IPython")


def test_all_functions_are_listed_and_documented():
    assert dir(frostline) == sorted(frostline.__all__)
    for name in frostline.__all__:
        if name != "__version__":
            assert getattr(frostline, name).__doc__, name
    for module in ("api", "planning"):  # and what an import leaves
        assert getattr(__import__(f"frostline.{module}"), module)


def test_an_import_is_light():
    code = f"""
import sys, frostline
dir(frostline), frostline.FrostlineError, frostline.Run, frostline.finetune, frostline.sweep, frostline.plan
print(*(name for name in {HEAVY!r} if name in sys.modules))
"""
    environment = {"PYTHONPATH": str(SRC), "PATH": ""}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert result.stdout.split() == []


def test_the_types_of_calls():
    """Strictly: an ignored error that mypy does not find is an error, too."""
    command = [sys.executable, "-m", "mypy", "tests/api/typed_calls.py"]
    result = subprocess.run(command, cwd=SRC.parent, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
