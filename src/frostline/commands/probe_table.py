"""The table of heads that `frostline probe` prints."""

from collections.abc import Iterator
from pathlib import Path

from frostline.base.metrics import Spread
from frostline.console import tables
from frostline.probing.results import Configuration, ProbeResult, label, short


def print_probe(result: ProbeResult, out: Path) -> None:
    """Print the metrics of a probe's heads, the best first, and of the closed-form probes."""
    console = tables.stdout_console()
    counts = ", ".join(f"{count} {split}" for split, count in result.images.items())
    took = f"took {result.features_seconds:.1f} s" if result.features_seconds else "were cached"
    heads = sum(len(configuration.heads) for configuration in result.configurations)
    console.print(
        f"features at {result.winner.group.split_point.name} of {counts} images {took};"
        f" {heads} heads took {result.train_seconds:.1f} s"
    )
    metric = result.metric
    measured = (f"val {name}" for name in result.winner.shown_metrics)
    headers = ("probe", *map(short, result.varied), *measured, f"test {metric}")
    tables.print_table(headers, _rows(result))
    console.print(f"{out}: the best head, {label(result)}, as a run; heads.csv, probe.json", soft_wrap=True)


def _rows(result: ProbeResult) -> Iterator[tuple[str, ...]]:
    best = result.configurations[0]
    for configuration in result.configurations:
        values = (f"{configuration.values[key]:g}" for key in result.varied)
        test = _spread(result.test[result.metric]) if result.test and configuration is best else ""
        yield ("heads", *values, *_val(configuration), test)
    for name, probe in (
        (f"ridge, penalty {result.ridge.chosen:g}", result.ridge),
        (f"kNN, k {result.knn.chosen:g}", result.knn),
    ):
        test = "" if probe.test is None else f"{probe.test:.4f}"
        others = ("" for _ in result.winner.shown_metrics[1:])
        yield (name, *("" for _ in result.varied), f"{probe.val:.4f}", *others, test)


def _val(configuration: Configuration) -> list[str]:
    """Return the metrics on validation images as text; if heads failed, how many."""
    if configuration.failed:
        others = [""] * (len(configuration.val) - 1)
        return [f"{configuration.failed} of {len(configuration.heads)} failed", *others]
    return [_spread(values) for values in configuration.val.values()]


def _spread(values: Spread) -> str:
    return f"{values['mean']:.4f}" + (f" ± {values['std']:.4f}" if values["n"] > 1 else "")
