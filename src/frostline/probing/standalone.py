"""A probe without DVC's pipeline: composes its configs, prepares the data, and probes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.base.formats import csv_text
from frostline.base.run_folder import check_out
from frostline.config import compose, stage_configs
from frostline.config.overrides import HEAD_KEYS
from frostline.pipeline import output_folders, session, standalone
from frostline.probing import batchable

if TYPE_CHECKING:
    from frostline.probing.results import ProbeResult

FREEZE = "linear_probe"


@dataclass(frozen=True)
class Done:
    """A finished probe."""

    result: "ProbeResult"
    out: Path
    """The folder with its files."""


def run(overrides: Sequence[str], *, force: bool = False) -> Done:
    """Probe the features that `overrides` configure.

    Args:
        overrides: of the experiment; lists of `HEAD_KEYS` make the heads.
        force: overwrite another run in the output folder.

    Raises:
        FrostlineError: an override is invalid, or the output folder contains another run.
    """
    freezes = any(override.partition("=")[0] == "freeze" for override in overrides)
    overrides = overrides if freezes else [*overrides, f"freeze={FREEZE}"]
    experiments, choices = compose.grid(overrides, HEAD_KEYS)
    runs = [stage_configs.finetune_config(experiment, choices) for experiment in experiments]
    batchable.check(runs[0])
    data_sets = standalone.prepared_data(experiments[0])
    services = session.make_services()
    from frostline.data.reading.sources import name_of
    from frostline.probing import heads, probe
    from frostline.probing.results import values_of
    from frostline.schema import backbone_name

    heads.check(runs[0])
    # A probe does not depend on the order of its heads.
    runs = list({tuple(values_of(run).values()): run for run in runs}.values())
    runs.sort(key=lambda run: [value or 0 for value in values_of(run).values()])
    name = "·".join([backbone_name(runs[0].backbone), name_of(runs[0].dataset)])
    configs = [run.model_dump() for run in runs]
    out = (
        Path(experiments[0].out)
        if experiments[0].out
        else output_folders.named_folder("probe", name, configs)
    )
    grid = csv_text(HEAD_KEYS, (list(values_of(run).values()) for run in runs))

    def check() -> None:
        if not force:
            check_out(out, runs[0].model_dump(), HEAD_KEYS, grid)

    with session.writing(out):
        check()
        prepared, data = standalone.prepared_run(runs[0], experiments[0], choices, services, data_sets)
        runs = [run.model_copy(update={"weights": prepared.weights}) for run in runs]
        check()  # again, now that the pretrained weights are known
        return Done(probe.run(runs, data, out, services), out)
