"""Every command of the README is run, as it is written, in a clone whose study is small."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.programs import write_programs
from tests.study import leave_out

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)


def commands() -> list[tuple[str, list[str]]]:
    """Each command with the lines that the README says it prints."""
    found: list[tuple[str, list[str]]] = []
    for block in BLOCK.findall(README):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


COMMANDS = dict(commands())


@pytest.fixture(scope="module")
def clone(tmp_path_factory, warm):
    """A git clone of the working tree, its study made small, its environment standing in for set-up's."""
    root = tmp_path_factory.mktemp("read me") / "frostline"
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, tracked.stdout.split("\0")):
        if (ROOT / name).is_file() and name != "dvc.lock":
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    experiment = root / "conf" / "experiment" / "mnist_to_digits.yaml"
    small = "trainer: {epochs: 2, batch_size: 64, threads: 1}\nseeds: [0, 1]\nbackbone: {hidden: [16, 8]}"
    text = experiment.read_text().replace("backbone: resnet10t", "backbone: mlp")
    text = re.sub(r"^trainer: .*$", small, text, flags=re.MULTILINE)
    text = re.sub(r"^gate: .*$", "gate: {}", text, flags=re.MULTILINE)
    experiment.write_text(text)
    # Three arms show what five do.
    leave_out(root / "dvc.yaml", ("zero_shot", "linear_probe"))
    # The environment that runs this test stands in for the one that set-up makes (tests/scripts test that).
    bin_folder = root / ".venv" / "bin"
    bin_folder.parent.mkdir()
    write_programs(bin_folder, warm)
    (root / "scripts" / "setup").write_text("#!/bin/sh\n")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *command], cwd=root, check=True)
    photos(root / "photos")
    return root


def photos(root: Path) -> None:
    """Two classes of pictures that anything can tell apart."""
    draw = np.random.default_rng(0)
    for label, colour in (("dawn", (230, 120, 60)), ("dusk", (40, 50, 120))):
        (root / label).mkdir(parents=True)
        for i in range(15):
            noise = draw.integers(-30, 30, (48, 64, 3))
            Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(
                root / label / f"{i}.png"
            )


def environment(clone: Path, python: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "DVC", "FROSTLINE", "GIT_"))}
    return {
        **kept,
        "PATH": f"{clone / '.venv/bin'}:{kept['PATH']}",  # as `activate` sets it
        "PYTHONPATH": str(clone / "src"),
        "OMP_NUM_THREADS": "1",
        "FROSTLINE_PYTHON": str(python),
    }


def run(clone: Path, python: Path, command: str) -> str:
    how = {"cwd": clone, "env": environment(clone, python), "capture_output": True, "text": True}
    result = subprocess.run(command, shell=True, timeout=280, check=False, **how)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def prints(expected: list[str], output: str) -> None:
    """Each line of the README is in the output, in order; … stands for anything."""
    at = 0
    for line in filter(str.strip, expected):
        if line.strip() == "…":
            continue
        pattern = r"\s+".join(".*".join(re.escape(p) for p in word.split("…")) for word in line.split())
        found = re.compile(pattern).search(output, at)
        assert found, f"{line!r} is not in the output:\n{output}"
        at = found.end()


@pytest.mark.slow
@pytest.mark.timeout(900)  # the whole default study, small
def test_the_commands_do_what_the_readme_says(clone, warm):
    """In the README's order, since each goes on from what the one before made."""
    ran = []
    for command, expected in COMMANDS.items():
        if command.endswith("frostline ui"):
            continue
        small = " input.size=32 trainer.epochs=2 trainer.threads=1" if "image_folder" in command else ""
        prints(expected, run(clone, warm, command + small))
        ran.append(command)
    assert len(ran) == len(COMMANDS) - 1
    assert (clone / "artifacts" / "report" / "index.html").is_file()
    assert (clone / "runs" / "photos" / "predictions.csv").is_file()


def test_the_ui_says_where_it_is(clone, warm):
    (command,) = [c for c in COMMANDS if c.endswith("frostline ui")]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True, "start_new_session": True}
    with subprocess.Popen(command, shell=True, cwd=clone, env=environment(clone, warm), **quiet) as server:
        try:
            line = server.stdout.readline()
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+  \(Ctrl-C ends it\)\n", line)
        finally:
            os.killpg(server.pid, signal.SIGINT)
            try:
                server.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)


def test_scripts_test_is_what_ci_runs():
    assert "`scripts/test --all`" in README
    assert "scripts/test --all" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)]+)\)", README))
def test_links_lead_somewhere(target):
    path, _, heading = target.partition("#")
    assert target.startswith("https://") or (ROOT / path).exists()
    if heading and not target.startswith("https://"):
        titles = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(), re.MULTILINE)
        assert heading in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
