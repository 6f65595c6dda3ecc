"""What the report says of the pretraining: its data, its length, and how good it is."""

from dataclasses import dataclass

from frostline.base.metrics import MAP, headline
from frostline.console import units
from frostline.reporting import words
from frostline.reporting.inputs import PretrainingRun
from frostline.reporting.learned import Majority, learning, majority_class


@dataclass(frozen=True)
class Pretraining:
    """The pretraining of a study."""

    source: str
    """Name of its data set."""
    run: PretrainingRun

    @property
    def line(self) -> str:
        """Its images, epochs, and accuracy or mAP on each held-out split."""
        training, majority = self.run.training, self._majority
        images = f"{training.training_images:,} images of " if training.training_images else ""
        scores = [f"{words.percent(share)} on {split}" for split, share in self._scores.items()]
        compared = (
            f" (always predicting {majority.name}: {words.percent(majority.rate)} on {majority.split})"
            if majority
            else ""
        )
        return (
            f"{images}{self.source}, {units.counted(training.epochs, 'epoch')}; {self._metric}"
            f" {words.listed(scores)}{compared}"
        )

    @property
    def note(self) -> str:
        """A sentence if it is not better than always predicting one class, else empty."""
        majority = self._majority
        if majority is None or learning([self.run], self.run.held_out, majority) != "none":
            return ""
        own, rate = words.percent(self._scores[majority.split]), words.percent(majority.rate)
        return (
            f"The pretraining on {self.source} has learned nothing that shows: its accuracy on"
            f" {majority.split} is {own}, not above the {rate} of always predicting {majority.name}. So the"
            " study does not show what a good pretraining brings: set pretrain.trainer.epochs above"
            f" {self.run.training.epochs}, or pretrain on more images."
        )

    @property
    def _metric(self) -> str:
        return headline(self.run.scores.val)

    @property
    def _scores(self) -> dict[str, float]:
        """Accuracy or mAP on test, if there is a test split, and on validation."""
        splits = {"test": self.run.scores.test, "validation": self.run.scores.val}
        return {
            split: value for split, part in splits.items() if (value := part.get(self._metric)) is not None
        }

    @property
    def _majority(self) -> Majority | None:
        return None if self._metric == MAP else majority_class(self.run.held_out, [self.run.labels])
