"""Optuna's samplers and pruners, as a sweep's config names them."""

import random

import optuna

from frostline import schema


def sampler(settings: schema.Sweep, trials: int, worker: int) -> optuna.samplers.BaseSampler:
    """Return the sampler of a sweep.

    Args:
        trials: how many the study has already. They are part of the seed: with the same seed, a resumed sweep
            would draw its first trials again, and so would a second command on the same study.
        worker: the number of the worker that draws; each has a seed of its own.
    """
    seed = random.Random(f"{settings.seed}/sampler/{trials}/{worker}").getrandbits(32)
    match settings.sampler:
        case schema.TpeSampler(startup=startup, multivariate=multivariate):
            return optuna.samplers.TPESampler(
                n_startup_trials=startup, multivariate=multivariate, group=multivariate, seed=seed
            )
        case schema.CmaEsSampler(startup=startup):
            return optuna.samplers.CmaEsSampler(n_startup_trials=startup, seed=seed)
        case schema.Nsga2Sampler(population=population):
            return optuna.samplers.NSGAIISampler(population_size=population, seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)


def pruner(config: schema.Pruner) -> optuna.pruners.BasePruner:
    """Return the pruner of a sweep."""
    match config.kind:
        case "none":
            return optuna.pruners.NopPruner()
        case "median":
            return optuna.pruners.MedianPruner(config.startup, config.warmup)
        case "halving":
            return optuna.pruners.SuccessiveHalvingPruner(config.first, config.factor)
        case "hyperband":
            return optuna.pruners.HyperbandPruner(config.first, reduction_factor=config.factor)
        case "patience":
            return optuna.pruners.PatientPruner(None, config.patience, config.min_delta)
