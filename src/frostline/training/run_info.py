"""A run's name, and what the tracker records about a run before it begins."""

from frostline.base import devices
from frostline.data.prepared.index import Index
from frostline.schema import Run
from frostline.training.services import RUN_KEY, RunInfo


def setting_name(run: Run) -> str:
    """Return the name that the seeds of a run share, such as ``resnet10t·full·digits``."""
    what = run.arm or (run.freeze_name if run.stage == "finetune" else run.stage)
    return "·".join([backbone_name(run), what, run.dataset.kind])


def run_name(run: Run) -> str:
    """Return the name of a run, such as ``resnet10t·full·digits·s0``."""
    return f"{setting_name(run)}·s{run.seed}"


def backbone_name(run: Run) -> str:
    """Return the backbone's name."""
    return getattr(run.backbone, "name", run.backbone.kind)


def run_info(run: Run, index: Index, key: str | None = None) -> RunInfo:
    """Return what the tracker is told when a run starts; `key`: its `scratch_key`."""
    tags = {
        "arm": run.arm or "",
        "backbone": backbone_name(run),
        "dataset": run.dataset.kind,
        "freeze": run.freeze_name,
        "seed": str(run.seed),
        "threads": str(run.trainer.threads),
        "device": devices.device_label(run.trainer.device),
    }
    if key is not None:
        tags[RUN_KEY] = key
    dataset = {"name": index.name, "kind": index.kind, "fingerprint": index.fingerprint}
    return RunInfo(
        setting_name(run), run.stage, run.study, run.model_dump(), dataset, "training", tags, run.seed
    )
