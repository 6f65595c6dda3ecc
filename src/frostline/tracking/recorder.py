"""Records what runs say, through a journal and a process of its own: training waits for no store.

    training ──▶ .frostline/journal ──▶ this module as a program ──▶ adapters.delivery ──▶ MLflow

Importing MLflow takes two seconds and drawing a run's plots one; a store that is unreachable may block for
minutes. All of that happens beside the training, and what MLflow has not recorded in the end stays in the
journal: see `frostline.tracking.journal`.
"""

import atexit
import os
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
from typing import TYPE_CHECKING, Any

import frostline
from frostline.base import project
from frostline.base.files import SEAL
from frostline.base.processes import name_of_this
from frostline.base.run_folder import FILES
from frostline.console import terminal
from frostline.console.errors import Pruned
from frostline.console.signals import ENDING
from frostline.tracking import journal, local_store
from frostline.tracking.journal import Journal
from frostline.training.garbage import uncollected
from frostline.training.services import TRIAL_STATE, Mistake, Recorded, RunInfo

if TYPE_CHECKING:
    from torch import nn

    from frostline.freezing.plan import FreezePlan
    from frostline.models.input_spec import InputSpec
    from frostline.schema import Run
    from frostline.tracking.delivery import Deliverer
    from frostline.tracking.machine_load import MachineLoad

PATIENCE_SECONDS = 45.0
"""How long a command that is done waits for a store of this machine to take the next of its last records."""
MODEL_PATIENCE_SECONDS = 600.0
"""… where each run's network is stored too."""
GRACE_SHARE = 0.01
"""Of the command's time: that long it waits for a slow server, or `project.wait_seconds`, if that is more."""
QUICK = 10.0
"""Records a second: a server that takes more is waited for."""
PICTURES_SECONDS = 5.0
"""Of the processor's time that go into plots, once everything else is recorded."""
NICENESS = 10
"""What trains comes first, where cores are few."""
SILENCE_SECONDS = 1.0
"""The longest time after which the recorder looks whether the machine's load is to be noted."""
PAUSE_SECONDS = 0.02
"""The least time between two looks at the journal."""
RETRY_SECONDS, LAST_RETRY_SECONDS, RETRY_FACTOR = 0.25, 15.0, 2.0
"""How long a store that failed is left alone: at first, at most, and how that grows."""
SAY_SECONDS = 20.0
"""A store that is unreachable for longer is told of while training runs."""
JOURNAL_BYTES = 4 << 20
"""A longer journal is followed by another as soon as no run is open."""
RECORDED_FILES = (".csv", ".json", ".yaml")
"""Of a run's folder; DVC keeps the weights."""


class Recorder:
    """Records runs through a process beside this one; implements `services.Tracker`."""

    _journal: Journal | None
    """None: nothing is recorded any more."""

    def __init__(self) -> None:
        project.wait_seconds()  # a mistake in it is told before training
        self._keys = count()
        self._open = 0
        self._made: list[tuple[str, dict[str, str]]] = []
        """Runs of this process: place in a journal, tags."""
        self._start()

    @contextmanager
    def run(self, about: RunInfo) -> Iterator[Recorded]:
        """Record a run; it ends as failed or killed if the block raises."""
        key = next(self._keys)
        self.send(key, "begin", about)
        self._open += 1
        recorded = RecordedRun(self, key)
        if self._journal:
            known = {**about.tags, "study": about.study, "stage": about.stage}
            self._made.append((f"{self._journal.path.stem}/{key}", known))
            recorded.known = known
        try:
            yield recorded
        except Pruned as pruned:
            self._end(key, about, "FINISHED", "pruned", {"pruned": str(pruned)})
            raise
        except (KeyboardInterrupt, SystemExit) as error:  # Ctrl-C, and SIGTERM however it is raised
            self._end(key, about, "KILLED", "killed", {"error": _said(error)})
            raise
        except BaseException as error:
            self._end(key, about, "FAILED", "failed", {"error": _said(error)})
            raise
        else:
            self._end(key, about, "FINISHED", "complete", {})

    def annotate(
        self,
        weights_sha256: str,
        tags: Mapping[str, str],
        values: Mapping[str, float],
        folder: Path,
        mistakes: Sequence[Mistake] = (),
    ) -> None:
        """Add final values, files and a plot of mistakes to the run that made these weights."""
        wanted = {"weights.sha256": weights_sha256, **{key: value for key, value in tags.items() if value}}
        place = next(
            (place for place, known in reversed(self._made) if wanted.items() <= known.items()), None
        )
        given = dict(tags), dict(values), contents(folder), list(mistakes)
        self.send(-1, "annotate", weights_sha256, *given, place)

    def send(self, key: int, what: str, *arguments: Any) -> None:
        """Write a record to the journal; never waits for the store."""
        if self._owner != os.getpid():  # we are a fork: journal and recorder are our parent's
            for pipe in (self._wake, self._progress):
                os.close(pipe)
            if self._journal:
                self._journal.close()
            self._open = 0
            self._start()
        if self._journal is None:
            return
        self._journal.append(key, what, *arguments)
        with suppress(OSError):  # the recorder is busy, or gone: the journal has it
            os.write(self._wake, b".")

    def _end(self, key: int, about: RunInfo, status: str, state: str, tags: dict[str, str]) -> None:
        """Close a run; a trial of a sweep says what became of it."""
        if TRIAL_STATE in about.tags:
            tags = {**tags, TRIAL_STATE: state}
        if tags:
            self.send(key, "tags", tags)
        self.send(key, "end", status)
        self._open = max(0, self._open - 1)
        if not self._open and self._journal and self._journal.size > JOURNAL_BYTES:
            full, self._journal = self._journal, _new_journal()
            full.close()

    def close(self) -> None:
        """Wait until everything is recorded, as long as there is progress; the journal keeps the rest."""
        if self._owner != os.getpid() or self._journal is None:
            return
        try:
            self._journal.check()
        except OSError as error:
            _warn(f"the last records are lost: {self._journal.path} can't be written ({error.strerror})")
        self._journal.close()
        self._journal = None
        if not self._wait() and journal.mine():
            self._launch()  # it was killed: another delivers the rest
            if not self._wait():
                _tell_pending("the process that delivers them ended")

    def _wait(self) -> bool:
        """Wait for the recorder to end; say whether it did, and by itself."""
        os.close(self._wake)
        patience = MODEL_PATIENCE_SECONDS if project.keeps_models() else PATIENCE_SECONDS
        try:
            while select.select([self._progress], [], [], patience)[0]:
                if not os.read(self._progress, 1 << 16):  # the other end is closed
                    return self._process.wait(PATIENCE_SECONDS) == 0
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            pass
        finally:
            os.close(self._progress)
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
                _tell_pending("it did not take them in time")
        return True

    def _start(self) -> None:
        self._owner = os.getpid()
        self._journal = _new_journal()
        self._launch()
        atexit.register(self.close)

    def _launch(self) -> None:
        source = str(Path(frostline.__file__).parents[1])
        path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
        self._progress, told = os.pipe()
        woken, self._wake = os.pipe()
        os.write(self._wake, f"{name_of_this()}\n".encode())
        os.set_blocking(self._wake, False)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],  # -P: a queue.py in the user's folder is not imported
            stdin=woken,
            stdout=told,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for the training, which says what becomes of the run
        )
        os.close(told)
        os.close(woken)


class RecordedRun:
    """A run that is being recorded; implements `services.Recorded`."""

    def __init__(self, recorder: Recorder, key: int) -> None:
        self._recorder, self._key = recorder, key
        self.known: dict[str, str] = {}
        """Its tags."""
        self._of_phases: list[Charted] = []

    def planned(
        self, run: "Run", plan: "FreezePlan", network: "nn.Module", spec: "InputSpec", images: int
    ) -> None:
        """Record what will train when, at which rates and cost, as `frostline plan` says it, and draw it."""
        from frostline.planning.plan import of_run
        from frostline.planning.text import as_yaml

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
        self.known |= values
        self._recorder.send(self._key, "tags", dict(values))

    def started_from(self, sha256: str) -> None:
        """Name the run whose weights, known by their hash, this one starts from."""
        self._recorder.send(self._key, "started_from", sha256)

    def finished(self, folder: Path) -> None:
        """Record the files that the run leaves, draw its curves, and store its network if all are."""
        self._recorder.send(self._key, "files", contents(folder))
        if project.keeps_models() and all((folder / name).is_file() for name in FILES):
            self._recorder.send(self._key, "model", _copied(folder).name)


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
    """Return path in `folder` → content of the files that are recorded: all but weights and checksums."""
    every = folder.rglob("*")
    paths = sorted(path for path in every if path.suffix in RECORDED_FILES and path.name != SEAL)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _copied(folder: Path) -> Path:
    """The files that make a run, in a folder of their own until its network is stored."""
    place = project.scratch() / "models"
    place.mkdir(parents=True, exist_ok=True)
    copy = Path(tempfile.mkdtemp(dir=place, prefix="run-"))
    for name in FILES:
        shutil.copyfile(folder / name, copy / name)
    return copy


def _new_journal() -> Journal | None:
    try:
        return Journal()
    except OSError as error:
        _warn(f"nothing is recorded: {journal.folder()} can't be written ({error.strerror})")
        return None


def _said(error: BaseException) -> str:
    """What ended a run, for its tag."""
    if isinstance(error, SystemExit):
        return f"ended with status {error.code}"
    return str(error) or type(error).__name__


def _warn(sentence: str) -> None:
    print(f"frostline: warning: {sentence}", file=sys.stderr, flush=True)


def _tell_pending(reason: str) -> None:
    """Say what MLflow has not recorded."""
    if sentence := journal.sentence(reason):
        _warn(sentence)


# ── the process that records ────────────────────────────────────────────────────────────────────────────────


class Ears:
    """Hears of new records, and notes the machine's load while runs are open, whatever the store does.

    Args:
        stream: a pipe from the owner: its name and a line end, then a byte for each record.
    """

    def __init__(self, stream: int) -> None:
        self._stream = stream
        self.owner = _line(stream)
        self.news = threading.Event()
        self.closed_at: float | None = None
        """When the owner had no more to say."""
        self._loads: dict[tuple[Path, int], tuple[MachineLoad, Iterator[int]]] = {}
        self._read: dict[Path, int] = {}

    def listen(self) -> None:
        """Listen until the owner has no more to say."""
        while True:
            heard = select.select([self._stream], [], [], SILENCE_SECONDS)[0]
            if heard and not os.read(self._stream, 1 << 16):
                break
            self._look()
            self.news.set()
            time.sleep(PAUSE_SECONDS)
        self._look()
        self.closed_at = time.monotonic()
        self.news.set()

    def unheard(self, path: Path) -> bool:
        """Say whether a journal of the owner's has records that were not heard: the load may be added."""
        with suppress(FileNotFoundError):
            return path in self._read and self._read[path] < path.stat().st_size
        return False

    def _look(self) -> None:
        from frostline.tracking import machine_load
        from frostline.tracking.run_tags import surroundings

        ended: set[tuple[Path, int]] = set()
        for path in journal.mine(self.owner):
            if path not in self._read and journal.surroundings(path) is None:
                journal.add(path, -1, "surroundings", surroundings())
            for end, record in journal.read(path, self._read.get(path, 0)):
                self._read[path] = end
                place = path, record.run if record else -1
                match record.what if record else "":
                    case "begin" if record and machine_load.wanted() and _trains(record.arguments[0]):
                        self._loads[place] = machine_load.MachineLoad(), count()
                    case "end" if place in self._loads:
                        ended.add(place)
                    case "load" if place in ended:  # by a recorder before this one
                        ended.discard(place)
                        del self._loads[place]
        for place in ended:
            self._sample(place)
            del self._loads[place]
        for place, (load, _) in self._loads.items():
            if load.due:
                self._sample(place)

    def _sample(self, place: tuple[Path, int]) -> None:
        load, numbers = self._loads[place]
        path, run = place
        journal.add(path, run, "load", load.sample(), next(numbers))


def _line(stream: int) -> str:
    """Read a line from a pipe, byte by byte: the rest is for `select` to hear of."""
    line = b""
    while (byte := os.read(stream, 1)) not in (b"\n", b""):
        line += byte
    return line.decode()


def _trains(about: RunInfo) -> bool:
    return about.context == "training" and not about.late


class Patience:
    """Ends this process when the store is not worth waiting for: the journal keeps what it has not recorded.

    Args:
        ears: they say when the owner had no more to say.
        deliverer: at work.
    """

    def __init__(self, ears: Ears, deliverer: "Deliverer") -> None:
        self._ears, self._deliverer = ears, deliverer
        self._begun = time.monotonic()
        self.failing: str | None = None
        """Why the store can't record; None: it can."""
        self.may_pass = False
        self._told = False

    def watch(self) -> None:
        """Look after the delivery until it ends."""
        before, waited, failed = 0, 0.0, 0.0
        now = time.monotonic()
        while True:
            time.sleep(PAUSE_SECONDS)
            passed, now = time.monotonic() - now, time.monotonic()
            failed = failed + passed if self.failing else 0.0
            closed_at = self._ears.closed_at
            if closed_at is None:
                before = self._deliverer.delivered
                if failed > SAY_SECONDS and not self._told:
                    _tell_pending(f"{self.failing}; training continues")
                    self._told = True
                continue
            waited += 0.0 if self._deliverer.drawing else passed
            grace = max(project.wait_seconds(), GRACE_SHARE * (closed_at - self._begun))
            if self.may_pass and self._local:
                grace = PATIENCE_SECONDS
            slow = not self._local and self._deliverer.delivered - before < QUICK * waited
            if waited > grace and (slow or self.failing):
                self.give_up()

    def give_up(self) -> None:
        """End at once."""
        for path in journal.mine(self._ears.owner):
            journal.keep(path)
        _tell_pending(self.failing or "it is slow")
        sys.stderr.flush()
        os._exit(0)

    @property
    def _local(self) -> bool:
        return local_store.database() is not None


def serve(stream: int, progress: Callable[[], None] = lambda: None) -> None:
    """Deliver the owner's journals, and those that ended commands wrote, until the owner has no more to say.

    Plots are drawn when nothing else is to be done; in the end those of the best runs, for a while.

    Args:
        stream: the pipe from the owner.
        progress: told of each thing done.
    """
    ears = Ears(stream)
    with uncollected():
        from frostline.tracking.delivery import Deliverer, Unreachable
    deliverer = Deliverer(ears.owner, progress, ears.unheard)
    patience = Patience(ears, deliverer)
    for action in (ears.listen, patience.watch):
        threading.Thread(target=action, name=action.__qualname__, daemon=True).start()
    pause = RETRY_SECONDS
    while True:
        ears.news.clear()
        ended = ears.closed_at is not None
        try:
            deliverer.step(ended=ended)
            if not ended and deliverer.pictures and not ears.news.is_set():
                deliverer.draw()
                progress()
        except Unreachable as error:
            patience.may_pass, patience.failing = error.may_pass, str(error)
            time.sleep(RETRY_SECONDS if ears.closed_at else pause)
            pause = min(pause * RETRY_FACTOR, LAST_RETRY_SECONDS)
            continue
        patience.failing, pause = None, RETRY_SECONDS
        if ended:
            break
        time.sleep(PAUSE_SECONDS)
        if not deliverer.pictures:
            ears.news.wait(SILENCE_SECONDS)
    _draw(deliverer, progress)


def _draw(deliverer: "Deliverer", progress: Callable[[], None]) -> None:
    """Draw the plots of the best runs, for a while."""
    from frostline.tracking.delivery import Unreachable

    give_up = time.process_time() + PICTURES_SECONDS  # a busy machine costs no plots
    with suppress(Unreachable):
        while deliverer.pictures and time.process_time() < give_up:
            deliverer.draw()
            progress()
    if deliverer.pictures:
        print(
            f"frostline: MLflow has no plots of {deliverer.pictures} runs, since so many ended at once;"
            " the best have theirs",
            file=sys.stderr,
        )


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


if __name__ == "__main__":
    # It ends when the training has: a signal to all of a service's processes is for the training.
    for _number in ENDING:
        signal.signal(_number, signal.SIG_IGN)
    terminal.readable()
    os.nice(NICENESS)
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"  # the delivery tries again itself
    serve(sys.stdin.fileno(), _teller())
