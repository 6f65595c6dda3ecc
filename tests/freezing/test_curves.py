import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from frostline.freezing.curves import KINDS, Curve

LENGTH = 40


def torch_rates(make, steps=LENGTH):
    """The factors that a torch scheduler gives, step by step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("curve", "make"),
    [
        (Curve("constant"), lambda o: torch.optim.lr_scheduler.ConstantLR(o, factor=1.0)),
        (Curve("cosine"), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, LENGTH)),
        (
            Curve("cosine", final=0.1),
            lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, LENGTH, eta_min=0.1),
        ),
        (
            Curve("linear", final=0.2),
            lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.2, total_iters=LENGTH),
        ),
        (Curve("polynomial", power=3), lambda o: torch.optim.lr_scheduler.PolynomialLR(o, LENGTH, power=3)),
        (
            Curve("exponential", final=0.01),
            lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.01 ** (1 / LENGTH)),
        ),
    ],
    ids=lambda value: value.kind if isinstance(value, Curve) else "",
)
def test_a_curve_is_torchs(curve, make):
    ours = [curve.factor(i, LENGTH) for i in range(LENGTH)]
    assert ours == pytest.approx(torch_rates(make), rel=1e-6, abs=1e-9)


def test_the_cosine_is_timms():
    from timm.scheduler import CosineLRScheduler

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = CosineLRScheduler(optimizer, t_initial=LENGTH, lr_min=0.05, t_in_epochs=False)
    ours = [Curve("cosine", final=0.05).factor(i, LENGTH) for i in range(LENGTH)]
    assert ours == pytest.approx([scheduler._get_lr(i)[0] for i in range(LENGTH)])


def test_a_warm_up_rises_in_a_line_and_the_first_step_already_moves():
    curve = Curve("constant", warmup=0.25)
    assert [curve.factor(i, 8) for i in range(4)] == [0.5, 1.0, 1.0, 1.0]


def test_one_cycle_rises_from_a_twentyfifth_and_falls_to_nothing():
    curve = Curve("one_cycle", warmup=0.25)
    rates = [curve.factor(i, 100) for i in range(100)]
    assert rates[0] < 0.05
    assert rates[0] == pytest.approx(1 / 25)
    assert max(rates) == rates[25] == 1.0
    assert rates[99] < 0.01


@given(kind=st.sampled_from(KINDS), warmup=st.floats(0, 0.9), length=st.integers(1, 60), data=st.data())
def test_a_steady_rate_stays(kind, warmup, length, data):
    curve = Curve(kind, warmup, 0.1)
    step = data.draw(st.integers(0, length - 1))
    rates = {curve.factor(i, length) for i in range(step, length)}
    assert not curve.is_constant(step, length) or len(rates) == 1
    assert kind != "constant" or curve.is_constant(step, length) == (len(rates) == 1)


@given(
    kind=st.sampled_from(KINDS),
    warmup=st.floats(0, 0.9),
    final=st.floats(0.001, 1),
    length=st.integers(1, 300),
    data=st.data(),
)
def test_a_factor_is_between_nothing_and_one(kind, warmup, final, length, data):
    factor = Curve(kind, warmup, final).factor(data.draw(st.integers(0, length - 1)), length)
    assert 0 < factor <= 1 + 1e-12
    assert math.isfinite(factor)
