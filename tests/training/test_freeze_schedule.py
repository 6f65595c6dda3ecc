"""`from frostline import FreezeSchedule`: the callback in anyone's LightningModule, on anyone's network."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import timm
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from tests.tiny import same, tensors
from timm.optim import Lookahead
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, TensorDataset
from torchvision.models.resnet import BasicBlock, ResNet

from frostline import FreezeSchedule, preview
from frostline.console.errors import FrostlineError

ROOT = Path(__file__).parents[2]
# Lightning's own: its advice on loaders and logging, and what torch has deprecated under it.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in (
        ".*does not have many workers",
        ".*number of training batches",
        ".*LeafSpec",
        ".*is overridden and |.*You defined a `validation_step` but have no",
        ".*Checkpoint directory",
        "The dirpath has changed",
        ".*resuming from a checkpoint that ended before the epoch",
        ".*IterableDataset",
    )
]

GROUPS = {"head": "head", "rest": "*"}
THAW = {
    "groups": GROUPS,
    "phases": [{"train": ["head"], "until": {"steps": 3}}, {"train": "all", "until": "end"}],
}
WAITS = {"plateau": "val/loss", "patience": 1, "max": "50%"}
BEST = {
    "groups": GROUPS,
    "phases": [
        {"train": ["head"], "until": WAITS, "restore": "best", "lr": {"head": 3.0}},
        {"train": "all", "until": "end", "restore": "none"},
    ],
}


def plain():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.LazyLinear(3)
    )


NETWORKS = {
    "sequential": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(192, 8), nn.Tanh(), nn.Linear(8, 6), nn.Linear(6, 3)
    ),
    "torchvision": lambda: ResNet(BasicBlock, [1, 1, 1, 1], num_classes=3),
    "timm vit": lambda: timm.create_model("test_vit", num_classes=3, img_size=8, patch_size=4),
}


class Module(pl.LightningModule):
    """Has its network where it likes, and watches the head's rate and the first layer's."""

    def __init__(self, network, optimizer=torch.optim.SGD, logs="val/loss"):
        super().__init__()
        self.net, self.optimizer, self.logs = network, optimizer, logs
        self.watched = []

    def training_step(self, batch, index):
        images, labels = batch
        return nn.functional.cross_entropy(self.net(images), labels)

    def validation_step(self, batch, index):
        if self.logs:
            self.log(self.logs, self.training_step(batch, index))

    def on_before_optimizer_step(self, optimizer):
        rate_of = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        first, *_, last = self.net.parameters()
        self.watched.append((rate_of[id(first)], first.requires_grad, rate_of[id(last)]))

    def configure_optimizers(self):
        return self.optimizer(self.parameters(), lr=0.1)


def images(count=16, repeat=1):
    pixels = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return DataLoader(ConcatDataset([TensorDataset(pixels, torch.arange(count) % 3)] * repeat), batch_size=4)


def trainer(*callbacks, **settings):
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    settings = {"max_epochs": 4, "enable_checkpointing": False, **quiet, **settings}
    return pl.Trainer(accelerator="cpu", callbacks=list(callbacks), **settings)


def fit(schedule=THAW, module=None, data=None, network="", lr_schedule=None, **settings):
    callback = FreezeSchedule(schedule, network, lr_schedule)
    module = module or Module(NETWORKS["sequential"]())
    trainer(callback, **settings).fit(module, images() if data is None else data, images())
    return callback, module


def test_a_module_is_given_back_in_training_mode():
    """Lightning warns of modules in eval mode as a fit starts, and here warnings are errors."""
    _, module = fit("linear_probe", max_epochs=1)
    assert all(each.training for each in module.modules())
    fit("linear_probe", module, max_epochs=1)
    trainer(max_epochs=1).fit(module, images(), images())


# ── as the guide has it ─────────────────────────────────────────────────────────────────────────────────────


HIDDEN = """\
import sys
from importlib.machinery import PathFinder


class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.split(".")[0] in ("hydra", "omegaconf", "mlflow", "dvc")
        return None if hidden else super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Without
"""


@pytest.mark.slow
def test_the_guides_example_runs_where_nothing_of_the_pipeline_is_installed(tmp_path):
    guide = (ROOT / "docs" / "freeze-schedules.md").read_text()
    section = guide.partition("## Use a schedule in your own Lightning code\n")[2]
    example = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    lines = [line for line in example.splitlines() if line and not line.startswith(("import", "from"))]
    assert len(lines) <= 20
    program = tmp_path / "example.py"
    program.write_text(HIDDEN + example)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "phase 2: epochs 4–10, 24 steps, ends on time; 11,181,642 parameters train" in done.stdout


def test_the_package_waits_with_lightning_until_it_is_asked_for():
    program = "import sys, frostline; print('torch' in sys.modules); frostline.FreezeSchedul"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout == "False\n"
    assert "module 'frostline' has no attribute 'FreezeSchedul'" in done.stderr


def test_a_preview_says_what_would_train():
    lines = preview(FreezeSchedule(BEST), NETWORKS["sequential"](), 4, 10, lr=0.1).splitlines()
    assert lines == [
        "phase 0: epochs 0–2, 20 steps, ends on time, since its patience of an epoch is too long"
        " to end it early, and restores its best epoch; 21 parameters train",
        "  head: lr 0.3 → 0.3 → 0.3",
        "phase 1: epochs 2–4, 20 steps, ends on time; 1,619 parameters train",
        "  head: lr 0.3 → 0.3 → 0.3",
        "  rest: lr 0.1 → 0.1 → 0.1",
    ]
    assert preview(FreezeSchedule("zero_shot"), nn.Linear(2, 2), 1, 1) == "nothing trains"


# ── networks and modules ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("where", ["", "net"])
@pytest.mark.parametrize("name", NETWORKS)
def test_any_network_is_unfrozen_by_a_ready_schedule(name, where):
    callback, module = fit("gradual", Module(NETWORKS[name]()), network=where, max_epochs=5)
    assert len(callback.starts) == 3
    assert [grad for _, grad, _ in module.watched] == [False] * 8 + [True] * 12
    rate = 0.1 * 0.85**callback.plan.layers.head_depth
    assert module.watched[-1][0] <= 0.1 * 0.85
    assert callback.plan.layers.stages > 1
    assert rate <= module.watched[-1][0]


def test_a_module_may_be_the_network():
    class Itself(Module):
        def __init__(self):
            super().__init__(nn.Linear(192, 6))
            self.head = nn.Linear(6, 3)

        def training_step(self, batch, index):
            return nn.functional.cross_entropy(self.head(self.net(batch[0].flatten(1))), batch[1])

    callback, _ = fit(module=Itself())
    assert callback.plan.groups == {"head": ("head.weight", "head.bias"), "rest": ("net.weight", "net.bias")}


def test_parameters_beside_the_network_train_as_the_optimizer_says():
    module = Module(NETWORKS["sequential"]())
    module.scale = nn.Parameter(torch.ones(()))
    callback, _ = fit(module=module, network="net")
    assert callback.slots.count(None) == 1
    assert module.scale.requires_grad


@pytest.mark.parametrize(
    "form",
    [
        lambda optimizer: [optimizer],
        lambda optimizer: ([optimizer], []),
        lambda optimizer: {"optimizer": optimizer},
        lambda optimizer: {"optimizer": optimizer, "lr_scheduler": None},
        lambda optimizer: Lookahead(optimizer),  # it steps the groups of the one inside
    ],
)
def test_one_optimizer_may_come_in_any_form(form):
    module = Module(NETWORKS["sequential"](), lambda *a, **k: form(torch.optim.SGD(*a, **k)))
    before = tensors(module.net)
    fit(module=module)
    assert [rate for rate, *_ in module.watched] == [0.0] * 3 + [0.1] * 13
    assert all(not torch.equal(tensor, before[name]) for name, tensor in tensors(module.net).items())


# ── the run ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_steps_are_the_optimizers_where_gradients_accumulate():
    # Five batches an epoch are three steps: two, two and one.
    callback, module = fit(data=images(20), lr_schedule={"kind": "linear"}, accumulate_grad_batches=2)
    assert callback.plan.steps_per_epoch == 3
    assert callback.starts == (0, 3)
    assert [rate for *_, rate in module.watched] == pytest.approx(
        [0.1 * (1 - i / 3) for i in range(3)] + [0.1 * (1 - i / 9) for i in range(9)]
    )


def test_a_phase_does_not_change_inside_a_step():
    # Validation after each of five batches could end the first phase while gradients accumulate.
    _, module = fit(BEST, data=images(20), accumulate_grad_batches=2, val_check_interval=1)
    assert [grad for _, grad, _ in module.watched] == sorted(grad for _, grad, _ in module.watched)


@pytest.mark.parametrize(
    "length", [{"max_epochs": 4}, {"max_epochs": None, "max_steps": 16}, {"max_steps": 16, "max_epochs": 9}]
)
def test_a_run_may_be_as_long_as_lightning_says(length):
    callback, _ = fit(BEST, **length)
    assert (callback.plan.epochs, callback.plan.steps_per_epoch) == (4, 4)


def test_a_module_is_given_back_as_it_came():
    module = Module(plain())
    module.net(next(iter(images()))[0])  # its lazy layer takes shape
    dropout = {
        "groups": GROUPS,
        "phases": [{"train": ["head"], "until": "50%"}, {"train": "all", "until": "end"}],
    }
    first, _ = fit(dropout, module)
    seen = module.watched[:]
    module.watched.clear()
    second, _ = fit(dropout, module)
    assert first.starts == second.starts == (0, 8)
    assert module.watched == seen
    assert "configure_optimizers" not in vars(module)
    assert not any("train" in vars(each) for each in module.modules())
    trainer(max_epochs=1).fit(module, images())


def test_a_fit_that_breaks_off_gives_the_module_back_too():
    module = Module(plain(), logs="")
    module.net(next(iter(images()))[0])
    with pytest.raises(FrostlineError, match=r"phases\.0 monitors val/loss, which validation does not"):
        fit(BEST, module)
    assert "configure_optimizers" not in vars(module)
    assert not any("train" in vars(each) for each in module.modules())


def test_a_second_fit_of_a_trainer_resumes_in_its_phase():
    callback, module = FreezeSchedule(THAW), Module(NETWORKS["sequential"]())
    trainer_ = trainer(callback)
    trainer_.fit(module, images(), images())
    trainer_.fit_loop.max_epochs = 6
    trainer_.fit(module, images(), images())
    assert callback.starts == (0, 3)
    assert [grad for _, grad, _ in module.watched] == [False] * 3 + [True] * 21


# ── checkpoints ─────────────────────────────────────────────────────────────────────────────────────────────


def saved(folder, schedule=BEST, ckpt_path=None, accumulate=1, seed=0):
    """Train with a checkpoint at every step; all batches are alike, since a plain loader does not resume."""
    torch.manual_seed(seed)
    module = Module(timm.create_model("test_resnet", num_classes=3), torch.optim.AdamW)
    callbacks = [FreezeSchedule(schedule)] if schedule else []
    keep = ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=1)
    each = trainer(
        keep, *callbacks, enable_checkpointing=True, max_epochs=3, accumulate_grad_batches=accumulate
    )
    each.fit(module, images(4, repeat=4), images(4), ckpt_path=ckpt_path, weights_only=True)
    return [callback.starts for callback in callbacks], tensors(module.net)


@pytest.mark.parametrize(("accumulate", "steps"), [(1, (2, 5, 7, 8, 11)), (2, (1, 3, 5))])
def test_a_run_resumes_from_lightnings_checkpoint_to_the_bit(accumulate, steps, tmp_path):
    starts, state = saved(tmp_path / "whole", accumulate=accumulate)
    for step in steps:
        path = tmp_path / "whole" / f"step={step}.ckpt"
        resumed_starts, resumed = saved(tmp_path / str(step), ckpt_path=path, accumulate=accumulate, seed=1)
        assert (resumed_starts, same(resumed, state)) == (starts, True), step


def test_a_checkpoint_of_another_schedule_is_refused(tmp_path):
    saved(tmp_path / "best")
    path = tmp_path / "best" / "step=5.ckpt"
    slower = {**BEST, "phases": [{**BEST["phases"][0], "lr": {"head": 2.0}}, BEST["phases"][1]]}
    with pytest.raises(FrostlineError) as error:
        saved(tmp_path / "slower", slower, path)
    assert str(error.value) == (
        "the checkpoint was made with another freeze schedule: freeze.phases.0.lr.head was 3.0, now it is"
        " 2.0; resume with the former, or load the weights and start without ckpt_path"
    )
    saved(tmp_path / "none", None)
    with pytest.raises(FrostlineError, match="the checkpoint was made without a freeze schedule, so"):
        saved(tmp_path / "with", BEST, tmp_path / "none" / "step=5.ckpt")


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────


class Endless(IterableDataset):
    def __iter__(self):
        return iter([(torch.zeros(3, 8, 8), 0)] * 8)


def with_scheduler(*arguments, **options):
    optimizer = torch.optim.SGD(*arguments, **options)
    return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1)}


def half_frozen():
    module = Module(NETWORKS["sequential"]())
    module.net[1].requires_grad_(False)
    module.optimizer = lambda parameters, lr: torch.optim.SGD((p for p in parameters if p.requires_grad), lr)
    return module


ONE = "configure_optimizers must return one optimizer, without a scheduler: a freeze schedule sets"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"network": "nett"}, "FreezeSchedule(network='nett'): Module has no such network"),
        ({"network": "watched"}, "FreezeSchedule(network='watched'): Module has no such network"),
        ({"module": lambda: Module(nn.Linear(2, 2), with_scheduler)}, ONE),
        ({"module": lambda: Module(nn.Linear(2, 2), lambda *a, **k: None)}, ONE),
        ({"module": half_frozen}, "the optimizer lacks 2 of the network's parameters, such as 1.weight; g"),
        ({"schedule": "zero_shot"}, "freeze.phases: empty, so nothing trains; use Trainer.validate"),
        (
            {"max_epochs": -1, "max_steps": 9},
            "a freeze schedule needs a run of whole epochs, of 4 steps here; set Trainer(max_epochs=3), or"
            " max_steps=12, instead of max_steps=9",
        ),
        ({"max_epochs": -1}, "a freeze schedule needs to know how long the run is; set Trainer(max"),
        ({"data": DataLoader(Endless(), 4)}, "a freeze schedule needs to know how long the run is; set"),
        ({"schedule": BEST, "limit_val_batches": 0}, "freeze.phases.0 monitors val/loss, but there is no"),
    ],
)  # fmt: skip
def test_what_does_not_fit_gets_a_sentence(arguments, sentence):
    if "module" in arguments:
        arguments = {**arguments, "module": arguments["module"]()}
    with pytest.raises(FrostlineError) as error:
        fit(**arguments)
    assert str(error.value).startswith(sentence)
