"""Run folders: names of their files, verification, and whether another run may be written there."""

import csv
import io
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from frostline.base.formats import csv_text, flat, read_json, read_yaml
from frostline.base.hashes import sha256_cached
from frostline.console.errors import FrostlineError

CONFIG, WEIGHTS, TRAINING = FILES = ("config.yaml", "weights.safetensors", "training.json")
"""The files that a finished run must have."""
METRICS, PREDICTIONS, HISTORY = "metrics.json", "predictions.csv", "history.csv"
PROBE, HEADS = "probe.json", "heads.csv"
METADATA = "frostline"
"""The key of frostline's part of the metadata in a file of weights."""
PER_CLASS = "per_class.csv"
"""With several labels per image: threshold, average precision and F1 of each class."""
TEST_SETS, TEST_SET = "test_sets", "test_set.json"
"""A run's subfolder for results on further test sets, and the file there that says what was measured."""
OUTPUTS = (CONFIG, WEIGHTS, TRAINING, METRICS, PREDICTIONS, HISTORY, PER_CLASS, PROBE, HEADS)
"""All files that a run or a probe writes."""
CHECKPOINTS = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")
"""Endings of files with weights, of frostline and others."""
THRESHOLDS = "thresholds"
"""Key of training.json: the probability from which each label is predicted."""
NAMING_KEYS = ("study", "arm")
"""Keys of a run's config that its result does not depend on."""
PRETRAINED = "weights.path"
"""The config key of the initial weights; the folder of a pretraining is named by a hash of its config."""


def verified(folder: Path) -> dict[str, Any]:
    """Return the content of training.json in a run's folder, after verifying the weights' sha256.

    Raises:
        FrostlineError: a file is missing, or the weights are not those that the run trained.
    """
    record = read_json(folder / TRAINING)
    weights = folder / WEIGHTS
    if not isinstance(record, dict) or "weights_sha256" not in record:
        raise FrostlineError(f"{folder / TRAINING}: was not written by a frostline run; name another folder")
    if not weights.is_file():
        raise FrostlineError(f"{folder}: no finished run, {WEIGHTS} is missing; name another folder")
    if sha256_cached(weights) != record["weights_sha256"]:
        raise FrostlineError(
            f"{weights}: is damaged or was replaced, since its sha256 is not the one in {TRAINING};"
            " restore it (dvc checkout, or a copy), or run the command that trained it again"
        )
    return record


def classes_of(folder: Path) -> list[str]:
    """Return the classes that a run's weights name, without importing torch; empty: they name none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(folder / WEIGHTS), framework="numpy") as file:
            return list(json.loads((file.metadata() or {})[METADATA])["classes"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):  # reading the weights reports it
        return []


def check_config(folder: Path, record: Mapping[str, Any]) -> None:
    """Raise an error if a run's config.yaml was edited after the run.

    Args:
        record: the content of its training.json.
    """
    if sentence := edited_config(folder, record):
        raise FrostlineError(f"{sentence}, or accept the edited one with --force")


def edited_config(folder: Path, record: Mapping[str, Any]) -> str | None:
    """Return a sentence if a run's config.yaml is not the one that the run wrote."""
    expected = record.get("config_sha256")
    if expected is None or sha256_cached(folder / CONFIG) == expected:
        return None
    return (
        f"{folder / CONFIG}: was edited after the run, since its sha256 is not the one in {TRAINING};"
        f" undo the edit (MLflow has the original among the run's artifacts)"
    )


def check_out(
    out: Path, config: Mapping[str, Any], ignored: Collection[str] = (), grid: str | None = None
) -> None:
    """Raise an error if `out` contains another run, or files of another program.

    Args:
        out: the folder; may be missing.
        config: the config of the run that is to be written, as plain data.
        ignored: keys that may differ, such as ``optimizer.lr``.
        grid: the first columns of a probe's heads.csv; None for other runs.
    """
    there = [name for name in OUTPUTS if (out / name).exists()]
    if not there:
        return
    advice = "name another folder with out=, or overwrite it with --force"
    if CONFIG not in there:
        raise FrostlineError(f"out: {out} contains {there[0]}, but no {CONFIG} of a run; {advice}")
    try:
        written = read_yaml(out / CONFIG)
    except FrostlineError as error:
        raise FrostlineError(f"out: {error}; or {advice}") from None
    if not isinstance(written, dict) or "stage" not in written:
        raise FrostlineError(f"out: {out / CONFIG} was not written by a frostline run; {advice}")
    if (PROBE in there) != (grid is not None):
        what = "a probe" if PROBE in there else f"a run of {written['stage']}"
        raise FrostlineError(f"out: {out} contains {what}; {advice}")
    old, new = flat(written), flat(json.loads(json.dumps(config)))  # tuples become lists, as in YAML
    if new.get("weights.kind") == "pretrain":
        for values in (old, new):
            values[PRETRAINED] = Path(values[PRETRAINED]).parent.name if values.get(PRETRAINED) else None
        if new[PRETRAINED] is None:  # not known yet
            del old[PRETRAINED], new[PRETRAINED]
    for key in dict.fromkeys((*new, *old)):
        if key not in {*NAMING_KEYS, *ignored} and old.get(key) != new.get(key):
            said = f"{key} is {old.get(key)!r} there, {new.get(key)!r} here"
            raise FrostlineError(f"out: {out} contains a run with another config ({said}); {advice}")
    if grid is not None and _columns(out / HEADS, grid) != grid:
        raise FrostlineError(f"out: {out} contains a probe of other heads; {advice}")


def _columns(path: Path, like: str) -> str | None:
    """Return the CSV at `path` reduced to the columns of the CSV `like`."""
    names = next(csv.reader(io.StringIO(like)))
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            return csv_text(names, ([row[name] for name in names] for row in csv.DictReader(stream)))
    except (OSError, KeyError, UnicodeDecodeError):
        return None
