"""MLflow's errors: which are final, and what they say in a few words."""

import re

from frostline.base import project
from frostline.console.errors import FrostlineError

REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE")
"""MLflow's error codes that the same request would get again."""


def reason(error: Exception) -> str:
    """Return in a few words why MLflow can't record, without passwords."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, FrostlineError):
        return text.partition(";")[0]
    if status := re.search(r"too many (\d+) error responses", text):
        return f"it answers with status {status[1]}"
    if "Connection aborted" in text:
        return "it closes the connection"
    cause: BaseException | None = error
    while cause:
        if isinstance(cause, TimeoutError):
            return "it does not answer"
        if isinstance(cause, OSError) and cause.strerror:
            return f"{cause.filename}: {cause.strerror}" if cause.filename else cause.strerror
        cause = cause.__cause__ or cause.__context__
    return project.without_password(text.splitlines()[0].partition(" with exception ")[0])[:200]
