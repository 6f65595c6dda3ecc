"""The search space of a sweep: keys with values or intervals, some conditional on others."""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from frostline.console.errors import FrostlineError, allowed

Value = str | int | float
MOST_POINTS = 10_000
"""The most points of a grid; each is composed and checked before the first runs."""
Point = dict[str, Value]
"""{key: value} of one trial."""


@dataclass(frozen=True)
class Values:
    """A list of values, in Hydra's grammar."""

    options: tuple[str, ...]


@dataclass(frozen=True)
class Interval:
    """All numbers from `low` to `high`."""

    low: float
    high: float
    log: bool = False
    """Whether the logarithm is drawn uniformly."""
    whole: bool = False
    """Whether only integers are drawn."""


@dataclass(frozen=True)
class Parameter:
    """A key that a sweep varies."""

    key: str
    domain: Values | Interval
    when: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The parameter is active only if these keys have one of these values."""

    def holds(self, point: Mapping[str, Value]) -> bool:
        """Return whether the parameter is active at a point."""
        return all(str(point.get(key)) in values for key, values in self.when.items())


@dataclass(frozen=True)
class Space:
    """The parameters of a sweep; conditional ones come after those that they depend on.

    Raises:
        FrostlineError: a condition names a key that does not vary before it, or a value that does not occur.
    """

    parameters: tuple[Parameter, ...]

    def __post_init__(self) -> None:
        before: dict[str, Parameter] = {}
        for parameter in self.parameters:
            for key, values in parameter.when.items():
                where = f"sweep.space.{parameter.key}.when"
                if key not in before:
                    raise FrostlineError(
                        f"{where}: {key!r} does not vary before it; {allowed(key, before)}; put it first"
                    )
                domain = before[key].domain
                if isinstance(domain, Interval):
                    raise FrostlineError(f"{where}: {key} has an interval; name a key that has a list")
                for value in values:
                    if value not in domain.options:
                        raise FrostlineError(f"{where}.{key}: {allowed(value, domain.options)}")
            before[parameter.key] = parameter

    def to_data(self) -> list[dict[str, Any]]:
        """Return plain data, to compare two spaces."""
        return [{**asdict(parameter), "when": dict(parameter.when)} for parameter in self.parameters]

    def combinations(self) -> list[Point]:
        """Return every combination of values, the last key's changing fastest.

        Raises:
            FrostlineError: a key has an interval, or there are too many combinations.
        """
        count = 1
        for parameter in self.parameters:
            if isinstance(parameter.domain, Interval):
                raise FrostlineError(
                    f"{parameter.key}: a grid takes lists, a,b,c, and range(0,3); an interval needs a sampler"
                    " that draws from it, such as sweep=tpe or sweep=random"
                )
            count *= len(parameter.domain.options)
        if count > MOST_POINTS and not any(parameter.when for parameter in self.parameters):
            raise FrostlineError(
                f"the grid has {count:,} combinations; at most {MOST_POINTS:,} are allowed; give fewer"
                " values, or draw from them: sweep=random sweep.trials=100"
            )
        return list(self._combinations({}, self.parameters))

    def _combinations(self, point: Point, parameters: Sequence[Parameter]) -> Iterator[Point]:
        if not parameters:
            yield point
            return
        first, *rest = parameters
        if not first.holds(point):
            yield from self._combinations(point, rest)
            return
        assert isinstance(first.domain, Values)
        for value in first.domain.options:
            yield from self._combinations({**point, first.key: value}, rest)

    def random(self, seed: int, number: int) -> Point:
        """Return the random point of (seed, number)."""
        stream = random.Random(f"{seed}/trial/{number}")
        return self.draw(lambda parameter: _draw_value(parameter.domain, stream))

    def draw(self, choose: Callable[[Parameter], Value]) -> Point:
        """Return a point with the values that `choose` returns for its active parameters."""
        point: Point = {}
        for parameter in self.parameters:
            if parameter.holds(point):
                point[parameter.key] = choose(parameter)
        return point

    def first(self, fixed: Mapping[str, Value] | None = None) -> Point:
        """Return the point of the first value of each list and the lowest of each interval.

        Args:
            fixed: values of some keys instead.
        """

        def choose(parameter: Parameter) -> Value:
            if fixed and parameter.key in fixed:
                return fixed[parameter.key]
            match parameter.domain:
                case Values(options):
                    return options[0]
                case Interval(low=low, whole=whole):
                    return int(low) if whole else low

        return self.draw(choose)

    def examples(self) -> list[Point]:
        """Return points in which every value of each list occurs, the `first` one before the others.

        >>> freeze, lr = Parameter("freeze", Values(("full", "gradual"))), Parameter("lr", Interval(0.1, 1.0))
        >>> Space((freeze, lr)).examples()
        [{'freeze': 'full', 'lr': 0.1}, {'freeze': 'gradual', 'lr': 0.1}]
        """
        points = [self.first()]
        active: dict[str, dict[str, Value]] = {}  # key → values of other keys with which it is active
        for parameter in self.parameters:
            conditions: dict[str, Value] = {}
            for key, values in parameter.when.items():
                conditions |= {**active[key], key: values[0]}
            active[parameter.key] = conditions
            if isinstance(parameter.domain, Values):
                points += (
                    self.first({**conditions, parameter.key: option}) for option in parameter.domain.options
                )
        return list({tuple(point.items()): point for point in points}.values())


def as_overrides(point: Mapping[str, Value]) -> list[str]:
    """Return a point as overrides.

    >>> as_overrides({"freeze": "full", "optimizer.lr": 0.001})
    ['freeze=full', 'optimizer.lr=0.001']
    """
    return [f"{key}={value}" for key, value in point.items()]


def _draw_value(domain: Values | Interval, stream: random.Random) -> Value:
    if isinstance(domain, Values):
        return stream.choice(domain.options)
    if domain.whole and not domain.log:
        return stream.randint(int(domain.low), int(domain.high))
    if not domain.log:
        return stream.uniform(domain.low, domain.high)
    # Integers get half a step more at either end, so that the outer ones are as likely as the others.
    margin = 0.5 if domain.whole else 0.0
    value = math.exp(stream.uniform(math.log(domain.low - margin), math.log(domain.high + margin)))
    value = min(max(value, domain.low), domain.high)
    return round(value) if domain.whole else value
