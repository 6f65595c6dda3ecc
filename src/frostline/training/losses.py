"""Losses of logits (N, K) against labels: (N,) int64 classes, or (N, K) float shares of each class.

Weights of images, (N,) with mean 1 over the training set, multiply the images' losses. The sum is divided by
the number of images, not by the sum of the weights, so that an image weighs the same in every batch.
"""

from torch import Tensor, nn
from torch.nn import functional


def half_mse(logits: Tensor, labels: Tensor, image_weights: Tensor | None = None) -> Tensor:
    """Return ½·mean over the images of ‖softmax(logits) − label‖², the label one-hot or shares.

    Args:
        logits: (N, K).
        labels: (N,) or (N, K).
        image_weights: (N,); None: all 1.
    """
    if labels.ndim == 1:
        labels = functional.one_hot(labels, logits.shape[1])
    losses = (logits.softmax(1) - labels.to(logits.dtype)).square().sum(1)
    return 0.5 * (losses if image_weights is None else losses * image_weights).mean()


class CrossEntropy(nn.Module):
    """The mean over the images of the cross-entropy, an image of class k weighing w_k.

    With `weights` the weighted losses are divided by the number of images, not, as in torch, by the sum of
    their weights: an image's weight does not depend on its batch, and soft labels count like hard ones.

    Args:
        label_smoothing: share of each label that is spread evenly over all classes (Szegedy et al. 2016).
        weights: (K,) float32; None: all 1.
    """

    weights: Tensor | None

    def __init__(self, label_smoothing: float, weights: Tensor | None = None) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor, image_weights: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar; `image_weights` (N,): None is all 1."""
        if self.weights is None and image_weights is None:
            return functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        losses = functional.cross_entropy(
            logits, labels, self.weights, reduction="none", label_smoothing=self.label_smoothing
        )
        return (losses if image_weights is None else losses * image_weights).mean()


class BinaryCrossEntropy(nn.Module):
    """The mean over the images and classes of the binary cross-entropy of sigmoids.

    Args:
        label_smoothing: s; targets are y·(1 − s) + s/2.
        pos_weight: (K,) float32, weights of the positive terms, as in `torch.nn.BCEWithLogitsLoss`; None: 1.
    """

    pos_weight: Tensor | None

    def __init__(self, label_smoothing: float, pos_weight: Tensor | None = None) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.register_buffer("pos_weight", pos_weight, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor, image_weights: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar, of labels (N, K) in 0…1; `image_weights` (N,): None is all 1."""
        if self.label_smoothing:
            labels = labels * (1 - self.label_smoothing) + self.label_smoothing / 2
        losses = functional.binary_cross_entropy_with_logits(
            logits, labels, pos_weight=self.pos_weight, reduction="none"
        )
        return (losses if image_weights is None else losses * image_weights[:, None]).mean()


def hits(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how many images have their label's class, or that of the largest share, as the best logit."""
    truth = labels if labels.ndim == 1 else labels.argmax(1)
    return (logits.argmax(1) == truth).sum()
