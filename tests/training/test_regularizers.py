import pytest
import torch
from torch import nn

from frostline.training.regularizers import StartPenalty


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(1, 2, bias=False), nn.Linear(2, 1)
        with torch.no_grad():
            self.body.weight.copy_(torch.tensor([[1.0], [2.0]]))
            self.head.weight.copy_(torch.tensor([[3.0, 4.0]]))
            self.head.bias.fill_(1.0)


def moved(penalty_of):
    network = Two()
    penalty = penalty_of(network)
    with torch.no_grad():
        network.body.weight += torch.tensor([[1.0], [-2.0]])
        network.head.weight += 1.0
    return network, penalty


def test_l2_sp_by_hand():
    _, penalty = moved(lambda n: StartPenalty(n, 0.1, 0.01, {"head.weight", "head.bias"}))
    # Li et al. 2018, eq. 3: alpha/2 of the body's movement, beta/2 of the whole head.
    assert penalty().item() == pytest.approx(0.05 * (1 + 4) + 0.005 * (16 + 25 + 1))


def test_the_distance_to_the_start_by_hand():
    network, penalty = moved(lambda n: StartPenalty(n, 0.1, 0.0, ()))
    assert penalty().item() == pytest.approx(0.05 * (1 + 4 + 1 + 1))
    penalty().backward()
    assert torch.allclose(network.body.weight.grad, 0.1 * torch.tensor([[1.0], [-2.0]]))
    assert torch.allclose(network.head.bias.grad, torch.zeros(1))


def test_nothing_has_moved_and_nothing_is_added():
    network = Two()
    assert StartPenalty(network, 1.0, 0.0, ())().item() == 0.0


def test_a_frozen_tensor_adds_nothing():
    network, penalty = moved(lambda n: StartPenalty(n, 0.1, 0.01, {"head.weight", "head.bias"}))
    network.body.requires_grad_(False)
    assert penalty().item() == pytest.approx(0.005 * (16 + 25 + 1))
    network.requires_grad_(False)
    assert penalty().item() == 0.0


def test_it_adds_nothing_to_a_checkpoint_or_an_optimizer():
    penalty = StartPenalty(Two(), 0.1, 0.0, ())
    assert not penalty.state_dict()
    assert not list(penalty.parameters())
    assert penalty.to(torch.float64)._buffers["start_0"].dtype == torch.float64
