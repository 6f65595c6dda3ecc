"""The same schedules in finetuning-scheduler and in fastai, step by step: what trains, and at which rate.

    .venv/bin/python -m benchmarks.agreement [FILE]       seconds; writes results/agreement.json

Each library trains the same small network on the same batches. Before each step of the optimizer we note, for
every parameter, whether it trains, its rate and its momentum; after it, which running statistics moved.
"""

import json
import logging
import sys
import tempfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

from benchmarks import rivals

CONF = Path(__file__).parents[1] / "conf" / "freeze"
RESULTS = Path(__file__).parent / "results" / "agreement.json"
STEPS, BATCH, LR = 5, 8, 0.002
GRADUAL = {
    "groups": {"head": "head", "top": "stage:-1", "rest": "*"},
    "phases": [
        {"train": ["head"], "until": {"epochs": 1}},
        {"train": ["head", "top"], "until": {"epochs": 2}, "lr": {"top": 0.5}},
        {"train": "all", "until": "end", "lr": {"top": 0.5, "rest": 0.1}},
    ],
}
THEIR_GRADUAL = {
    0: {"params": [r"net\.9\..*"], "max_transition_epoch": 1},
    1: {"params": [r"net\.[45]\..*"], "max_transition_epoch": 3, "lr": 0.5 * LR},
    2: {"params": [r"net\.[0-3]\..*"], "max_transition_epoch": 5, "lr": 0.1 * LR},
}

Step = dict[str, Any]
"""A step: ``rates`` and ``momenta`` of trainable parameters, ``moved``: the statistics that changed."""


def network(norm: bool = True) -> Any:
    """Two stages of a convolution and its norm, and a head; without norms, the same places are empty."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    place: Callable[[int], nn.Module] = nn.BatchNorm2d if norm else lambda width: nn.Identity()
    stage = [nn.Conv2d(3, 4, 3), place(4), nn.ReLU(), nn.Identity(), nn.Conv2d(4, 6, 3), place(6), nn.ReLU()]
    return nn.Sequential(*stage, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))


def batches() -> Any:
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    images = torch.randn(STEPS * BATCH, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(images, torch.arange(len(images)) % 3), BATCH)


class Notes:
    """What happened to a network, step by step."""

    def __init__(self, net: Any) -> None:
        self.net, self.steps = net, list[Step]()
        self._statistics: dict[str, Any] = {}

    def before(self, rate_of: dict[int, float], momentum_of: dict[int, float]) -> None:
        trains = {name: p for name, p in self.net.named_parameters() if p.requires_grad}
        self.steps.append(
            {
                "rates": {name: float(rate_of[id(p)]) for name, p in trains.items()},
                "momenta": {name: float(momentum_of[id(p)]) for name, p in trains.items()},
            }
        )

    def after(self) -> None:
        self.steps[-1]["weights"] = [p.detach().clone() for p in self.net.parameters()]
        now = {name: b.clone() for name, b in self.net.named_buffers() if "running" in name}
        before = self._statistics or dict.fromkeys(now, 0)
        self.steps[-1]["moved"] = {name for name, b in now.items() if not (b == before[name]).all()}
        self._statistics = now

    def begin(self) -> None:
        self._statistics = {name: b.clone() for name, b in self.net.named_buffers() if "running" in name}


def lightning(callback: Any, net: Any, epochs: int, optimizer: Callable[..., Any], **options: Any) -> Notes:
    """Train in Lightning, with FreezeSchedule or with finetuning-scheduler."""
    import pytorch_lightning as pl
    import torch

    notes = Notes(net)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def training_step(self, batch: Any, index: int) -> Any:
            return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return optimizer(self.parameters(), lr=LR, **options)

        def on_train_start(self) -> None:
            notes.begin()

        def on_before_optimizer_step(self, opt: Any) -> None:
            groups = [(id(p), group) for group in opt.param_groups for p in group["params"]]
            momenta = {p: group["betas"][0] if "betas" in group else group["momentum"] for p, group in groups}
            notes.before({p: group["lr"] for p, group in groups}, momenta)

        def on_train_batch_end(self, *arguments: Any) -> None:
            notes.after()

    quiet: dict[str, Any] = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=[callback], enable_checkpointing=False, **quiet
    )
    trainer.fit(Module(), batches())
    return notes


def fastai_fine_tune(net: Any, epochs: int) -> Notes:
    from fastai.callback.core import Callback
    from fastai.callback.schedule import fine_tune  # noqa: F401  # it makes itself a method of Learner
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner, params
    from fastai.optimizer import Adam
    from torch import nn

    notes = Notes(net)

    class Watch(Callback):
        order = 100

        def before_fit(self) -> None:
            if not notes._statistics:
                notes.begin()

        def before_step(self) -> None:
            rows = [
                (id(p), hyper)
                for group, hyper in zip(self.opt.param_lists, self.opt.hypers, strict=True)
                for p in group
            ]
            notes.before({p: h["lr"] for p, h in rows}, {p: h["mom"] for p, h in rows})

        def after_batch(self) -> None:
            if self.training:
                notes.after()

    learner = Learner(
        DataLoaders(batches(), batches()),
        net,
        nn.CrossEntropyLoss(),
        Adam,
        splitter=lambda model: [params(model[:9]), params(model[9])],
        cbs=Watch(),
    )
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(epochs, base_lr=LR)
    return notes


def compared(ours: Notes, theirs: Notes) -> dict[str, Any]:
    """How far two runs agree, step by step."""
    assert len(ours.steps) == len(theirs.steps)
    pairs = list(zip(ours.steps, theirs.steps, strict=True))

    def both(key: str) -> list[tuple[float, float]]:
        return [(a[key][name], b[key][name]) for a, b in pairs for name in a[key].keys() & b[key].keys()]

    def frozen_moved(notes: Notes) -> bool:
        """Whether statistics moved of a norm whose weight was frozen."""
        stem = {name.rpartition(".")[0] for step in notes.steps for name in step["moved"]}
        return any(
            f"{each}.running_mean" in step["moved"] and f"{each}.weight" not in step["rates"]
            for step in notes.steps
            for each in stem
        )

    return {
        "steps": len(pairs),
        "same_parameters_train": sum(a["rates"].keys() == b["rates"].keys() for a, b in pairs),
        "largest_difference_of_rates": max(abs(a - b) / b for a, b in both("rates")),
        "largest_difference_of_momenta": max(abs(a - b) for a, b in both("momenta")),
        "statistics_of_frozen_norms_move": {"frostline": frozen_moved(ours), "theirs": frozen_moved(theirs)},
    }


def equal(a: Any, b: Any) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return mine.keys() == theirs.keys() and all((mine[name] == theirs[name]).all() for name in mine)


def apart(ours: Notes, theirs: Notes, step: int) -> float:
    """The largest difference of a weight after `step` steps."""
    pairs = zip(ours.steps[step - 1]["weights"], theirs.steps[step - 1]["weights"], strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


def finetuning_scheduler() -> Any:
    from finetuning_scheduler import FinetuningScheduler

    return FinetuningScheduler(
        ft_schedule=deepcopy(THEIR_GRADUAL),
        epoch_transitions_only=True,
        restore_best=False,
        logging_level=logging.ERROR,
        log_dir=tempfile.gettempdir(),
    )


def main() -> None:
    import torch

    from frostline import FreezeSchedule

    rivals.quiet()
    rows: dict[str, Any] = {}
    sgd: dict[str, Any] = {"optimizer": torch.optim.SGD, "momentum": 0.9}
    for name, norm in (("finetuning-scheduler", True), ("finetuning-scheduler, no BatchNorm", False)):
        ours = lightning(FreezeSchedule(GRADUAL), network(norm), 5, **sgd)
        theirs = lightning(finetuning_scheduler(), network(norm), 5, **sgd)
        rows[name] = {**compared(ours, theirs), "same_weights_in_the_end": equal(ours.net, theirs.net)}

    def adam(parameters: Any, lr: float) -> torch.optim.Optimizer:
        """As fastai's: its β₂, ε and decay, and no decay of norms and biases."""
        given = list(parameters)
        decay, rest = ([p for p in given if (p.ndim > 1) is matrix] for matrix in (True, False))
        groups = [{"params": decay, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.99), eps=1e-5)

    ours = lightning(FreezeSchedule(CONF / "fastai_fine_tune.yaml"), network(), 5, adam)
    theirs = fastai_fine_tune(network(), 4)
    rows["fastai, fine_tune(4)"] = {
        **compared(ours, theirs),
        "same_weights_in_the_end": equal(ours.net, theirs.net),
        "largest_difference_of_weights": {
            "after_the_first_phase": apart(ours, theirs, STEPS),
            "in_the_end": apart(ours, theirs, len(ours.steps)),
        },
    }
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"versions": rivals.machine()["versions"], "runs": rows}, indent=2) + "\n")
    print(out.read_text())


if __name__ == "__main__":
    rivals.run_there()
    main()
