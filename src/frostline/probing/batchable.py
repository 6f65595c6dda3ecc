"""Which configs batched linear heads support, as far as the config alone tells."""

from collections.abc import Iterator

from frostline.console.errors import FrostlineError
from frostline.schema import NoFeatures, Run


class NotBatchable(FrostlineError):
    """The heads can't be trained as a batch; `reason` is a clause that names the key."""

    def __init__(self, key: str, value: object, fix: str) -> None:
        self.reason = f"{key}: {value} is not supported by batched linear heads"
        super().__init__(
            f"{self.reason}; {fix}, or train them one by one: frostline finetune -m freeze=linear_probe"
        )


def check(run: Run) -> None:
    """Refuse a config that batched linear heads do not support; `heads.check` also checks the optimizer.

    Raises:
        NotBatchable: it names the first key that is not supported.
    """
    for key, value, fix in _unsupported(run):
        raise NotBatchable(key, value, fix)


def _unsupported(run: Run) -> Iterator[tuple[str, object, str]]:
    """Yield what is not supported: key, value, and how to fix it."""
    if len(run.freeze.phases) != 1:
        yield "freeze", run.freeze_name, "set freeze=linear_probe"
        return
    (phase,) = run.freeze.phases
    if phase.until != "end":
        yield "freeze.phases.0.until", "stopping early", "write until: end"
    if phase.dropout:
        yield "freeze.phases.0.dropout", phase.dropout, "remove it"
    if any(settings.keys() - {"weight_decay"} for settings in (phase.optimizer or {}).values()):
        yield "freeze.phases.0.optimizer", phase.optimizer, "remove it"
    for key in ("drop_rate", "dropout"):
        if rate := getattr(run.backbone, key, 0):
            yield f"backbone.{key}", rate, f"set backbone.{key}=0"
    for key in ("adapter", "regularizer", "averaging"):
        if (kind := getattr(run, key).kind) != "none":
            yield key, kind, f"set {key}=none"
    for key in ("mixup", "cutmix"):
        if share := getattr(run.augment, key):
            yield f"augment.{key}", share, f"set augment.{key}=0"
    if isinstance(run.features, NoFeatures):
        yield "features", "off", "set features=auto"
    elif run.augment.changes_images and run.features.views is None:
        yield "augment", "drawing images anew at each step", "set features.views=4, or augment=none"
    if run.trainer.sampling != "shuffle":
        yield "trainer.sampling", run.trainer.sampling, "set trainer.sampling=shuffle"
