"""Pictures of one run for MLflow: its curves with the phase boundaries, and its confusion matrix."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from frostline.files import read_csv


def draw(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield (file name, figure) for what a run's folder holds; a study's evaluation has its seeds in subfolders."""
    history = folder / "history.csv"
    if history.is_file():
        yield "curves.png", _curves(read_csv(history))
    predictions = [row for path in sorted(folder.rglob("predictions.csv")) for row in read_csv(path)]
    if predictions:
        yield "confusion.png", _confusion(predictions)


def _curves(rows: list[dict[str, str]]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, metric in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for split, style in (("train", "--"), ("val", "-")):
            points = [(int(r["epoch"]), float(r[f"{split}/{metric}"])) for r in rows if r[f"{split}/{metric}"]]
            axes.plot(*zip(*points, strict=True), style, label=split, marker="" if len(points) > 1 else "o") if points else None
        for before, row in zip(rows, rows[1:], strict=False):
            if before["phase"] != row["phase"] and before["phase"]:
                axes.axvline(int(before["epoch"]) + 0.5, color="0.7", linewidth=1, linestyle=":")
        axes.set(xlabel="epoch", ylabel=metric)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    return figure


def _confusion(rows: list[dict[str, str]]) -> Any:
    from matplotlib.figure import Figure

    classes = sorted({row["label"] for row in rows} | {row["prediction"] for row in rows})
    place = {name: i for i, name in enumerate(classes)}
    counts = [[0] * len(classes) for _ in classes]
    for row in rows:
        counts[place[row["label"]]][place[row["prediction"]]] += 1
    side = max(4.0, 0.32 * len(classes))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow([[c / max(sum(line), 1) for c in line] for line in counts], cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true", xticks=range(len(classes)), yticks=range(len(classes)))
    axes.set_xticklabels(classes, rotation=90)
    axes.set_yticklabels(classes)
    if len(classes) <= 20:
        for i, line in enumerate(counts):
            for j, count in enumerate(line):
                dark = count > 0.5 * max(sum(line), 1)
                axes.text(j, i, count or "", ha="center", va="center", fontsize=8, color="white" if dark else "black")
    return figure


