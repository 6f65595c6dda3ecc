"""Errors that a user can cause: one sentence that names the key or file, what is allowed and the fix."""

import difflib
from collections.abc import Iterable


class FrostlineError(ValueError):
    """A mistake in a config, a file or a command; the command line prints its text alone and exits with 2."""


class TrainingFailed(FrostlineError):
    """Training itself broke down (a loss that is not a number, no memory, a full disk); exits with 3."""


class GateFailed(FrostlineError):
    """A result is below the bound that the experiment sets; exits with 4."""


def allowed(name: str, options: Iterable[str], *, limit: int = 12) -> str:
    """Say which of `options` are nearest to `name`, or list them all where they are few.

    Returns a clause to end a sentence with, such as ``did you mean 'adamw'? (allowed: adam, adamw, sgd)``.
    """
    names = sorted({str(option) for option in options})
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    guess = f"did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    if not names:
        return "nothing is allowed here"
    if len(names) <= limit:
        listing = f"allowed: {', '.join(names)}"
        return f"{guess} ({listing})" if guess else listing
    return guess or f"{len(names)} names are allowed, such as {', '.join(names[:limit])}"
