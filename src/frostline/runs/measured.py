"""Where a finished run's metrics and predictions are."""

from pathlib import Path

from frostline.base.run_folder import METRICS

TRAINED, MEASURED = "finetune", "evaluate"
"""The folders of a study's results with the arms' networks, and with what was measured of them."""


def measured_in(folder: Path) -> Path:
    """Return the folder with the metrics.json and predictions.csv of the run in `folder`.

    A study measures its runs in a stage of its own: those of ``finetune/ARM/seed-0`` are in
    ``evaluate/ARM/seed-0``. If a run was not measured, `folder` itself is returned.
    """
    place = folder.absolute()
    if not (place / METRICS).is_file():
        for parent in (parent for parent in place.parents if parent.name == TRAINED):
            beside = parent.with_name(MEASURED) / place.relative_to(parent)
            if (beside / METRICS).is_file():
                return beside
    return folder
