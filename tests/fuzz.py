"""Throw random overrides, configs, selections and resolved files at the commands that don't train.

`python -m tests.fuzz --minutes 10` prints a table, and each case that went wrong with what repeats it;
`python -m tests.fuzz --case yaml/17` runs one. A case is a function of its kind and number. What must hold:
a known exit status, no traceback, one short sentence, two seconds of processor time, nothing started, nothing
written outside the sandbox, and no environment variable's value shown.
"""

import argparse
import contextlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.imports import SRC

CONF = SRC.parent / "conf"
STATUSES = (0, 2, 3, 4)
LONGEST = 2000
"""Characters of an error; a sentence may list names that are allowed."""
CPU_SECONDS = 2.0
SECRET = "hunter2-of-the-fuzz"
PLAN = ["plan", "--images", "100", "backbone=mlp"]
OVERRIDES = [
    *("backbone=mlp", "freeze=gradual", "dataset=digits", "dataset.shots=3", "optimizer.lr=1e-3", "seed=1"),
    *("input.size=8", "trainer.epochs=2", "optimizer=sgd", "+optimizer.options.nesterov=true", "out=a/b"),
    *("loss.class_weights={effective: 0.99}", "weights=none", "source=mnist5k", "seeds=[0,1]", "~gate"),
    *("freeze.phases.0.until=50%", "pretrain.trainer.epochs=1", "dataset.split.val=0.2", "averaging=ema"),
    *("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "sweep=tpe", "sweep.trials=2", "experiment=null"),
    *("gate.test/accuracy=0.5", "study=a b", "backbone.hidden=[16,8]", "trainer.precision=fp32"),
]
VALUES = [
    *("", "null", "nan", "inf", "-inf", "-1", "0", "1e400", "1e-400", "9" * 400, "true", "[]", "{}", "[nan]"),
    *("${seed}", "${oc.env:SECRET}", "${oc.decode:'[1]'}", "${${a}:b}", "${", "}", "'", '"', "\\", "("),
    *("range(0,3)", "interval(0,1)", "choice(a,b)", "glob(*)", "tag(log,interval(1e-3,1))", "sort(3,1)"),
    *("[[[[1]]]]", "{a:{b:{c:1}}}", "{_target_:os.mkdir,path:executed}", "!!python/name:os.mkdir", "\x00"),
    *("é", "\udcff", "😀", "a" * 3000, "[" * 300, "../../x", "/dev/zero", "~", "~root/x", "-", "?", "a,b"),
]
KEYS = [
    *("hydra", "hydra/sweeper", "hydra/launcher", "hydra.launcher._target_", "hydra.sweeper", "hydra.mode"),
    *("hydra.searchpath", "hydra.callbacks.x", "hydra.job_logging", "optimizer@hydra.launcher", "@", ""),
    *("freeze.phases.9.lr", "seed.x", "weights@pretrain.weights", "dataset@", "sweep.space", "a.b.c"),
]
TEXTS = [
    *("\t", "\n", ": ", "- ", "&a ", "*a ", "{", "}", "[", "]", "'", '"', "#", "!!set ", "<<: ", "? ", "| "),
    *("${oc.env:SECRET}", "_target_: os.mkdir\n", "null", "~", "yes", "0x_", "1_0", "2020-01-01", "\x00"),
    *("defaults: [x]\n", "# @package _global_\n", "hydra: {callbacks: {x: {_target_: os.mkdir}}}\n", "é"),
]


class TooSlow(BaseException):
    """A case takes ten seconds; no command catches this."""


@dataclass(frozen=True)
class Outcome:
    """What came of a case: ``ok``, ``refused``, or the fault."""

    what: str
    detail: str = ""


def mutated(text: str, pieces: Sequence[str], source: random.Random) -> str:
    """Change a text in one to three places."""
    for _ in range(source.randint(1, 3)):
        begin = source.randrange(len(text) + 1)
        end = min(len(text), begin + source.choice([0, 0, 1, 1, 5]))
        match source.randrange(4):
            case 0:
                text = text[:begin] + source.choice(pieces) + text[end:]
            case 1:
                text = text[:begin] + text[end:]
            case 2:
                text = text[:end] + text[begin:]
            case _:
                text = text[:begin] + chr(source.choice([*range(32, 127), 9, 10, 0xE9])) + text[end:]
    return text


def override(source: random.Random) -> str:
    """Return an override: one that is right, with another value, of another key, or mutated."""
    right = source.choice(OVERRIDES)
    key, _, value = right.partition("=")
    mark = source.choice(["", "", "+", "++", "~"])
    match source.randrange(5):
        case 0:
            return right
        case 1:
            return f"{key}={source.choice(VALUES)}"
        case 2:
            return f"{mark}{source.choice(KEYS)}={source.choice([*VALUES, value])}"
        case 3:
            return f"{mark}{key}={value}"
    return mutated(right, VALUES, source)


def of_plan(source: random.Random) -> list[str]:
    """Plan with random overrides."""
    return [*PLAN, *(override(source) for _ in range(source.randint(1, 3)))]


def of_printing(source: random.Random) -> list[str]:
    """Print what random overrides compose to."""
    return ["finetune", "--cfg", "job", *(override(source) for _ in range(source.randint(1, 3)))]


def of_yaml(source: random.Random) -> list[str]:
    """Plan with a mutated config."""
    path = source.choice(sorted(Path("conf").rglob("*.yaml")))
    path.write_text(mutated(path.read_text(), TEXTS, source), encoding="utf-8")
    group = path.parent.relative_to("conf").as_posix()
    return [*PLAN, *([] if group == "." else [f"{group}={path.stem}"])]


def of_selection(source: random.Random) -> list[str]:
    """Compose a mutated params.yaml."""
    text = (
        "experiment: mnist_to_digits\nbackbone: mlp\noptimizer: {lr: 0.01}\nseeds: [0, 1]\nfreeze: [full]\n"
    )
    Path("params.yaml").write_text(mutated(text, TEXTS, source), encoding="utf-8")
    return ["compose", "--out", "resolved", "--arms", "scratch", "full"]


def of_resolved(source: random.Random) -> list[str]:
    """Gate by a mutated report's config; there is no report."""
    text = "study: s\narms: [scratch, full]\nseeds: [0, 1]\nmonitor: val/accuracy\ngate: {full: 0.5}\n"
    Path("report.yaml").write_text(mutated(text, TEXTS, source), encoding="utf-8")
    return ["gate", "--resolved", "report.yaml", "--report", "report.json"]


def of_command(source: random.Random) -> list[str]:
    """As `of_plan`, in a process of its own."""
    return [word for word in of_plan(source) if "\x00" not in word]


def of_sweep(source: random.Random) -> list[str]:
    """Sweep over random overrides; what trains is stopped before."""
    return ["finetune", "-m", *(override(source) for _ in range(source.randint(1, 2))), "seed=0,1"]


KINDS: dict[str, Callable[[random.Random], list[str]]] = {
    "plan": of_plan,
    "printing": of_printing,
    "sweep": of_sweep,
    "yaml": of_yaml,
    "selection": of_selection,
    "resolved": of_resolved,
    "command": of_command,
}


def run(kind: str, number: int) -> tuple[list[str], Outcome]:
    """Run a case in a sandbox of its own."""
    source = random.Random(f"{kind}/{number}")
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        shutil.copytree(CONF, Path(folder, "conf"))
        os.chdir(folder)
        try:
            words = KINDS[kind](source)
            outcome = _in_process(words) if kind == "command" else _here(words)
            if Path("executed").exists():
                outcome = Outcome("executed")
            return words, outcome
        finally:
            os.chdir(before)


def _here(words: list[str]) -> Outcome:
    from frostline.commands import main as cli
    from frostline.config import compose
    from frostline.pipeline import session

    out, err = io.StringIO(), io.StringIO()
    _watched.clear()
    begun = time.process_time()
    with _no_longer_than(10.0), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _on_watch():
        task, compose.multirun = compose.multirun, _sweep
        try:
            status = cli.main(words)
        except SystemExit as ending:
            status = int(ending.code or 0)
        except TooSlow:
            return Outcome("slow", "more than 10 s")
        except BaseException:
            return Outcome("traceback", traceback.format_exc())
        finally:
            compose.multirun = task
            session._recorder.cache_clear()
    return _judged(status, out.getvalue(), err.getvalue(), time.process_time() - begun)


def _sweep(overrides: Sequence[str], *_: Any, **__: Any) -> list[Any]:
    """All of `compose.multirun` but the sweep itself."""
    from frostline.config.compose import FailedJob
    from frostline.console.errors import FrostlineError

    def never(*_: Any) -> Any:
        raise FrostlineError("composed")

    found = _original([*overrides, "hydra/sweeper=basic"], never)
    return [each for each in found if not isinstance(each, FailedJob)]


def _in_process(words: list[str]) -> Outcome:
    settings = {**os.environ, "PYTHONPATH": str(SRC), "PYTHONUTF8": "1"}
    command = [os.environ.get("FROSTLINE_PYTHON", sys.executable), "-m", "frostline", *words]
    done = subprocess.run(
        command, env=settings, capture_output=True, text=True, errors="replace", check=False, timeout=120
    )
    return _judged(done.returncode, done.stdout, done.stderr, 0.0)


def _judged(status: int, out: str, err: str, seconds: float) -> Outcome:
    errors = [line for line in err.splitlines() if line.startswith("frostline: error: ")]
    faults = {
        "traceback": "Traceback (most" in err,
        "leaked": SECRET in out + err,
        "status": status not in STATUSES,
        "no sentence": status != 0 and (len(errors) != 1 or not err.rstrip("\n").endswith(errors[0])),
        "long": any(len(line) > LONGEST for line in errors),
        "started": any(event != "open" for event, _ in _watched),
        "written": any(event == "open" for event, _ in _watched),
        "slow": seconds > CPU_SECONDS,
    }
    fault = next((name for name, there in faults.items() if there), None)
    if fault:
        return Outcome(fault, f"status {status}, {seconds:.1f} s, {_watched}\n{err[-1500:]}")
    return Outcome("ok" if status == 0 else "refused")


_watched: list[tuple[str, str]] = []
_watching = False
STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    if event in STARTS:
        _watched.append((event, repr(arguments[0])[:200]))
    if event != "open" or not isinstance(arguments[0], str) or not isinstance(arguments[2], int):
        return
    if arguments[2] & (os.O_WRONLY | os.O_RDWR):
        path = os.path.realpath(arguments[0])
        inside = path.startswith((os.path.realpath(tempfile.gettempdir()), "/dev/"))
        if not inside and "__pycache__" not in path:
            _watched.append((event, path))


@contextlib.contextmanager
def _on_watch() -> Iterator[None]:
    global _watching  # an audit hook stays for good
    _watching = True
    try:
        yield
    finally:
        _watching = False


@contextlib.contextmanager
def _no_longer_than(seconds: float) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def prepare() -> None:
    """Run a command, so that no case pays for its imports, and watch."""
    global _original
    from frostline.commands import main as cli
    from frostline.config import compose

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert cli.main([*PLAN, "freeze=full"]) == 0
    os.environ |= {"FROSTLINE_TRACKING": "off", "SECRET": SECRET}
    _original = compose.multirun
    sys.addaudithook(_audit)


_original: Any = None


def main() -> int:
    """Run cases until time is up, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--kinds", nargs="+", choices=[*KINDS], default=[*KINDS])
    parser.add_argument("--from", dest="first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--case", help="only this one, KIND/NUMBER")
    arguments = parser.parse_args()
    prepare()
    if arguments.case:
        kind, _, number = arguments.case.partition("/")
        words, outcome = run(kind, int(number))
        print(words, outcome.what, outcome.detail, sep="\n")
        return outcome.what not in ("ok", "refused")
    table: Counter[tuple[str, str]] = Counter()
    until, number = time.monotonic() + 60 * arguments.minutes, arguments.first
    while time.monotonic() < until:
        for kind in arguments.kinds:
            words, outcome = run(kind, number)
            table[kind, outcome.what] += 1
            if outcome.what not in ("ok", "refused"):
                print(f"{kind}/{number}: {outcome.what}: {words!r:.300}\n{outcome.detail}\n", flush=True)
        number += 1
    outcomes = sorted({what for _, what in table} | {"ok", "refused"})
    print(f"{'kind':12}" + "".join(f"{what:>12}" for what in outcomes))
    for kind in arguments.kinds:
        print(f"{kind:12}" + "".join(f"{table[kind, what]:12}" for what in outcomes))
    return any(what not in ("ok", "refused") for _, what in table)


if __name__ == "__main__":
    sys.exit(main())
