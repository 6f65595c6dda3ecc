"""Optuna's distributions of a search space's parameters."""

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from frostline.config.space import Interval, Parameter, Value, Values


def suggest(trial: optuna.Trial, parameter: Parameter) -> Value:
    """Return a parameter's value for a trial, as the sampler suggests it."""
    match parameter.domain:
        case Values(options):
            return str(trial.suggest_categorical(parameter.key, options))
        case Interval(low, high, log, True):
            return trial.suggest_int(parameter.key, int(low), int(high), log=log)
        case Interval(low, high, log):
            return trial.suggest_float(parameter.key, low, high, log=log)


def distribution(parameter: Parameter) -> BaseDistribution:
    """Return the distribution of a parameter's values."""
    match parameter.domain:
        case Values(options):
            return CategoricalDistribution(options)
        case Interval(low, high, log, True):
            return IntDistribution(int(low), int(high), log)
        case Interval(low, high, log):
            return FloatDistribution(low, high, log)
