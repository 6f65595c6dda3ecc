"""frostline: its own command, in this process, on data that are prepared and at the network's size already.

Timed is `training.run.train`, the part of the command that the others have, too: build the network, load
its weights, run the frozen layers, train, validate. `command_seconds` is the whole command, which also
composes, measures the test split and writes the results. With `sweep`, lists for an override, the whole
command is the timed part. Every run has a scratch of its own: no features are kept from before. With `again`,
the same command runs once more, at another rate, and finds its features.
"""

import contextlib
import csv
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.peers import common


def main() -> None:
    given = common.settings(command=["finetune"], sweep=[], again=[])
    import timm.optim  # noqa: F401  # imported before the clock starts, as what follows

    from frostline.commands import main as cli
    from frostline.config import compose, stage_configs
    from frostline.models.pretrained import load_initial_weights
    from frostline.pipeline.standalone import prepared
    from frostline.training import run as training_run
    from frostline.training import trainer  # noqa: F401
    from frostline.training.inputs import load_inputs
    from frostline.training.services import Services

    common.warm()
    composed, choices = compose.experiment(given.overrides)
    run = stage_configs.finetune_config(composed, choices)
    _, data = prepared(composed, "target")
    load_inputs(
        run, data, load_initial_weights(run.backbone, run.weights), Services(Path(".frostline").resolve())
    )
    trained: list[float] = []
    train = training_run.train

    def timed(*arguments: Any, **named: Any) -> Any:
        begun = time.perf_counter()
        timing = train(*arguments, **named)
        trained.append(time.perf_counter() - begun)
        return timing

    training_run.train = timed

    def command(out: str, *more: str) -> float:
        begun = time.perf_counter()
        with contextlib.redirect_stdout(sys.stderr):
            status = cli.main([*given.command, *given.overrides, *given.sweep, *more, f"out={out}"])
        if status:
            raise SystemExit(status)
        return time.perf_counter() - begun

    seconds = command("run")
    result: dict[str, Any] = {"command_seconds": seconds, "epoch_seconds": []}
    if given.sweep:
        results = [json.loads(path.read_text()) for path in Path("run").rglob("metrics.json")]
        accuracy = max(each["val"]["accuracy"] for each in results)
        result |= {"seconds": seconds, "accuracy": accuracy, "train_loss": None}
    else:
        (took,) = trained
        with Path("run/history.csv").open() as stream:
            last = list(csv.DictReader(stream))[-1]
        accuracy, loss = float(last["val/accuracy"]), float(last["train/loss"])
        result |= {"seconds": took, "accuracy": accuracy, "train_loss": loss}
        result["features"] = json.loads(Path("run/training.json").read_text()).get("features", [])
    if given.again:
        result["warm_command_seconds"] = command("again", *given.again)
        result["warm_seconds"] = trained[-1]
    common.print_result(result)


if __name__ == "__main__":
    main()
