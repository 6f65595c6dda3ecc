"""A sweep from its overrides to its results: makes the study, sends workers off, gathers what they did."""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from frostline.base import project
from frostline.base.formats import read_json
from frostline.base.hashes import content_key, sha256_of
from frostline.base.locks import exclusive
from frostline.base.processes import sharing_cores
from frostline.base.sharing import Share, share_of
from frostline.config import compose
from frostline.config.compose import FailedJob, SweepJob, SweepTask
from frostline.config.space import Point, Space, as_overrides
from frostline.console.errors import FrostlineError, OutOfResources, ResourceLocked, TrainingFailed
from frostline.pipeline import standalone
from frostline.schema import Sweep
from frostline.sweeps import best as winner
from frostline.sweeps import live, summary
from frostline.sweeps.storage import store_failures
from frostline.sweeps.study import Study, drawing
from frostline.sweeps.trial import ENDED, PROCESS, TRANSIENT, Trial
from frostline.sweeps.worker import CONFIG, Worker, label_of, objectives_of, results_of, stopped_by

Launch = Callable[[Worker, Sequence[str], int], None]
LOSSES = 3
"""Launches in a row that lose workers, without a trial between that ended, after which a sweep gives up."""
POLL_SECONDS = 1.0
WEIGHTS, METRICS = "weights.safetensors", "metrics.json"
"""Of a run's folder."""
EACH_EPOCH = ("val/accuracy", "val/loss")
"""The objectives that a trial reports while it runs."""


class WorkersLostError(Exception):
    """A launcher could not send workers off, or some of them were lost on the way.

    Args:
        cause: what the launcher raised.
    """

    def __init__(self, cause: Exception) -> None:
        (first, *_) = str(cause).strip().splitlines() or [""]
        super().__init__(f"{type(cause).__name__}: {first}"[:200].removesuffix(": "))


@store_failures()
def sweep(job: SweepTask, arguments: Sequence[str], launch: Launch | None, launcher: str = "") -> list[Any]:
    """Run a sweep, or go on with one.

    Args:
        job: what runs a trial.
        arguments: overrides as Hydra spells them.
        launch: sends off workers; None: one works here.
        launcher: the class of what does.

    Returns:
        A `standalone.Done`, `compose.FailedJob` or `standalone.Stopped` for each trial, in their order.

    Raises:
        FrostlineError: the settings don't fit, or a combination of a grid is wrong, before anything runs; or
            the study's store fails.
    """
    fixed, space, settings = compose.space_of(arguments)
    check(settings)
    share = share_of(launcher, int(settings.workers))
    # By default trials have as many threads as a worker has cores: here, too, where they are planned.
    with sharing_cores(share.workers):
        return _sweep(job, fixed, space, settings, launch, share)


def _sweep(
    job: SweepTask, fixed: list[str], space: Space, settings: Sweep, launch: Launch | None, share: Share
) -> list[Any]:
    grid = settings.sampler.kind == "grid"
    points = space.combinations()[: settings.trials] if grid else [space.first()]
    experiments = compose.compose_points(fixed, [as_overrides(point) for point in points])
    base = experiments[0][0].model_dump(exclude={"sweep", "study"})
    if isinstance(job.task, standalone.Job):  # trials on other data, or from other weights, are not mixed in
        base["inputs"] = job.task.inputs([experiment for experiment, _ in experiments])
    stage = getattr(job.task, "stage", "sweep")
    name = settings.name or f"{stage}-{content_key([base, space.to_data(), drawing(settings)])[:8]}"
    if not any(text.startswith("study=") for text in fixed):
        fixed = [*fixed, f"study={name}"]
        experiments = [(each.model_copy(update={"study": name}), chosen) for each, chosen in experiments]

    study = Study(name, settings, space, base)
    study.begin(fresh=job.fresh)
    if count := study.try_again(_failed_in_passing):
        why = "they ran out of memory or disk, or the resource was locked by another process"
        print(f"frostline: trials that are run again, since {why}: {count}", file=sys.stderr)
    if isinstance(job.task, standalone.Job) and (count := study.try_again(_run_is_gone)):
        why = "their folders are gone or hold another run"
        print(f"frostline: trials that are run again, since {why}: {count}", file=sys.stderr)
    if grid and launch is None and settings.workers == 1 and settings.pruner.kind == "none":
        # Of two commands at once the second finds what the first has done.
        with exclusive(project.scratch() / "locks" / f"sweep-at-once-{content_key(name)[:16]}.lock"):
            missing = study.missing()
            jobs = [
                SweepJob(label_of(point), *experiment)
                for point, experiment in zip(points, experiments, strict=True)
                if point in missing
            ]
            # Another sweep may be writing to one of the folders: then each trial waits for its own.
            with suppress(ResourceLocked):
                job.at_once(jobs, lambda number, done: _take_in(study, missing[number], done))
            study.fill()  # before another command looks for what is missing
    study.fill()
    until = time.time() + 60 * settings.minutes if settings.minutes else None
    worker = Worker(job.task, name, settings, space, tuple(fixed), base, until, launch is None, share)
    first = [*fixed, *as_overrides(space.first())]
    send = worker if launch is None else lambda: launch(worker, first, int(settings.workers))
    with live.shown(Study(name, settings, space, base), len(points) if grid else settings.trials, until):
        _work_off(study, worker, send)
    if kind := stopped_by(study, settings.failures):
        print(
            f"frostline: the sweep stopped, since {settings.failures} trials failed alike: {kind};"
            " sweep.failures allows more",
            file=sys.stderr,
        )
    trials = [trial for trial in study.trials() if not trial.superseded]
    if best := winner.best_of(trials, settings):
        ((composed, choices),) = compose.compose_points(fixed, [as_overrides(best.point)])
        if path := winner.write(name, stage, best, len(trials), composed, choices):
            print(f"the best, again: frostline {stage} experiment={path.stem}", file=sys.stderr)
    left = summary.leave(name, trials, space, settings, study.importances())
    print(f"table and pictures: {left / summary.PAGE}", file=sys.stderr)
    if grid:
        trials = sorted((t for t in trials if t.point in points), key=lambda trial: points.index(trial.point))
    return [_result(trial) for trial in trials if _ended(trial)]


def check(settings: Sweep) -> None:
    """Refuse settings that don't go together.

    Raises:
        FrostlineError: a pruner can't judge by the objectives, or there is no end.
    """
    if settings.pruner.kind != "none":
        if len(settings.objectives) > 1:
            raise FrostlineError("sweep.pruner: can't weigh several objectives; set sweep.pruner.kind=none")
        if settings.objectives[0] not in EACH_EPOCH:
            raise FrostlineError(
                f"sweep.pruner: {settings.objectives[0]} is not measured after each epoch, as"
                f" {' and '.join(EACH_EPOCH)} are; set sweep.pruner.kind=none, or another objective"
            )
    if settings.sampler.kind != "grid" and settings.trials is None and settings.minutes is None:
        raise FrostlineError("sweep: has no end; set sweep.trials, or sweep.minutes")


def _work_off(study: Study, worker: Worker, send: Callable[[], None]) -> None:
    """Send workers off until no trial is left, though some of them, and their machines, may be lost.

    Raises:
        FrostlineError: none can start, or they are lost again and again.
    """
    killed, in_vain = _count(study, _killed), 0
    while True:
        begun, ended, lost = _count(study, _begun), _count(study, _ended), ""
        try:
            send()
        except WorkersLostError as error:
            lost, left = str(error), study.left()
            if left.open and not left.running and _count(study, _begun) == begun:
                raise FrostlineError(
                    f"hydra/launcher: no worker could start ({lost}); docs/scale.md says what launchers need"
                ) from None
        trials = _settled(study, worker, lost=bool(lost))
        if not trials:
            break
        in_vain = in_vain + 1 if _count(study, _ended) == ended else 0
        why = f"workers were lost ({lost})" if lost else "trials were left by processes that died"
        if in_vain == LOSSES:
            raise FrostlineError(
                f"sweep: {why}, {LOSSES} times without a trial between that ended; the same command goes on"
                f" with what is left: {trials}"
            )
        print(f"frostline: {why}; workers are sent again for what is left: {trials}", file=sys.stderr)
    if again := _count(study, _killed) - killed:
        print(f"frostline: trials whose process died, and that were run again: {again}", file=sys.stderr)


def _settled(study: Study, worker: Worker, *, lost: bool) -> int:
    """Return how many trials may be taken; while there is none, wait for those that run: they may die.

    Args:
        lost: some workers are; others may go on, between two trials for a moment. They are waited for.
    """
    told, idle = False, 0
    while True:
        over, left = worker.over(study), study.left()
        idle = 0 if left.running else idle + 1
        if idle > 1 if lost else over or left.open or not left.running:
            return 0 if over else left.open
        if not told and left.running:
            told = True
            print(f"frostline: waiting for trials that run elsewhere: {left.running}", file=sys.stderr)
        time.sleep(POLL_SECONDS)


def _count(study: Study, which: Callable[[Trial], bool]) -> int:
    return sum(map(which, study.trials()))


def _begun(trial: Trial) -> bool:
    return PROCESS in trial.user_attrs


def _ended(trial: Trial) -> bool:
    return trial.state in ENDED and not trial.superseded


def _killed(trial: Trial) -> bool:
    return trial.superseded


def _failed_in_passing(trial: Trial) -> bool:
    return trial.state == "failed" and bool(trial.user_attrs.get(TRANSIENT))


def _run_is_gone(trial: Trial) -> bool:
    """Whether the folder that a complete trial names has not the run that the trial was."""
    if trial.state != "complete":
        return False
    folder = Path(trial.user_attrs["out"])
    try:
        config = trial.user_attrs.get(CONFIG)
        return (
            not (folder / WEIGHTS).is_file()
            or read_json(folder / METRICS) != trial.user_attrs["metrics"]
            or (config is not None and sha256_of(folder / CONFIG) != config)
        )
    except (FrostlineError, OSError):
        return True


def _take_in(study: Study, point: Point, done: standalone.Done) -> None:
    """Note a trial that was run at once with others."""
    study.add(point, objectives_of(done.metrics, study.settings), results_of(done))


def _result(trial: Trial) -> Any:
    label, notes = label_of(trial.point), trial.user_attrs
    match trial.state:
        case "complete":
            return standalone.Done(notes["name"], Path(notes["out"]), notes["metrics"])
        case "pruned":
            return standalone.Stopped(label)
    broke_down = str(notes.get("kind", "")).startswith((TrainingFailed.__name__, OutOfResources.__name__))
    kind = TrainingFailed if broke_down else FrostlineError
    return FailedJob(label, kind(notes.get("reason", "")))
