"""The importance of each parameter for the objective."""

from collections.abc import Sequence

import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.trial import create_trial

from frostline.config.space import Interval, Parameter, Value, Values
from frostline.sweeps.distributions import distribution
from frostline.sweeps.trial import Trial

LEAST_TRIALS = 10
"""Complete trials below which no importance is computed."""
MOST_TRIALS = 300
"""Complete trials that are used at most, since fitting the forest takes time."""


def importances(trials: Sequence[Trial], parameters: Sequence[Parameter]) -> dict[str, float]:
    """Return parameter → importance for the first objective, the largest first; they sum to 1.

    Empty where there are few trials, or one parameter. Computed by functional ANOVA (Hutter et al. 2014):
    the parameter's share of the variance that a random forest, with a fixed seed, attributes to single
    parameters; over the latest trials and the parameters that all of them have.
    """
    complete = [trial for trial in trials if trial.state == "complete"][-MOST_TRIALS:]
    if len(complete) < LEAST_TRIALS or len({trial.values[0] for trial in complete}) < 2:
        return {}
    shared = [p for p in parameters if all(p.key in trial.point for trial in complete)]
    varied = [p for p in shared if len({trial.point[p.key] for trial in complete}) > 1]
    if len(varied) < 2:
        return {}
    study = optuna.create_study()
    ranges = {parameter.key: _ordinal_range(parameter) for parameter in varied}
    for trial in complete:
        places = {parameter.key: _ordinal(parameter, trial.point[parameter.key]) for parameter in varied}
        study.add_trial(create_trial(params=places, distributions=ranges, value=trial.values[0]))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {key: float(share) for key, share in shares.items()}


def _ordinal_range(parameter: Parameter) -> BaseDistribution:
    """Like `distribution`, but a list's n values are numbered: fANOVA takes 2ⁿ steps for n categories."""
    match parameter.domain:
        case Values(options):
            return IntDistribution(0, len(options) - 1)
        case Interval():
            return distribution(parameter)


def _ordinal(parameter: Parameter, value: Value) -> Value:
    """Return a value's place in its parameter's `_ordinal_range`."""
    match parameter.domain:
        case Values(options):
            return options.index(str(value))
        case Interval():
            return value
