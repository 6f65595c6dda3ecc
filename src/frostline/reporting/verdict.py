"""The verdict of a study: whether transfer helped, by how much, with its uncertainty."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from frostline.base.metrics import ACCURACY
from frostline.console import units
from frostline.reporting import words
from frostline.reporting.repeats import Repeats
from frostline.stats.transfer import Estimate, Gain, Outcome

LONGEST_HEADLINE = 72
"""Characters that fit above the plot; beyond, other arms are counted instead of named."""
MOST_NAMED = 3
"""Number of other arms with one outcome that are named; more are counted."""


DOUBT = (
    "; but the baseline hardly learned more than to predict one class, so this says little of the transfer"
)


@dataclass(frozen=True)
class Verdict:
    """The verdict on the arm that represents the transfer."""

    outcome: Outcome
    """Whether transfer helped, by `gain`; undecided if nothing was learned."""
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
    learned: bool = True
    """Whether the arm or the baseline is better than always predicting one class."""
    baseline_learned: bool = True
    """Whether the baseline is clearly better than that."""
    metric: str = ACCURACY
    """The metric of score, baseline and gain: accuracy or mAP."""
    others: Mapping[str, Outcome] = field(default_factory=dict)
    """Arm → outcome of the arms besides this one and the baseline."""

    @property
    def headline(self) -> str:
        """The verdict in a few words: ``Transfer helped: +7.2 points of test accuracy``."""
        if self.arm is None or self.gain is None:
            return "Undecided: this study can't tell whether transfer helped"
        if self.outcome != "undecided" and not self.baseline_learned:
            gain = words.points(self.gain.mean)
            return f"Transfer {self.outcome}: {gain} points over a baseline that hardly learned"
        if self.outcome != "undecided":
            return f"Transfer {self.outcome}: {words.points(self.gain.mean)} {self._unit}"
        found = (
            f"Undecided for {self.arm}"
            if self.learned
            else f"Nothing was learned by {self.arm} or from scratch"
        )
        named, counted = (f"{found}{self._contrast(most)}" for most in (MOST_NAMED, 0))
        return named if len(named) <= LONGEST_HEADLINE else counted

    def _contrast(self, most: int = MOST_NAMED) -> str:
        """Return a clause on the other arms that have another outcome, a decided one; empty: there are none.

        Args:
            most: number of arms that are named; more are counted.
        """
        clauses: dict[Outcome, str] = {"helped": "gained", "hurt": "lost"}
        result = ""
        for outcome, verb in clauses.items():
            arms = [arm for arm, own in self.others.items() if own == outcome != self.outcome]
            counted = units.counted(len(arms), "other arm")
            if arms:
                result += f"; {words.listed(arms) if len(arms) <= most else counted} {verb}"
        return result

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
        own, base = words.percent(self.score.mean), words.percent(self.baseline.mean)
        pair = f"{own} against {base} from scratch"
        if not self.learned:
            return (
                f"Nothing was learned, so nothing can be said of the transfer: neither {arm} ({own}) nor"
                f" training from scratch ({base}) is better than always predicting one class"
                f"{self._contrast()}."
            )
        if gain.p is None and gain.n == 1:
            single, more = f"a single {self.repeats.noun}", self.repeats.over
            return f"Undecided: {single} of {arm} shows {amount} ({pair}) and no interval; run more {more}."
        certainty = self._certainty(gain)
        if self.outcome == "undecided":
            chance = f"which may well be chance{self._contrast()}"
            return f"Undecided: {arm} shows {amount} ({pair}; {certainty}), {chance}."
        change = "gains" if self.outcome == "helped" else "loses"
        amount = f"{words.points(gain.mean, signed=False)} {self._unit}"
        doubt = "" if self.baseline_learned else DOUBT
        change = f"{arm} {change} {amount} ({pair}; {certainty})"
        return f"Transfer {self.outcome}: {change}{self._contrast()}{doubt}."

    def _certainty(self, gain: Gain) -> str:
        """Return the interval, the p-value and the number of pairs."""
        if gain.std == 0:
            pairs = self.repeats.counted(gain.n)
            least = f", the least that {pairs} can give" if gain.mean else ""
            by = "" if gain.p is None else f" by sign flips{least}"
            return f"the same in all {pairs}, {words.p_value(gain.p)}{by}"
        pairs = f"{gain.n} paired {self.repeats.counted(gain.n).partition(' ')[2]}"
        return f"95 % interval {words.gain_interval(gain)}, {words.p_value(gain.p)}, {pairs}"
