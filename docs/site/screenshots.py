"""Run the tutorial's commands as a user would, and take its screenshots.

    .venv/bin/python docs/site/screenshots.py FOLDER

FOLDER must not exist; it gets what the commands write. `--programs BIN` takes `frostline`, `dvc`, `python`
and `jupyter` from another environment. Needs Chromium and Jupyter, and prints how long each command took.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parents[1]
TUTORIAL = DOCS / "tutorial.md"
PICTURES = DOCS / "tutorial"
BLOCK = re.compile(r"```(python|console)\n(.*?)```", re.DOTALL)
WIDTH, REPORT_HEIGHT, NOTEBOOK_HEIGHT, COLOURS = 1280, 1250, 1340, 128


@dataclass(frozen=True)
class Step:
    """A command of the tutorial, or a file to save."""

    text: str
    """The command; of a file, its content."""
    expected: tuple[str, ...] = ()
    """Lines that the command prints; … stands for anything."""
    file: str = ""
    """The name of the file."""
    cell: bool = False
    """Whether it is a notebook's cell."""


def steps(text: str) -> list[Step]:
    """Return the commands and files of a page, in its order."""
    found: list[Step] = []
    for language, block in BLOCK.findall(text):
        if language == "python":
            named = re.match(r"# (\w+\.py)\n", block)
            found.append(Step(block, file=named[1]) if named else Step(block, cell=True))
            continue
        for command in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            first, *lines = command.splitlines()
            found.append(Step(first, tuple(lines)))
    return found


def main() -> None:
    """Run everything and write the pictures into docs/tutorial."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--programs", type=Path, default=Path(sys.executable).parent)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True)
    cells: list[str] = []
    environment = {**os.environ, "PATH": f"{arguments.programs.absolute()}:{os.environ['PATH']}"}
    folder = arguments.folder.absolute()
    for step in steps(TUTORIAL.read_text(encoding="utf-8")):
        if cells and not step.cell:  # before the next command changes the results
            notebook(cells, folder, environment)
            cells = []
        if step.file:
            (folder / step.file).write_text(step.text, encoding="utf-8")
        elif step.text.startswith("cd "):
            folder /= step.text.removeprefix("cd ")
        elif step.cell:
            cells.append(step.text)
        elif step.text == "frostline ui":
            with served(folder, environment) as address:
                picture("mlflow", address, height=640, wait=8.0)
        else:
            start = time.monotonic()
            done = subprocess.run(
                step.text, shell=True, cwd=folder, env=environment, capture_output=True, text=True
            )
            print(f"$ {step.text}    # {time.monotonic() - start:.0f} s\n{done.stdout}", flush=True)
            if done.returncode:
                sys.exit(done.stderr)
            print(done.stderr[-2000:], flush=True)
        if step.text == "dvc repro":  # an experiment's report takes its place
            picture("report", (folder / "artifacts/report/index.html").as_uri(), height=REPORT_HEIGHT)
    picture("show", (arguments.folder / "signs.html").absolute().as_uri(), height=450)
    shutil.copy(folder / "plan.png", PICTURES / "plan.png")
    reduce(PICTURES / "plan.png")


@contextmanager
def served(folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """Start `frostline ui`, and yield the address of the study's results."""
    command = ["frostline", "ui"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, text=True) as server:
        assert server.stdout is not None
        lines: list[str] = []
        while not lines or "(training runs)" not in lines[-1]:
            lines.append(server.stdout.readline())
        print(*lines, sep="", flush=True)
        addresses = [line.split()[0] for line in lines[1:]]
        try:
            yield next((line.split()[0] for line in lines if "(study " in line), addresses[-1])
        finally:
            server.send_signal(signal.SIGINT)


def notebook(cells: list[str], folder: Path, environment: dict[str, str]) -> None:
    """Run a notebook with the environment's Jupyter, and take a picture of it."""
    import nbformat

    written = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.rstrip()) for cell in cells])
    nbformat.write(written, folder / "look.ipynb")
    command = ["jupyter", "nbconvert", "--execute", "--to", "html", "look.ipynb"]
    subprocess.run(command, cwd=folder, env=environment, check=True)
    picture("notebook", (folder / "look.html").as_uri(), height=NOTEBOOK_HEIGHT, wait=3.0)


def picture(name: str, address: str, height: int, wait: float = 1.0) -> None:
    """Save what a browser shows as docs/tutorial/NAME.png."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    PICTURES.mkdir(exist_ok=True)
    path = PICTURES / f"{name}.png"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": WIDTH, "height": height})
        view.goto(address)
        view.wait_for_timeout(1000 * wait)
        view.screenshot(path=path)
        browser.close()
    reduce(path)


def reduce(path: Path) -> None:
    """Save a picture with fewer colours, which takes a third of the space."""
    from PIL import Image

    image = Image.open(path).convert("RGB")
    image.convert("P", palette=Image.Palette.ADAPTIVE, colors=COLOURS).save(path, optimize=True)


if __name__ == "__main__":
    main()
