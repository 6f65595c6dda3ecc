"""Learning curves of one arm: headline metric by epoch and seed, starts of phases, the baseline's mean."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from frostline.plotting import theme
from frostline.plotting.canvas import Style, epoch_axis, label_line, new_figure, percent_axis, svg
from frostline.reporting.inputs import Arm, SeedRun
from frostline.reporting.results import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAPER, SOFT = theme.PAPER.light, theme.SOFT.light
BASELINE_LINE: Style = {"color": theme.BASELINE_COLOUR.light, "linewidth": 1.2, "zorder": 1}


def lowest_value(arms: Iterable[Arm]) -> float:
    """Return the lowest value of all arms' curves, at which the axis of each arm's plot begins."""
    runs = [run for arm in arms for run in arm.runs.values()]
    return min(value for run in runs for value in (*run.val_curve, *run.train_curve))


def learning_svg(summary: Summary, arm: Arm, name: str, lowest: float) -> str:
    """Return one arm's learning curves for a page.

    Args:
        name: prefix of the ids in the file.
        lowest: `lowest_value` of all arms.
    """
    colour = theme.arm_colours([other.name for other in summary.arms])[arm.name].light
    with new_figure(4.6, 2.9) as figure:
        axes = figure.add_axes((0.115, 0.16, 0.865, 0.81))
        if summary.baseline and summary.baseline.name != arm.name:
            curve = summary.baseline.curve
            axes.plot([p.epoch for p in curve], [p.score.mean for p in curve], **BASELINE_LINE)
        for run in arm.runs.values():
            _run(axes, run, colour)
        percent_axis(axes, max(0.0, lowest - 0.05), 1.015)
        epoch_axis(axes, max(other.epochs for other in summary.arms))
        axes.set_xlabel("epochs")
        _phases(axes, list(arm.runs.values()))
        return svg(figure, name, f"Learning curves of {arm.name}.")


def trained_groups(run: SeedRun) -> list[str]:
    """Return the groups that train in each phase of a run: ``["head", "head + top", "all"]``."""
    return [p.train if isinstance(p.train, str) else " + ".join(p.train) for p in run.training.phases]


def _run(axes: "Axes", run: SeedRun, colour: str) -> None:
    epochs = range(len(run.val_curve))
    train: Style = {"linewidth": 0.9, "alpha": 0.45, "linestyle": (0, (3, 2))}
    axes.plot(epochs[1:], run.train_curve, color=colour, **train)
    axes.plot(epochs, run.val_curve, color=colour, linewidth=1.3, alpha=0.85)
    best = run.training.best_epoch
    dot: Style = {"marker": "o", "markersize": 5.5, "markeredgecolor": PAPER, "clip_on": False}
    axes.plot(epochs[best : best + 1], run.val_curve[best : best + 1], color=colour, **dot)


def _phases(axes: "Axes", runs: list[SeedRun]) -> None:
    """Mark the start of each run's later phases; the last mark is labelled with the groups that train."""
    starts_of: dict[tuple[int, str], list[float]] = {}
    for run in runs:
        for index, (phase, trained) in enumerate(zip(run.training.phases, trained_groups(run), strict=True)):
            if index:
                epoch = phase.first_step * run.training.epochs / max(run.training.steps, 1)
                starts_of.setdefault((index, trained), []).append(epoch)
                axes.axvline(epoch, color=SOFT, linewidth=0.9, alpha=0.6, linestyle=(0, (1, 2)))
    for (_, trained), epochs in starts_of.items():
        label_line(axes, max(epochs), trained)
