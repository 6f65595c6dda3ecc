"""A sweep over nothing but the settings of a linear head: all its runs are trained at once."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.base.files import publish
from frostline.base.metrics import held_out, score
from frostline.base.run_folder import OUTPUTS
from frostline.config import stage_configs
from frostline.config.compose import SweepJob
from frostline.config.overrides import HEAD_KEYS
from frostline.pipeline import session, standalone
from frostline.pipeline.output_folders import out_folder
from frostline.training.services import TRIAL_STATE, Services

if TYPE_CHECKING:
    from frostline.evaluation.evaluate import Yardstick
    from frostline.probing.heads import Trained
    from frostline.training.material import Material


AT_ONCE = 256
"""Runs that are trained at once; a process may have a thousand files open, and each run holds a lock."""
Left = Callable[[int, standalone.Done], None]
"""Told which job has left its run, and what that is."""


def finetune(jobs: Sequence[SweepJob], left: Left) -> None:
    """Fine-tune a sweep's jobs at once, each into a folder of its own, as `standalone.Job` leaves it.

    Jobs of which `left` is not told have to be run one after the other: those that break down, to say and
    keep what such a run does; the best, since heads trained at once are what training each alone gives but
    for rounding, and it is to be repeated to the byte; and all where, as a line says, they can't be run at
    once.
    """
    if len(jobs) < 2:
        return
    given = session.make_services()
    if len({_apart_from_heads(job) for job in jobs}) > 1:
        given.say(
            f"{len(jobs)} runs, one after the other, since they differ in more than {', '.join(HEAD_KEYS)}"
        )
        return
    from frostline.probing.heads import NotAtOnce

    try:
        for begin in range(0, len(jobs), AT_ONCE):
            part = jobs[begin : begin + AT_ONCE]
            _finetune(part, _counted_from(begin, left), given)
    except NotAtOnce as refusal:
        given.say(f"{len(jobs)} runs, one after the other, since {refusal.why}")


def _counted_from(begin: int, left: Left) -> Left:
    return lambda number, done: left(begin + number, done)


def _apart_from_heads(job: SweepJob) -> str:
    """All that a job is made of but what its head may differ in."""
    data = job.composed.model_dump()
    for key in HEAD_KEYS:
        group, _, name = key.rpartition(".")
        (data[group] if group else data).pop(name, None)
    return repr((data, sorted(job.choices.items())))


def _finetune(jobs: Sequence[SweepJob], left: Left, given: Services) -> None:
    from frostline.models.pretrained import load_initial_weights
    from frostline.probing import heads
    from frostline.training.material import load_material
    from frostline.training.run_info import run_name

    first = jobs[0]
    runs = [stage_configs.finetune_config(job.composed, job.choices) for job in jobs]
    heads.check(runs[0])
    names = [run_name(run, run.seeds[0]) for run in runs]
    outs = [
        out_folder(
            job.composed.out,
            "finetune",
            name,
            job.label,
            run,
            standalone.pretraining_config(job.composed, job.choices),
        )
        for job, name, run in zip(jobs, names, runs, strict=True)
    ]
    with ExitStack() as locks:
        for out in dict.fromkeys(outs):
            locks.enter_context(session.writing(out))
        index, data = standalone.prepared(first.composed, "target")
        weights = standalone.with_pretrained_weights(
            runs[0], first.composed, first.choices, given, index.classes
        ).weights
        runs = [run.model_copy(update={"weights": weights}) for run in runs]
        start = load_initial_weights(runs[0].backbone, weights)
        material = load_material(runs[0], data, start, given)
        companies = heads.gather(runs, start, material, given)
        given.say(f"{len(jobs)} runs at once: nothing but their heads differs")
        trained = {id(head.run): head for head in heads.train(companies, given)}
        best = _best([trained[id(run)] for run in runs], first.composed.sweep.objectives[0])
        yardsticks: dict[heads.Company, Yardstick] = {}
        with given.progress("leave and measure the runs", len(jobs) - 1) as advance:
            for number, (job, run, name, out) in enumerate(zip(jobs, runs, names, outs, strict=True)):
                head = trained[id(run)]
                if head.fit.failure or head is best:
                    continue
                if head.company not in yardsticks:
                    yardsticks[head.company] = _yardstick(head, material, data, given)
                services = session.make_services(job.label, tags={TRIAL_STATE: "running"})
                metrics = _leave(head, start.sha256, material, yardsticks[head.company], out, services)
                left(number, standalone.Done(job.label or name, out, metrics))
                split = held_out(metrics)
                advance(1, f"{split}/accuracy {metrics[split]['accuracy']:.4f}")


def _best(heads: "Sequence[Trained]", objective: str) -> "Trained | None":
    """The first of those that are best in a sweep's objective, or in what each epoch tells in its stead."""
    sound = [head for head in heads if not head.fit.failure]

    def value(head: "Trained") -> float:
        name = objective if objective in head.best else head.run.trainer.monitor
        return score(name, float(head.best[name] or 0.0))

    return max(sound, key=value, default=None)


def _yardstick(head: "Trained", material: "Material", data: Path, services: Services) -> "Yardstick":
    """What measures a head, and all of its company."""
    from frostline.evaluation.evaluate import Yardstick

    return Yardstick(head.run, head.seed, material.index, data, head.best_state, material.spec, services)


def _leave(
    head: "Trained",
    start: str | None,
    material: "Material",
    yardstick: "Yardstick",
    out: Path,
    services: Services,
) -> Any:
    """Leave a run's folder, record it and measure it, as `standalone.finetune` does; return its metrics."""
    from frostline.training.outputs import record_outputs, write_outputs
    from frostline.training.run_info import run_info

    run, seed, company = head.run, head.seed, head.company
    count = len(company.train)
    timing = {"train_seconds": head.seconds, "images_per_second": head.images / head.seconds}
    with publish(out, OUTPUTS) as work:
        with services.tracker.run(run_info(run, seed, material.index)) as recorded:
            if start is not None:
                recorded.started_from(start)
            recorded.planned(run, company.plan, company.cut.network, material.spec, count)
            for row in head.history:
                recorded.epoch(row)
            sha256 = write_outputs(run, seed, material, head, company.plan, company.report, count, work, {})
            record_outputs(recorded, company.plan, timing, work)
        yardstick.load(head.head_state)
        return yardstick.measure(run, seed, sha256, work)
