import pickle
from pathlib import Path

import pytest
import torch

from frostline.console.errors import FrostlineError
from frostline.freezing.layers import layers_of
from frostline.models import weights
from frostline.models.mlp import Mlp

ABOUT = {"input": {"size": 28}, "classes": ["a", "b"], "backbone": {"kind": "mlp"}}


def head_of(model):
    return layers_of(model).match("head")


def test_weights_come_back_with_what_is_known_of_them(tmp_path):
    model = Mlp(4, [3], 2)
    weights.save(tmp_path / "w.safetensors", model.state_dict(), ABOUT)
    state, about = weights.load(tmp_path / "w.safetensors")
    assert about == ABOUT
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())


def test_equal_weights_give_equal_bytes(tmp_path):
    state = Mlp(4, [3], 2).state_dict()
    backwards = dict(reversed(list(state.items())))
    weights.save(tmp_path / "a", state, ABOUT)
    weights.save(tmp_path / "b", backwards, dict(reversed(list(ABOUT.items()))))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_all_is_loaded_or_the_head_stays_random():
    source, target = Mlp(4, [3], 2), Mlp(4, [3], 2)
    before = target.head.weight.clone()
    report = weights.transfer(target, source.state_dict(), head_of(target), reset_head=True, source="w")
    assert report.loaded == ("hidden.0.bias", "hidden.0.weight")
    assert report.reset == ("head.bias", "head.weight")
    assert torch.equal(target.head.weight, before)
    assert torch.equal(target.hidden[0].weight, source.hidden[0].weight)
    report = weights.transfer(target, source.state_dict(), head_of(target), reset_head=False, source="w")
    counts = {what: len(names) for what, names in report.to_dict().items()}
    assert counts == {"loaded": 4, "missing": 0, "unexpected": 0, "reset": 0}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"conv.weight": torch.zeros(1)}, "w: none of its 1 keys is in the network"),
        (
            Mlp(4, [3], 5).state_dict(),
            "weights.head: the weights' head has 5 outputs, the data set 2 classes; set weights.head=reset",
        ),
        (Mlp(9, [3], 2).state_dict(), "w: hidden.0.weight has shape (3, 9), the network wants (3, 4)"),
        (
            {k: v for k, v in Mlp(4, [3], 2).state_dict().items() if "bias" not in k}
            | {"extra": torch.zeros(1)},
            "w: 2 keys are missing (head.bias, hidden.0.bias) and 1 unexpected (extra)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_one_sentence(state, message):
    model = Mlp(4, [3], 2)
    with pytest.raises(FrostlineError) as caught:
        weights.transfer(model, state, head_of(model), reset_head=False, source="w")
    assert str(caught.value).startswith(message)


class Payload:
    """A pickle that would leave a file behind if it were executed."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("saver", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_is_never_executed(tmp_path, saver):
    trace = tmp_path / "executed"
    saver({"w": Payload(trace)}, tmp_path / "evil.pth")
    with pytest.raises(
        FrostlineError, match=r"evil\.pth holds more than tensors, or is damaged, and was not executed"
    ):
        weights.load(tmp_path / "evil.pth")
    assert not trace.exists()


def test_a_truncated_file_is_one_sentence(tmp_path):
    path = tmp_path / "w.safetensors"
    weights.save(path, Mlp(4, [3], 2).state_dict(), ABOUT)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(FrostlineError, match=r"w\.safetensors is damaged .*; copy or download it again"):
        weights.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FrostlineError, match=r"weights\.path: .*nothing\.pth is not a file"):
        weights.load(tmp_path / "nothing.pth")


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": s, "epoch": 3}]
)
def test_a_state_dict_that_torch_saved_is_read(tmp_path, wrap):
    state = Mlp(4, [3], 2).state_dict()
    torch.save(wrap(state), tmp_path / "w.pth")
    loaded, about = weights.load(tmp_path / "w.pth")
    assert about is None
    assert loaded.keys() == state.keys()
