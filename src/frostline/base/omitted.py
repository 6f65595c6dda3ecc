"""Omitted stages: where a study has no use for a stage, it writes the reason in place of its results.

dvc.yaml lists the stages of every arm. An arm that does not apply to the study is omitted.
"""

import shutil
from contextlib import suppress
from pathlib import Path

from frostline.base.files import publish, write_text
from frostline.base.formats import canonical_json, read_json

OMITTED = "omitted.json"


def write(out: Path, reason: str, timing: Path | None = None) -> None:
    """Write the reason into the folder `out`, and timings without seeds into `timing`."""
    shutil.rmtree(out, ignore_errors=True)
    with publish(out) as work:
        write_text(work / OMITTED, canonical_json({"reason": reason}))
    if timing is not None:
        write_text(timing, canonical_json({"seeds": {}}))


def reason_in(out: Path) -> str | None:
    """Return why the stage that made the folder `out` was omitted; None: it was not."""
    path = out / OMITTED
    return str(read_json(path)["reason"]) if path.is_file() else None


def remove_reason(out: Path) -> None:
    """Remove the reason from `out`, before results take its place."""
    with suppress(NotADirectoryError):  # `publish` refuses it with a sentence
        (out / OMITTED).unlink(missing_ok=True)
