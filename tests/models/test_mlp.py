import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from frostline.models.mlp import ACTIVATIONS, Mlp

FORMULAS = {
    "linear": lambda x: x,
    "exponential": lambda x: math.exp(x),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "bipolar_sigmoid": lambda x: (1 - math.exp(-x)) / (1 + math.exp(-x)),
    "tanh": lambda x: (math.exp(x) - math.exp(-x)) / (math.exp(x) + math.exp(-x)),
    "relu": lambda x: max(0.0, x),
}


def test_the_articles_network_has_its_shapes():
    model = Mlp(784, [64], 10)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes == {
        "hidden.0.weight": (64, 784),
        "hidden.0.bias": (64,),
        "head.weight": (10, 64),
        "head.bias": (10,),
    }
    assert model(torch.zeros(5, 1, 28, 28)).shape == (5, 10)


def test_every_activation_has_a_formula_here():
    assert ACTIVATIONS.keys() == FORMULAS.keys()


@pytest.mark.parametrize("name", FORMULAS)
@given(x=st.floats(-30, 30))
def test_an_activation_is_its_formula(name, x):
    value = ACTIVATIONS[name]()(torch.tensor(x, dtype=torch.float64)).item()
    assert value == pytest.approx(FORMULAS[name](x), rel=1e-9, abs=1e-12)


def test_the_bipolar_sigmoid_does_not_overflow():
    ends = ACTIVATIONS["bipolar_sigmoid"]()(torch.tensor([-1e4, 1e4]))
    assert ends.tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("name", FORMULAS)
def test_the_network_is_its_layers_written_out(name):
    model = Mlp(12, [5, 4], 3, activation=name)
    images = torch.rand(7, 3, 2, 2)
    torch.testing.assert_close(model(images), _by_hand(model, images, FORMULAS[name]))


def _by_hand(model, images, formula):
    x = images.reshape(len(images), -1)
    for layer in model.hidden:
        x = x @ layer.weight.T + layer.bias
        x = torch.tensor([[formula(v) for v in row] for row in x.tolist()])
    return x @ model.head.weight.T + model.head.bias


def test_without_hidden_layers_it_is_a_linear_classifier():
    model = Mlp(4, [], 3)
    x = torch.rand(2, 1, 2, 2)
    torch.testing.assert_close(model(x), x.flatten(1) @ model.head.weight.T + model.head.bias)


def test_hidden_units_are_dropped_in_training_only():
    model = Mlp(4, [1000], 2, activation="sigmoid", dropout=0.5)
    seen = []
    model.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model.train()(torch.ones(1, 1, 2, 2))
    model.eval()(torch.ones(1, 1, 2, 2))
    dropped, whole = seen
    kept = dropped != 0
    assert 400 < kept.sum() < 600
    torch.testing.assert_close(dropped[kept], 2 * whole[kept])
