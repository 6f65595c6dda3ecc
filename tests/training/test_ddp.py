"""A freeze schedule on anybody's LightningModule in two processes: as in one at the same global batch."""

import os
import socket
import weakref
from datetime import timedelta

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from tests.tiny import QUIET, Started, in_process, network_of, random_images, same, stranger
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from frostline.training.freeze_callback import FreezeSchedule

STEPS, EPOCHS, BATCH = 3, 4, 12
GROUPS = {"head": "head", "top": "stage:-1", "rest": "*"}
THAW = [
    {"train": ["head"], "until": {"steps": 2}, "bn": "eval"},
    {"train": ["head", "top"], "until": {"epochs": 1}, "lr": {"top": 0.5}},
    {"train": "all", "until": {"steps": 3}},
    {"train": ["rest"], "until": {"steps": 2}},
    {"train": ["head", "rest"], "until": "end"},
]
EARLY = [
    {"train": ["head"], "until": {"plateau": "val/loss", "patience": 1, "max": {"epochs": 3}}},
    {"train": "all", "until": "end", "bn": "eval", "restore": "best"},
]


class Plain(stranger()):
    """It notes too what was all-reduced."""

    def __init__(self, model, val_losses):
        super().__init__(model)
        self.val_losses = val_losses
        self.reduced, self.alive = [], []
        self.wrappers = weakref.WeakSet()

    def validation_step(self, batch, batch_idx):
        # Each process has seen other images, and has a mind of its own.
        self.log("val/loss", self.val_losses[self.trainer.global_rank][self.current_epoch], sync_dist=False)

    def on_train_batch_start(self, batch, batch_idx):
        self.reduced.append(0)
        wrapper = self.trainer.strategy.model
        if isinstance(wrapper, DistributedDataParallel) and wrapper not in self.wrappers:
            wrapper.register_comm_hook(None, self.count)
            self.wrappers.add(wrapper)

    def count(self, state, bucket):
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

        self.reduced[-1] += bucket.buffer().numel()
        return allreduce_hook(None, bucket)

    def on_train_batch_end(self, *arguments):
        super().on_train_batch_end(*arguments)
        self.alive.append(len(self.wrappers))


def train(name, phases, val_losses, rank=0, processes=1):
    images = random_images(STEPS * BATCH, size=32)
    data = TensorDataset(images.pixels / 255.0, images.labels)
    module = Plain(network_of(name), val_losses)
    schedule = FreezeSchedule({"groups": GROUPS, "phases": phases}, network="model")
    trainer = pl.Trainer(
        devices=processes,
        strategy=DDPStrategy(timeout=timedelta(seconds=60)) if processes > 1 else "auto",
        max_epochs=EPOCHS,
        callbacks=[schedule],
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **QUIET,
    )
    # What two processes see together at a step is what one sees.
    order = range(rank, len(data), processes)
    trainer.fit(module, DataLoader(data, BATCH // processes, sampler=order), DataLoader(data, BATCH))
    return module, schedule


def one_of_two(rank, port, out, *arguments):
    os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    alone(out / f"{rank}.pt", *arguments, rank, 2)
    torch.distributed.destroy_process_group()


def alone(out, *arguments):
    module, schedule = train(*arguments)
    kept = {name: getattr(module, name) for name in ("states", "reduced", "alive")}
    plan = schedule.plan
    trained = [sorted(plan.trained(phase)) for phase in range(len(plan.phases))]
    torch.save({**kept, "starts": schedule.starts, "trained": trained}, out)


def two_processes(out, *arguments):
    """What each of two processes that train together has noted."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [Started(one_of_two, rank, port, out, *arguments) for rank in range(2)]
    assert [rank.wait() for rank in ranks] == [(0, "")] * 2
    return [torch.load(out / f"{rank}.pt") for rank in range(2)]


@pytest.mark.slow
def test_two_processes_stay_equal_and_do_what_one_does(tmp_path):
    losses = [[4, 3, 2, 1]] * 2
    first, second = two_processes(tmp_path, "test_resnet", THAW, losses)
    assert in_process(alone, tmp_path / "alone.pt", "test_resnet", THAW, losses) == (0, "")
    one = torch.load(tmp_path / "alone.pt")
    starts = (0, 2, 5, 8, 10)
    assert first["starts"] == second["starts"] == one["starts"] == starts
    assert len(first["states"]) == STEPS * EPOCHS
    for step, (a, b, c) in enumerate(zip(first["states"], second["states"], one["states"], strict=True)):
        assert same(a, b), f"step {step}"
        for key in c:
            torch.testing.assert_close(a[key], c[key], rtol=1e-4, atol=1e-5, msg=f"step {step}: {key}")
    # One wrapper all-reduces each trainable parameter's gradient once, and no other.
    weights = one["states"][0]
    elements = [sum(weights[key].numel() for key in keys) for keys in one["trained"]]
    ends = [*starts[1:], STEPS * EPOCHS]
    expected = [elements[phase] for phase, end in enumerate(ends) for _ in range(starts[phase], end)]
    for rank in (first, second):
        assert rank["reduced"] == expected
        assert rank["alive"] == [1] * STEPS * EPOCHS


def test_two_processes_leave_a_phase_together(tmp_path):
    # The mean stalls at the second epoch; the processes' own losses at the third and at none.
    first, second = two_processes(tmp_path, "test_vit", EARLY, [[3, 2, 2, 1], [5, 7, 4, 3]])
    assert first["starts"] == second["starts"] == (0, 2 * STEPS)
    assert all(map(same, first["states"], second["states"]))
