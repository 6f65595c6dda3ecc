"""Commands as a user starts them: how long until the first training step, and until they are done.

The first step: a fresh process, in a folder without anything kept; files may be in the system's cache. Run
with `step`, this program is that process: it calls the same `main` as the command `frostline`, and ends at
the first optimizer step.
"""

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.peers import common

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
LOOK_AGAIN = 0.002
"""Seconds between two looks whether torch is there: to import it earlier would change what is measured."""


def end_at_first_step() -> None:
    name = "register_optimizer_step_post_hook"
    while not (register := getattr(sys.modules.get("torch.optim.optimizer"), name, None)):
        time.sleep(LOOK_AGAIN)

    def stepped(*_: object) -> None:
        print(f"\nfirst step: {time.time()!r}", flush=True)
        os._exit(0)

    register(stepped)


def first_step(overrides: list[str]) -> float:
    environment = {key: value for key, value in os.environ.items() if key != "FROSTLINE_TRACKING"}
    begun = time.time()
    words = [sys.executable, "-m", "benchmarks.peers.start", "step", "finetune", *overrides]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    found = [line for line in done.stdout.splitlines() if line.startswith("first step: ")]
    if not found:
        raise SystemExit(f"no step was taken: {done.stderr.strip().splitlines()[-1:]}")
    return float(found[-1].removeprefix("first step: ")) - begun


def command(words: list[str], **more: Any) -> float:
    begun = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, check=False, **more)
    seconds = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
    return seconds


def program(name: str) -> str:
    found = shutil.which(name, path=str(BIN)) or shutil.which(name)
    if not found:
        raise SystemExit(f"{name} is not installed")
    return found


def plain() -> dict[str, str]:
    """The environment of a plain shell."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR")
    return {name: os.environ[name] for name in kept if name in os.environ}


def repro() -> float:
    dvc = program("dvc")
    if subprocess.run(
        [dvc, "status", "-q"], cwd=ROOT, env=plain(), capture_output=True, check=False
    ).returncode:
        raise SystemExit("dvc repro would run stages here; scripts/reproduce brings the pipeline up to date")
    return command([dvc, "repro"], cwd=ROOT, env=plain())


def set_up() -> float:
    words = [str(ROOT / "scripts" / "setup")]
    if subprocess.run(words, capture_output=True, env=plain(), check=True).stdout:
        raise SystemExit("scripts/setup had something to do; measure again")
    return command(words, cwd=ROOT, env=plain())


def main() -> None:
    if sys.argv[1] == "step":
        threading.Thread(target=end_at_first_step, daemon=True).start()
        from frostline.commands.main import main as frostline

        raise SystemExit(frostline(sys.argv[2:]))
    given = common.settings()
    match given.what:
        case "step":
            seconds = first_step(given.overrides)
        case "help":
            seconds = command([program("frostline"), "--help"])
        case "repro":
            seconds = repro()
        case "setup":
            seconds = set_up()
        case unknown:
            raise SystemExit(f"no such thing: {unknown}")
    common.print_result({"seconds": seconds, "accuracy": None})


if __name__ == "__main__":
    main()
