"""What was compared: data, network, training and selection of a study, as lines of the report."""

from collections.abc import Iterator, Sequence
from pathlib import PurePath

from frostline.console import units
from frostline.reporting import words
from frostline.reporting.inputs import Arm, SeedRun
from frostline.reporting.results import Summary
from frostline.schema import StudySetup


def configuration(summary: Summary, arms: Sequence[Arm]) -> list[tuple[str, str]]:
    """Return the lines (term, text).

    Args:
        arms: the summary's arms, whose runs say how many images they used.
    """
    return list(_lines(summary, arms))


def _lines(summary: Summary, arms: Sequence[Arm]) -> Iterator[tuple[str, str]]:
    yield "Study", summary.study
    setup, runs = summary.setup, [run for arm in arms for run in arm.runs.values()]
    if setup:
        yield "Transfer", f"{_initial(setup)} → {setup.target}"
        if summary.pretraining:
            yield "Pretraining", summary.pretraining.line
        yield "Network", setup.backbone + (f", {_size(setup.input_size)}" if setup.input_size else "")
        yield (
            "Training",
            f"{units.counted(setup.epochs, 'epoch')}, {units.counted(setup.batch_size, 'image')} per step;"
            f" {setup.optimizer}, learning rate {setup.lr:g}, weight decay {setup.weight_decay:g}",
        )
    yield "Images", ", ".join(_images(summary, runs))
    yield "Seeds", ", ".join(map(str, summary.repeats.seeds))
    if summary.repeats.folds:
        yield "Folds", f"{', '.join(map(str, summary.repeats.folds))} of {summary.repeats.of_folds}"
    yield "Selected epoch", f"{_selected_by(summary)}; {', '.join(_epochs(summary))} (medians)"
    if chosen := summary.chosen:
        score = words.percent(chosen.val_score.mean)
        best = f"the best validation {summary.metric} of the arms beside the baseline ({score})"
        yield "Verdict on", f"{chosen.name}, which has {best}"


def _initial(setup: StudySetup) -> str:
    """Return where the weights come from."""
    if setup.source is not None:
        return setup.source
    return "ImageNet" if setup.weights == "imagenet" else PurePath(setup.weights).name


def _size(size: int | list[int]) -> str:
    height, width = [size, size] if isinstance(size, int) else size
    return f"{height}×{width} px"


def _images(summary: Summary, runs: Sequence[SeedRun]) -> Iterator[str]:
    """Yield how many images the runs used, and for what."""
    if trained := [run.training.training_images for run in runs if run.training.training_images]:
        yield f"{_span(trained)} to train on"
    if summary.selection and summary.selection.chooses != "last":
        yield f"{summary.selection.images:,} to select the epoch on"
    yield f"{_span([len(run.labels) for run in runs])} to measure {summary.reported} on"


def _span(counts: Sequence[int]) -> str:
    """Return a count, or the least and the most."""
    least, most = min(counts), max(counts)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _selected_by(summary: Summary) -> str:
    selection = summary.selection
    if selection is None:
        return f"best {summary.monitor}"
    if selection.chooses == "last":
        return "the last"
    return f"best {selection.chooses}/{summary.monitor.partition('/')[2]}"


def _epochs(summary: Summary) -> Iterator[str]:
    for arm in summary.arms:
        if arm.epochs:
            yield f"{arm.name} {words.epochs(arm.best_epoch)} of {arm.epochs}"
