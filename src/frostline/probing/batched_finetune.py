"""Trains all runs of a sweep at once, if they differ only in the hyperparameters of a linear head."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.base.files import publish
from frostline.base.metrics import headlines, held_out
from frostline.base.run_folder import OUTPUTS
from frostline.comparison.ranking import ordered
from frostline.config import stage_configs
from frostline.config.compose import SweepJob
from frostline.config.overrides import HEAD_KEYS
from frostline.console.progress import LIBRARIES, waiting
from frostline.pipeline import session, standalone
from frostline.pipeline.output_folders import out_folder
from frostline.probing.batchable import NotBatchable
from frostline.tracking.run_tags import REPEATED
from frostline.training.services import SWEEP_KEYS, SWEEP_OBJECTIVE, TRIAL_STATE, Services

if TYPE_CHECKING:
    from frostline.evaluation.evaluate import Evaluator
    from frostline.probing.heads import TrainedHead
    from frostline.training.inputs import TrainingInputs


BATCH_RUNS = 256
"""Runs per batch: each one holds a lock file, and a process may have 1,000 files open."""
OnDone = Callable[[int, standalone.Done], None]
"""Called with a job's number and its finished run."""


def finetune(jobs: Sequence[SweepJob], on_done: OnDone) -> None:
    """Fine-tune a sweep's jobs at once, each into its own folder, as `standalone.Job` does.

    The caller has to run the jobs for which `on_done` is not called one by one: those that fail, so that they
    end like any failed run; the best one, since batched training differs by rounding and the best run must be
    reproducible byte by byte; and all of them if they can't be batched, which is printed.
    """
    if len(jobs) < 2:
        return
    services = session.make_services()
    if len({_apart_from_heads(job) for job in jobs}) > 1:
        services.say(f"{len(jobs)} runs one by one, since they differ in more than {', '.join(HEAD_KEYS)}")
        return
    with waiting(LIBRARIES):
        from frostline.probing import heads

    try:
        heads.check(stage_configs.finetune_config(jobs[0].composed, jobs[0].choices))
        for begin in range(0, len(jobs), BATCH_RUNS):
            part = jobs[begin : begin + BATCH_RUNS]
            _finetune(part, begin, on_done, services)
    except NotBatchable as refusal:
        services.say(f"{len(jobs)} runs one by one, since {refusal.reason}")


def _apart_from_heads(job: SweepJob) -> str:
    """Return everything in a job's config that batched jobs must share."""
    data = job.composed.model_dump()
    for key in HEAD_KEYS:
        group, _, name = key.rpartition(".")
        (data[group] if group else data).pop(name, None)
    return repr((data, sorted(job.choices.items())))


def _finetune(jobs: Sequence[SweepJob], begin: int, on_done: OnDone, services: Services) -> None:
    """Fine-tune jobs together, as batched linear heads; `begin`: the number of the first job in the sweep."""
    from frostline.evaluation.evaluate import Evaluator
    from frostline.models.pretrained import load_initial_weights
    from frostline.probing import heads
    from frostline.probing.results import values_of
    from frostline.training.inference import TrainedWeights
    from frostline.training.inputs import load_inputs
    from frostline.training.run_info import run_name

    first = jobs[0]
    runs = [stage_configs.finetune_config(job.composed, job.choices) for job in jobs]
    names = [run_name(run) for run in runs]
    outs = [
        out_folder(run, job.composed.out, job.label, standalone.pretraining_config(job.composed, job.choices))
        for job, run in zip(jobs, runs, strict=True)
    ]
    with ExitStack() as locks:
        for out in dict.fromkeys(outs):
            locks.enter_context(session.writing(out))
        data_sets = standalone.prepared_data(first.composed)
        prepared, data = standalone.prepared_run(runs[0], first.composed, first.choices, services, data_sets)
        runs = [run.model_copy(update={"weights": prepared.weights}) for run in runs]
        initial = load_initial_weights(prepared.backbone, prepared.weights)
        inputs = load_inputs(runs[0], data, initial, services)
        groups = heads.group_by_features(runs, inputs, services)
        services.say(f"{len(jobs)} runs train as batched linear heads: only their heads differ")
        trained = {id(head.run): head for head in heads.train(groups, services)}
        best = _best([trained[id(run)] for run in runs], first.composed.sweep.objectives[0])
        evaluators: dict[heads.FeatureGroup, Evaluator] = {}
        values = {key: {str(values_of(run)[key]) for run in runs} for key in HEAD_KEYS if key not in REPEATED}
        varied = ",".join(key for key, different in values.items() if len(different) > 1)
        tags = {SWEEP_KEYS: varied, SWEEP_OBJECTIVE: first.composed.sweep.objectives[0]}
        tags |= {TRIAL_STATE: "running"}
        with services.progress("write and evaluate the runs", len(jobs) - 1) as advance:
            for number, (job, run, name, out) in enumerate(zip(jobs, runs, names, outs, strict=True)):
                head = trained[id(run)]
                if head.fit.failure or head is best:
                    continue
                if head.group not in evaluators:
                    state = TrainedWeights(head.best_state, inputs.spec)
                    evaluators[head.group] = Evaluator(run, inputs.data, state, services)
                job_services = session.make_services(job.label, tags=tags)
                metrics = _write_run(head, inputs, evaluators[head.group], out, job_services)
                on_done(begin + number, standalone.Done(job.label or name, out, metrics))
                advance(1, headlines(metrics, [held_out(metrics)]))


def _best(heads: "Sequence[TrainedHead]", objective: str) -> "TrainedHead | None":
    """Return the best head of the best setting over its seeds, by `comparison.ranking`; None: all failed.

    Args:
        heads: of one sweep.
        objective: the metric; the monitor takes its place if an epoch does not have it.
    """
    from frostline.probing.results import values_of

    settings: dict[str, list[TrainedHead]] = {}
    for head in heads:
        if not head.fit.failure:
            values = {key: value for key, value in values_of(head.run).items() if key not in REPEATED}
            settings.setdefault(repr(values), []).append(head)
    if not settings:
        return None
    first = next(iter(settings.values()))[0]
    metric = objective if objective in first.best else first.run.trainer.monitor
    return ordered(metric, settings.values(), lambda head: float(head.best[metric] or 0.0))[0][0]


def _write_run(
    head: "TrainedHead", inputs: "TrainingInputs", evaluator: "Evaluator", out: Path, services: Services
) -> Any:
    """Write, record and evaluate a run as `pretrain.stage.train_once` does; return its metrics."""
    from frostline.training.outputs import record_outputs, write_outputs
    from frostline.training.run_info import run_info

    run, group, network = head.run, head.group, head.group.split_point.network
    timing = {"train_seconds": head.seconds, "images_per_second": head.images / head.seconds}
    with publish(out, OUTPUTS) as work:
        with services.tracker.run(run_info(run, inputs.index, group.budget)) as tracked_run:
            if inputs.initial.sha256 is not None:
                tracked_run.log_initial_weights(inputs.initial.sha256)
            tracked_run.log_plan(run, group.plan, network, inputs.spec, len(group.train))
            for row in head.fit.history:
                tracked_run.log_epoch(row)
            sha256 = write_outputs(run, inputs, head.trained_network(), work)
            record_outputs(tracked_run, group.plan, timing, work)
        evaluator.load(head.head_state)
        return evaluator.measure(run, {"weights_sha256": sha256, **head.thresholds}, work)
