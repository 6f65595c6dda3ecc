"""Runs a sweep: creates the study, starts workers, writes the results."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, get_args

from frostline.base import project
from frostline.base.code import code_versions
from frostline.base.formats import read_json
from frostline.base.hashes import content_key, sha256_of
from frostline.base.locks import exclusive
from frostline.base.metrics import measured_metrics, monitors
from frostline.base.processes import sharing_cores
from frostline.base.run_folder import CONFIG, METRICS, WEIGHTS
from frostline.base.sharing import Share, share_of
from frostline.config import compose
from frostline.config.compose import FailedJob, SweepJob, SweepTask
from frostline.config.resolvers import fitting_monitor
from frostline.config.space import Point, Space, as_overrides
from frostline.console import signals
from frostline.console.errors import FrostlineError, OutOfResources, ResourceLocked, TrainingFailed, allowed
from frostline.pipeline import session, standalone, unread
from frostline.schema import Experiment, Sweep
from frostline.schema.sweep import Objective
from frostline.sweeps import best, live, summary
from frostline.sweeps.storage import store_failures
from frostline.sweeps.study import Study, sampling_config
from frostline.sweeps.trial import BATCHED, ENDED, PROCESS, TRANSIENT, Trial
from frostline.sweeps.worker import Worker, label_of, objectives_of, repeated_failure, results_of

Launch = Callable[[Worker, Sequence[str], int], None]
LOSSES = 3
"""Launches in a row that lose workers while no trial ends, after which a sweep gives up."""
POLL_SECONDS = 1.0


class WorkersLostError(Exception):
    """A launcher could not start workers, or lost some of them."""

    def __init__(self, cause: Exception) -> None:
        (first, *_) = str(cause).strip().splitlines() or [""]
        super().__init__(f"{type(cause).__name__}: {first}"[:200].removesuffix(": "))


@dataclass(frozen=True)
class Plan:
    """A sweep before it runs: its study, search space and composed experiments."""

    name: str
    """The study's name."""
    stage: str
    """The command that runs a trial."""
    fixed: list[str]
    """The overrides that all trials have in common."""
    space: Space
    settings: Sweep
    points: list[Point]
    """All points of a grid; for another sampler, `Space.examples`."""
    experiments: list[tuple[Experiment, dict[str, str]]]
    """The composed experiment and the chosen options of each point."""
    base: dict[str, Any]
    """Everything else that results depend on."""

    @property
    def grid(self) -> bool:
        """Whether the sampler is a grid."""
        return self.settings.sampler.kind == "grid"

    @property
    def trials(self) -> int | None:
        """The number of trials that the sweep will have; None: it ends by time alone."""
        return len(self.points) if self.grid else self.settings.trials

    def study(self) -> Study:
        """Return a connection to the study."""
        return Study(self.name, self.settings, self.space, self.base)


@store_failures()
def sweep(job: SweepTask, arguments: Sequence[str], launch: Launch | None, launcher: str = "") -> list[Any]:
    """Run a sweep, or resume one.

    Args:
        arguments: overrides in Hydra's syntax.
        launch: starts workers; None: this process is the only worker.
        launcher: the class name of the launcher.

    Returns:
        A `standalone.Done`, `compose.FailedJob` or `standalone.Stopped` for each trial, in their order.

    Raises:
        FrostlineError: the config is inconsistent, or a point of a grid is invalid, before anything runs; or
            the study's store fails.
    """
    fixed, space, settings = compose.space_of(arguments)
    check(settings)
    share = share_of(launcher, int(settings.workers))
    # By default, `trainer.threads` is a worker's share of the cores. It is set when a config is composed, so
    # this process composes with the workers' share.
    with sharing_cores(share.workers):
        return _sweep(job, _plan(job, fixed, space, settings), launch, share)


def _plan(job: SweepTask, fixed: list[str], space: Space, settings: Sweep) -> Plan:
    grid = settings.sampler.kind == "grid"
    # What identifies the study is the same for each number of trials, since a grid may be extended.
    examples = space.examples()
    points = space.combinations()[: settings.trials] if grid else examples
    # A point takes 10 ms, and most examples are points.
    words = list(dict.fromkeys(tuple(as_overrides(point)) for point in [*points, *examples]))
    composed = dict(zip(words, compose.compose_points(fixed, words), strict=True))
    experiments = [composed[tuple(as_overrides(point))] for point in points]
    composed_examples = [composed[tuple(as_overrides(point))][0] for point in examples]
    # Of every option, since each is a file that may be edited between two commands.
    dumps = (example.model_dump(exclude={"sweep", "study"}) for example in composed_examples)
    base: dict[str, Any] = {"experiments": sorted({content_key(dump) for dump in dumps})}
    if isinstance(job.task, standalone.Job):  # trials on other data or weights belong to another study
        base["inputs"] = job.task.inputs(composed_examples)
    stage = getattr(job.task, "stage", "sweep")
    if stage == "pretrain":
        unread.check_space(stage, [parameter.key for parameter in space.parameters])
        if not any(text.startswith("sweep.objectives=") for text in fixed):
            settings = _for_pretraining(settings, experiments[0][0])
    check_objectives(settings, experiments[0][0], stage)
    _note_other_monitor(settings, experiments[0][0], stage)
    key = content_key([base, space.to_data(), sampling_config(settings)])
    name = settings.name or f"{stage}-{key[:8]}"
    if not any(text.startswith("study=") for text in fixed):
        fixed = [*fixed, f"study={name}"]
        experiments = [
            (composed.model_copy(update={"study": name}), choices) for composed, choices in experiments
        ]
    return Plan(name, stage, fixed, space, settings, points, experiments, base)


def _sweep(job: SweepTask, plan: Plan, launch: Launch | None, share: Share) -> list[Any]:
    settings, study = plan.settings, plan.study()
    trained = isinstance(job.task, standalone.Job)
    study.begin(fresh=job.fresh, code=content_key(code_versions(plan.stage)) if trained else "")
    _retry(study, _failed_transiently, "they ran out of memory or disk, or found a resource locked")
    if trained:
        _retry(study, _run_is_lost, "their folders are gone or hold another run")
    if plan.grid and launch is None and settings.workers == 1 and settings.pruner.kind == "none":
        with _resumable(study, plan.trials):
            _run_in_batches(job, plan, study)
    study.enqueue_missing()
    until = time.time() + 60 * settings.minutes if settings.minutes else None
    worker = Worker(
        job.task, plan.name, settings, plan.space, tuple(plan.fixed), plan.base, until, launch is None, share
    )
    first = [*plan.fixed, *as_overrides(plan.space.first())]
    start = worker if launch is None else lambda: launch(worker, first, int(settings.workers))
    progress = live.shown(plan.study(), plan.trials, until)
    with _resumable(study, plan.trials), progress:
        _run_workers(study, worker, start)
        while _retry_batched_best(study, settings):
            _run_workers(study, worker, start)
    if kind := repeated_failure(study, settings.failures):
        print(
            f"frostline: the sweep stopped: {settings.failures} trials failed for the same reason: {kind};"
            " sweep.failures allows more",
            file=sys.stderr,
        )
    trials = study.current_trials()
    _write(plan, study, trials, recorded=trained)
    if plan.grid:
        in_order = (trial for trial in trials if trial.point in plan.points)
        trials = sorted(in_order, key=lambda trial: plan.points.index(trial.point))
    return [_result(trial, plan.settings.objectives[0]) for trial in trials if _ended(trial)]


@contextmanager
def _resumable(study: Study, total: int | None) -> Iterator[None]:
    """If the block is interrupted, say how many trials have ended, also in other processes."""
    try:
        yield
    except KeyboardInterrupt:
        ended = f"{_count(study, _ended)} of {total}" if total else f"{_count(study, _ended)}"
        signals.mark_resumable(f"continues the sweep ({ended} trials have ended)")
        raise


def _retry(study: Study, condition: Callable[[Trial], bool], reason: str) -> None:
    if count := study.retry(condition):
        print(f"frostline: trials that are retried, since {reason}: {count}", file=sys.stderr)


def _retry_batched_best(study: Study, settings: Sweep) -> int:
    """Enqueue the best trial once more if it was trained in a batch: it has to be repeatable to the byte."""
    best_trial = best.best_of(study.current_trials(), settings)
    if best_trial is None or BATCHED not in best_trial.user_attrs:
        return 0
    return study.retry(lambda trial: trial.number == best_trial.number)


def _run_in_batches(job: SweepTask, plan: Plan, study: Study) -> None:
    """Run those points of a grid that can be trained in a batch."""

    def add(number: int, done: standalone.Done) -> None:
        study.add_completed(missing[number], objectives_of(done.metrics, study.settings), results_of(done))

    # Of two commands, the second finds what the first has done.
    with exclusive(project.scratch() / "locks" / f"sweep-at-once-{content_key(plan.name)[:16]}.lock"):
        missing = study.missing_points()
        jobs = [
            SweepJob(label_of(point), *experiment)
            for point, experiment in zip(plan.points, plan.experiments, strict=True)
            if point in missing
        ]
        # If another sweep is writing to one of the folders, each trial waits for its own folder instead.
        with suppress(ResourceLocked):
            job.run_batched(jobs, add)
        study.enqueue_missing()  # before another command looks for missing points


def _write(plan: Plan, study: Study, trials: Sequence[Trial], *, recorded: bool) -> None:
    """Write the sweep's output: the best trial as an experiment, the table and the plots.

    Args:
        recorded: whether MLflow has the trials, and gets the sweep's results, too.
    """
    if settings := best.settings_of(trials, plan.settings.objectives[0]):
        point = settings[0].run.point
        ((composed, choices),) = compose.compose_points(plan.fixed, [as_overrides(point)])
        if path := best.write(plan.name, plan.stage, settings, SweepJob(label_of(point), composed, choices)):
            print(f"to repeat the best trial: frostline {plan.stage} experiment={path.stem}", file=sys.stderr)
    folder = summary.write(plan.name, trials, plan.space, plan.settings, study.importances())
    if recorded and settings:
        files = {f"sweep/{path.name}": path for path in sorted(folder.iterdir())}
        objective = plan.settings.objectives[0]
        values = {f"best/{objective}": settings[0].objective["mean"]}
        sentence = best.sentence(objective, settings)
        name = plan.experiments[0][0].study  # the trials are in a study of the user's, if `study` is set
        session.record_study(name, sentence, best.markdown_table(objective, settings), values, files)
    print(f"table and plots: {folder / summary.PAGE}", file=sys.stderr)


def _note_other_monitor(settings: Sweep, composed: Experiment, stage: str) -> None:
    """Say which metric orders the trials if another one, which the user has set, selects their epochs."""
    run = composed.pretrain if stage == "pretrain" else composed
    monitor, objective = run.trainer.monitor, settings.objectives[0]
    if monitor not in (objective, fitting_monitor(run.loss.kind)):
        key = f"{'pretrain.' * (stage == 'pretrain')}trainer.monitor"
        print(
            f"frostline: note: {key}={monitor} selects the epochs, but {objective} orders the trials; to"
            f" order them by it, set sweep.objectives=[{monitor}]",
            file=sys.stderr,
        )


def check(settings: Sweep) -> None:
    """Check that a sweep's config is consistent.

    Raises:
        FrostlineError: a pruner has several objectives, or the sweep has no limit.
    """
    if settings.pruner.kind != "none" and len(settings.objectives) > 1:
        raise FrostlineError("sweep.pruner: a pruner takes one objective; set sweep.pruner.kind=none")
    if settings.sampler.kind != "grid" and settings.trials is None and settings.minutes is None:
        raise FrostlineError("sweep: has no limit; set sweep.trials or sweep.minutes")


def check_objectives(settings: Sweep, composed: Experiment, stage: str) -> None:
    """Check that a sweep's objectives are measured.

    Raises:
        FrostlineError: one is not measured with this loss, such as val/mAP with one label per image; or not
            after each epoch, which a pruner needs.
    """
    loss = composed.pretrain.loss if stage == "pretrain" else composed.loss
    several = loss.kind == "bce"
    names = measured_metrics(several_labels=several)
    measured = [name for name in get_args(Objective) if name.removeprefix("val/") in names]
    for objective in settings.objectives:
        if objective not in measured:
            raise FrostlineError(
                f"sweep.objectives: {objective} is not measured with loss.kind={loss.kind};"
                f" {allowed(objective, measured)}"
            )
    pruning, known = settings.pruner.kind != "none", monitors(several_labels=several)
    if pruning and settings.objectives[0] not in known:
        raise FrostlineError(
            f"sweep.pruner: {settings.objectives[0]} is not measured after each epoch, but"
            f" {', '.join(known[:-1])} and {known[-1]} are; set one of them, or sweep.pruner.kind=none"
        )


def _for_pretraining(settings: Sweep, composed: Experiment) -> Sweep:
    """Return the config with a default objective that fits the pretraining's loss.

    In `conf/`, the default follows from the fine-tuning's loss.
    """
    default, fitting = (fitting_monitor(loss.kind) for loss in (composed.loss, composed.pretrain.loss))
    if settings.objectives != [default]:
        return settings
    return settings.model_copy(update={"objectives": [fitting]})


def _run_workers(study: Study, worker: Worker, start: Callable[[], None]) -> None:
    """Start workers until no trial remains, although some of them, and their machines, may be lost.

    Raises:
        FrostlineError: no worker can start, or workers are lost again and again.
    """
    superseded, in_vain = _count(study, attrgetter("superseded")), 0
    while True:
        begun, ended, lost = _count(study, _begun), _count(study, _ended), ""
        try:
            start()
        except WorkersLostError as error:
            lost, remaining = str(error), study.remaining()
            if remaining.open and not remaining.running and _count(study, _begun) == begun:
                raise FrostlineError(
                    f"hydra/launcher: no worker could start ({lost}); docs/scale.md says what launchers need"
                ) from None
        trials = _wait(study, worker, lost=bool(lost))
        if not trials:
            break
        in_vain = in_vain + 1 if _count(study, _ended) == ended else 0
        reason = f"workers were lost ({lost})" if lost else "processes died during their trials"
        if in_vain == LOSSES:
            raise FrostlineError(
                f"sweep: {reason}, {LOSSES} times in a row while no trial ended; the same command resumes"
                f" with the remaining trials: {trials}"
            )
        print(f"frostline: {reason}; restarting workers for the remaining trials: {trials}", file=sys.stderr)
    if retried := _count(study, attrgetter("superseded")) - superseded:
        print(f"frostline: trials whose process died, and that were retried: {retried}", file=sys.stderr)


def _wait(study: Study, worker: Worker, *, lost: bool) -> int:
    """Return how many trials are open; while none is, wait for those that run, since they may die.

    Args:
        lost: whether workers were lost. The others may still run and be between two trials for a moment, so
            they are waited for.
    """
    announced, idle = False, 0
    while True:
        over, remaining = worker.is_over(study), study.remaining()
        idle = 0 if remaining.running else idle + 1
        if idle > 1 if lost else over or remaining.open or not remaining.running:
            return 0 if over else remaining.open
        if not announced and remaining.running:
            announced = True
            print(f"frostline: waiting for trials that run elsewhere: {remaining.running}", file=sys.stderr)
        time.sleep(POLL_SECONDS)


def _count(study: Study, condition: Callable[[Trial], bool]) -> int:
    return sum(map(condition, study.trials()))


def _begun(trial: Trial) -> bool:
    return PROCESS in trial.user_attrs


def _ended(trial: Trial) -> bool:
    return trial.state in ENDED and not trial.superseded


def _failed_transiently(trial: Trial) -> bool:
    return trial.state == "failed" and bool(trial.user_attrs.get(TRANSIENT))


def _run_is_lost(trial: Trial) -> bool:
    """Whether the folder of a complete trial no longer holds its run."""
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


def _result(trial: Trial, objective: str) -> Any:
    label, attributes = label_of(trial.point), trial.user_attrs
    match trial.state:
        case "complete":
            setting = label_of(best.hyperparameters(trial.point))
            name, out, metrics = attributes["name"], Path(attributes["out"]), attributes["metrics"]
            return standalone.Done(name, out, metrics, setting, objective)
        case "pruned":
            return standalone.Stopped(label)
    broke_down = str(attributes.get("kind", "")).startswith(
        (TrainingFailed.__name__, OutOfResources.__name__)
    )
    kind = TrainingFailed if broke_down else FrostlineError
    return FailedJob(label, kind(attributes.get("reason", "")))
