"""Losses of batched linear heads, with their gradients with respect to the logits."""

from torch import Tensor
from torch.nn import functional


class CrossEntropy:
    """Cross-entropy with each head's label smoothing ε and class weights w, for an image of class y:

        L = −Σₖ tₖ log pₖ,   tₖ = wₖ·((1 − ε)·[k = y] + ε/K),   p = softmax(z)

    Since ∂ log pₖ/∂zⱼ = [k = j] − pⱼ,  ∂L/∂zⱼ = pⱼ·Σₖ tₖ − tⱼ.

    Args:
        label_smoothing: (H,), ε of each head.
        weights: (K,), w.
    """

    def __init__(self, label_smoothing: Tensor, weights: Tensor) -> None:
        smoothing = label_smoothing[:, None, None]
        # What tₖ is on all classes, (H, K, 1), and what an image's own class adds to it, (H, K, 1) by class.
        self.all = smoothing / len(weights) * weights[:, None]
        self.own = (1 - smoothing) * weights[:, None]
        self.sum_all = self.all.sum(1, keepdim=True)

    def __call__(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return each image's loss, (H, B), and its gradient with respect to the (H, K, B) logits."""
        truth = labels[:, None]
        own = self.own.expand(-1, -1, labels.shape[1]).gather(1, truth)
        logs = logits.log_softmax(1)
        losses = -(own * logs.gather(1, truth)).squeeze(1) - (self.all * logs).sum(1)
        slope = logs.exp_().mul_(own + self.sum_all).sub_(self.all)
        return losses, slope.scatter_add_(1, truth, -own)


class Mse:
    """Half the squared error of p = softmax(z) against the one-hot label, r = p − [k = y]:

    L = ½ Σₖ rₖ²,   ∂pₖ/∂zⱼ = pₖ([k = j] − pⱼ),   so ∂L/∂zⱼ = pⱼ·(rⱼ − Σₖ pₖrₖ).
    """

    def __call__(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return each image's loss, (H, B), and its gradient with respect to the (H, K, B) logits."""
        shares = logits.softmax(1)
        truth = functional.one_hot(labels, logits.shape[1]).transpose(1, 2)
        rest = shares - truth
        slope = shares * (rest - (shares * rest).sum(1, keepdim=True))
        return 0.5 * rest.square().sum(1), slope


class BinaryCrossEntropy:
    """Binary cross-entropy of σ(z) with each head's label smoothing ε and weights w of positive labels:

        L = 1/K · Σₖ −wₖ·tₖ·log pₖ − (1 − tₖ)·log(1 − pₖ),   tₖ = (1 − ε)·yₖ + ε/2,   p = σ(z)

    Since pₖ' = pₖ·(1 − pₖ),  ∂L/∂zₖ = 1/K · (pₖ·(1 − tₖ + wₖ·tₖ) − wₖ·tₖ).

    Args:
        label_smoothing: (H,), ε of each head.
        weights: (K,), w.
    """

    def __init__(self, label_smoothing: Tensor, weights: Tensor) -> None:
        self.smoothing, self.weights = label_smoothing[:, None, None], weights[:, None]

    def __call__(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return each image's loss, (H, B), and its gradient with respect to the logits; labels (H, B, K)."""
        truth = labels.transpose(1, 2) * (1 - self.smoothing) + self.smoothing / 2
        losses = functional.binary_cross_entropy_with_logits(
            logits, truth, pos_weight=self.weights, reduction="none"
        )
        positive = self.weights * truth
        slope = (logits.sigmoid() * (1 - truth + positive)).sub_(positive)
        return losses.mean(1), slope.div_(logits.shape[1])
