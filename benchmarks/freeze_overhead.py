"""What a freeze schedule costs a training step: FreezeSchedule, finetuning-scheduler, no callback at all.

    .venv/bin/python -m benchmarks.freeze_overhead        minutes; writes results/freeze_overhead.json

ResNet-18 at 64 px, batches of 32, SGD with momentum, on one thread. The schedule: the head, then the last
stage too, then all, an epoch each, at constant rates, or at rates that move at every step. Measured are:

- the time inside the callback's hooks, on tiny images: the median of a step, and all of a run of three epochs
  of 150 steps, its beginning and its changes of phase included;
- the CPU time of steps of real size, once everything trains: the lowest tenth of each arm's, as the arms take
  turns. It includes what a callback does to the optimizer, whose groups it splits; 1 to 2 % are noise.
"""

import itertools
import json
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks import rivals

RESULTS = Path(__file__).parent / "results" / "freeze_overhead.json"
ROUNDS, STEPS, EPOCHS = 4, 12, 3
MANY_STEPS = 150
"""Of an epoch on pairs of tiny images, for the time inside the hooks."""
GROUPS = {"head": "head", "top": "stage:-1", "rest": "*"}
OURS = {
    "groups": GROUPS,
    "phases": [
        {"train": ["head"], "until": {"epochs": 1}},
        {"train": ["head", "top"], "until": {"epochs": 1}},
        {"train": "all", "until": "end"},
    ],
}
MOVING = {"kind": "cosine", "warmup": 0.1}
THEIRS = {
    0: {"params": [r"model.fc.*"], "max_transition_epoch": 1},
    1: {"params": [r"model.layer4.*"], "max_transition_epoch": 2, "lr": 0.01},
    2: {"params": [r"model.(?!fc|layer4).*"], "max_transition_epoch": 3, "lr": 0.01},
}
ARMS = ("no callback", "FreezeSchedule", "FreezeSchedule, cosine rates", "finetuning-scheduler")


def callback(arm: str) -> Any:
    if arm == "finetuning-scheduler":
        from finetuning_scheduler import FinetuningScheduler

        # As lean as it gets: no early stopping, no checkpoints to go back to.
        lean: dict[str, Any] = {"epoch_transitions_only": True, "restore_best": False, "logging_level": 40}
        lean["log_dir"] = tempfile.gettempdir()
        return FinetuningScheduler(ft_schedule=THEIRS, **lean)
    from frostline import FreezeSchedule

    return FreezeSchedule(OURS, "model", lr_schedule=MOVING if "cosine" in arm else None)


def fit(arm: str, steps: int, size: int, batch: int) -> tuple[list[float], float, float]:
    """Train; return the CPU seconds of the last epoch's steps, and those in hooks: a step's, and all."""
    import pytorch_lightning as pl
    import torch
    from torchvision.models import resnet18

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = resnet18(num_classes=10)
            self.marks: dict[int, list[float]] = defaultdict(list)

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def on_train_batch_start(self, batch: Any, index: int) -> None:
            self.marks[self.current_epoch].append(time.process_time())

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)

    spent: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, hook: Any) -> Any:
        def wrapper(*arguments: Any, **named: Any) -> Any:
            begun = time.perf_counter()
            try:
                return hook(*arguments, **named)
            finally:
                spent[name].append(time.perf_counter() - begun)

        return wrapper

    callbacks = [] if arm == "no callback" else [callback(arm)]
    for each in callbacks:
        hooks = [name for name in dir(pl.Callback) if name.startswith("on_")] + ["setup", "_take_over"]
        for name in hooks:
            ours = getattr(type(each), name, None)
            if ours is not getattr(pl.Callback, name, None):
                setattr(each, name, timed(name, getattr(each, name)))
    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(
        torch.randn(steps * batch, 3, size, size), torch.arange(steps * batch) % 10
    )
    module = Module()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=batch))
    assert all(parameter.requires_grad for parameter in module.model.parameters())
    last = module.marks[EPOCHS - 1]
    every_step = [times for times in spent.values() if len(times) >= EPOCHS * steps]
    # The median leaves out the few that change the phase.
    a_step = sum(statistics.median(times) for times in every_step)
    return [b - a for a, b in itertools.pairwise(last)], a_step, sum(map(sum, spent.values()))


def main() -> None:
    rivals.quiet()
    hooks = {arm: fit(arm, MANY_STEPS, 16, 2)[1:] for arm in ARMS[1:]}
    steps: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for number in range(ROUNDS):
        for arm in ARMS[number % len(ARMS) :] + ARMS[: number % len(ARMS)]:
            steps[arm] += fit(arm, STEPS, 64, 32)[0]
    lowest = {arm: statistics.quantiles(times, n=10)[0] for arm, times in steps.items()}
    bare = lowest[ARMS[0]]
    rows = {}
    for arm in ARMS:
        a_step, a_run = hooks.get(arm, (0.0, 0.0))
        rows[arm] = {
            "step_ms": round(1e3 * lowest[arm], 1),
            "ratio": round(lowest[arm] / bare, 4),
            "hooks_us": round(1e6 * a_step, 1),
            "hooks_percent": round(100 * a_step / bare, 4),
            "run_ms": round(1e3 * a_run, 1),
        }
    result = {"machine": rivals.machine(), "arms": rows}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{'':30}{'step, ms':>10}{'ratio':>8}{'hooks, µs':>12}{'of a step':>12}{'run, ms':>10}")
    for arm, row in rows.items():
        share = f"{row['hooks_percent']:.3f} %"
        print(
            f"{arm:30}{row['step_ms']:>10}{row['ratio']:>8.3f}{row['hooks_us']:>12}{share:>12}{row['run_ms']:>10}"
        )
    print(json.dumps(result["machine"]))


if __name__ == "__main__":
    rivals.run_there()
    main()
