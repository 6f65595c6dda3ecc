"""Runs frostline's commands in a folder, as people type them."""

import subprocess
from pathlib import Path

from tests.imports import SRC
from tests.study import environment

TINY_PRETRAIN = [
    *("backbone=mlp", "backbone.hidden=[16]", "source=digits", "input.size=8"),
    *("pretrain.trainer.epochs=1", "pretrain.trainer.batch_size=64", "pretrain.trainer.threads=1"),
]
TINY = [
    *(*TINY_PRETRAIN, "dataset.shots=10"),
    *("trainer.epochs=2", "trainer.batch_size=20", "trainer.threads=1"),
]

RESUMABLE = "frostline: interrupted; the same command resumes from its last checkpoint"


class Shell:
    """Runs frostline in a folder."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.python, self.folder = python, folder

    def start(self, *words: str, **variables: str) -> subprocess.Popen:
        pipe = subprocess.PIPE
        settings = environment(self.folder / "x", PYTHONPATH=str(SRC), **variables)
        command = [str(self.python), "-m", "frostline", *words]
        return subprocess.Popen(command, cwd=self.folder, env=settings, stdout=pipe, stderr=pipe, text=True)

    def __call__(self, *words: str, status: int = 0, **variables: str) -> tuple[str, str]:
        with self.start(*words, **variables) as process:
            out, err = process.communicate(timeout=200)
        assert process.returncode == status, f"{words} → {process.returncode}\n{out}\n{err}"
        assert "Traceback" not in err
        return out, err

    def refused(self, *words: str, status: int = 2) -> str:
        """Its error, which is one line without the program's name."""
        _out, err = self(*words, status=status)
        last = err.strip().splitlines()[-1]
        assert last.startswith("frostline: error: "), err
        return last.removeprefix("frostline: error: ")
