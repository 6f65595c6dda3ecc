"""`frostline probe`: from what was typed to a table."""

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
    from frostline.probing.probe import Judged, Setting

TABLE_WIDTH = 160
"""Where the table does not go to a terminal."""
FREEZE = "linear_probe"


def run(overrides: Sequence[str], *, force: bool = False) -> None:
    """Judge the features that `overrides` describe, and print the table; `force` overwrites another run."""
    chosen = any(each.partition("=")[0] == "freeze" for each in overrides)
    given = overrides if chosen else [*overrides, f"freeze={FREEZE}"]
    composed, choices = compose.grid(given, HEAD_KEYS)
    services = session.make_services()
    from frostline.probing import heads, probe
    from frostline.training.run_info import backbone_name

    runs = [stage_configs.finetune_config(each, choices) for each in composed]
    heads.check(runs[0])
    # The same heads in another order are the same probe.
    runs = list({tuple(probe.values_of(each).values()): each for each in runs}.values())
    runs.sort(key=lambda each: [value or 0 for value in probe.values_of(each).values()])
    name = "·".join([backbone_name(runs[0]), runs[0].dataset.kind])
    content = [each.model_dump() for each in runs]
    out = Path(composed[0].out) if composed[0].out else output_folders.named_folder("probe", name, content)
    grid = csv_text(HEAD_KEYS, (list(probe.values_of(each).values()) for each in runs))

    def check() -> None:
        if not force:
            check_out(out, runs[0].model_dump(), (*HEAD_KEYS, "seeds"), grid)

    with session.writing(out):
        check()
        index, data = standalone.prepared(composed[0], "target")
        weights = standalone.with_pretrained_weights(
            runs[0], composed[0], choices, services, index.classes
        ).weights
        runs = [each.model_copy(update={"weights": weights}) for each in runs]
        check()  # now that the pretraining is known
        judged = probe.run(runs, data, out, services)
    _show(judged, out)


def _show(judged: "Judged", out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from frostline.probing.probe import label, short

    console = Console(width=None if sys.stdout.isatty() else TABLE_WIDTH, highlight=False)
    counts = ", ".join(f"{count} {split}" for split, count in judged.images.items())
    took = f"took {judged.features_seconds:.1f} s" if judged.features_seconds else "were there"
    heads = sum(len(each.heads) for each in judged.settings)
    console.print(
        f"features at {judged.winner.features[0]} of {counts} images {took};"
        f" {heads} heads took {judged.train_seconds:.1f} s"
    )
    varied = judged.varied
    table = Table("probe", *map(short, varied), "val accuracy", "val loss", "test accuracy", box=None)
    for each in judged.settings:
        test = _spread(judged.test["accuracy"]) if judged.test and each is judged.settings[0] else ""
        table.add_row("heads", *(f"{each.values[key]:g}" for key in varied), *_val(each), test)
    for name, other in (
        (f"ridge, penalty {judged.ridge.chosen:g}", judged.ridge),
        (f"kNN, k {judged.knn.chosen:g}", judged.knn),
    ):
        table.add_row(
            name,
            *("" for _ in varied),
            f"{other.val:.4f}",
            "",
            "" if other.test is None else f"{other.test:.4f}",
        )
    console.print(table)
    console.print(f"{out}: the best head, {label(judged)}, as a run; heads.csv, probe.json", soft_wrap=True)


def _val(setting: "Setting") -> tuple[str, str]:
    """Accuracy and loss; where some heads broke down, of how many these are."""
    if setting.failed:
        return f"{setting.failed} of {len(setting.heads)} failed", ""
    return _spread(setting.val["accuracy"]), _spread(setting.val["loss"])


def _spread(values: "Spread") -> str:
    return f"{values['mean']:.4f}" + (f" ± {values['std']:.4f}" if values["n"] > 1 else "")
