"""The verdict of a study: whether transfer helped, by how much, with its uncertainty."""

from dataclasses import dataclass

from frostline.base.metrics import ACCURACY
from frostline.reporting import words
from frostline.reporting.repeats import Repeats
from frostline.stats.transfer import Estimate, Gain, Outcome


@dataclass(frozen=True)
class Verdict:
    """The verdict on the arm that represents the transfer."""

    outcome: Outcome
    """`stats.transfer.verdict` of `gain`."""
    arm: str | None
    """None: there is no arm besides the baseline."""
    gain: Gain | None
    """The arm's paired gain; None without a baseline."""
    score: Estimate | None
    """The arm's."""
    baseline: Estimate | None
    """The baseline's."""
    repeats: Repeats
    """What the estimates are over."""
    measured: str = "test"
    """The split: test or validation."""
    metric: str = ACCURACY
    """The metric of score, baseline and gain: accuracy or mAP."""

    @property
    def headline(self) -> str:
        """The verdict in a few words: ``Transfer helped: +7.2 points of test accuracy``."""
        if self.outcome == "undecided" or self.gain is None:
            return "Undecided: this study can't tell whether transfer helped"
        return f"Transfer {self.outcome}: {words.points(self.gain.mean)} {self._unit}"

    @property
    def _unit(self) -> str:
        return f"points of {self.measured} {self.metric}"

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        arm, gain = self.arm, self.gain
        if arm is None or self.score is None:
            return "Undecided: the study has no arm besides the one trained from scratch."
        if gain is None or self.baseline is None:
            return (
                f"Undecided: {arm} has no from-scratch baseline with the same {self.repeats.over} to be "
                "compared with."
            )
        amount = f"{words.points(gain.mean)} {self._unit}"
        pair = f"{words.percent(self.score.mean)} against {words.percent(self.baseline.mean)} from scratch"
        if gain.p is None and gain.n == 1:
            single, more = f"a single {self.repeats.noun}", self.repeats.over
            return f"Undecided: {single} of {arm} shows {amount} ({pair}) and no interval; run more {more}."
        certainty = self._certainty(gain)
        if self.outcome == "undecided":
            return f"Undecided: {arm} shows {amount} ({pair}; {certainty}), which may well be chance."
        change = "gains" if self.outcome == "helped" else "loses"
        amount = f"{words.points(gain.mean, signed=False)} {self._unit}"
        return f"Transfer {self.outcome}: {arm} {change} {amount} ({pair}; {certainty})."

    def _certainty(self, gain: Gain) -> str:
        """Return the interval, the p-value and the number of pairs."""
        if gain.std == 0:
            by = "" if gain.p is None else " by sign flips"
            return f"the same in all {self.repeats.counted(gain.n)}, {words.p_value(gain.p)}{by}"
        pairs = f"{gain.n} paired {self.repeats.counted(gain.n).partition(' ')[2]}"
        return f"95 % interval {words.gain_interval(gain)}, {words.p_value(gain.p)}, {pairs}"
