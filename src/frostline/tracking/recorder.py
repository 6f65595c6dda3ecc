"""The recorder process: it delivers a command's journal to MLflow while the command trains.

`tracking.tracker` starts it as `python -m frostline.tracking.recorder`, with a pipe from the command as its
standard input.
"""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.base import project
from frostline.console import terminal
from frostline.console.signals import ENDING
from frostline.tracking import journal, local_store
from frostline.training.garbage import uncollected
from frostline.training.services import RunInfo

if TYPE_CHECKING:
    from frostline.tracking.delivery import Deliverer
    from frostline.tracking.machine_load import MachineLoad

PATIENCE_SECONDS = 45.0
"""How long a command that is done waits for a store of this machine to take the next of its last records."""
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
                    journal.warn_pending(f"{self.failing}; training continues")
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
        journal.warn_pending(self.failing or "it is slow")
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
            if not ended and deliverer.pending_plots and not ears.news.is_set():
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
        if not deliverer.pending_plots:
            ears.news.wait(SILENCE_SECONDS)
    _draw(deliverer, progress)


def _draw(deliverer: "Deliverer", progress: Callable[[], None]) -> None:
    """Draw the plots of the best runs, for a while."""
    from frostline.tracking.delivery import Unreachable

    give_up = time.process_time() + PICTURES_SECONDS  # a busy machine costs no plots
    with suppress(Unreachable):
        while deliverer.pending_plots and time.process_time() < give_up:
            deliverer.draw()
            progress()
    if deliverer.pending_plots:
        print(
            f"frostline: MLflow has no plots of {deliverer.pending_plots} runs, since so many ended at once;"
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
    terminal.configure_streams()
    os.nice(NICENESS)
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"  # the delivery tries again itself
    serve(sys.stdin.fileno(), _teller())
