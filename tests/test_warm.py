"""The Python that has imported frostline already runs the frostline that a cold one would run."""

import shutil
import subprocess

import pytest

import frostline.tracking  # noqa: F401  # sets variables in this process, before the server starts
from tests.imports import SRC
from tests.study import environment, replace

WHERE = """
from frostline.base import code, project
from frostline.reporting import page
parts = code.__file__, code.PACKAGE, project.CHECKOUT, page.TEMPLATE, code.fingerprint("report")
print(*parts, sep="\\n")
"""


def where(warm, src, *words):
    settings = environment(src, PYTHONPATH=str(src))
    words = [str(warm), *(words or ("-c", WHERE))]
    run = subprocess.run(words, env=settings, capture_output=True, text=True, check=True)
    return run.stdout.splitlines()


@pytest.fixture
def copy(tmp_path):
    copy = tmp_path / "src"
    shutil.copytree(SRC, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def paths(src):
    package = src / "frostline"
    return [*map(str, (package / "base/code.py", package, src.parent, package / "reporting/page.html.j2"))]


def test_a_copy_of_frostline_has_its_own_paths_and_the_same_code(warm, copy):
    *ours, fingerprint = where(warm, SRC)
    assert ours == paths(SRC)
    assert where(warm, copy) == [*paths(copy), fingerprint]


def test_a_changed_copy_is_imported(warm, copy):
    replace(copy / "frostline/__init__.py", '__version__ = "', '__version__ = "changed ')
    with (copy / "frostline/reporting/words.py").open("a") as file:
        file.write("# another line\n")
    *theirs, fingerprint = where(warm, copy)
    assert theirs == paths(copy)
    assert fingerprint != where(warm, SRC)[-1]
    assert where(warm, copy, "-c", "import frostline; print(frostline.__version__)")[0].startswith("changed ")


def test_a_fork_has_the_variables_that_frostline_sets(warm):
    """Also where the test that started the server had them, since it had imported frostline itself."""
    code = "import os, frostline.tracking; print(os.environ['MLFLOW_HTTP_REQUEST_MAX_RETRIES'])"
    assert where(warm, SRC, "-c", code) == ["2"]


def test_a_file_is_run_by_a_cold_python(warm, tmp_path):
    (tmp_path / "program.py").write_text(
        "import sys; print(*sys.argv[1:], 'torch' in sys.modules, sep='\\n')\n"
    )
    assert where(warm, SRC, str(tmp_path / "program.py"), "a", "b") == ["a", "b", "False"]
