"""`frostline probe`: from the command line to the printed table."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.base.formats import csv_text
from frostline.base.run_folder import check_out
from frostline.config import compose, stage_configs
from frostline.config.overrides import HEAD_KEYS
from frostline.pipeline import output_folders, session, standalone

if TYPE_CHECKING:
    from frostline.base.metrics import Spread
    from frostline.probing.results import Configuration, ProbeResult

TABLE_WIDTH = 160
"""The width in characters, if the output is not a terminal."""
FREEZE = "linear_probe"


def run(overrides: Sequence[str], *, force: bool = False) -> None:
    """Probe the features that `overrides` configure, and print a table; `force`: overwrite another run."""
    chosen = any(override.partition("=")[0] == "freeze" for override in overrides)
    overrides = overrides if chosen else [*overrides, f"freeze={FREEZE}"]
    experiments, choices = compose.grid(overrides, HEAD_KEYS)
    services = session.make_services()
    from frostline.probing import heads, probe
    from frostline.probing.results import values_of
    from frostline.training.run_info import backbone_name

    runs = [stage_configs.finetune_config(experiment, choices) for experiment in experiments]
    heads.check(runs[0])
    # A probe does not depend on the order of its heads.
    runs = list({tuple(values_of(each).values()): each for each in runs}.values())
    runs.sort(key=lambda each: [value or 0 for value in values_of(each).values()])
    name = "·".join([backbone_name(runs[0]), runs[0].dataset.kind])
    content = [each.model_dump() for each in runs]
    out = (
        Path(experiments[0].out)
        if experiments[0].out
        else output_folders.named_folder("probe", name, content)
    )
    grid = csv_text(HEAD_KEYS, (list(values_of(each).values()) for each in runs))

    def check() -> None:
        if not force:
            check_out(out, runs[0].model_dump(), (*HEAD_KEYS, "seeds"), grid)

    with session.writing(out):
        check()
        index, data = standalone.prepared(experiments[0], "target")
        weights = standalone.with_pretrained_weights(
            runs[0], experiments[0], choices, services, index.classes
        ).weights
        runs = [each.model_copy(update={"weights": weights}) for each in runs]
        check()  # again, now that the pretrained weights are known
        result = probe.run(runs, data, out, services)
    _show(result, out)


def _show(result: "ProbeResult", out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from frostline.probing.results import label, short

    console = Console(width=None if sys.stdout.isatty() else TABLE_WIDTH, highlight=False)
    counts = ", ".join(f"{count} {split}" for split, count in result.images.items())
    took = f"took {result.features_seconds:.1f} s" if result.features_seconds else "were cached"
    heads = sum(len(each.heads) for each in result.configurations)
    console.print(
        f"features at {result.winner.features[0]} of {counts} images {took};"
        f" {heads} heads took {result.train_seconds:.1f} s"
    )
    varied = result.varied
    table = Table("probe", *map(short, varied), "val accuracy", "val loss", "test accuracy", box=None)
    for each in result.configurations:
        test = _spread(result.test["accuracy"]) if result.test and each is result.configurations[0] else ""
        table.add_row("heads", *(f"{each.values[key]:g}" for key in varied), *_val(each), test)
    for name, other in (
        (f"ridge, penalty {result.ridge.chosen:g}", result.ridge),
        (f"kNN, k {result.knn.chosen:g}", result.knn),
    ):
        table.add_row(
            name,
            *("" for _ in varied),
            f"{other.val:.4f}",
            "",
            "" if other.test is None else f"{other.test:.4f}",
        )
    console.print(table)
    console.print(f"{out}: the best head, {label(result)}, as a run; heads.csv, probe.json", soft_wrap=True)


def _val(setting: "Configuration") -> tuple[str, str]:
    """Return accuracy and loss as text; if heads failed, how many."""
    if setting.failed:
        return f"{setting.failed} of {len(setting.heads)} failed", ""
    return _spread(setting.val["accuracy"]), _spread(setting.val["loss"])


def _spread(values: "Spread") -> str:
    return f"{values['mean']:.4f}" + (f" ± {values['std']:.4f}" if values["n"] > 1 else "")
