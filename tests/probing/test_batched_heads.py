import dataclasses
import math
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from frostline.base.metrics import EPOCH_METRICS, classification_metrics, score
from frostline.base.seeds import generator
from frostline.data.loading import batches
from frostline.freezing.curves import Curve
from frostline.probing import batched_heads as heads
from frostline.probing import batched_losses
from frostline.probing.batched_heads import Head, Recipe, train_heads
from frostline.probing.batched_optimizers import Optimizer
from frostline.probing.feature_set import FeatureSet
from frostline.training.losses import BinaryCrossEntropy, CrossEntropy, half_mse, hits

ADAMW = Recipe(3, 32, Optimizer("adamw"), Curve("cosine", 0.1), "val/accuracy")
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 1.0, 3.0, 1.0, 0.2, 1.0, 1.0, 1.0])


def fit_heads(given, features, labels, val_features, val_labels, *rest):
    """Train heads on features, or several views of them."""
    views = [features] if isinstance(features, torch.Tensor) else features
    return train_heads(
        given, FeatureSet(views, labels), {"val": FeatureSet([val_features], val_labels)}, *rest
    )


@pytest.fixture(scope="module")
def digits():
    """Real digits: 400 to train on and 300 to validate on, 64 features each."""
    found = load_digits()
    pixels = torch.from_numpy(found.data).float() / 16
    labels = torch.from_numpy(found.target).long()
    return pixels[:400], labels[:400], pixels[400:700], labels[400:700]


def head(seed, classes=10, width=64, **settings):
    stream = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, width, generator=stream) / width**0.5
    bias = torch.randn(classes, generator=stream) / width**0.5
    given = {"lr": 0.01, "weight_decay": 0.0, "label_smoothing": 0.0, "seed": seed, **settings}
    return Head(weight=weight, bias=bias, **given)


def several():
    return [
        head(0),
        head(1, lr=0.03, weight_decay=0.1),
        head(2, lr=0.003, label_smoothing=0.1),
        head(0, lr=0.02, weight_decay=0.5, label_smoothing=0.3),
    ]


def random_data(classes=3, width=5, images=29, seed=0):
    stream = torch.Generator().manual_seed(seed)
    features = torch.randn(images + 11, width, generator=stream)
    labels = torch.randint(classes, (images + 11,), generator=stream)
    return features[:images], labels[:images], features[images:], labels[images:]


def same(one, other):
    return (
        torch.equal(one.weight, other.weight)
        and torch.equal(one.bias, other.bias)
        and (one.history, one.best_epoch, one.failure) == (other.history, other.best_epoch, other.failure)
    )


# ── equal to a plain loop ───────────────────────────────────────────────────────────────────────────────────


def torchs(config, linear, one):
    groups = [
        {"params": [linear.weight], "weight_decay": one.weight_decay},
        {"params": [linear.bias], "weight_decay": 0.0},
    ]
    if config.kind == "sgd":
        return torch.optim.SGD(groups, lr=one.lr, momentum=config.momentum, nesterov=config.nesterov)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.kind]
    return kind(groups, lr=one.lr, betas=config.betas, eps=config.eps)


def plain_loop(one, features, labels, val_features, val_labels, recipe):
    """What a run does: nn.Linear, autograd and torch's optimizer, a step after the other."""
    linear = torch.nn.Linear(64, 10)
    linear.load_state_dict({"weight": one.weight, "bias": one.bias})
    optimizer = torchs(recipe.optimizer, linear, one)
    loss_of = half_mse if recipe.loss == "mse" else CrossEntropy(one.label_smoothing, recipe.class_weights)
    sizes = batches.sizes(len(features), recipe.batch_size)
    step, history, states = 0, [], []
    for epoch in range(recipe.epochs + 1):
        row = {"train/loss": None, "train/accuracy": None}
        if epoch:
            losses, right = 0.0, 0
            order = torch.randperm(len(features), generator=generator(one.seed, "order", epoch - 1))
            for rows in order.split(sizes):
                momentum = recipe.curve.momentum(step, recipe.epochs * len(sizes))
                for group in optimizer.param_groups:
                    group["lr"] = one.lr * recipe.curve.factor(step, recipe.epochs * len(sizes))
                    if momentum is not None and "betas" in group:
                        group["betas"] = (momentum, group["betas"][1])
                    elif momentum is not None:
                        group["momentum"] = momentum
                logits = linear(features[rows])
                loss = loss_of(logits, labels[rows])
                optimizer.zero_grad()
                loss.backward()
                if recipe.clip_norm:
                    torch.nn.utils.clip_grad_norm_(linear.parameters(), recipe.clip_norm)
                optimizer.step()
                losses += loss.item() * len(rows)
                right += int(hits(logits, labels[rows]))
                step += 1
            row = {"train/loss": losses / len(features), "train/accuracy": right / len(features)}
        with torch.no_grad():
            logits = linear(val_features)
            row["val/loss"] = loss_of(logits, val_labels).item()
            measured = classification_metrics(logits, val_labels)
            row |= {f"val/{name}": measured[name] for name in EPOCH_METRICS["accuracy"]}
        history.append(row)
        states.append({k: v.detach().clone() for k, v in linear.state_dict().items()})
    monitor = recipe.monitor
    best = min(
        range(len(history)), key=lambda i: (-score(monitor, history[i][monitor]), history[i]["val/loss"], i)
    )
    return history, best, states[best]


@pytest.mark.parametrize(
    "recipe",
    [
        ADAMW,
        dataclasses.replace(ADAMW, optimizer=Optimizer("adam"), monitor="val/loss"),
        dataclasses.replace(ADAMW, optimizer=Optimizer("sgd"), monitor="val/balanced_accuracy"),
        dataclasses.replace(ADAMW, optimizer=Optimizer("sgd", momentum=0.9), curve=Curve("constant")),
        dataclasses.replace(ADAMW, optimizer=Optimizer("sgd", momentum=0.9, nesterov=True)),
        dataclasses.replace(ADAMW, optimizer=Optimizer("adamw", betas=(0.8, 0.95), eps=1e-3)),
        dataclasses.replace(ADAMW, curve=Curve("one_cycle", 0.3, momenta=(0.85, 0.95))),
        dataclasses.replace(
            ADAMW, optimizer=Optimizer("sgd", momentum=0.9), curve=Curve("one_cycle", 0.3, momenta=(0.8, 0.9))
        ),
        dataclasses.replace(ADAMW, clip_norm=0.3, monitor="val/f1_macro"),
        dataclasses.replace(ADAMW, class_weights=WEIGHTS),
        dataclasses.replace(ADAMW, batch_size=399),  # all but one: the one joins
        dataclasses.replace(ADAMW, batch_size=1000),
    ],
    ids=lambda recipe: f"{recipe.optimizer.kind}-{recipe.curve.kind}",
)
def test_each_head_is_what_a_plain_loop_over_it_gives(digits, recipe):
    fits = fit_heads(several(), *digits, recipe)
    for one, fit in zip(several(), fits, strict=True):
        history, best, state = plain_loop(one, *digits, recipe)
        assert fit.failure is None
        assert fit.best_epoch == best
        torch.testing.assert_close(fit.weight, state["weight"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(fit.bias, state["bias"], rtol=1e-5, atol=1e-5)
        for row, expected in zip(fit.history, history, strict=True):
            assert {name: row[name] for name in expected} == {
                name: value if value is None else pytest.approx(value, rel=1e-5)
                for name, value in expected.items()
            }


def test_half_squared_error_too(digits):
    recipe = dataclasses.replace(ADAMW, loss="mse")
    given = [head(0), head(1, lr=0.03, weight_decay=0.1)]
    for one, fit in zip(given, fit_heads(given, *digits, recipe), strict=True):
        history, best, state = plain_loop(one, *digits, recipe)
        torch.testing.assert_close(fit.weight, state["weight"], rtol=1e-5, atol=1e-5)
        assert fit.best_epoch == best
        assert fit.history[-1]["val/loss"] == pytest.approx(history[-1]["val/loss"], rel=1e-5)


def test_an_epochs_metrics_are_those_of_an_evaluation_of_its_weights(digits, monkeypatch):
    monkeypatch.setattr(heads, "EVAL_ROWS", 37)
    features, labels, val_features, val_labels = digits
    rare = (val_labels > 2) | (torch.arange(len(val_labels)) % 5 == 0)  # classes of unequal sizes
    val_features, val_labels = val_features[rare], val_labels[rare]
    for fit in fit_heads(several(), features, labels, val_features, val_labels, ADAMW):
        logits = torch.nn.functional.linear(val_features, fit.weight, fit.bias)
        measured = classification_metrics(logits, val_labels)
        best = fit.history[fit.best_epoch]
        names = EPOCH_METRICS["accuracy"]
        assert {name: best[f"val/{name}"] for name in names} == {name: measured[name] for name in names}
        assert len({measured[name] for name in names}) == 3


def test_the_history_has_a_runs_columns(digits):
    from frostline.training.trainer import history_columns

    (fit,) = fit_heads([head(0)], *digits, ADAMW)
    assert all(tuple(row) == history_columns("accuracy") for row in fit.history)
    first, *_, last = fit.history
    assert (first["epoch"], first["step"], first["phase"], first["lr"]) == (0, 0, None, None)
    assert (last["epoch"], last["step"], last["phase"]) == (3, 39, 0)
    assert last["lr"] == 0.01 * ADAMW.curve.factor(38, 39)
    assert last["val/accuracy"] > 0.7


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weights", [None, WEIGHTS.double()])
def test_the_gradient_is_autograds(smoothing, weights):
    stream = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 10, 7, generator=stream, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(10, (2, 7), generator=stream)
    each, slope = batched_losses.CrossEntropy(
        torch.tensor([smoothing, smoothing / 2], dtype=torch.float64),
        torch.ones(10, dtype=torch.float64) if weights is None else weights,
    )(logits.detach(), labels)
    for h, eps in enumerate((smoothing, smoothing / 2)):
        loss = F.cross_entropy(logits[h].T, labels[h], weights, reduction="none", label_smoothing=eps)
        torch.testing.assert_close(each[h], loss.detach())
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        torch.testing.assert_close(slope[h], gradient[h])


def test_the_gradient_of_the_squared_error_is_autograds():
    stream = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 10, 7, generator=stream, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(10, (2, 7), generator=stream)
    each, slope = batched_losses.Mse()(logits.detach(), labels)
    for h in range(2):
        loss = half_mse(logits[h].T, labels[h])
        torch.testing.assert_close(each[h].mean(), loss.detach())
        (gradient,) = torch.autograd.grad(loss * 7, logits)
        torch.testing.assert_close(slope[h], gradient[h])


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_gradient_of_binary_cross_entropy_is_autograds(smoothing):
    stream = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 10, 7, generator=stream, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(2, (2, 7, 10), generator=stream).double()
    epsilon = torch.tensor([smoothing, smoothing / 2], dtype=torch.float64)
    each, slope = batched_losses.BinaryCrossEntropy(epsilon, WEIGHTS.double())(logits.detach(), labels)
    for h in range(2):
        loss = BinaryCrossEntropy(float(epsilon[h]), WEIGHTS.double())(logits[h].T, labels[h])
        torch.testing.assert_close(each[h].mean(), loss.detach())
        (gradient,) = torch.autograd.grad(loss * 7, logits)
        torch.testing.assert_close(slope[h], gradient[h])


def test_heads_in_float64_stay_in_float64():
    features, labels, val_features, val_labels = random_data()
    given = [head(0, 3, 5), head(1, 3, 5)]
    fits = fit_heads(given, features.double(), labels, val_features.double(), val_labels, ADAMW)
    assert {fit.weight.dtype for fit in fits} == {torch.float64}


# ── heads don't know of each other ──────────────────────────────────────────────────────────────────────────

SHAPES = st.tuples(st.integers(2, 5), st.integers(1, 40), st.integers(2, 33), st.integers(1, 12))
RECIPES = st.builds(
    Recipe,
    epochs=st.just(2),
    batch_size=st.just(8),
    optimizer=st.sampled_from(
        [Optimizer("sgd", 0.9), Optimizer("sgd", 0.9, nesterov=True), Optimizer("adam"), Optimizer("adamw")]
    ),
    curve=st.just(Curve("linear", 0.2)),
    monitor=st.sampled_from(["val/accuracy", "val/f1_macro", "val/loss"]),
    clip_norm=st.sampled_from([None, 0.1]),
)


@st.composite
def some_heads(draw):
    classes, width, images, batch = draw(SHAPES)
    count = draw(st.integers(2, 7))
    given = [
        head(
            draw(st.integers(0, 3)),
            classes,
            width,
            lr=draw(st.sampled_from([1e-3, 0.1])),
            weight_decay=draw(st.sampled_from([0.0, 0.1])),
            label_smoothing=draw(st.sampled_from([0.0, 0.1])),
        )
        for _ in range(count)
    ]
    recipe = dataclasses.replace(draw(RECIPES), batch_size=batch)
    return given, random_data(classes, width, images), recipe


@given(some_heads(), st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_order_and_company_change_no_bit(drawn, random):
    given, data, recipe = drawn
    fits = fit_heads(given, *data, recipe)
    places = random.sample(range(len(given)), len(given))
    for place, fit in zip(places, fit_heads([given[i] for i in places], *data, recipe), strict=True):
        assert same(fit, fits[place])
    assert same(fit_heads(given[:1], *data, recipe)[0], fits[0])
    assert all(same(*pair) for pair in zip(fit_heads(given[:-1], *data, recipe), fits, strict=False))


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_a_head_among_twenty_four_on_real_digits_equals_a_standalone_one(digits):
    given = [head(i % 5, lr=0.001 * (1 + i), label_smoothing=i % 2 / 10) for i in range(24)]
    fits = fit_heads(given, *digits, ADAMW)
    for i in (0, 7, 14, 23):
        assert same(fit_heads([given[i]], *digits, ADAMW)[0], fits[i])


def test_what_memory_does_not_hold_takes_turns(digits, monkeypatch):
    given = [head(i) for i in range(4)]
    together = fit_heads(given, *digits, ADAMW)
    monkeypatch.setattr(heads, "MEMORY", 2**20)
    groups = list(heads._head_batches(given, digits[0], ADAMW))
    assert [len(group) for group in groups] == [3, 1]
    assert all(map(same, together, fit_heads(given, *digits, ADAMW)))
    monkeypatch.setattr(heads, "MEMORY", 1)
    assert [len(group) for group in heads._head_batches(given, digits[0], ADAMW)] == [1] * 4


def test_epochs_take_several_views_in_turn(digits):
    features, *rest = digits
    other = features.flip(1).contiguous()
    one = dataclasses.replace(ADAMW, epochs=1)
    first = fit_heads(several(), features, *rest, one)
    assert all(map(same, fit_heads(several(), [features, other], *rest, one), first))
    mixed = fit_heads(several(), [features, other], *rest, ADAMW)
    assert all(a.history[1] != b.history[2] for a, b in zip(mixed, mixed, strict=True))
    assert all(map(same, mixed, fit_heads(several(), [features, other, features], *rest, ADAMW)))
    plain = fit_heads(several(), features, *rest, ADAMW)
    assert not any(map(same, mixed, plain))


def test_it_tells_of_each_epoch_of_each_head(digits, monkeypatch):
    told = []
    fit_heads(several(), *digits, ADAMW, told.append)
    assert told == [4] * 3
    monkeypatch.setattr(heads, "MEMORY", 1)
    told.clear()
    fit_heads(several(), *digits, ADAMW, told.append)
    assert told == [1] * 12


def test_no_heads_no_fits(digits):
    assert fit_heads([], *digits, ADAMW) == []


# ── what can go wrong ───────────────────────────────────────────────────────────────────────────────────────


def test_a_head_that_fails_says_when_and_does_not_affect_the_others(digits):
    recipe = dataclasses.replace(ADAMW, optimizer=Optimizer("sgd", 0.9), curve=Curve("constant"))
    good = [head(0), head(1, weight_decay=0.1)]
    broken = head(2, lr=1e38)
    fits = fit_heads([good[0], broken, good[1]], *digits, recipe)
    alone = fit_heads(good, *digits, recipe)
    assert same(fits[0], alone[0])
    assert same(fits[2], alone[1])
    assert re.fullmatch(r"the loss became (inf|nan) at step [12], phase 0", fits[1].failure)
    # What came before is kept: the head as it began.
    assert [row["epoch"] for row in fits[1].history] == [0]
    assert fits[1].best_epoch == 0
    assert torch.equal(fits[1].weight, broken.weight)
    assert torch.equal(fits[1].bias, broken.bias)
    # Nothing that a file can't hold, nor more than is asked for.
    assert all(fit.weight.is_contiguous() and fit.weight.untyped_storage().nbytes() == 2560 for fit in fits)


def test_it_stops_when_all_have_failed(digits):
    recipe = dataclasses.replace(ADAMW, epochs=10**6)
    bad = dataclasses.replace(head(0), bias=torch.full((10,), math.nan))
    (fit,) = fit_heads([bad], *digits, recipe)
    assert fit.failure == "val/loss is nan before the first step"
    assert fit.history == []


def test_a_validation_loss_that_is_not_finite_is_a_failure_too(digits):
    features, labels, val_features, val_labels = digits
    val_features = val_features.clone()
    val_features[0, 0] = math.inf
    silent = dataclasses.replace(head(0), weight=torch.zeros(10, 64))
    (fit,) = fit_heads([silent], features, labels, val_features, val_labels, ADAMW)
    assert fit.failure == "val/loss is nan before the first step"


def test_a_tie_goes_to_the_lower_loss_then_to_the_earlier_epoch(digits):
    (still,) = fit_heads([head(0, lr=0.0)], *digits, ADAMW)
    assert still.best_epoch == 0
    features, labels, _, _ = digits
    # One image, right from the start: only the loss moves.
    weight = torch.zeros(10, 64)
    weight[labels[0]] = features[0]
    sure = dataclasses.replace(head(0), weight=weight)
    one = (features[:1], labels[:1], features[:1], labels[:1])
    (fit,) = fit_heads([sure], *one, ADAMW)
    assert {row["val/accuracy"] for row in fit.history} == {1.0}
    assert fit.best_epoch == 3
