"""`frostline sync`: delivers the records that MLflow could not take when they were made."""

import time
from collections import Counter

from frostline.base import project
from frostline.console.errors import FrostlineError
from frostline.tracking import journal
from frostline.training.garbage import uncollected

PATIENCE_SECONDS = 10.0
"""How long `sync` retries a store that fails."""
READ_PATIENCE_SECONDS = 2.0
"""The same before a command that reads the store, at least."""
RETRY_SECONDS, RETRY_FACTOR = 0.25, 2.0


def run() -> None:
    """Deliver the pending records and print their number and what remains.

    Raises:
        FrostlineError: the store can't be reached.
    """
    where = project.store_uri_without_password()
    pending = [item for item in journal.pending() if item.for_this_store and (item.records or not item.live)]
    if pending:
        delivered, reason = _deliver(PATIENCE_SECONDS)
        if reason:
            remaining = sum(item.records for item in journal.pending() if item.for_this_store)
            raise FrostlineError(
                f"sync: {remaining} records wait in {journal.folder()}: MLflow at {where} can't record them"
                f" ({reason}); check the store with frostline doctor, then run frostline sync again"
            )
        print(f"{where}: delivered {delivered} records")
    else:
        print(f"{where}: nothing is pending")
    elsewhere: Counter[tuple[str, str]] = Counter()
    for item in journal.pending():
        if not item.for_this_store:
            elsewhere[item.header.store, item.command] += item.records
    for (store, command), count in elsewhere.items():
        print(f"{count} records wait for {store}: {command}")


def deliver_pending() -> None:
    """Deliver the pending records before a command reads the store, or warn that it does not see them."""
    if any(item.for_this_store and not item.live for item in journal.pending()):
        _, reason = _deliver(max(project.wait_seconds(), READ_PATIENCE_SECONDS))
        if reason:
            journal.warn_pending(reason)


def _deliver(patience: float) -> tuple[int, str | None]:
    """Deliver the pending records; return how many were delivered, and why not all of them."""
    with uncollected():
        from frostline.tracking.delivery import Deliverer, RetryLater
    deliverer = Deliverer()
    pause, give_up, before = RETRY_SECONDS, time.monotonic() + patience, 0
    while True:
        try:
            deliverer.step()
            while deliverer.pending_plots:
                deliverer.draw()
            return deliverer.delivered, None
        except RetryLater as error:
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
