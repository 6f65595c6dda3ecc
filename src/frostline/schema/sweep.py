"""Configs of sweeps: samplers, pruners, search space."""

from typing import Annotated, Literal

from pydantic import Field

from frostline.schema.types import Seed, Strict


class GridSampler(Strict):
    """Every combination."""

    kind: Literal["grid"]


class RandomSampler(Strict):
    """Points drawn independently: the i-th is a function of (seed, i)."""

    kind: Literal["random"]


class TpeSampler(Strict):
    """Tree-structured Parzen estimators (Bergstra et al. 2011): more of what is like the good trials."""

    kind: Literal["tpe"]
    startup: Annotated[int, Field(ge=1)]
    """Trials at random before the first that learns from others."""
    multivariate: bool
    """Learn how parameters go together (Falkner et al. 2018)."""


class CmaEsSampler(Strict):
    """CMA-ES (Hansen & Ostermeier 2001): a normal distribution over numbers that moves; lists are drawn."""

    kind: Literal["cmaes"]
    startup: Annotated[int, Field(ge=1)]
    """Trials at random before the first that learns from others."""


class Nsga2Sampler(Strict):
    """NSGA-II (Deb et al. 2002): evolves points that are good at several objectives."""

    kind: Literal["nsga2"]
    population: Annotated[int, Field(ge=2)]
    """Trials a generation."""


Sampler = Annotated[
    GridSampler | RandomSampler | TpeSampler | CmaEsSampler | Nsga2Sampler, Field(discriminator="kind")
]


class Pruner(Strict):
    """Stops trials that others have left behind, by the first objective after each epoch."""

    kind: Literal["none", "median", "halving", "hyperband", "patience"]
    """median: worse at its best than the median of the others by then. halving: not among the best 1/factor
    at a rung (Li et al. 2020, ASHA). hyperband: halving from several first rungs (Li et al. 2018). patience:
    worse for some epochs than it was before."""
    startup: Annotated[int, Field(ge=1)]
    """median: trials that end before any is stopped."""
    warmup: Annotated[int, Field(ge=0)]
    """median: epochs in which none is stopped."""
    first: Annotated[int, Field(ge=1)]
    """halving, hyperband: epoch of the first rung; each next is `factor` times as late."""
    factor: Annotated[int, Field(ge=2)]
    """halving, hyperband: one in so many goes on."""
    patience: Annotated[int, Field(ge=1)]
    """patience: in so many epochs and one more."""
    min_delta: Annotated[float, Field(ge=0)]
    """patience: by how much more than this all of them have to be worse than the best before."""


class Conditional(Strict):
    """A key that varies only where others have certain values."""

    values: str | list[str | int | float]
    when: Annotated[dict[str, str | list[str]], Field(min_length=1)]
    """Key → the value, or values, that it has to have."""


Objective = Literal["val/accuracy", "val/balanced_accuracy", "val/f1_macro", "val/loss", "val/ece"]


class Sweep(Strict):
    """How `-m` tries one setting after the other."""

    sampler: Sampler
    pruner: Pruner
    space: dict[str, str | list[str | int | float] | Conditional]
    """More keys that vary, beside those that are typed: lists, or Hydra's range, interval and tag."""
    objectives: Annotated[list[Objective], Field(min_length=1)]
    """Metrics of validation, at the best epoch; the first chooses the best trial."""
    trials: Annotated[int, Field(ge=1)] | None
    """At most, those that were killed not counted; null: a grid's combinations, else until time is up."""
    minutes: Annotated[float, Field(gt=0)] | None
    """After which no trial begins, from the command's start; null: no limit."""
    seed: Seed
    """Draws the trials."""
    name: Annotated[
        str | None,
        Field(
            pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$",
            description="at most 100 letters, digits, _, . and -, the first neither . nor -",
        ),
    ]
    """Of the study; null: made of the stage and what the sweep tries."""
    store: str | None
    """Optuna's: a URL, or a file that ends in .journal; null: .frostline/sweeps/<name>.db."""
    failures: Annotated[int, Field(ge=1)]
    """Of one kind, after which the sweep stops."""
    workers: Annotated[
        Annotated[int, Field(ge=1)] | Literal["auto"], Field(description="auto, or a whole number above 0")
    ]
    """Processes that take trials. auto: on this machine, `workers_per_device` for each visible GPU; without
    a GPU, as many as the cores allow. Several on one machine take its GPUs in turn and share its cores."""
    workers_per_device: Annotated[int, Field(ge=1)]
    """Workers that `workers: auto` starts for each GPU; a small network does not fill one."""
