"""`frostline evaluate RUN`: measure a finished run again, on images that it was not trained on."""

import math
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.base import project
from frostline.base.files import publish
from frostline.base.formats import read_csv, read_json, read_yaml
from frostline.base.metrics import headline
from frostline.base.run_folder import CONFIG, FILES, METRICS, PER_CLASS, PREDICTIONS, check_config, verified
from frostline.console.errors import FrostlineError
from frostline.pipeline import session, standalone
from frostline.schema import Measurement, Prepare, Run, Tta
from frostline.schema.validation import validated
from frostline.training.services import Evaluation, Services, Tracker

if TYPE_CHECKING:
    from frostline.data.prepared.index import Index

Metrics = Mapping[str, Mapping[str, float]]
ROUNDING = 1e-5
"""Largest relative difference between measurements of a network in batches of different sizes."""
NAMED = 3
"""Number of images that an error names, at most."""


def run(folder: Path, out: Path | None, *, force: bool = False, tta: str | None = None) -> Metrics:
    """Measure a finished run's network again, with the data set that its config.yaml names.

    If images were added to the data set since, or removed from its other splits, only the run's own test
    images are measured: the new test split may have images that the run trained on.

    Args:
        out: the folder of the metrics and predictions; None: the run's.
        force: overwrite other metrics, and accept an edited config.yaml.
        tta: test-time augmentation, ``none`` for none of it; None: the run's.

    Raises:
        FrostlineError: there is no finished run in `folder`; it, its config or its test images have changed;
            other metrics would be overwritten; or metrics that are not the run's would be written to it; or
            `out` is None and the run is an output of the study in artifacts/.
    """
    config, record = finished(folder, force=force)
    if out is None:
        check_not_of_study(folder)
    if tta is not None and (other := tta_of(tta)) != config.tta:
        if out is None:
            raise FrostlineError(
                f"--tta: found {tta}, but evaluate.tta is {config.tta or 'none'} in the config of {folder};"
                " name another folder with --out"
            )
        config = config.with_tta(other)
    index, data = standalone.prepared_from(Prepare.of(config.dataset, config.input))
    own = own_test(folder, record, index)

    def measure(work: Path, services: Services) -> Metrics:
        from frostline.data.prepared.index import PreparedData
        from frostline.evaluation import evaluate

        say_if_slow(config, services)
        if own is None:
            return evaluate.measure(config, data, folder, work, services)
        return evaluate.measure_test(config, PreparedData(config.dataset, own, data), folder, work, services)

    return written(out or folder, measure, force=force)


def say_if_slow(config: Run, services: Services) -> None:
    """Say so where a run's CPU threads are slow: their number is part of its results, so it is kept."""
    from frostline.features.execution import device_of
    from frostline.training import machine

    if device_of(config.trainer.device).type == "cpu":
        fix = "wait until they end, or train with trainer.threads=1"
        if reason := machine.why_slow(config.trainer.threads, fix=fix):
            services.say(f"frostline: warning: {reason}")


def finished(folder: Path, *, force: bool) -> tuple[Run, dict[str, Any]]:
    """Return the config of a finished run, and the content of its training.json.

    Args:
        force: accept an edited config.yaml.

    Raises:
        FrostlineError: there is no finished run in `folder`, or its weights or config have changed.
    """
    for name in FILES:
        if not (folder / name).is_file():
            raise FrostlineError(f"{folder}: no finished run, {name} is missing; name another folder")
    record = verified(folder)
    if not force:
        check_config(folder, record)
    return validated(Run, read_yaml(folder / CONFIG), str(folder / CONFIG)), record


def check_not_of_study(folder: Path) -> None:
    """Refuse to write into the folder of a run that is an output of the study in artifacts/."""
    if (project.find_root() / "artifacts").resolve() in folder.resolve().parents:
        raise FrostlineError(
            f"{folder}: is an output of the study, which DVC would find changed; name a folder for the"
            " metrics with --out"
        )


def tta_of(text: str) -> Tta | None:
    """Return the test-time augmentation that an option names; None: ``none``."""
    return Measurement.model_validate({"tta": text}).tta


def written(target: Path, measure: Callable[[Path, Services], Metrics], *, force: bool) -> Metrics:
    """Publish what `measure` writes in `target`, and record it.

    Args:
        measure: called with the folder to write into, and the services.
        force: whether to overwrite other metrics in `target`.

    Raises:
        FrostlineError: `target` has other metrics.
    """
    with session.writing(target):
        services, waiting = session.make_services(), _Waiting()
        with publish(target) as work:
            measured = measure(work, replace(services, tracker=waiting))
            recorded = _recorded(target)
            if recorded and not force:
                _compare(target, recorded, measured)
            for evaluation in waiting.evaluations:
                services.tracker.annotate(evaluation)
            if recorded and not force and recorded != measured:  # they differ by rounding, or in other splits
                for name in (METRICS, PREDICTIONS, PER_CLASS):
                    (work / name).unlink(missing_ok=True)
        return measured


class _Waiting(Tracker):
    """Collects evaluations until it is certain that they are published."""

    def __init__(self) -> None:
        self.evaluations: list[Evaluation] = []

    def annotate(self, evaluation: Evaluation) -> None:
        self.evaluations.append(evaluation)


def own_test(folder: Path, record: Mapping[str, Any], index: "Index") -> "Index | None":
    """Return the data set's index with the run's own test split; None: it is still the index that it has.

    Raises:
        FrostlineError: some of the run's test images are missing, or have changed.
    """
    data = record.get("data")
    if not data or data["fingerprint"] == index.fingerprint:
        return None
    counts = f"{data['images']} images then, {len(index)} now"
    advice = "restore them, or train again"
    if not (folder / PREDICTIONS).is_file() or index.held_out != "test":
        raise FrostlineError(
            f"{folder}: the data set has changed since the run ({counts}), which does not say what its test"
            " images were; restore the data set, or train again"
        )
    keys = [row["id"] for row in read_csv(folder / PREDICTIONS, ["id"])]
    places = {key: place for place, key in enumerate(index.keys)}
    if missing := [key for key in keys if key not in places]:
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        raise FrostlineError(
            f"{folder}: {len(missing)} of its {len(keys)} test images are missing from the data set"
            f" ({', '.join(missing[:NAMED])}{more}; {counts}); {advice}"
        )
    import numpy as np

    rows = np.array([places[key] for key in keys])
    if index.digest(rows) != data["held_out"]:
        raise FrostlineError(
            f"{folder}: some of its {len(keys)} test images have another content or class than they had"
            f" ({counts}), or {PREDICTIONS} was edited; {advice}"
        )
    splits = np.where(index.splits == "test", "none", index.splits)
    splits[rows] = "test"
    print(
        f"frostline: the data set has changed since the run ({counts}): only the run's own {len(keys)} test"
        " images are measured",
        file=sys.stderr,
    )
    return replace(index, splits=splits)


def _recorded(folder: Path) -> Metrics:
    """Return the metrics in a folder; empty if there are none, or they can't be read."""
    with suppress(FrostlineError):
        metrics = read_json(folder / METRICS)
        if isinstance(metrics, dict) and all(isinstance(part, dict) for part in metrics.values()):
            return metrics
    return {}


def _compare(folder: Path, old: Metrics, new: Metrics) -> None:
    """Refuse to overwrite metrics with different ones."""
    differing = [
        (split, name)
        for split, metrics in new.items()
        for name, value in metrics.items()
        if not _alike(old.get(split, {}).get(name), value)
    ]
    if differing:
        split, name = differing[0]
        shown = headline(new[split])
        values = (f"{part.get(split, {}).get(shown)!r}" for part in (old, new))
        raise FrostlineError(
            "{}: {} says {} {} {}, measured now it is {} ({}/{} differs); name another folder with"
            " --out, or overwrite it with --force".format(folder, METRICS, split, shown, *values, split, name)
        )


def _alike(old: float | None, new: float | None) -> bool:
    if old is None or new is None:
        return old == new
    return math.isclose(old, new, rel_tol=ROUNDING, abs_tol=ROUNDING)
