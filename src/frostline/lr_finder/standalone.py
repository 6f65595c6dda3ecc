"""A learning-rate range test from overrides: composes, prepares the data, tests, writes the results."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.base import project
from frostline.base.files import write_bytes, write_text
from frostline.base.formats import csv_text
from frostline.config import compose, stage_configs
from frostline.console.errors import FrostlineError
from frostline.console.progress import LIBRARIES, say_once, shown, waiting
from frostline.lr_finder.suggestion import Settings
from frostline.pipeline import output_folders, session, standalone
from frostline.training.services import Services

if TYPE_CHECKING:
    from frostline.lr_finder.range_test import RangeTest

LOW, HIGH, STEPS = 1e-7, 10.0, 100
TABLE, PLOT = "lr.csv", "lr.svg"


@dataclass(frozen=True)
class Done:
    """A finished range test."""

    test: "RangeTest"
    plot: bytes
    """An SVG file."""
    out: Path
    """The folder with lr.csv and lr.svg."""


def run(overrides: Sequence[str], low: float = LOW, high: float = HIGH, steps: int = STEPS) -> Done:
    """Test learning rates for the fine-tuning that `overrides` configure; the run itself is not started.

    Args:
        overrides: those of `frostline finetune`; `out` is the folder of the results.
        low: the first learning rate.
        high: the last one, unless the loss diverges before.
        steps: number of learning rates.

    Raises:
        FrostlineError: an override is invalid, or the loss falls at no learning rate (the files are written).
    """
    composed, choices = compose.experiment(overrides)
    composed = stage_configs.at_first_fold(composed)
    config = stage_configs.finetune_config(composed, choices)
    settings = Settings(low, high, steps)
    settings.check()
    data_sets = standalone.prepared_data(composed)
    with waiting(LIBRARIES):
        from frostline.lr_finder import plot
        from frostline.lr_finder.range_test import run_test
        from frostline.models.pretrained import load_initial_weights
        from frostline.training.inputs import load_inputs
        from frostline.training.run_info import run_name

    name = run_name(config)
    content = [config.model_dump(), low, high, steps]
    out = Path(composed.out) if composed.out else output_folders.named_folder("lr-find", name, content)
    services = Services(project.scratch(), shown, say_once)
    with session.writing(out):
        config, data = standalone.prepared_run(config, composed, choices, services, data_sets)
        initial = load_initial_weights(config.backbone, config.weights)
        test = run_test(config, load_inputs(config, data, initial, services), services, settings)
        drawn = plot.draw(test, name)
        rows = zip(test.rates, test.losses, test.smooth, strict=True)
        write_text(out / TABLE, csv_text(("lr", "loss", "smoothed"), rows))
        write_bytes(out / PLOT, drawn)
    if test.suggestion is None:
        raise FrostlineError(
            f"lr-find: the loss falls at no learning rate from {low:g} to {test.rates[-1]:.1e}"
            f" ({out / PLOT}); look at the images (frostline show), or take more --steps"
        )
    return Done(test, drawn, out)
