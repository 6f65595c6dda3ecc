"""A freeze schedule on a network that torch.compile wraps: the same training, and a graph a phase."""

import shutil
from itertools import combinations

import pytest
import pytorch_lightning as pl
import torch
from tests.tiny import QUIET, Bench, network_of, random_images, same, stranger
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.data import DataLoader, TensorDataset

from frostline.training.freeze_callback import FreezeSchedule

# Lightning's advice, and its use of deprecated functions of torch.
pytestmark = pytest.mark.filterwarnings("ignore:::pytorch_lightning", "ignore:.*LeafSpec")
STEPS, EPOCHS, BATCH = 3, 4, 10
GROUPS = {"head": "head", "top": "stage:-1", "rest": "*"}
PHASES = [
    {"train": ["head"], "until": {"steps": 2}},
    {"train": ["head", "top"], "until": {"epochs": 1}, "bn": "train"},
    {"train": "all", "until": {"steps": 3}, "bn": "eval"},
    {"train": ["rest"], "until": {"steps": 2}, "bn": "recalibrate"},
    {"train": ["head", "rest"], "until": "end", "bn": "train"},
]


STARTS = (0, 2, 5, 8, 10)


def convolutions():
    """As little as has running statistics in each group: tracing takes a time for each layer and phase."""
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU())
    top = nn.Sequential(nn.Conv2d(4, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU())
    return nn.Sequential(first, top, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))


NETWORKS = {
    "mlp": lambda: network_of("mlp"),
    "transformer": lambda: network_of("test_vit", depth=2),
    "convolutions": convolutions,
}


class Plain(stranger()):
    """It notes too which of its weights had gradients."""

    def __init__(self, model):
        super().__init__(model)
        self.graded = []

    def validation_step(self, batch, batch_idx):
        self.training_step(batch, batch_idx)

    def on_before_optimizer_step(self, optimizer):
        model = getattr(self.model, "_orig_mod", self.model)
        self.graded.append({name for name, p in model.named_parameters() if p.grad is not None})


def train(name, phases, wrap, groups=GROUPS):
    images = random_images(STEPS * BATCH, size=32)
    data = TensorDataset(images.pixels / 255.0, images.labels)
    module = Plain(wrap(NETWORKS[name]()))
    schedule = FreezeSchedule({"groups": groups, "phases": phases}, network="model")
    trainer = pl.Trainer(max_epochs=EPOCHS, callbacks=[schedule], **QUIET)
    loader = DataLoader(data, BATCH)
    trainer.fit(module, loader, loader)
    return module, schedule


@pytest.fixture
def compiled():
    """Train a compiled network; say how many graphs it took."""

    def run(name, phases, backend, groups=GROUPS):
        counter = CompileCounterWithBackend(backend)
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        module, schedule = train(name, phases, lambda net: torch.compile(net, backend=counter), groups)
        return module, schedule, counter.frame_count

    yield run
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("name", "backend"),
    [("mlp", "aot_eager"), ("transformer", "eager"), ("convolutions", "aot_eager")],
)
def test_a_phase_is_a_graph_and_trains_what_it_would_without(name, backend, compiled):
    module, schedule, graphs = compiled(name, PHASES, backend)
    plain, _ = train(name, PHASES, lambda net: net)
    assert schedule.starts == STARTS
    assert graphs == len(PHASES) + 1  # and one of validation
    assert not torch._dynamo.utils.counters["graph_break"]
    assert module.graded == plain.graded
    for step, graded in enumerate(module.graded):
        assert graded == schedule.plan.trained(sum(step >= start for start in STARTS) - 1), f"step {step}"
    assert all(map(same, module.states, plain.states))


@torch._dynamo.config.patch(recompile_limit=8)  # other libraries raise it on import
def test_more_phases_than_torch_compile_takes_graphs_for(compiled):
    groups = {"head": "head", "bias": "bias", "top": "stage:-1", "rest": "*"}
    trains = [list(names) for size in (1, 2, 3) for names in combinations(groups, size)][:11]
    phases = [{"train": names, "until": {"steps": 1}} for names in trains]
    phases[-1]["until"] = "end"
    before = torch._dynamo.config.recompile_limit
    _, schedule, graphs = compiled("mlp", phases, "eager", groups)
    assert len(schedule.starts) == len(phases) > before
    assert graphs == len(phases) + 1
    assert torch._dynamo.config.recompile_limit == before


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("reuse", [True, False], ids=["head on features", "whole network"])
# No processes that compile or try vector instructions: each of them would import torch first.
@torch._inductor.config.patch({"compile_threads": 1, "cpp.vec_isa_ok": False})
def test_a_run_may_be_compiled_and_leaves_its_network_as_it_was(reuse, tmp_path):
    phases = [{"train": ["head"], "until": {"epochs": 1}}, {"train": "all", "until": "end"}]
    changes = {
        "freeze": {"groups": {"head": "head", "rest": "*"}, "phases": phases},
        "features": {"kind": "auto", "views": None} if reuse else {"kind": "off"},
        "trainer.epochs": 2,
    }
    plain = Bench(changes).fit(tmp_path / "plain")
    bench = Bench({**changes, "trainer.compile": True})
    compiled = bench.fit(tmp_path / "compiled")
    assert bench.classifier.network._compiled_call_impl is None
    for name, tensor in plain.best_state.items():
        torch.testing.assert_close(compiled.best_state[name], tensor, rtol=1e-4, atol=1e-5)
