"""`frostline sync`: delivers what MLflow could not record when it happened."""

import time
from collections import Counter

from frostline.base import project
from frostline.console.errors import FrostlineError
from frostline.tracking import journal
from frostline.training.garbage import uncollected

PATIENCE_SECONDS = 10.0
"""How long `sync` tries a store that fails."""
RETRY_SECONDS, RETRY_FACTOR = 0.25, 2.0


def run() -> None:
    """Deliver what is pending, and say what was and what is left.

    Raises:
        FrostlineError: the store can't be reached.
    """
    where = project.store_uri_without_password()
    pending = [found for found in journal.pending() if found.here and (found.records or not found.live)]
    if pending:
        delivered, reason = _deliver(PATIENCE_SECONDS)
        if reason:
            left = sum(found.records for found in journal.pending() if found.here)
            raise FrostlineError(
                f"sync: {left} records wait in {journal.folder()}: MLflow at {where} can't record them"
                f" ({reason}); see that it runs (frostline doctor), and run frostline sync again"
            )
        print(f"{where}: delivered {delivered} records")
    else:
        print(f"{where}: nothing is pending")
    elsewhere: Counter[tuple[str, str]] = Counter()
    for found in journal.pending():
        if not found.here:
            elsewhere[found.header.store, found.command] += found.records
    for (store, command), count in elsewhere.items():
        print(f"{count} records wait for {store}: {command}")


def first() -> None:
    """Deliver what is pending before a command reads the store, or warn that it does not see it."""
    if any(found.here and not found.live for found in journal.pending()):
        _, reason = _deliver(project.wait_seconds())
        if reason:
            journal.warn_pending(reason)


def _deliver(patience: float) -> tuple[int, str | None]:
    """Deliver what is pending; return how many records were, and why not all, if so."""
    with uncollected():
        from frostline.tracking.delivery import Deliverer, Unreachable
    deliverer = Deliverer()
    pause, give_up, before = RETRY_SECONDS, time.monotonic() + patience, 0
    while True:
        try:
            deliverer.step()
            while deliverer.pending_plots:
                deliverer.draw()
            return deliverer.delivered, None
        except Unreachable as error:
            if deliverer.delivered > before:
                before, give_up = deliverer.delivered, time.monotonic() + patience
            if time.monotonic() > give_up:
                return deliverer.delivered, str(error)
            time.sleep(pause)
            pause *= RETRY_FACTOR
        except OSError as error:
            raise FrostlineError(
                f"{error.filename or journal.folder()} can't be written ({error.strerror}); make it writable"
            ) from None
