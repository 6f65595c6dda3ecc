"""The Python that a competitor runs in: this project's, or one with its own packages beside it.

ours     this project's own, which has PyTorch and Lightning
rivals   the same, and fastai and finetuning-scheduler of rivals.txt; see rivals.py
keras    TensorFlow's, from keras.txt: 1.5 GB, made only for work that asks for it
"""

import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

from benchmarks import rivals

HERE = Path(__file__).parent
LARGE = ("keras",)
"""Not made by the way, in a quick run."""


class NotMade(Exception):
    """An environment is not there: says why."""


def python_of(name: str, make: bool = True) -> Path:
    """Return the interpreter of an environment, which is made if need be.

    Raises:
        NotMade: it is not there, and may not be made or can't be.
    """
    match name:
        case "ours":
            return Path(sys.executable)
        case "rivals":
            if not rivals.ready():
                _attempt(name, rivals.make)
            return rivals.PYTHON
        case _:
            return _own(name, make)


def _own(name: str, make: bool) -> Path:
    folder, needed = HERE / f".venv-{name}", HERE / f"{name}.txt"
    made, python = folder / needed.name, folder / "bin" / "python"
    if made.is_file() and made.read_text() == needed.read_text():
        return python
    if not make:
        raise NotMade(f"left out: benchmarks/{folder.name} is not there, and a full run makes it")

    def fill() -> None:
        uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
        if uv:
            venv.create(folder, clear=True, symlinks=True)
            install = [uv, "pip", "install", "-q", "--python", str(python)]
        else:
            venv.create(folder, clear=True, symlinks=True, with_pip=True)
            install = [str(python), "-m", "pip", "install", "-q"]
        subprocess.run([*install, "-r", str(needed)], check=True)
        made.write_text(needed.read_text())

    _attempt(name, fill)
    return python


def _attempt(name: str, make: Callable[[], None]) -> None:
    print(f"making the environment {name} …", file=sys.stderr, flush=True)
    try:
        make()
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotMade(f"the environment {name} can't be made: {error}") from None
