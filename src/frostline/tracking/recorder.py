"""The recorder process: it delivers a command's journal to MLflow while the command trains.

`tracking.tracker` starts it as `python -m frostline.tracking.recorder`, with a pipe from the command as its
standard input.
"""

import os
import re
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.base import project
from frostline.base.processes import process_is_alive
from frostline.console import terminal
from frostline.console.signals import ENDING
from frostline.console.units import counted
from frostline.tracking import journal, local_store
from frostline.training.garbage import uncollected
from frostline.training.services import RunInfo

if TYPE_CHECKING:
    from frostline.tracking.delivery import Deliverer
    from frostline.tracking.machine_load import MachineLoad

PATIENCE_SECONDS = 45.0
"""A finished command waits this long for a store on this machine that another process has locked. After a
killed command, when nobody waits, the recorder tries a slow or failing store for this long."""
GRACE_SHARE = 0.005
"""A finished command waits for a slow server for this share of its run time, but at least for
`project.wait_seconds`. Together with its shutdown, a command of ten seconds or more waits for less than 1 %
of its run time."""
REQUEST_SECONDS = 0.05
"""A finished command waits for all records if the server takes less than this per request, on average."""
REQUEST_LINE = re.compile(rb"[A-Z]+ \S+ HTTP/1")
PLOT_CPU_SECONDS = 5.0
"""Limit of CPU time for plots after everything else is recorded."""
NICENESS = 10
"""Training has priority where cores are few."""
LOAD_CHECK_SECONDS = 1.0
"""The longest time between two checks whether a sample of the machine's load is due."""
PAUSE_SECONDS = 0.02
"""The shortest time between two reads of the journal."""
RETRY_SECONDS, LAST_RETRY_SECONDS, RETRY_FACTOR = 0.25, 15.0, 2.0
"""Pauses between attempts while the store fails: the first, the longest, and the factor between two."""
WARN_SECONDS = 20.0
"""A warning is printed during training if the store is unreachable for longer."""


class Listener:
    """Waits for new records, and samples the machine's load while runs are open, even if the store is slow.

    Args:
        stream: a pipe from the owner, the command whose runs are recorded. The owner sends its name, a
            newline, and then a byte per record.
    """

    def __init__(self, stream: int) -> None:
        self._stream = stream
        self.owner = _line(stream)
        self.news = threading.Event()
        self.closed = threading.Event()
        self.closed_at: float | None = None
        """When the owner closed the pipe."""
        self._loads: dict[tuple[Path, int], tuple[MachineLoad, Iterator[int]]] = {}
        self._positions: dict[Path, int] = {}
        """How far each journal was read."""

    def listen(self) -> None:
        """Listen until the owner closes the pipe."""
        while True:
            readable = select.select([self._stream], [], [], LOAD_CHECK_SECONDS)[0]
            if readable and not os.read(self._stream, 1 << 16):
                break
            self._read_journals()
            self.news.set()
            time.sleep(PAUSE_SECONDS)
        self._read_journals()
        self.closed_at = time.monotonic()
        self.closed.set()
        self.news.set()

    def may_grow(self, path: Path) -> bool:
        """Return whether the listener may append to a journal: it has unread records, and the end of a run
        among them adds a last sample of the machine's load.
        """
        with suppress(FileNotFoundError):
            return path in self._positions and self._positions[path] < path.stat().st_size
        return False

    def _read_journals(self) -> None:
        from frostline.tracking import machine_load
        from frostline.tracking.run_tags import environment_tags

        ended: set[tuple[Path, int]] = set()
        for path in journal.mine(self.owner):
            if path not in self._positions and journal.environment_tags(path) is None:
                journal.add(path, -1, "surroundings", environment_tags())
            for end, record in journal.read(path, self._positions.get(path, 0)):
                self._positions[path] = end
                place = path, record.run if record else -1
                match record.what if record else "":
                    case "begin" if record and machine_load.wanted():
                        about: RunInfo = record.arguments[0]
                        if about.context == "training" and not about.late:
                            self._loads[place] = machine_load.MachineLoad(), count()
                    case "end" if place in self._loads:
                        ended.add(place)
                    case "load" if place in ended:  # recorded by an earlier recorder process
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
    """Read a line from a pipe byte by byte, so that `select` still sees the rest."""
    line = b""
    while (byte := os.read(stream, 1)) not in (b"\n", b""):
        line += byte
    return line.decode()


class RequestCounter:
    """Counts the HTTP requests of this process by an audit hook, which Python can't remove."""

    def __init__(self) -> None:
        self.count = 0
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "http.client.send":  # request line and headers; the body is another event
            _, content = arguments
            self.count += isinstance(content, bytes) and REQUEST_LINE.match(content) is not None


class Watchdog:
    """Ends this process if the store is too slow; the journal keeps what is not recorded.

    Args:
        listener: knows when the owner closed the pipe.
    """

    def __init__(self, listener: Listener, deliverer: "Deliverer") -> None:
        self._listener, self._deliverer = listener, deliverer
        self._requests = RequestCounter()
        self._begun = time.monotonic()
        self.failing: str | None = None
        """The reason why the store can't record; None: it can."""
        self.transient = False
        """Whether the failure may be over soon."""
        self._warned = False

    def watch(self) -> None:
        """Watch the delivery until this process ends."""
        before, waited, failed = 0, 0.0, 0.0
        now, cpu = time.monotonic(), time.process_time()
        while True:
            time.sleep(PAUSE_SECONDS)
            passed, now = time.monotonic() - now, time.monotonic()
            own, cpu = time.process_time() - cpu, time.process_time()
            failed = failed + passed if self.failing else 0.0
            closed_at = self._listener.closed_at
            if closed_at is None:
                before = self._requests.count
                if failed > WARN_SECONDS and not self._warned:
                    journal.warn_pending(f"{self.failing}; training continues")
                    self._warned = True
                continue
            if not self._deliverer.drawing:
                waited += max(0.0, passed - own)  # what this process computes is not the server's delay
            grace = max(project.wait_seconds(), GRACE_SHARE * (closed_at - self._begun))
            if (self.transient and self._local) or not process_is_alive(self._listener.owner):
                grace = PATIENCE_SECONDS  # a killed command does not wait for this process
            requests = self._requests.count - before
            slow = not self._local and waited > REQUEST_SECONDS * (requests + 1)
            if waited > grace and (slow or self.failing):
                self.give_up()

    def give_up(self) -> None:
        """End this process at once."""
        for path in journal.mine(self._listener.owner):
            journal.sync_to_disk(path)
        journal.warn_pending(self.failing or "it is slow")
        sys.stderr.flush()
        os._exit(0)

    @property
    def _local(self) -> bool:
        return local_store.database() is not None


def serve(stream: int, progress: Callable[[], None] = lambda: None) -> None:
    """Deliver the journals of the owner and of commands that ended, until the owner closes the pipe.

    Plots are drawn while nothing else is pending. When the owner has closed the pipe, the plots of the best
    runs are drawn for a limited time.

    Args:
        progress: called after each record and plot.
    """
    listener = Listener(stream)
    with uncollected():
        from frostline.tracking.delivery import Deliverer, RetryLater
    deliverer = Deliverer(listener.owner, progress, listener.may_grow)
    watchdog = Watchdog(listener, deliverer)
    for action in (listener.listen, watchdog.watch):
        threading.Thread(target=action, name=action.__qualname__, daemon=True).start()
    pause = RETRY_SECONDS
    while True:
        listener.news.clear()
        ended = listener.closed_at is not None
        try:
            deliverer.step(ended=ended)
            if not ended and deliverer.pending_plots and not listener.news.is_set():
                deliverer.draw()
                progress()
        except RetryLater as error:
            watchdog.transient, watchdog.failing = error.transient, str(error)
            if ended:
                time.sleep(RETRY_SECONDS)
            elif listener.closed.wait(pause):
                watchdog.failing = None  # attempt it once more before giving up
            pause = min(pause * RETRY_FACTOR, LAST_RETRY_SECONDS)
            continue
        watchdog.failing, pause = None, RETRY_SECONDS
        if ended:
            break
        time.sleep(PAUSE_SECONDS)
        if not deliverer.pending_plots:
            listener.news.wait(LOAD_CHECK_SECONDS)
    _draw(deliverer, progress)


def _draw(deliverer: "Deliverer", progress: Callable[[], None]) -> None:
    """Draw the plots of the best runs for a limited time."""
    from frostline.tracking.delivery import RetryLater

    give_up = time.process_time() + PLOT_CPU_SECONDS  # CPU time: a busy machine draws as many plots
    why = "many ended at once; the best runs have theirs"
    try:
        while deliverer.pending_plots and time.process_time() < give_up:
            deliverer.draw()
            progress()
    except RetryLater:
        why = "its store failed"
    if deliverer.pending_plots:
        runs = counted(deliverer.pending_plots, "run")
        print(f"frostline: MLflow has no plots of {runs}, since {why}", file=sys.stderr)


def _progress_pipe() -> Callable[[], None]:
    """Return a function that reports progress through standard output, a pipe to the owner.

    The owner reads the pipe only at its own end. Until then the pipe may be full, so writes do not block.
    After this call, the rest of this process can't print to standard output.
    """
    pipe = os.dup(sys.stdout.fileno())
    os.set_blocking(pipe, False)
    with Path(os.devnull).open("w") as null:
        os.dup2(null.fileno(), sys.stdout.fileno())

    def report() -> None:
        with suppress(OSError):
            os.write(pipe, b".")

    return report


if __name__ == "__main__":
    # A terminal or a service manager signals the whole process group. The training ends then, while this
    # process still delivers its last records.
    for _number in ENDING:
        signal.signal(_number, signal.SIG_IGN)
    terminal.configure_streams()
    os.nice(NICENESS)
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"  # the delivery retries itself
    serve(sys.stdin.fileno(), _progress_pipe())
