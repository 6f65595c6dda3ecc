"""Too little memory, and packages that can't be imported: one sentence each."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from frostline.console.errors import OutOfResources, resource_errors

SRC = Path(__file__).parents[1] / "src"
WORDS = ["finetune", "dataset=digits", "weights=none", "source=digits", "backbone=mlp", "out=out"]


def frostline(folder: Path, limit: int | None, path: Path | None = None) -> tuple[int, str]:
    """Run a command in a Python of its own, in so many bytes of addresses; return its status and error."""

    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    paths = os.pathsep.join(str(each) for each in (path, SRC) if each)
    settings = {**os.environ, "PYTHONPATH": paths, "FROSTLINE_TRACKING": "off", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-m", "frostline", *WORDS],
        cwd=folder,
        env=settings,
        preexec_fn=limited,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert "Traceback" not in result.stderr
    return result.returncode, result.stderr.splitlines()[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit addresses")
@pytest.mark.parametrize("mebibytes", [300, 1500, 2900, 3400])
def test_a_limit_that_torch_does_not_fit_in_is_one_sentence(mebibytes, tmp_path):
    status, error = frostline(tmp_path, mebibytes << 20)
    assert status == 2
    assert error.startswith(
        "frostline: error: out of memory: importing packages (ulimit -v allows the process "
    )
    assert "; close other programs, or raise the limit: torch alone needs 4 GiB of address space (" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            "raise ImportError('libcudart.so.13: cannot open shared object file', name='torch')",
            "libcudart.so.13",
        ),
        ("import no_such_package", "No module named 'no_such_package'"),
    ],
)
def test_a_torch_that_can_not_be_imported_is_one_sentence(content, reason, tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text(content)
    status, error = frostline(tmp_path, None, tmp_path)
    assert status == 2
    assert f"can't be imported ({reason}" in error
    assert "install the packages again: scripts/setup in a clone, or pip install" in error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory: measuring;"),
        (
            MemoryError("Unable to allocate 1.19 GiB for an array"),
            "out of memory: measuring needed 1.19 GiB more;",
        ),
        (RuntimeError("can't allocate memory: you tried to allocate 4194304 bytes."), " needed 4 MiB more;"),
        (
            RuntimeError("unable to mmap 2097152 bytes from file <f>: Cannot allocate memory (12)"),
            " 2 MiB more;",
        ),
        (
            RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB."),
            "measuring needed 20.00 MiB more;",
        ),
        (RuntimeError("can't start new thread"), "measuring needed another thread;"),
        (OSError(12, "Cannot allocate memory"), "out of memory: measuring;"),
    ],
)
def test_what_needed_how_much_and_what_to_lower(error, said):
    with (
        pytest.raises(OutOfResources) as caught,
        resource_errors("measuring", ["trainer.eval_batch_size", "input.size"]),
    ):
        raise error
    assert said in str(caught.value)
    assert "close other programs, or lower trainer.eval_batch_size or input.size, and run again" in str(
        caught.value
    )


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes differ"), resource_errors():
        raise RuntimeError("shapes differ")
