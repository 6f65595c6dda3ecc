import copy

import pytest
import torch

from frostline.training.averaging import Ema, Swa, best_alpha, greedy_soup, interpolate, uniform_soup


def state(*values, count=0):
    """A weight, a statistic and a count of batches."""
    w, s = values
    return {"w": torch.tensor([w]), "s": torch.tensor([s]), "n": torch.tensor(count)}


def numbers(average):
    return {name: tensor.item() for name, tensor in average.items()}


# ── EMA ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_ema_by_hand():
    ema = Ema(decay=0.9, warmup=False)
    ema.seed(state(1.0, 0.0))
    ema.enter(state(1.0, 0.0), {"w", "s", "n"})
    ema.update(state(2.0, 10.0, count=1))
    assert numbers(ema.average) == {"w": pytest.approx(1.1), "s": pytest.approx(1.0), "n": 1}
    ema.update(state(3.0, 10.0, count=2))
    assert numbers(ema.average) == {"w": pytest.approx(0.9 * 1.1 + 0.3), "s": pytest.approx(1.9), "n": 2}


def test_ema_is_timms():
    from timm.utils import ModelEmaV3

    network, ema = torch.nn.Linear(3, 2), Ema(decay=0.8, warmup=False)
    theirs = ModelEmaV3(network, decay=0.8)
    ema.seed(network.state_dict())
    ema.enter(network.state_dict(), set(network.state_dict()))
    for _ in range(5):
        for parameter in network.parameters():
            parameter.data += 1.0
        theirs.update(network)
        ema.update(network.state_dict())
    for name, tensor in theirs.module.state_dict().items():
        torch.testing.assert_close(ema.average[name], tensor)


def test_the_decay_rises_from_the_step_at_which_a_tensor_thaws():
    ema = Ema(decay=0.5, warmup=True)
    ema.seed(state(0.0, 0.0))
    ema.enter(state(0.0, 0.0), {"w"})
    ema.update(state(1.0, 0.0))
    assert ema.average["w"].item() == pytest.approx(1 - 2 / 11)
    # s thaws: its first decay is the smallest again, that of w is the second.
    before = ema.average["w"].item()
    ema.enter(state(1.0, 0.0), {"w", "s"})
    ema.update(state(1.0, 1.0))
    assert ema.average["s"].item() == pytest.approx(1 - 2 / 11)
    assert ema.average["w"].item() == pytest.approx(before * 3 / 12 + 9 / 12)
    for _ in range(50):
        ema.update(state(1.0, 1.0))
    before = ema.average["w"].item()
    ema.update(state(3.0, 1.0))
    assert ema.average["w"].item() == pytest.approx((before + 3) / 2)


def test_a_frozen_tensors_average_is_the_tensor_to_the_bit():
    ema = Ema(decay=0.9, warmup=False)
    first = state(1.0, 0.3)
    ema.seed(first)
    ema.enter(first, {"w", "s"})
    for step in range(3):
        ema.update(state(float(step), 0.1 * step))
    # s freezes, at a value that its average lags behind; w goes on.
    last = state(2.0, 0.2)
    lagging = ema.average["w"].item()
    assert ema.average["s"].item() != pytest.approx(0.2)
    ema.enter(last, {"w"})
    assert torch.equal(ema.average["s"], last["s"])
    assert ema.average["w"].item() == lagging
    ema.update(state(5.0, 0.2))
    assert torch.equal(ema.average["s"], last["s"])


def test_an_average_of_equal_weights_is_they_to_the_bit():
    weights = {"w": torch.randn(1000)}
    ema = Ema(decay=0.97, warmup=True)
    ema.seed(weights)
    ema.enter(weights, {"w"})
    for _ in range(20):
        ema.update(weights)
    assert torch.equal(ema.average["w"], weights["w"])


def test_an_ema_resumes_from_its_state_to_the_bit():
    def run(ema, steps):
        for step in steps:
            ema.update({"w": torch.sin(torch.arange(9.0) * step)})
        return ema

    def begun():
        ema = Ema(0.9, warmup=True)
        ema.seed({"w": torch.zeros(9)})
        ema.enter({"w": torch.zeros(9)}, {"w"})
        return ema

    whole = run(begun(), range(8))
    kept = run(begun(), range(3)).state_dict()
    resumed = Ema(0.9, warmup=True)
    resumed.load_state_dict(kept)
    assert torch.equal(run(resumed, range(3, 8)).average["w"], whole.average["w"])


# ── SWA ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_swa_is_the_plain_mean():
    swa = Swa()
    for value in (1.0, 2.0, 6.0):
        swa.update(state(value, -value, count=int(value)))
    assert numbers(swa.average) == {"w": pytest.approx(3.0), "s": pytest.approx(-3.0), "n": 6}
    assert swa.count == 3


def test_swa_resumes_from_its_state():
    swa, resumed = Swa(), Swa()
    swa.update(state(1.0, 1.0))
    resumed.load_state_dict(copy.deepcopy(swa.state_dict()))
    for each in (swa, resumed):
        each.update(state(3.0, 1.0))
    assert numbers(resumed.average) == numbers(swa.average)
    assert resumed.average["w"].item() == 2.0


# ── WiSE-FT ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_between_start_and_end():
    start, end = state(1.0, 0.0, count=3), state(2.0, 4.0, count=9)
    assert numbers(interpolate(start, end, 0.25)) == {"w": 1.25, "s": 1.0, "n": 9}
    random = [{"w": torch.randn(1000)} for _ in range(2)]
    assert torch.equal(interpolate(*random, 0.0)["w"], random[0]["w"])
    assert torch.equal(interpolate(*random, 1.0)["w"], random[1]["w"])


def test_the_best_alpha_is_the_larger_of_equals():
    scores = {0.0: (0.5, -1.0), 0.5: (0.9, -2.0), 0.75: (0.9, -2.0), 1.0: (0.9, -3.0)}
    assert best_alpha(list(scores), scores.__getitem__) == 0.75


# ── soups ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_uniform_soup_is_the_mean():
    states = [state(float(v), 0.0) for v in (1, 2, 6)]
    soup = uniform_soup(states)
    assert soup["w"].item() == pytest.approx(3.0)
    assert [s["w"].item() for s in states] == [1.0, 2.0, 6.0]


def test_a_greedy_soup_takes_the_best_first_and_what_does_not_hurt():
    asked = []

    def score(networks):
        asked.append(tuple(networks))
        return {(2, 0): (0.7,), (2, 1): (0.8,), (2, 1, 3): (0.8,)}[tuple(networks)]

    chosen = greedy_soup({0: (0.75,), 1: (0.6,), 2: (0.8,), 3: (0.5,)}, score)
    assert chosen == (2, 1, 3)
    assert asked == [(2, 0), (2, 1), (2, 1, 3)]


def test_ties_in_a_greedy_soup_go_to_the_smaller_seed():
    assert greedy_soup({3: (0.5,), 1: (0.5,)}, lambda networks: (0.0,)) == (1,)
