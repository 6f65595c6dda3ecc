"""Hands what a run records to a process of its own, so that training waits for no import and no network.

    training ── pickled messages through a pipe ──▶ this module as a program ──▶ adapters.tracking ──▶ MLflow

Importing MLflow takes two seconds and drawing a run's pictures one; a store that is away can block for
minutes. All of that happens beside the training, whose death closes the pipe: its runs are marked as killed.
"""

import atexit
import os
import pickle
import queue
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import frostline
from frostline import project
from frostline.errors import Pruned
from frostline.garbage import uncollected
from frostline.located import FILES
from frostline.processes import name_of_this
from frostline.services import TRIAL_STATE, Mistake, Recorded, RunInfo
from frostline.signals import ENDING

if TYPE_CHECKING:
    from torch import nn

    from frostline.adapters.tracking import Store, StoredRun
    from frostline.core.freeze import FreezePlan
    from frostline.data.pixels import InputSpec
    from frostline.schema import Run

PATIENCE_SECONDS = 45.0
"""How long a command that is done waits for the store to take the next of its last records."""
PICTURES_SECONDS = 5.0
"""Of the processor's time that go into pictures, once everything else is recorded."""
NICENESS = 10
"""What trains comes first, where cores are few."""
SILENCE_SECONDS = 1.0
"""The longest time after which the recorder looks whether the machine's load is to be noted."""
MODEL_PATIENCE_SECONDS = 600.0
"""… where each run's network is stored too."""
RECORDED_FILES = (".csv", ".json", ".yaml")
"""Of a run's folder; DVC keeps the weights."""

Message = tuple[int, int, str, tuple[Any, ...]]
"""When (ms), which run, what, arguments."""


class Recorder:
    """Records runs through a process beside this one; implements `services.Tracker`."""

    def __init__(self) -> None:
        self._keys = count()
        self._start()

    @contextmanager
    def run(self, about: RunInfo) -> Iterator[Recorded]:
        """Record a run; it ends as failed or killed if the block raises."""
        key = next(self._keys)
        self.send(key, "begin", about, name_of_this())
        recorded = RecordedRun(self, key)
        try:
            yield recorded
        except Pruned as pruned:
            self._end(key, about, "FINISHED", "pruned", {"pruned": str(pruned)})
            raise
        except BaseException as error:
            status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
            self._end(key, about, status, "failed", {"error": str(error) or type(error).__name__})
            raise
        else:
            self._end(key, about, "FINISHED", "complete", {})
        finally:
            # What is in the pipe is recorded even if this process ends at once, as a pool's workers do.
            self._handed_over()

    def annotate(
        self,
        weights_sha256: str,
        tags: Mapping[str, str],
        values: Mapping[str, float],
        folder: Path,
        mistakes: Sequence[Mistake] = (),
    ) -> None:
        """Add final values, files and a picture of mistakes to the run that made these weights."""
        given = dict(tags), dict(values), contents(folder), list(mistakes)
        self.send(-1, "annotate", weights_sha256, *given)

    def send(self, key: int, what: str, *arguments: Any) -> None:
        """Queue a message; never waits."""
        if self._owner != os.getpid():  # we are a fork, in which the thread that feeds the pipe is missing
            self._start()
        self._messages.put((int(time.time() * 1000), key, what, arguments))

    def _end(self, key: int, about: RunInfo, status: str, state: str, tags: dict[str, str]) -> None:
        """Close a run; a trial of a sweep says what became of it."""
        if TRIAL_STATE in about.tags:
            tags = {**tags, TRIAL_STATE: state}
        if tags:
            self.send(key, "tags", tags)
        self.send(key, "end", status)

    def close(self) -> None:
        """Wait until everything is recorded, as long as there is progress."""
        if self._owner != os.getpid() or self._process.returncode is not None:
            return
        self._messages.put(None)
        patience = MODEL_PATIENCE_SECONDS if project.keeps_models() else PATIENCE_SECONDS
        try:
            while select.select([self._progress], [], [], patience)[0]:
                if not os.read(self._progress, 1 << 16):  # the other end is closed
                    self._process.wait(PATIENCE_SECONDS)
                    return
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            pass
        finally:
            os.close(self._progress)
        self._process.kill()
        self._process.wait()
        print(
            "frostline: warning: the MLflow store did not take all records in time; the files are whole",
            file=sys.stderr,
        )

    def _start(self) -> None:
        source = str(Path(frostline.__file__).parents[1])
        path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
        self._owner = os.getpid()
        self._messages: queue.SimpleQueue[Message | threading.Event | None] = queue.SimpleQueue()
        self._progress, told = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=told,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for the training, which says what becomes of the run
        )
        os.close(told)
        assert self._process.stdin
        arguments = (self._messages, self._process.stdin)
        threading.Thread(target=_feed, args=arguments, name="recorder", daemon=True).start()
        atexit.register(self.close)

    def _handed_over(self) -> None:
        reached = threading.Event()
        self._messages.put(reached)
        reached.wait(PATIENCE_SECONDS)


class RecordedRun:
    """A run that is being recorded; implements `services.Recorded`."""

    def __init__(self, recorder: Recorder, key: int) -> None:
        self._recorder, self._key = recorder, key
        self._of_phases: list[Charted] = []

    def planned(
        self, run: "Run", plan: "FreezePlan", network: "nn.Module", spec: "InputSpec", images: int
    ) -> None:
        """Record what will train when, at which rates and cost, as `frostline plan` says it, and draw it."""
        from frostline.plan import of_run
        from frostline.report.plan_text import as_yaml

        self._of_phases = [Charted.of(plan, phase, network) for phase in range(len(plan.phases))]
        made = of_run(run, plan, network, spec, images)
        files = {"plan.json": made.as_json().encode(), "plan.yaml": as_yaml(made).encode()}
        self._recorder.send(self._key, "files", files)

    def epoch(self, row: Mapping[str, float | int | None]) -> None:
        """Record a row of the history, and what shows in charts where a phase begins."""
        phase = row.get("phase")
        more = self._of_phases[int(phase)].values(row["lr"]) if self._of_phases and phase is not None else {}
        self._recorder.send(self._key, "epoch", {**row, **more})

    def metrics(self, values: Mapping[str, float]) -> None:
        """Record final values."""
        self._recorder.send(self._key, "metrics", dict(values))

    def tags(self, values: Mapping[str, str]) -> None:
        """Record short texts to filter by."""
        self._recorder.send(self._key, "tags", dict(values))

    def started_from(self, sha256: str) -> None:
        """Name the run whose weights, known by their hash, this one starts from."""
        self._recorder.send(self._key, "started_from", sha256)

    def finished(self, folder: Path) -> None:
        """Record the files that the run leaves, draw its curves, and store its network if all are."""
        self._recorder.send(self._key, "files", contents(folder))
        if project.keeps_models() and all((folder / name).is_file() for name in FILES):
            self._recorder.send(self._key, "model", _copied(folder))


@dataclass(frozen=True)
class Charted:
    """What a phase changes, for charts beside the metrics."""

    trainable: int
    """Parameters that train."""
    shares: Mapping[str, float]
    """Group → its highest rate, as a share of the highest of all; 0: frozen."""

    @classmethod
    def of(cls, plan: "FreezePlan", phase: int, network: "nn.Module") -> "Charted":
        """Work it out for a phase of a plan on its network."""
        places = plan.layers.places
        factors = {
            group: max(plan.scale(phase, group, places[name].depth) for name in names)
            for group, names in plan.groups.items()
        }
        trained, highest = plan.trained(phase), max(factors.values())
        count = sum(p.numel() for name, p in network.named_parameters() if name in trained)
        return cls(count, {group: factor / highest for group, factor in factors.items()})

    def values(self, lr: float | None) -> dict[str, float]:
        """Return the metrics of an epoch whose last step had `lr` as its highest rate.

        A phase's curve is the same for all groups, so each group's rate is its share of the highest.
        """
        rates = {} if lr is None else {f"lr/{group}": lr * share for group, share in self.shares.items()}
        return {"trainable_parameters": float(self.trainable), **rates}


def contents(folder: Path) -> dict[str, bytes]:
    """Return path in `folder` → content of the files that are recorded: all but weights."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in RECORDED_FILES)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _copied(folder: Path) -> Path:
    """The files that make a run, where they stay until its network is stored."""
    place = project.scratch() / "models"
    place.mkdir(parents=True, exist_ok=True)
    copy = Path(tempfile.mkdtemp(dir=place, prefix="run-"))
    for name in FILES:
        shutil.copyfile(folder / name, copy / name)
    return copy


def _feed(messages: "queue.SimpleQueue[Message | threading.Event | None]", pipe: BinaryIO) -> None:
    """Write messages into the pipe; where its other end is gone, take them and forget."""
    broken = False
    while (message := messages.get()) is not None:
        if isinstance(message, threading.Event):
            message.set()
        elif not broken:
            try:
                pickle.dump(message, pipe)
                pipe.flush()
            except OSError:
                broken = True
                print("frostline: warning: runs are no longer recorded: the recorder ended", file=sys.stderr)
    with suppress(OSError):
        pipe.close()


def serve(stream: BinaryIO, progress: Callable[[], None] = lambda: None) -> None:
    """Record what comes in until the other end is closed; runs that are open then were killed.

    Pictures are drawn when nothing else is to be done; in the end those of the best runs, for a while.

    Args:
        stream: of messages.
        progress: told of each thing done.
    """
    with uncollected():
        from frostline.adapters.tracking import Store

        store = Store()
        store.connect()
    runs: dict[int, StoredRun] = {}
    for message in _arriving(stream, lambda: store.owes > 0):
        if message:
            _record(store, runs, message)
        else:
            store.draw()
        for run in runs.values():
            run.watch_machine()
        progress()
    for run in runs.values():
        run.end("KILLED")
    give_up = time.process_time() + PICTURES_SECONDS  # a busy machine costs no pictures
    while store.owes and time.process_time() < give_up:
        store.draw()
        progress()
    if store.owes:
        print(
            f"frostline: MLflow has no pictures of {store.owes} runs, since so many ended at once;"
            " the best have theirs",
            file=sys.stderr,
        )


def _record(store: "Store", runs: "dict[int, StoredRun]", message: Message) -> None:
    when, key, what, arguments = message
    if what == "annotate":
        store.annotate(*arguments)
    elif what == "begin":
        runs[key] = store.begin(*arguments, when=when)
    elif what == "end":
        runs.pop(key).end(*arguments, when=when)
    else:
        getattr(runs[key], what)(*arguments, when=when)


def _arriving(stream: BinaryIO, busy: Callable[[], bool]) -> Iterator[Message | None]:
    """Yield what comes in, and None after each second of silence, or at once while there is else to do."""
    arrived: queue.SimpleQueue[Message | None] = queue.SimpleQueue()

    def read() -> None:
        for message in _messages(stream):
            arrived.put(message)
        arrived.put(None)

    threading.Thread(target=read, name="messages", daemon=True).start()
    while True:
        try:
            message = arrived.get(timeout=0.0 if busy() else SILENCE_SECONDS)
        except queue.Empty:
            yield None
            continue
        if message is None:
            return
        yield message


def _teller() -> Callable[[], None]:
    """What tells of progress through standard output, a pipe that is read in the end alone.

    It may be full till then. Nothing else is printed there from now on.
    """
    pipe = os.dup(sys.stdout.fileno())
    os.set_blocking(pipe, False)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())

    def tell() -> None:
        with suppress(OSError):
            os.write(pipe, b".")

    return tell


def _messages(stream: BinaryIO) -> Iterator[Message]:
    # A writer that is killed may leave half a message.
    with suppress(EOFError, pickle.UnpicklingError):
        while True:
            yield pickle.load(stream)


if __name__ == "__main__":
    # It ends when the training has: a signal to all of a service's processes is for the training.
    for _number in ENDING:
        signal.signal(_number, signal.SIG_IGN)
    os.nice(NICENESS)
    serve(sys.stdin.buffer, _teller())
