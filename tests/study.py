"""A git clone of the working tree with a study that takes seconds, and the programs to run in it."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]

EXPERIMENT = """\
# @package _global_
defaults:
  - override /dataset@source: digits
  - override /dataset: digits
  - override /backbone: tiny

study: tiny
input: {size: 8, channels: 1, interpolation: bicubic, crop: 1.0}
pretrain:
  trainer: {epochs: 2, batch_size: 64, threads: 1}
  optimizer: {lr: 0.01}
dataset: {shots: 10}
trainer: {epochs: 4, batch_size: 20, threads: 1}
optimizer: {lr: 0.01}
seeds: [0, 1]
gate: {arms.full.test.accuracy.mean: 0.2}
"""
BACKBONE = "kind: mlp\nhidden: [{units}, 16]\nactivation: relu\ndropout: 0.0\n"
ARMS_LEFT_OUT = ("zero_shot", "linear_probe")


def clone(root: Path, without: Sequence[str] = ARMS_LEFT_OUT) -> Path:
    """Copy what git tracks or would track into `root`, with the study `tiny` selected, and commit all.

    Args:
        root: where to.
        without: arms that the pipeline is to leave out.
    """
    copy_tracked(root, lambda name: name != "dvc.lock" and not name.startswith(("tests/", "docs/")))
    (root / "conf/experiment/tiny.yaml").write_text(EXPERIMENT)
    for name, units in (("tiny", 32), ("tinier", 24)):
        (root / f"conf/backbone/{name}.yaml").write_text(BACKBONE.format(units=units))
    replace(root / "params.yaml", "experiment: mnist_to_digits", "experiment: tiny")
    leave_out(root / "dvc.yaml", without)
    (root.parent / ".gitconfig").write_text("[user]\nname = a\nemail = a@b\n")
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        run(["git", *words], root)
    return root


def copy_tracked(root: Path, wanted: Callable[[str], bool]) -> None:
    """Copy the wanted files that git tracks or would track into `root`."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and wanted(name):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)


def leave_out(path: Path, arms: Sequence[str]) -> None:
    """Take arms out of a dvc.yaml."""
    pipeline = path.read_text()
    for arm in arms:
        lines = [
            f"{line} ".replace(f" {arm} ", " ").rstrip() if "--arms" in line else line.replace(f"{arm}, ", "")
            for line in pipeline.splitlines()
        ]
        pipeline = "".join(f"{line}\n" for line in lines if arm not in line)
    path.write_text(pipeline)


def replace(path: Path, old: str, new: str) -> None:
    """Replace `old`, which is there once, in a file."""
    text = path.read_text()
    assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {path}"
    path.write_text(text.replace(old, new))


def environment(root: Path, python: Path | str = sys.executable, **variables: str) -> dict[str, str]:
    """What a plain shell gives: PATH without anything activated but what set-up's .pth puts there."""
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(root.parent),  # with a .gitconfig
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "DVC_SITE_CACHE_DIR": str(root.parent / "site-cache"),
        "FROSTLINE_PYTHON": str(python),
        "FROSTLINE_TRACKING": "off",
        **variables,
    }


def run(
    words: list[str], root: Path, python: Path | str = sys.executable, check: bool = True, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a program in `root`; standard error goes with the output. DVC is a fork of a warm `python`."""
    if words[0] == "dvc" and str(python) != sys.executable:
        words = [str(python), "-m", *words]
    result = subprocess.run(
        words,
        cwd=root,
        env=environment(root, python, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert not check or result.returncode == 0, f"{words}\n{result.stdout}"
    return result
