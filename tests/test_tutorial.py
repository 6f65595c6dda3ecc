"""docs/tutorial.md: each command runs, in order, and prints what the page says; on few images and epochs."""

import re
import subprocess
from pathlib import Path

import pytest
from docs.site.screenshots import PICTURES, TUTORIAL, steps

from tests.imports import SRC
from tests.programs import write_programs
from tests.study import environment, leave_out
from tests.test_readme import prints

TEXT = TUTORIAL.read_text(encoding="utf-8")
STEPS = steps(TEXT)
SMALLER = {", 200, ": ", 10, ", ", 40, ": ", 10, "}
SHORT = "input.size=32 trainer.epochs=2 trainer.threads=1"


def test_it_has_commands_and_pictures():
    assert {step.text.split()[0] for step in STEPS if not (step.file or step.cell)} == {
        *("python", "frostline", "mkdir", "cd", "sed", "rm", "git", "dvc")
    }
    assert len(STEPS) > 15
    named = re.findall(r"\]\(tutorial/(\w+\.png)\)", TEXT)
    assert sorted(named) == sorted(path.name for path in PICTURES.iterdir())
    assert all(path.stat().st_size < 300_000 for path in PICTURES.iterdir())


def smaller(step):
    """A step's text, so that it takes seconds."""
    if step.cell:
        return step.text
    if step.file:
        text = step.text
        for old, new in SMALLER.items():
            assert old in text
            text = text.replace(old, new)
        return text
    return f"{step.text} {SHORT}" if " finetune " in step.text else step.text


def shorten_study(folder):
    path = folder / "conf/experiment/signs.yaml"
    text = re.sub(r"epochs: \d+", "epochs: 4", path.read_text())
    path.write_text(text.replace("seeds: [0, 1, 2]", "seeds: [0, 1]"))
    leave_out(folder / "dvc.yaml", ("zero_shot", "linear_probe"))


@pytest.fixture
def programs(tmp_path, warm):
    """A folder with the programs that the page calls."""
    folder = tmp_path / "bin"
    write_programs(folder, warm)
    (tmp_path / ".gitconfig").write_text("[user]\nname = a\nemail = a@b\n")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_its_commands_do_what_it_says(tmp_path, programs):
    settings = environment(tmp_path / "x", FROSTLINE_TRACKING="on", PYTHONPATH=str(SRC))
    settings["PATH"] = f"{programs}:{settings['PATH']}"
    folder = tmp_path / "a fólder"
    folder.mkdir()
    cells = [step.text for step in STEPS if step.cell]
    for step in STEPS:
        text = smaller(step)
        if step.file:
            (folder / step.file).write_text(text)
        elif text.startswith("cd "):
            folder /= text.removeprefix("cd ")
        elif step.cell:  # tests/test_examples.py runs notebooks; here the cells run as one program
            if text == cells[-1]:
                code = "".join(cells)
                subprocess.run(["python", "-c", code], cwd=folder, env=settings, check=True, timeout=200)
        elif text != "frostline ui":  # tests/commands/test_ui.py
            pipe = subprocess.PIPE
            done = subprocess.run(
                text, shell=True, cwd=folder, env=settings, stdout=pipe, stderr=pipe, text=True, timeout=600
            )
            assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
            prints(list(step.expected), done.stdout)
        if text.startswith("frostline init"):
            shorten_study(folder)
    assert (folder / "artifacts/report/index.html").is_file()
    assert (folder / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert Path(folder.parent, "signs.html").is_file()
