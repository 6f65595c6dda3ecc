"""Batched linear heads: many heads on the same features, trained at once.

Heads that differ in learning rate, weight decay, label smoothing or seed do the same operations. A step is
one batched matrix product forward, one backward, and the optimizer's passes over the parameters of all heads.
Each head's result is that of training it by itself, with the rules of a run: `data.loading.batches`, image
order by (seed, epoch), `freezing.curves`, no weight decay for biases, the best epoch by the monitor.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from frostline.base.metrics import ACCURACY, EPOCH_METRICS, MAP, deciding_metrics, score
from frostline.base.seeds import generator
from frostline.data.loading import batches
from frostline.freezing.curves import Curve
from frostline.probing.batched_losses import BinaryCrossEntropy, CrossEntropy, Mse
from frostline.probing.batched_metrics import Accuracy, ClassMetrics, MeanAveragePrecision, Metric
from frostline.probing.batched_optimizers import Adam, Optimizer, Sgd
from frostline.probing.feature_set import FeatureSet
from frostline.schema.training import Monitor
from frostline.training.outputs import Row

MEMORY = 256 * 2**20
"""Bytes for the parameters and gathered features of the heads in a batch; further heads wait."""
EVAL_ROWS = 1024
"""Validation features per product; independent of the number of heads, so that rounding is."""

ALIGNMENT = 64
"""Alignment of all rows in bytes: MKL rounds products of unaligned rows differently."""


@dataclass(frozen=True)
class Head:
    """A linear head before training, with its hyperparameters."""

    lr: float
    weight_decay: float
    """For the weight; the bias has none."""
    label_smoothing: float
    seed: int
    """Determines the order of its images."""
    weight: Tensor
    """(K, D)."""
    bias: Tensor
    """(K,)."""


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters that all heads share."""

    epochs: int
    batch_size: int
    optimizer: Optimizer
    curve: Curve
    """The learning-rate curve of the whole run."""
    monitor: Monitor
    """The metric that chooses the best epoch, measured on the images of `selection_split`."""
    loss: Literal["cross_entropy", "mse", "bce"] = "cross_entropy"
    """As defined in `training.losses`."""
    class_weights: Tensor | None = None
    """(K,), for cross_entropy, or of positive labels for bce; None: all 1."""
    clip_norm: float | None = None
    """The largest norm of a head's gradient; None: no clipping."""
    selection_split: Literal["val", "selection", "last"] = "val"
    """The split that selects the best epoch; ``last``: none, the last epoch's weights are taken."""


@dataclass
class HeadFit:
    """The result of training a head."""

    history: list[Row]
    """A row per epoch, with the keys of a run's history; the first is the head before training."""
    best_epoch: int
    weight: Tensor
    """(K, D), after the best epoch."""
    bias: Tensor
    """(K,), after the best epoch."""
    failure: str | None
    """Why training failed, as a clause; the history ends there. None: it did not fail."""


@torch.no_grad()
def train_heads(
    heads: Sequence[Head],
    train: FeatureSet,
    validation: Mapping[str, FeatureSet],
    recipe: Recipe,
    on_epoch: Callable[[int], None] = lambda heads: None,
) -> list[HeadFit]:
    """Train `heads` independently of each other; a loss that is not finite ends only its head's training.

    On a CPU no bit of a result depends on the other heads; it may depend on the number of threads.

    Args:
        heads: heads with the same K and D.
        train: training images, float32, or float64 for all; epochs use augmented views in turn.
        validation: split → images that are measured after each epoch: val, and the `selection_split`.
        on_epoch: called after each epoch with the number of heads in the batch.

    Returns:
        A fit per head, in the order of `heads`.
    """
    width = train.features.shape[1]
    if more := -width % (ALIGNMENT // train.features.element_size()):
        # The gradient of the padding is zero, so it stays zero.
        train = _padded(train, more)
        validation = {split: _padded(part, more) for split, part in validation.items()}
        heads = [replace(head, weight=functional.pad(head.weight, (0, more))) for head in heads]
    results: list[HeadFit] = []
    for group in _head_batches(heads, train.features, recipe):
        # For a single head MKL uses another kernel with other rounding, so train two copies of it.
        members = group if len(group) > 1 else [*group, *group]
        advance = partial(on_epoch, len(group))
        fits = _HeadBatch(members, train, validation, recipe).train(advance)
        results += fits[: len(group)]
    for fit in results:
        fit.weight, fit.bias = fit.weight[:, :width].clone(), fit.bias.clone()
    return results


def _padded(part: FeatureSet, more: int) -> FeatureSet:
    """Return features with more columns, of zeros."""
    return FeatureSet([functional.pad(view, (0, more)) for view in part.views], part.labels)


def _head_batches(heads: Sequence[Head], features: Tensor, recipe: Recipe) -> Iterator[Sequence[Head]]:
    """Yield batches of heads: as many as fit into `MEMORY`, at least one."""
    if not heads:
        return
    classes, width = heads[0].weight.shape
    batch = max(batches.sizes(len(features), recipe.batch_size))
    # Parameters, gradient, three of the optimizer, best; features; logits and their intermediate results.
    numbers = 6 * classes * (width + 1) + batch * width + 6 * classes * max(batch, EVAL_ROWS)
    count = max(1, MEMORY // (numbers * features.element_size()))
    for begin in range(0, len(heads), count):
        yield heads[begin : begin + count]


class _HeadBatch:
    """H heads that train at once; a row of (H, P) is a head's weight, bias and zero padding."""

    def __init__(
        self,
        heads: Sequence[Head],
        train: FeatureSet,
        validation: Mapping[str, FeatureSet],
        recipe: Recipe,
    ) -> None:
        features = train.features
        self.heads, self.recipe = heads, recipe
        self.views, self.labels = train.views, train.labels
        self.validation = validation
        self.deciding = deciding_metrics(recipe.monitor, recipe.selection_split)
        self.shape = heads[0].weight.shape
        flat = torch.stack([torch.cat([head.weight.flatten(), head.bias]) for head in heads]).to(features)
        more = -flat.shape[1] % (ALIGNMENT // flat.element_size())
        self.parameters = functional.pad(flat, (0, more))
        self.gradient = torch.zeros_like(self.parameters)
        self.best = self.parameters.clone()
        self.fits = [HeadFit([], 0, *self._unflatten(row), None) for row in self.best]
        self.best_scores: list[tuple[float, ...] | None] = [None] * len(heads)
        """Each head's best score."""
        # In float64, like the Python floats of torch's optimizers.
        self.device = features.device
        self.lr = self._column([head.lr for head in heads])
        self.decay = self._column([head.weight_decay for head in heads])
        self.objective: Mse | CrossEntropy | BinaryCrossEntropy
        if recipe.loss == "mse":
            self.objective = Mse()
        else:
            smoothing = features.new_tensor([head.label_smoothing for head in heads])
            weights = recipe.class_weights
            weights = features.new_ones(self.shape[0]) if weights is None else weights.to(features)
            kind = BinaryCrossEntropy if recipe.loss == "bce" else CrossEntropy
            self.objective = kind(smoothing, weights)
        several = recipe.loss == "bce"
        self.headline = MAP if several else ACCURACY
        self.training_metric: type[Metric] = MeanAveragePrecision if several else Accuracy
        self.validation_metric: type[Metric] = MeanAveragePrecision if several else ClassMetrics
        self.update = (Sgd if recipe.optimizer.kind == "sgd" else Adam)(recipe.optimizer, self.parameters)
        self.sizes = batches.sizes(len(features), recipe.batch_size)
        self.steps = recipe.epochs * len(self.sizes)
        # Reused by all steps: allocating megabytes at every step takes as long as a product.
        self.gathered = features.new_empty(len(heads) * max(self.sizes), features.shape[1])

    def train(self, on_epoch: Callable[[], None]) -> list[HeadFit]:
        """Train to the end, or until every head has failed."""
        self._record(0, None, None)
        for epoch in range(self.recipe.epochs):
            if all(fit.failure for fit in self.fits):
                break
            self._record(epoch + 1, *self._epoch(epoch))
            on_epoch()
        return self.fits

    def _epoch(self, epoch: int) -> tuple[Tensor, Metric]:
        """Train for an epoch; return each step's mean loss, (H, steps) float64, and the metric."""
        orders = {head.seed: self._order(head.seed, epoch) for head in self.heads}
        # Heads of one seed share the gathered features. With several seeds each head gathers its own, which
        # takes a fifth of a step; a product per seed would take half of that, but round the only head of a
        # seed differently.
        seeds = orders if len(orders) == 1 else [head.seed for head in self.heads]
        order = torch.stack([orders[seed] for seed in seeds])
        losses, metric = [], self.training_metric()
        view = self.views[epoch % len(self.views)]
        for number, rows in enumerate(order.split(self.sizes, dim=1)):
            features = self.gathered[: rows.numel()]
            torch.index_select(view, 0, rows.flatten(), out=features)
            features = features.view(*rows.shape, -1)
            labels = self._per_head(self.labels[rows])
            loss, logits = self._step(epoch * len(self.sizes) + number, features, labels)
            losses.append(loss)
            metric.add(logits, labels)
        return torch.stack(losses, 1), metric

    def _order(self, seed: int, epoch: int) -> Tensor:
        order = torch.randperm(len(self.labels), generator=generator(seed, "order", epoch))
        return order.to(self.labels.device)

    def _step(self, step: int, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Take a step on (H or 1, B, D) features; return each head's mean loss and its logits before it."""
        recipe, heads = self.recipe, len(self.heads)
        features = features.expand(heads, -1, -1)
        logits = self._logits(features)
        losses, slope = self.objective(logits, labels)
        slope /= labels.shape[1]
        weight, bias = self._unflatten(self.gradient)
        torch.bmm(slope, features, out=weight)
        torch.sum(slope, 2, out=bias)
        if recipe.clip_norm is not None:
            # As nn.utils.clip_grad_norm_.
            norm = torch.linalg.vector_norm(self.gradient, dim=1, keepdim=True)
            self.gradient *= (recipe.clip_norm / (norm + 1e-6)).clamp(max=1)
        rate = self.lr * recipe.curve.factor(step, self.steps)
        self._decay(rate)
        momentum = recipe.curve.momentum(step, self.steps)
        self.update(self.parameters, self.gradient, rate, momentum)
        return losses.double().mean(1), logits

    def _decay(self, rate: Tensor) -> None:
        """Apply weight decay to the weights, for adamw directly, else through the gradient; not to biases."""
        if not any(head.weight_decay for head in self.heads):
            return
        weight, _ = self._unflatten(self.parameters)
        if self.recipe.optimizer.kind == "adamw":
            weight *= (1 - rate * self.decay).to(weight)[:, :, None]
        else:
            gradient, _ = self._unflatten(self.gradient)
            gradient += weight * self.decay.to(weight)[:, :, None]

    def _per_head(self, labels: Tensor) -> Tensor:
        """Return labels of B images, of all heads or of each, as (H, B), or (H, B, K) of several labels."""
        return labels.expand(len(self.heads), *[-1] * self.labels.ndim)

    def _logits(self, features: Tensor) -> Tensor:
        """Return the logits, (H, K, B), of (H, B, D) features."""
        # (H, K, B), as the gradient's product needs it; MKL is also twice as fast this way.
        weight, bias = self._unflatten(self.parameters)
        return torch.baddbmm(bias[:, :, None], weight, features.transpose(1, 2))

    def _unflatten(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights (…, K, D) and biases (…, K) as views of (…, P)."""
        size = self.shape.numel()
        return flat[..., :size].unflatten(-1, self.shape), flat[..., size : size + self.shape[0]]

    def _column(self, numbers: list[float]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.float64, device=self.device)[:, None]

    def _measure(self, part: FeatureSet) -> tuple[Tensor, Metric]:
        """Return each head's mean loss, (H,) float64, and the metrics."""
        heads = len(self.heads)
        loss, metric = self.lr.new_zeros(heads), self.validation_metric()
        for features, labels in zip(
            part.features.split(EVAL_ROWS), part.labels.split(EVAL_ROWS), strict=True
        ):
            logits, truth = self._logits(features.expand(heads, -1, -1)), self._per_head(labels)
            losses, _ = self.objective(logits, truth)
            loss += losses.double().sum(1)
            metric.add(logits, truth)
        return loss / len(part), metric

    def _validated(self, part: FeatureSet) -> list[dict[str, float]]:
        """Return each head's loss and metrics."""
        losses, metric = self._measure(part)
        return [
            {"loss": loss} | values for loss, values in zip(losses.tolist(), metric.values(), strict=True)
        ]

    def _record(self, epoch: int, losses: Tensor | None, trained: Metric | None) -> None:
        """Add an epoch to each head's history, or its failure; store the best epoch's parameters.

        Args:
            losses: of its steps, as from `_epoch`; None: before training.
            trained: the metric on the training images, as from `_epoch`.
        """
        measured = {split: self._validated(part) for split, part in self.validation.items()}
        metrics = [] if trained is None else trained.values()
        name, validated = self.headline, ("loss", *EPOCH_METRICS[self.headline])
        step = epoch * len(self.sizes)
        for i, fit in enumerate(self.fits):
            if fit.failure:
                continue
            row: Row = {"epoch": epoch, "step": step, "phase": None, "lr": None}
            row |= {"train/loss": None, f"train/{name}": None}
            if losses is not None:
                steps = losses[i].tolist()
                broken = next((j for j, loss in enumerate(steps) if not math.isfinite(loss)), None)
                if broken is not None:
                    at = step - len(steps) + broken
                    fit.failure = f"the loss became {steps[broken]} at step {at}, phase 0"
                    continue
                row["phase"] = 0
                row["lr"] = self.heads[i].lr * self.recipe.curve.factor(step - 1, self.steps)
                seen = sum(size * loss for size, loss in zip(self.sizes, steps, strict=True))
                row["train/loss"] = seen / len(self.labels)
                row[f"train/{name}"] = metrics[i][name]
            for split in ("val", "selection"):
                values: Mapping[str, float] = measured[split][i] if split in measured else {}
                row |= {f"{split}/{metric}": values.get(metric) for metric in validated}
            broken_at = next((s for s, all_ in measured.items() if not math.isfinite(all_[i]["loss"])), None)
            if broken_at is not None:
                when = f"after epoch {epoch}, step {step}, phase 0" if epoch else "before the first step"
                fit.failure = f"{broken_at}/loss is {row[f'{broken_at}/loss']} {when}"
                continue
            fit.history.append(row)
            # Ties go to the lower loss, then to the earlier epoch; without metrics that decide, to the last.
            value = tuple(score(metric, float(row[metric] or 0)) for metric in self.deciding)
            best = self.best_scores[i]
            if best is None or value > best or not self.deciding:
                self.best_scores[i], fit.best_epoch = value, epoch
                self.best[i] = self.parameters[i]
