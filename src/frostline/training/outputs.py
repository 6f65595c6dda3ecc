"""The files that a training run writes, and what the tracker records of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.base.files import write_text
from frostline.base.formats import canonical_json, csv_text, read_csv, read_json, yaml_text
from frostline.base.hashes import sha256_of
from frostline.base.metrics import EPOCH_METRICS, headline
from frostline.base.run_folder import CONFIG, HISTORY, TRAINING, WEIGHTS
from frostline.data.loading.label_budget import LabelBudget
from frostline.features.execution import Execution
from frostline.freezing.plan import FreezePlan
from frostline.models import weights
from frostline.models.pretrained import weights_metadata
from frostline.models.weights import LoadReport
from frostline.schema import Run
from frostline.training.inputs import TrainingInputs
from frostline.training.services import TrackedRun

if TYPE_CHECKING:
    from torch import Tensor, nn

OUTPUTS = (WEIGHTS, HISTORY, TRAINING, CONFIG)
"""The files of a training run that its stage publishes."""
TIMING = "timing.json"
"""The measured times of a training run; stays in the scratch folder."""


Row = dict[str, float | int | None]


@dataclass
class Fit:
    """The result of a fit."""

    history: list[Row] = field(default_factory=list)
    """A row per epoch, with the keys `history_columns`; the first is the network before training. The keys
    ``selection/…`` are None if the validation split or no split chooses the best epoch."""
    epoch_seconds: list[float] = field(default_factory=list)
    """Seconds from the start of training to the end of each epoch, including validation."""
    best_epoch: int = 0
    best_state: "dict[str, Tensor]" = field(default_factory=dict)
    """The network's weights after its best epoch, on the CPU."""
    starts: tuple[int, ...] = ()
    """The first step of each phase."""
    images: int = 0
    """Training images seen."""
    execution: Execution = field(default_factory=lambda: Execution("fp32", "fp32", channels_last=False))
    features: list[str] = field(default_factory=list)
    """For each phase: its split point, such as ``fc:input``, or ``whole network: …`` with the reason."""


@dataclass(frozen=True)
class TrainedNetwork:
    """A fit, its network, and how the network's initial weights were loaded."""

    fit: Fit
    network: "nn.Module"
    """With its adapter, if the run has one."""
    plan: FreezePlan
    report: LoadReport
    """How the initial weights were loaded."""
    budget: LabelBudget
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further keys of training.json."""


def write_outputs(run: Run, inputs: TrainingInputs, trained: TrainedNetwork, out: Path) -> str:
    """Write a finished run's files to the folder `out`; return the sha256 of its weights."""
    fit, index = trained.fit, inputs.index
    weights.save(out / WEIGHTS, fit.best_state, weights_metadata(inputs.spec, index.classes, run.backbone))
    columns = list(fit.history[0])
    write_text(out / HISTORY, csv_text(columns, ([row[c] for c in columns] for row in fit.history)))
    write_text(out / CONFIG, yaml_text(run.model_dump()))
    sha256 = sha256_of(out / WEIGHTS)
    record = {
        "config_sha256": sha256_of(out / CONFIG),
        "data": {
            "fingerprint": index.fingerprint,
            "images": len(index),
            "held_out": index.digest(index.rows(index.held_out)),
        },
        "weights_sha256": sha256,
        "selection": trained.budget.record(index, run.dataset),
    }
    write_text(out / TRAINING, canonical_json(_training(trained) | record | dict(trained.more)))
    return sha256


def record_outputs(tracked_run: TrackedRun, plan: FreezePlan, timing: Mapping[str, Any], out: Path) -> None:
    """Record the final metrics of a finished run, and its files in `out`."""
    summary: dict[str, Any] = read_json(out / TRAINING)
    best = read_csv(out / HISTORY)[summary["best_epoch"]]
    names = "loss", *EPOCH_METRICS[headline(best)]
    measured = [f"{split}/{name}" for split in ("val", "selection") for name in names]
    tracked_run.log_metrics(
        {f"best/{name}": float(best[name]) for name in ("epoch", *measured) if best[name]}
        | {name: timing[name] for name in ("train_seconds", "images_per_second")}
    )
    tracked_run.set_tags(
        {
            "weights.sha256": summary["weights_sha256"],
            "phases": _phases_text(plan, [phase["first_step"] for phase in summary["phases"]]),
            "features": _features_text(summary["features"]),
            "head": summary["head"]["notice"] or summary["head"]["start"],
        }
    )
    tracked_run.log_outputs(out)


def _training(trained: TrainedNetwork) -> dict[str, Any]:
    """Return the content of training.json that tells how the network was trained."""
    fit, plan, report = trained.fit, trained.plan, trained.report
    phases = [
        {
            "index": i,
            "train": "all" if set(plan.phases[i].train) == set(plan.groups) else list(plan.phases[i].train),
            "first_step": step,
            "first_epoch": step // plan.steps_per_epoch + 1,
            "trainable_parameters": plan.trained_size(i, trained.network),
        }
        for i, step in enumerate(fit.starts)
    ]
    return {
        "best_epoch": fit.best_epoch,
        "epochs": len(fit.history) - 1,
        "steps": fit.history[-1]["step"],
        "training_images": len(trained.budget.train),
        "phases": phases,
        "features": fit.features,
        "precision": {"frozen": fit.execution.frozen_precision, "trains": fit.execution.precision},
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
