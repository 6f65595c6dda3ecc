"""What a reader gets: JSON, a Markdown table, and a plot of the figures against their targets."""

import json
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from benchmarks.harness import Measured, Work

HERE = Path(__file__).parent
MISSES = HERE / "misses.yaml"
"""Why a target was missed, measured, and what to try next: work → figure → sentences, written by people."""
TABLE, PICTURE = "README.md", "ratios"
MEETS, MISS, NO_RESULT = "✓", "✗", "–"
REACH = 8
"""Of the plot's scale: an eighth of a target to eight times it."""
LABEL_WIDTH = 52
"""Characters in a line of a row's label."""
NEXT_TO_NOTHING = 1e-3
"""The share of a target that noise below zero stands for: so little more that it is less."""
UNEXPLAINED = "not yet explained: write down in benchmarks/misses.yaml what was measured and what to try next"

Found = dict[str, Any]
"""A `Measured` as data, from its file."""


def save(found: Measured, out: Path) -> Path:
    """Write the results of a work on a device; each has a file, so that works can be measured one by one."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{found.work}-{found.device}.json"
    path.write_text(json.dumps(asdict(found), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def load(works: Sequence[Work], out: Path) -> list[Found]:
    """Return what `out` holds, in the order of the table, the CPU first."""
    paths = (out / f"{work.name}-{device}.json" for work in works for device in work.devices)
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]


def write(works: Sequence[Work], out: Path, misses: Path = MISSES) -> str:
    """Write table and plot of all that `out` holds; return the table of ratios."""
    found = load(works, out)
    table = ratios_table(works, found)
    said = yaml.safe_load(misses.read_text(encoding="utf-8")) if misses.is_file() else None
    parts = [
        "# Benchmarks",
        "What is compared, and how fair it is: [benchmarks/README.md](../README.md)."
        if out.resolve().parent == HERE
        else "What is compared, and how fair it is: benchmarks/README.md.",
        "Medians of interleaved repeats, the lowest and the highest in brackets.",
        *_sizes(found),
        f"![Ratios against targets]({PICTURE}.png)",
        table,
        *_missed(works, found, said or {}),
        "## Seconds and accuracies",
        seconds_table(works, found),
        "## Notes",
        *(f"- **{work.name}**: {work.title}. {work.about}" for work in works if _of(found, work)),
        "## Machines",
        *_machines(found),
    ]
    (out / TABLE).write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    draw(works, found, out)
    return table


def shown(figure: Mapping[str, Any]) -> str:
    """Return a figure's value with its range, such as ``21.3× (20.8–22.0)``."""
    if figure["value"] is None:
        return figure["note"] or "not measured"
    value, low, high = (_rounded(figure[name]) for name in ("value", "low", "high"))
    unit = figure["unit"] if figure["unit"] == "×" else f" {figure['unit']}"
    return f"{value}{unit}" + (f" ({low}–{high})" if low != high else "")


def mark(figure: Mapping[str, Any]) -> str:
    return {True: MEETS, False: MISS, None: ""}[figure["met"]]


def ratios_table(works: Sequence[Work], found: Sequence[Found]) -> str:
    """Return all figures as Markdown, a column for each device."""
    devices = [device for device in ("cpu", "cuda") if any(each["device"] == device for each in found)]
    names = {
        "cpu": "CPU",
        "cuda": next((f["machine"]["gpu"] for f in found if f["machine"].get("gpu")), "GPU"),
    }
    rows = []
    for work in works:
        mine = {each["device"]: each["figures"] for each in _of(found, work)}
        whats = dict.fromkeys(figure["what"] for figures in mine.values() for figure in figures)
        for number, what in enumerate(whats):
            cells, targets, notes = [], [], []
            for device in devices:
                figure = next((f for f in mine.get(device, ()) if f["what"] == what), None)
                cells.append(f"{shown(figure)} {mark(figure)}".strip() if figure else NO_RESULT)
                if figure and figure["target"]:
                    targets.append(_target(figure))
                if figure and figure["note"] and figure["value"] is not None:
                    notes.append(figure["note"])
            title = f"**{work.name}**: {work.title}" if not number else ""
            note = "; ".join(dict.fromkeys(notes))
            rows.append([title, what, *cells, (targets or [""])[0], note])
    return _markdown(["work", "ratio or seconds", *(names[d] for d in devices), "target", "note"], rows)


def seconds_table(works: Sequence[Work], found: Sequence[Found]) -> str:
    """Return what each competitor took and reached."""
    rows = []
    for work in works:
        for each in _of(found, work):
            for arm, results in each["runs"].items():
                good = [r for r in results if "failed" not in r]
                if not good:
                    rows.append([work.name, each["device"], arm, results[0]["failed"], "", "", ""])
                    continue
                seconds = [r.get("whole_seconds", r["seconds"]) for r in good]
                first = good[0]
                commands = [r["command_seconds"] for r in good if "command_seconds" in r]
                rows.append(
                    [
                        *(work.name, each["device"], arm, _rounded(statistics.median(seconds))),
                        f"{first['accuracy']:.4f}" if first.get("accuracy") is not None else "",
                        f"{first['train_loss']:.4f}" if first.get("train_loss") is not None else "",
                        "; ".join(
                            [
                                *dict.fromkeys(r["extrapolated"] for r in good if r.get("extrapolated")),
                                *(
                                    [f"whole command {_rounded(statistics.median(commands))} s"]
                                    if commands
                                    else []
                                ),
                                *([first["chosen"]] if "chosen" in first else []),
                            ]
                        ),
                    ]
                )
    return _markdown(["work", "device", "by", "seconds", "val accuracy", "train loss", "note"], rows)


def draw(works: Sequence[Work], found: Sequence[Found], out: Path) -> None:
    """Draw how far each target is met, on one scale: right of it is better, arrows go on."""
    from frostline.plotting import canvas, theme

    colours = {True: theme.HELPED, False: theme.HURT, None: theme.BASELINE_COLOUR}
    rows = []
    for work in works:
        for each in _of(found, work):
            for figure in each["figures"]:
                if figure["target"] and figure["value"] is not None:
                    rows.append((work.name, each["device"], figure))
    height = 1.5 + 0.34 * max(len(rows), 1)
    with canvas.new_figure(10, height) as picture:
        axes = picture.add_axes((0.43, 0.55 / height, 0.36, 1 - 1.35 / height))
        axes.set_xscale("log")
        axes.set_xlim(0.9 / REACH, 1.1 * REACH)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_yticks([])
        axes.axvline(1, color=theme.INK.light, linewidth=1.2)
        for place, (name, device, figure) in enumerate(rows):
            share, colour = _share(figure), colours[figure["met"]].light
            marker = ">" if share > REACH else "<" if share < 1 / REACH else "o"
            ends = min(max(share, 1 / REACH), REACH)
            axes.plot([1, ends], [place, place], color=colour, linewidth=7, solid_capstyle="butt", alpha=0.35)
            axes.plot([ends], [place], marker=marker, markersize=7, color=colour)
            label = f"{name}: {figure['what']}" + (" (GPU)" if device == "cuda" else "")
            label = "\n".join(textwrap.wrap(label, LABEL_WIDTH))
            canvas.write_text(axes, (-0.03, place), label, fontsize=9, in_rows=True, ha="right", va="center")
            unit = figure["unit"] if figure["unit"] == "×" else f" {figure['unit']}"
            said = f"{_rounded(figure['value'])}{unit}   target {_target(figure)}"
            canvas.write_text(
                axes, (1.03, place), said, fontsize=9, color=colour, in_rows=True, ha="left", va="center"
            )
        axes.set_xticks([1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8])
        axes.set_xticklabels(["1/8", "1/4", "1/2", "target", "2×", "4×", "8×"])
        axes.minorticks_off()
        axes.grid(True, axis="x")
        canvas.write_text(
            axes,
            (0, 1 + 0.3 / height),
            "How far each target is met: right of the line is better",
            fontsize=12,
            fontweight="bold",
            va="bottom",
        )
        (out / f"{PICTURE}.png").write_bytes(canvas.png(picture))
        (out / f"{PICTURE}.svg").write_bytes(canvas.svg_file(picture))


def _share(figure: Mapping[str, Any]) -> float:
    """How many times as good as its target."""
    value, target = figure["value"], figure["target"]
    if value <= 0:
        return 1 / NEXT_TO_NOTHING if target["sign"] == "≤" else NEXT_TO_NOTHING
    return value / target["value"] if target["sign"] == "≥" else target["value"] / value


def _missed(works: Sequence[Work], found: Sequence[Found], said: Mapping[str, Any]) -> list[str]:
    lines = []
    for work in works:
        for each in _of(found, work):
            for figure in each["figures"]:
                if not figure["target"] or (figure["met"] is not False and figure["value"] is not None):
                    continue
                why = (said.get(work.name) or {}).get(figure["what"], UNEXPLAINED)
                device = "" if each["device"] == "cpu" else " (GPU)"
                head = f"- **{work.name}{device}: {figure['what']}**, target {_target(figure)}: "
                measured = figure["value"] is not None
                lines.append(
                    head
                    + (f"{shown(figure)}. {why.strip()}" if measured else f"not measured, {shown(figure)}")
                )
    return ["## Targets that are missed", "\n".join(lines)] if lines else []


def _machines(found: Sequence[Found]) -> list[str]:
    lines = []
    for each in found:
        m = each["machine"]
        gpu = f", {m['gpu']}" if m.get("gpu") else ""
        versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items() if version)
        lines.append(
            f"- **{each['work']}**, {m['measured']} UTC: {m['cpu']}, {m['cores']} cores,"
            f" {m['threads']} threads pinned{gpu}, {m['memory_gib']} GiB, {m['system']},"
            f" load before {m['load']}; Python {m['python']}, {versions}"
        )
    return ["\n".join(lines)]


def _sizes(found: Sequence[Found]) -> list[str]:
    others = sorted({f"{each['work']} ({each['size']})" for each in found if each["size"] != "full"})
    if not others:
        return []
    return [f"**Not at full size**, so no verdict on a target: {', '.join(others)}."]


def _of(found: Sequence[Found], work: Work) -> list[Found]:
    return [each for each in found if each["work"] == work.name]


def _target(figure: Mapping[str, Any]) -> str:
    unit = "" if figure["unit"] == "×" else f" {figure['unit']}"
    return f"{figure['target']['sign']} {figure['target']['value']:g}{unit}"


def _rounded(value: float) -> str:
    """Three digits, as few zeros as that takes."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )
