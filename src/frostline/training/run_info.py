"""A run's name, and what the tracker records about a run before it begins."""

from typing import Any

from frostline.base import devices
from frostline.data.loading.label_budget import LabelBudget
from frostline.data.prepared.index import MULTI_LABEL, Index
from frostline.data.reading.sources import name_of
from frostline.schema import Run, backbone_name
from frostline.training.services import RUN_KEY, TASK, RunInfo, repetition_name


def setting_name(run: Run) -> str:
    """Return the name of a run's setting, without seed and fold, such as ``full·resnet10t·digits``.

    It begins with what distinguishes the runs of a study, and ends with the data set.
    """
    what = run.arm or (run.freeze_name if run.stage == "finetune" else run.stage)
    return "·".join([what, backbone_name(run.backbone), name_of(run.dataset)])


def run_name(run: Run) -> str:
    """Return the name of a run, such as ``full·resnet10t·digits·s0``."""
    return f"{setting_name(run)}{repetition_name(run.seed, run.dataset.fold)}"


def _selection(run: Run, index: Index, budget: LabelBudget) -> dict[str, Any]:
    """Return `LabelBudget.record` without what differs between the seeds and folds of one configuration."""
    record = budget.record(index, run.dataset)
    if index.groups is None and not index.several_labels and run.dataset.fold is None:
        return record
    # How many images are drawn, or set aside, depends on which groups and labels they have.
    return {key: value for key, value in record.items() if key not in ("images", "labelled", "per_class")}


def run_info(run: Run, index: Index, budget: LabelBudget, key: str | None = None) -> RunInfo:
    """Return what the tracker is told when a run starts; `key`: its `run_key`."""
    tags = {
        "arm": run.arm or "",
        "backbone": backbone_name(run.backbone),
        "dataset": index.name,
        "freeze": run.freeze_name,
        "seed": str(run.seed),
        "threads": str(run.trainer.threads),
        "device": devices.device_label(run.trainer.device),
    }
    if run.dataset.fold is not None:
        tags["fold"] = str(run.dataset.fold)
    if key is not None:
        tags[RUN_KEY] = key
    if index.several_labels:
        tags[TASK] = MULTI_LABEL
    dataset = {"name": index.name, "kind": index.kind, "fingerprint": index.fingerprint}
    config = {**run.model_dump(), "selection": _selection(run, index, budget)}
    about = setting_name(run), run.stage, run.study, config, dataset, "training", tags
    return RunInfo(*about, seed=run.seed, fold=run.dataset.fold)
