"""The files that a training run writes, and what the tracker records of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from frostline.base.files import write_text
from frostline.base.formats import canonical_json, csv_text, read_csv, read_json, yaml_text
from frostline.base.hashes import sha256_of
from frostline.base.run_folder import CONFIG, HISTORY, TRAINING, WEIGHTS
from frostline.freezing.plan import FreezePlan
from frostline.models import weights
from frostline.models.pretrained import weights_metadata
from frostline.models.weights import LoadReport
from frostline.schema import Run
from frostline.training.material import Material
from frostline.training.services import Recorded

OUTPUTS = (WEIGHTS, HISTORY, TRAINING, CONFIG)
"""The files of a training run that its stage publishes."""
TIMING = "timing.json"
"""The measured times of a training run; stays in the scratch folder."""


def write_outputs(
    run: Run,
    seed: int,
    material: Material,
    result: Any,
    plan: FreezePlan,
    report: LoadReport,
    images: int,
    out: Path,
    more: Mapping[str, Any],
) -> str:
    """Write a finished run's files to `out`; return the sha256 of its weights.

    Args:
        material: the data that it was trained on.
        result: a `training.trainer.Fit`, or an object with its attributes.
        report: how its initial weights were loaded.
        images: number of training images.
        more: further keys of training.json.
    """
    weights.save(
        out / WEIGHTS,
        result.best_state,
        weights_metadata(material.spec, material.index.classes, run.backbone),
    )
    columns = list(result.history[0])
    write_text(out / HISTORY, csv_text(columns, ([row[c] for c in columns] for row in result.history)))
    write_text(out / CONFIG, yaml_text(run.model_copy(update={"seeds": [seed]}).model_dump()))
    sha256, index = sha256_of(out / WEIGHTS), material.index
    data = {
        "fingerprint": index.fingerprint,
        "images": len(index),
        "held_out": index.digest(index.rows(index.held_out)),
    }
    record = {"config_sha256": sha256_of(out / CONFIG), "data": data}
    done = _training(result, plan, report, images, sha256) | record | dict(more)
    write_text(out / TRAINING, canonical_json(done))
    return sha256


def record_outputs(recorded: Recorded, plan: FreezePlan, timing: Mapping[str, Any], out: Path) -> None:
    """Record the final metrics of a finished run, and its files in `out`."""
    summary: dict[str, Any] = read_json(out / TRAINING)
    best = read_csv(out / HISTORY)[summary["best_epoch"]]
    recorded.metrics(
        {f"best/{name}": float(best[name] or 0) for name in ("epoch", "val/loss", "val/accuracy")}
        | {name: timing[name] for name in ("train_seconds", "images_per_second")}
    )
    recorded.tags(
        {
            "weights.sha256": summary["weights_sha256"],
            "phases": _phases_text(plan, [phase["first_step"] for phase in summary["phases"]]),
            "features": _features_text(summary["features"]),
            "head": summary["head"]["notice"] or summary["head"]["start"],
        }
    )
    recorded.finished(out)


def _training(
    result: Any, plan: FreezePlan, report: LoadReport, images: int, weights_sha256: str
) -> dict[str, Any]:
    """Return the content of training.json that the caller does not add."""
    phases = [
        {
            "index": i,
            "train": "all" if set(plan.phases[i].train) == set(plan.groups) else list(plan.phases[i].train),
            "first_step": step,
            "first_epoch": step // plan.steps_per_epoch + 1,
            "trainable_parameters": len(plan.trained(i)),
        }
        for i, step in enumerate(result.starts)
    ]
    return {
        "best_epoch": result.best_epoch,
        "epochs": len(result.history) - 1,
        "steps": result.history[-1]["step"],
        "training_images": images,
        "phases": phases,
        "features": result.features,
        "precision": {"frozen": result.execution.frozen, "trains": result.execution.trains},
        "weights_sha256": weights_sha256,
        "head": report.head.to_dict(),
        "load_report": {key: len(names) for key, names in report.to_dict().items()}
        | {"reset": list(report.reset)},
    }


def _features_text(features: Sequence[str]) -> str:
    return "; ".join(f"phase {i}: {text}" for i, text in enumerate(features)) or "nothing trains"


def _phases_text(plan: FreezePlan, starts: Sequence[int]) -> str:
    return (
        "; ".join(f"step {step}: {', '.join(plan.phases[i].train)}" for i, step in enumerate(starts))
        or "nothing trains"
    )
