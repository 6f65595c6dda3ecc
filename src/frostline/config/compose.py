"""Compose `conf/` and overrides with Hydra into a `schema.Experiment`, for one run or a sweep."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import IntervalSweep, Override, OverrideType
from omegaconf import DictConfig, OmegaConf

from frostline.base.processes import cores, processors, sharing_cores
from frostline.base.sharing import fitting_workers
from frostline.config import conf_files, hints, hydra_session
from frostline.config.hydra_session import readable_errors, session
from frostline.config.overrides import from_hydra, options, to_hydra
from frostline.config.space import MOST_POINTS, Interval, Parameter, Space, Values, as_overrides
from frostline.console.errors import FrostlineError
from frostline.schema import Conditional, Experiment, Strict, Sweep
from frostline.schema.validation import validated

Task = Callable[..., Any]
"""Called with an experiment, its choices and a label; for trials also with a `services.Watch`."""
RunBatched = Callable[["list[SweepJob]", Callable[[int, Any], None]], None]


def experiment(overrides: Sequence[str]) -> tuple[Experiment, dict[str, str]]:
    """Compose `conf/config.yaml` under Hydra overrides.

    Returns:
        The experiment, and the option chosen in each group (``{"freeze": "full", …}``).

    Raises:
        FrostlineError: an override or a config is invalid; the sentence names the key and what is allowed.
    """
    hydra_overrides = [to_hydra(override) for override in overrides]
    with session(), readable_errors(hydra_overrides):
        return _experiment(hydra_session.compose_config(hydra_overrides))


def composed_yaml(overrides: Sequence[str]) -> str:
    """Return the composed config as YAML; missing values are ``???``."""
    hydra_overrides = [to_hydra(override) for override in overrides]
    with session(), readable_errors(hydra_overrides):
        return str(OmegaConf.to_yaml(_without_hydra(hydra_session.compose_config(hydra_overrides))))


def paths(overrides: Sequence[str], keys: Sequence[str]) -> dict[str, str | None]:
    """Return paths of the composed config.

    Args:
        overrides: as for `experiment`; values may be missing.
        keys: keys of paths, such as ``dataset.root``.

    Returns:
        {key: path} for the keys that exist; None: null or missing.
    """
    hydra_overrides = [to_hydra(override) for override in overrides]
    values: dict[str, str | None] = {}
    with session(), readable_errors(hydra_overrides):
        config = hydra_session.compose_config(hydra_overrides)
        for key in keys:
            group, _, name = key.partition(".")
            if OmegaConf.is_missing(config[group], name):
                values[key] = None
            elif name in config[group]:
                values[key] = config[group][name]
    return values


@dataclass(frozen=True)
class FailedJob:
    """A job of a sweep that ended with an error of the config or of the training."""

    label: str
    error: FrostlineError


@dataclass(frozen=True)
class SweepJob:
    """A composed job of a sweep."""

    label: str
    composed: Experiment
    choices: dict[str, str]


@dataclass(frozen=True)
class SweepTask:
    """The task function of Hydra's sweepers: called for every job, or, by frostline's sweeper, for trials."""

    task: Task
    fixed: frozenset[str]
    """Overrides that all jobs share."""
    run_batched: RunBatched
    """May run jobs of a grid in a batch; calls back with each job's number and the result of `task`."""
    fresh: bool
    """Whether to discard the results of an earlier sweep."""

    def __call__(self, config: DictConfig) -> Any:
        """Run one job of another sweeper; picklable, for launchers with worker processes."""
        hydra = HydraConfig.get()
        label = ",".join(map(from_hydra, (o for o in hydra.overrides.task if o not in self.fixed)))
        try:
            composed, _ = _experiment(config)
            return self.task(composed, _choices(hydra.runtime.choices), label)
        except FrostlineError as error:
            return FailedJob(label, error)


def multirun(
    overrides: Sequence[str],
    task: Task,
    run_batched: RunBatched = lambda jobs, done: None,
    *,
    fresh: bool = False,
) -> list[Any]:
    """Run `task(experiment, choices, label)` for each trial of a sweep, with Hydra's sweeper and launcher.

    `label` lists the trial's values: ``freeze=full,seed=1``. An error of one trial does not end the others.

    Args:
        overrides: overrides as typed; lists and intervals are swept.
        task: runs a trial; its `stage`, if any, is the stage of the sweep.
        run_batched: may run jobs of a grid on this machine in a batch; calls back with the number of each and
            the result that `task` would return.
        fresh: discard the results of an earlier command.

    Returns:
        The results of the tasks, or `FailedJob`, in the sweep's order.

    Raises:
        FrostlineError: a combination is invalid; before anything runs.
    """
    hydra_overrides = [to_hydra(override, sweep=True) for override in overrides]
    with hints.of_lists(overrides), session(), readable_errors(hydra_overrides):
        parsed = hydra_session.parse_overrides(hydra_overrides)
        for override in parsed:
            if override.is_discrete_sweep() and not any(True for _ in override.sweep_iterator()):
                raise FrostlineError(f"{from_hydra(str(override.input_line))}: an empty sweep; name a value")
        shared = [override for override in parsed if not override.is_sweep_override()]
        hydra_session.compose_config([str(override.input_line) for override in shared])  # only for its errors
        launching = _launching(hydra_overrides, parsed, getattr(task, "stage", None))
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        batches = hydra.multirun(
            config_name="config",
            task_function=SweepTask(task, frozenset(map(_as_text, shared)), run_batched, fresh),
            overrides=[*hydra_overrides, *launching],
            with_log_configuration=False,
        )
        jobs = (job for batch in batches or [] for job in (batch if isinstance(batch, list) else [batch]))
        # JobReturn.return_value raises what else the job raised.
        return [getattr(job, "return_value", job) for job in jobs]


def _launching(hydra_overrides: Sequence[str], parsed: Sequence[Override], stage: str | None) -> list[str]:
    """Return the overrides that a sweep with frostline's sweeper needs for its number of workers.

    Args:
        hydra_overrides: the sweep's overrides in Hydra's syntax.
        parsed: the same, parsed.
        stage: the stage that each trial runs.
    """
    groups = {o.key_or_group: str(o.value()) for o in parsed if o.key_or_group.startswith("hydra/")}
    if "hydra/sweeper" in groups:  # one of Hydra's own
        return []
    _, _, sweep = space_of(hydra_overrides)
    if sweep.workers == "auto":
        workers = _fitting_workers(hydra_overrides, stage, groups.get("hydra/launcher"))
        overrides = [f"sweep.workers={workers}"]
    else:
        workers, overrides = sweep.workers, []
    if workers != 1 and "hydra/launcher" not in groups:
        overrides.append("hydra/launcher=joblib")
    return overrides


def _fitting_workers(hydra_overrides: Sequence[str], stage: str | None, launcher: str | None) -> int:
    """Return the number of workers on this machine for `sweep.workers=auto`.

    Raises:
        FrostlineError: the launcher starts workers on other machines.
    """
    from frostline.base import devices

    if launcher not in (None, "joblib"):
        raise FrostlineError(
            f"sweep.workers: auto counts this machine's GPUs and cores, not those of {launcher};"
            " give a number, such as sweep.workers=4"
        )
    fixed, space, settings = space_of(hydra_overrides)
    with sharing_cores(processors()):  # so that trials use the smallest number of threads
        ((first, _),) = compose_points(fixed, [as_overrides(space.first())])
    trainer = first.pretrain.trainer if stage == "pretrain" else first.trainer
    return fitting_workers(
        gpus=0 if trainer.device == "cpu" else len(devices.visible_gpus()),
        per_gpu=settings.workers_per_device,
        cores=cores(),
        threads=trainer.threads,
        trials=len(space.combinations()) if settings.sampler.kind == "grid" else None,
    )


def space_of(arguments: Sequence[str]) -> tuple[list[str], Space, Sweep]:
    """Split overrides into fixed ones and the search space.

    Args:
        arguments: overrides in Hydra's syntax; those of Hydra's own keys are ignored.

    Returns:
        The fixed overrides, the space, and the sweep's config; its default objective depends on the loss.

    Raises:
        FrostlineError: a key's values can't be varied, or the sweep's config is invalid.
    """
    ours = [o for o in hydra_session.parse_overrides(arguments) if not o.key_or_group.startswith("hydra")]
    for override in ours:
        if override.is_sweep_override() and override.key_or_group.partition(".")[0] == "sweep":
            raise FrostlineError(f"{override.input_line}: says how to sweep, so it takes one value")
    fixed = [_as_text(override) for override in ours if not override.is_sweep_override()]
    with session(), readable_errors(fixed):
        config = hydra_session.compose_config(
            [text for text in fixed if re.match(r"\+?(sweep|loss|experiment)[=.]", text)]
        )
        data = OmegaConf.to_container(config.sweep, resolve=True, throw_on_missing=True)
    settings = validated(_Sweep, {"sweep": data}).sweep
    typed = {_key(override): _parameter(override, {}) for override in ours if override.is_sweep_override()}
    listed: dict[str, Parameter] = {}
    for key, entry in settings.space.items():
        values = entry.values if isinstance(entry, Conditional) else entry
        when = entry.when if isinstance(entry, Conditional) else {}
        text = values if isinstance(values, str) else ",".join(map(str, values))
        (override,) = hydra_session.parse_overrides([to_hydra(f"{key}={text}", sweep=True)])
        if not override.is_sweep_override():
            raise FrostlineError(f"sweep.space.{key}: found {values!r}; give a list, or interval(low, high)")
        conditions = {name: (only,) if isinstance(only, str) else tuple(only) for name, only in when.items()}
        listed[_key(override)] = _parameter(override, conditions)
    parameters = {**typed, **{key: parameter for key, parameter in listed.items() if key not in typed}}
    if not parameters and settings.sampler.kind != "grid":
        raise FrostlineError(
            "nothing varies; give a key several values, such as seed=0,1,2, or an interval:"
            " 'optimizer.lr=tag(log,interval(1e-4,1e-1))'"
        )
    return fixed, Space(tuple(parameters.values())), settings


class _Sweep(Strict):
    """For errors with the whole key."""

    sweep: Sweep


Composed = dict[tuple[str, ...], DictConfig]
"""{options and keys of a point: the config that Hydra composed}."""


def compose_points(
    fixed: Sequence[str], points: Sequence[Sequence[str]], composed: Composed | None = None
) -> list[tuple[Experiment, dict[str, str]]]:
    """Compose the fixed overrides with those of each point, to find errors before anything runs.

    Hydra takes 0.1 s to compose, so it composes once per choice of options; values are updated afterwards.

    Args:
        composed: configs that earlier calls with the same `fixed` composed; updated.
    """
    experiments = []
    composed = {} if composed is None else composed
    with session(), readable_errors(fixed):
        for point in points:
            parsed = hydra_session.parse_overrides(point)
            plain = [override for override in parsed if _is_value(override)]
            choices = [text for text, override in zip(point, parsed, strict=True) if override not in plain]
            shape = (*choices, *(_key(override) for override in plain))
            if shape not in composed:
                composed[shape] = hydra_session.compose_config([*fixed, *point])
            for override in plain:
                OmegaConf.update(composed[shape], _key(override), override.value())
            experiments.append(_experiment(composed[shape]))
    return experiments


def _is_value(override: Override) -> bool:
    """Return whether an override sets an existing key to a scalar and chooses no option."""
    key, value = _key(override), override.value()
    is_option = "@" in key or bool(options(key)) or override.type != OverrideType.CHANGE
    return not is_option and isinstance(value, int | float | str | None)


def _key(override: Override) -> str:
    return str(override.get_key_element())


def _parameter(override: Override, when: Mapping[str, tuple[str, ...]]) -> Parameter:
    key, value = _key(override), override.value()
    if override.is_discrete_sweep():
        values = tuple(islice(override.sweep_string_iterator(), MOST_POINTS + 1))
        if len(values) > MOST_POINTS:
            raise FrostlineError(
                f"{from_hydra(key)}: more than {MOST_POINTS:,} values; give fewer, or an interval"
            )
        return Parameter(key, Values(values), when)
    assert isinstance(value, IntervalSweep)
    low, high = value.start, value.end
    assert low is not None
    assert high is not None
    log = "log" in value.tags
    if not low < high or math.isinf(high - low) or (log and low <= 0):
        above = ", above 0" if log else ""
        raise FrostlineError(
            f"{from_hydra(key)}: found an interval from {low} to {high}; give the lower first{above}"
        )
    whole = isinstance(low, int) and isinstance(high, int)
    return Parameter(key, Interval(low, high, log, whole), when)


def grid(overrides: Sequence[str], keys: Sequence[str]) -> tuple[list[Experiment], dict[str, str]]:
    """Compose every combination of the lists of `keys`; no other key may have a list.

    Returns:
        The experiments, and the option chosen in each group.

    Raises:
        FrostlineError: an override or a config is invalid.
    """
    hydra_overrides = [to_hydra(text, sweep=text.partition("=")[0].lstrip("+") in keys) for text in overrides]
    with session(), readable_errors(hydra_overrides):
        parsed = hydra_session.parse_overrides(hydra_overrides)
        lists = {override.key_or_group: override for override in parsed if override.is_sweep_override()}
        values: dict[str, list[Any]] = {}
        for key, override in lists.items():
            typed = from_hydra(str(override.input_line))
            if key not in keys:
                raise FrostlineError(f"{typed}: takes one value here; lists are for {', '.join(keys)}")
            values[key] = list(override.sweep_iterator()) if override.is_discrete_sweep() else []
            if not values[key]:
                raise FrostlineError(f"{typed}: not a list; name values, such as {key}=1,2")
        first = [
            f"{_key(override)}={next(override.sweep_string_iterator())}"
            if override in lists.values()
            else text
            for text, override in zip(hydra_overrides, parsed, strict=True)
        ]
        config = hydra_session.compose_config(first)
        _, choices = _experiment(config)
        experiments = []
        for combination in product(*values.values()):
            for key, value in zip(values, combination, strict=True):
                OmegaConf.update(config, key, value)
            experiments.append(_experiment(config)[0])
        return experiments, choices


def _as_text(override: Override) -> str:
    return f"{override.get_key_element()}={override.get_value_element_as_str()}"


def _experiment(config: DictConfig) -> tuple[Experiment, dict[str, str]]:
    choices: dict[str, str] = {}
    if "hydra" in config:
        conf_files.check_composed(config)
        choices = _choices(config.hydra.runtime.choices)
        config = _without_hydra(config)
    hydra_session.check_expansion(OmegaConf.to_container(config, resolve=False))
    data = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return validated(Experiment, data), choices


def _without_hydra(config: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def _choices(raw: Mapping[Any, Any]) -> dict[str, str]:
    return {str(group): str(option) for group, option in raw.items() if not str(group).startswith("hydra")}
