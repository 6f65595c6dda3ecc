"""Evaluates the runs of an arm: files per run, summaries over seeds and folds, soups."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from frostline.base import omitted, repetitions
from frostline.base.files import publish, write_text
from frostline.base.formats import canonical_json, read_yaml
from frostline.base.metrics import Spread, headline, headline_value, held_out, spread
from frostline.base.repetitions import Repetition
from frostline.base.run_folder import CONFIG, METRICS, WEIGHTS, edited_config, verified
from frostline.console.errors import FrostlineError, resource_errors
from frostline.data.prepared.index import Index, PreparedData
from frostline.evaluation.evaluate import Metrics, measure
from frostline.pipeline.evaluate.soups import soups
from frostline.schema import Evaluate, Run, backbone_name
from frostline.schema.validation import validated
from frostline.training.services import RunInfo, Services

FOLDS_DIFFER = "the networks of one fold were trained on test images of another"
"""Why there is no soup over folds."""


@resource_errors("measuring", ["trainer.eval_batch_size", "input.size"])
def run(config: Evaluate, folder: Path, finetuned: Path, out: Path, services: Services) -> None:
    """Evaluate each run of an arm in the folder `finetuned`; write files per run and a summary to `out`.

    `out` gets metrics.json (mean, std and n over the runs for each split and metric, each run's values, and
    those of the seeds' soups), and a folder per run as `finetuned` has, with metrics.json and
    predictions.csv. For an omitted arm it gets the reason. `folder` is that of the prepared data.

    Raises:
        FrostlineError: a seed's weights or the prepared data are missing, or do not belong together.
    """
    if (reason := omitted.reason_in(finetuned)) is not None:
        omitted.write(out, reason)
        return
    omitted.remove_reason(out)
    measured: dict[Repetition, Metrics] = {}
    runs = {
        repetition: _read_run(finetuned / repetition.folder).with_tta(config.tta)
        for repetition in repetitions.repetitions(config.seeds, config.folds)
    }
    data = PreparedData.read(config.dataset, folder)
    with (
        publish(out) as work,
        services.tracker.run(_info(config, next(iter(runs.values())), data.index)) as tracked_run,
        services.progress(f"evaluate {config.arm}", len(runs)) as advance,
    ):
        for repetition, run in runs.items():
            (run_out := work / repetition.folder).mkdir(parents=True)
            metrics = measure(run, folder, finetuned / repetition.folder, run_out, services)
            split = held_out(metrics)
            result = f"{split}/{headline(metrics[split])} {headline_value(metrics[split]):.4f}"
            advance(1, f"{repetition}: {result}")
            measured[repetition] = metrics
        splits = list(next(iter(measured.values())))
        summary = {split: _summary([m[split] for m in measured.values()]) for split in splits}
        mixed: dict[str, Any] = {"skipped": FOLDS_DIFFER}
        if config.folds is None:
            seeds = {seed: run for (_, seed), run in runs.items()}
            scores = {seed: headline_value(part["val"]) for (_, seed), part in measured.items()}
            mixed = soups(seeds, scores, data, lambda s: finetuned / f"seed-{s}" / WEIGHTS, services)
        write_text(
            work / METRICS, canonical_json({**summary, **repetitions.as_json(measured), "soups": mixed})
        )
        tracked_run.log_metrics(_tracker_metrics(summary, mixed))
        tracked_run.log_outputs(work)


def _info(config: Evaluate, run: Run, index: Index) -> RunInfo:
    """Return what the tracker is told when the evaluation of an arm starts; `run`: one of the arm's."""
    tags = {
        "arm": config.arm,
        "backbone": backbone_name(run.backbone),
        "dataset": index.name,
        "freeze": run.freeze_name,
    }
    dataset = {"name": index.name, "kind": index.kind, "fingerprint": index.fingerprint}
    name = f"{config.arm}·evaluate·{index.name}"
    return RunInfo(name, "evaluate", config.study, config.model_dump(), dataset, "evaluation", tags)


def _tracker_metrics(
    summary: Mapping[str, Mapping[str, Spread]], mixed: Mapping[str, Any]
) -> dict[str, float]:
    """Return the metrics of an arm and of its soups that the tracker records: those of the held-out split."""
    split = held_out(summary)
    measured = summary[split]
    values = {f"{split}/{name}": spread_["mean"] for name, spread_ in measured.items()}
    values |= {f"{split}/{name}.std": spread_["std"] for name, spread_ in measured.items()}
    for kind, soup in mixed.items():
        if not isinstance(soup, str) and "test" in soup:
            values[f"soup/{kind}/test/{headline(soup['test'])}"] = headline_value(soup["test"])
    return values


def _summary(values: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    return {name: spread([v[name] for v in values]) for name in values[0]}


def _read_run(folder: Path) -> Run:
    path = folder / CONFIG
    if not path.is_file():
        raise FrostlineError(f"{path} is missing; run the finetune stage of this arm again")
    if sentence := edited_config(folder, verified(folder)):
        raise FrostlineError(f"{sentence}, or run the finetune stage of this arm again")
    return validated(Run, read_yaml(path), str(path))
