"""Configs of sweeps: samplers, pruners, search space."""

from typing import Annotated, Literal

from pydantic import Field

from frostline.schema.types import PathText, Seed, Strict


class GridSampler(Strict):
    """Every combination."""

    kind: Literal["grid"]


class RandomSampler(Strict):
    """Points drawn independently: the i-th is a function of (seed, i)."""

    kind: Literal["random"]


class TpeSampler(Strict):
    """Tree-structured Parzen estimators (Bergstra et al. 2011)."""

    kind: Literal["tpe"]
    startup: Annotated[int, Field(ge=1)]
    """Random trials before the sampler uses earlier results."""
    multivariate: bool
    """Model dependencies between parameters (Falkner et al. 2018)."""


class CmaEsSampler(Strict):
    """CMA-ES (Hansen & Ostermeier 2001) on intervals; values of lists are drawn at random."""

    kind: Literal["cmaes"]
    startup: Annotated[int, Field(ge=1)]
    """Random trials before the sampler uses earlier results."""


class Nsga2Sampler(Strict):
    """NSGA-II (Deb et al. 2002): a genetic algorithm for several objectives."""

    kind: Literal["nsga2"]
    population: Annotated[int, Field(ge=2)]
    """Trials per generation."""


Sampler = Annotated[
    GridSampler | RandomSampler | TpeSampler | CmaEsSampler | Nsga2Sampler, Field(discriminator="kind")
]


class Pruner(Strict):
    """Stops unpromising trials, by the first objective after each epoch."""

    kind: Literal["none", "median", "halving", "hyperband", "patience"]
    """Which trials stop. median: those whose best value so far is worse than the median of the others at the
    same epoch. halving: those not among the best 1/factor at a rung, which is a number of epochs (Li et al.
    2020, ASHA). hyperband: halving with several first rungs (Li et al. 2018). patience: those without
    improvement for some epochs."""
    startup: Annotated[int, Field(ge=1)]
    """median: trials that have to be complete before one is stopped."""
    warmup: Annotated[int, Field(ge=0)]
    """median: epochs that each trial trains at least."""
    first: Annotated[int, Field(ge=1)]
    """halving, hyperband: epoch of the first rung; each further rung is `factor` times as late."""
    factor: Annotated[int, Field(ge=2)]
    """halving, hyperband: one in `factor` trials continues at each rung."""
    patience: Annotated[int, Field(ge=1)]
    """patience: the trial stops after more than this many epochs without improvement."""
    min_delta: Annotated[float, Field(ge=0)]
    """patience: the trial stops only if these epochs are all worse than its best by more than this."""


class Conditional(Strict):
    """A key that varies only if others have certain values."""

    values: str | list[str | int | float]
    """A list, or Hydra's range, interval or tag."""
    when: Annotated[dict[str, str | list[str]], Field(min_length=1)]
    """{key: the value or values that activate this key}."""


Objective = Literal[
    "val/accuracy", "val/balanced_accuracy", "val/mAP", "val/f1_micro", "val/f1_macro", "val/loss", "val/ece"
]


class Sweep(Strict):
    """The config of `-m`: sampler, pruner, search space, limits."""

    sampler: Sampler
    pruner: Pruner
    space: dict[str, str | list[str | int | float] | Conditional]
    """Keys that vary, besides those on the command line: lists, or Hydra's range, interval and tag."""
    objectives: Annotated[list[Objective], Field(min_length=1)]
    """Validation metrics at the best epoch; the first selects the best trial."""
    trials: Annotated[int, Field(ge=1)] | None
    """Maximum number of trials, without killed ones; null: all of a grid, or until `minutes` are over."""
    minutes: Annotated[float, Field(gt=0)] | None
    """Minutes from the command's start after which no trial starts; null: no limit."""
    seed: Seed
    """The seed of the sampler."""
    name: Annotated[
        str | None,
        Field(
            pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$",
            description="at most 100 letters, digits, _, . and -, the first neither . nor -",
        ),
    ]
    """The name of the study; null: the stage, and a hash of config, search space, algorithm and data."""
    store: PathText | None
    """Optuna's storage: a URL, or a file that ends in .journal; null: .frostline/sweeps/<name>.db."""
    failures: Annotated[int, Field(ge=1)]
    """The sweep stops after this many failures with the same error."""
    workers: Annotated[
        Annotated[int, Field(ge=1)] | Literal["auto"], Field(description="auto, or a whole number above 0")
    ]
    """Worker processes. auto: on this machine, `workers_per_device` for each visible GPU; without
    a GPU, as many as the cores allow. Workers on one machine use its GPUs in turn and share its cores."""
    workers_per_device: Annotated[int, Field(ge=1)]
    """Workers that `workers: auto` starts for each GPU; a small network does not fill one."""
