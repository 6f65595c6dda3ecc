"""Hydra composes `conf/` and a selection into plain data, which becomes a `schema.Experiment`; nothing else is Hydra's."""

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from frostline import project
from frostline.core.transfer import TWIN
from frostline.errors import FrostlineError, allowed
from frostline.schema import Evaluate, Experiment, Prepare, Report, Run
from frostline.validate import validated

STAGES_OF_PRETRAINING = ("weights", "freeze", "optimizer", "loss", "augment", "trainer")


def experiment(overrides: Sequence[str]) -> tuple[Experiment, dict[str, str]]:
    """Compose `conf/config.yaml` under Hydra overrides.

    Returns:
        The experiment, and the option chosen in each group (``{"freeze": "full", …}``).

    Raises:
        FrostlineError: an override or a config is wrong; one sentence says which key and what is allowed.
    """
    with _hydra(), _sentences():
        config = hydra_compose("config", [spelled(o) for o in overrides], return_hydra_config=True)
        return _experiment(config)


def printed(overrides: Sequence[str]) -> str:
    """Return what the overrides compose to, as YAML, values still to be given shown as ``???``."""
    with _hydra(), _sentences():
        config = hydra_compose("config", [spelled(o) for o in overrides])
        return str(OmegaConf.to_yaml(config))


def multirun(overrides: Sequence[str], task: Callable[[Experiment, dict[str, str], str], Any]) -> list[Any]:
    """Run `task(experiment, choices, job)` for every combination of a sweep, through Hydra's sweeper and launcher.

    `job` says what differs, such as ``freeze=full,seed=1``. Returns the tasks' results in Hydra's order.
    """
    with _hydra(), _sentences():
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        # JobReturn.return_value raises what the job raised.
        batches = hydra.multirun(
            config_name="config",
            task_function=_Job(task),
            overrides=[spelled(o) for o in overrides],
            with_log_configuration=False,
        )
        return [job.return_value for job in _flat(batches)]


class _Job:
    """A task as Hydra calls it: picklable, for launchers that send it to other processes."""

    def __init__(self, task: Callable[[Experiment, dict[str, str], str], Any]) -> None:
        self.task = task

    def __call__(self, config: DictConfig) -> Any:
        composed, _ = _experiment(config)
        hydra = HydraConfig.get()
        return self.task(composed, _choices(hydra.runtime.choices), str(hydra.job.override_dirname))


def _flat(batches: Any) -> Iterator[Any]:
    for batch in batches or []:
        yield from batch if isinstance(batch, list) else [batch]


def _experiment(config: DictConfig) -> tuple[Experiment, dict[str, str]]:
    choices: dict[str, str] = {}
    if "hydra" in config:
        choices = _choices(config.hydra.runtime.choices)
        config = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    data = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return validated(Experiment, data), choices


def _choices(raw: Mapping[Any, Any]) -> dict[str, str]:
    return {str(group): str(option) for group, option in raw.items() if not str(group).startswith("hydra")}


# ── a study: the selection in params.yaml, one resolved file a stage ─────────────────────────────────────────────────


def study(params: Mapping[str, Any], arms: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Resolve a selection into what each stage needs, and no more.

    An arm is named by its freeze schedule and starts from the pretrained weights. `scratch`, the twin, has random
    weights instead and trains everything.

    Args:
        params: what params.yaml holds.
        arms: in the report's order.

    Returns:
        File stem → plain data: prepare-source, prepare-target, pretrain, finetune-<arm>, evaluate-<arm>, report.
    """
    selected = list(selection(params))
    base, choices = experiment(selected)
    resolved: dict[str, dict[str, Any]] = {
        "prepare-source": prepare_config(base, "source").model_dump(),
        "prepare-target": prepare_config(base, "target").model_dump(),
        "pretrain": pretrain_config(base, choices).model_dump(),
    }
    for arm in arms:
        weights, freeze = ("none", "full") if arm == TWIN else ("pretrain", arm)
        composed, choices = experiment([*selected, f"weights={weights}", f"freeze={freeze}"])
        run = finetune_config(composed, choices, arm=arm, seeds=composed.seeds)
        resolved[f"finetune-{arm}"] = run.model_dump()
        resolved[f"evaluate-{arm}"] = evaluate_config(run).model_dump()
    report = Report(
        study=base.study, arms=list(arms), seeds=base.seeds, monitor=base.trainer.monitor, gate=base.gate
    )
    return {**resolved, "report": report.model_dump()}


def selection(params: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Turn nested params into Hydra overrides; null leaves a choice alone.

    >>> list(selection({"backbone": "mlp", "seeds": None, "pretrain": {"trainer": {"epochs": 3}}}))
    ['backbone=mlp', 'pretrain.trainer.epochs=3']
    """
    for key, value in params.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from selection(value, f"{name}.")
        elif value is not None:
            yield f"{name}={_hydra_literal(value)}"


def prepare_config(composed: Experiment, role: str) -> Prepare:
    """What `prepare` needs of the source or target data set; how many labels a run may use is not its affair."""
    dataset = composed.source if role == "source" else composed.dataset
    return Prepare(dataset=dataset.model_copy(update={"shots": None, "fraction": None}))


def pretrain_config(composed: Experiment, choices: Mapping[str, str]) -> Run:
    """The pretraining that an experiment asks for."""
    return Run(
        study=composed.study,
        stage="pretrain",
        arm=None,
        freeze_name=choices.get("freeze@pretrain.freeze", "full"),
        dataset=composed.source,
        backbone=composed.backbone,
        input=composed.input,
        seeds=[composed.pretrain.seed],
        **{name: getattr(composed.pretrain, name) for name in STAGES_OF_PRETRAINING},
    )


def finetune_config(
    composed: Experiment, choices: Mapping[str, str], arm: str | None = None, seeds: Sequence[int] | None = None
) -> Run:
    """The fine-tuning that an experiment asks for: a single run, or with `arm` and `seeds` an arm of a study."""
    return Run(
        study=composed.study,
        stage="finetune",
        arm=arm,
        freeze_name=choices.get("freeze", "full"),
        dataset=composed.dataset,
        backbone=composed.backbone,
        input=composed.input,
        seeds=list(seeds) if seeds is not None else [composed.seed],
        **{name: getattr(composed, name) for name in STAGES_OF_PRETRAINING},
    )


def evaluate_config(run: Run) -> Evaluate:
    """What evaluating an arm depends on."""
    assert run.arm is not None
    return Evaluate(study=run.study, arm=run.arm, dataset=run.dataset, seeds=run.seeds, trainer=run.trainer)


def read_yaml(path: Path) -> Any:
    """Return the YAML at `path`; duplicate keys are refused.

    Raises:
        FrostlineError: it is missing, or not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise FrostlineError(f"{path} can't be read ({error.strerror}): name an existing YAML file") from None
    with _sentences(str(path)):
        # OmegaConf's loader refuses duplicate keys, which PyYAML's takes in silence; interpolations stay text.
        return OmegaConf.to_container(OmegaConf.load(io.StringIO(text)), resolve=False)


# ── Hydra's words into ours ──────────────────────────────────────────────────────────────────────────────────────────

_GROUP_IN_PACKAGE = re.compile(rf"^pretrain\.({'|'.join(STAGES_OF_PRETRAINING)})$")


def spelled(override: str) -> str:
    """Spell a choice of option as Hydra wants it: ``source=x`` picks a dataset, ``pretrain.loss=x`` a loss.

    >>> spelled("source=mnist5k"), spelled("source.shots=3"), spelled("pretrain.optimizer=sgd")
    ('dataset@source=mnist5k', 'source.shots=3', 'optimizer@pretrain.optimizer=sgd')
    """
    key, equals, value = override.partition("=")
    if key == "source" and not value.startswith("{"):
        return f"dataset@source{equals}{value}"
    if (match := _GROUP_IN_PACKAGE.match(key)) and not value.startswith("{"):
        return f"{match[1]}@{key}{equals}{value}"
    return override


def _hydra_literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(_hydra_literal(v) for v in value)}]"
    if isinstance(value, str) and not re.fullmatch(r"[\w./@:%-]+", value):
        return "'" + value.replace("'", r"\'") + "'"
    return str(value)


@contextmanager
def _hydra() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(project.conf_dir()), version_base="1.3", job_name="frostline"):
        yield


@contextmanager
def _sentences(where: str = "") -> Iterator[None]:
    """Turn Hydra's, OmegaConf's and YAML's exceptions into one sentence each."""
    try:
        yield
    except MissingConfigException as error:
        group, _, option = (error.missing_cfg_file or "").rpartition("/")
        options = [str(o) for o in error.options or []]
        raise FrostlineError(f"{group or 'config'}: no option {option!r}; {allowed(option, options)}") from None
    except MissingMandatoryValue as error:
        raise FrostlineError(f"{error.full_key}: needs a value; add {error.full_key}=…") from None
    except OverrideParseException as error:
        raise FrostlineError(f"{error.override!r} is not an override; write key=value, such as seed=1") from None
    except (HydraException, OmegaConfBaseException) as error:
        raise FrostlineError(_composition(error)) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark else ""
        name = where or (mark.name if mark else "config")
        raise FrostlineError(f"{name}: {place}{getattr(error, 'problem', None) or error}; mend the YAML") from None


def _composition(error: Exception) -> str:
    text = f"{error}\n{error.__cause__ or ''}"
    if match := re.search(r"Could not (?:override|append|delete).*?'([^']+)'", text):
        key = match[1].split("@")[0]
        if "No match in the defaults list" in text or isinstance(error, ConfigCompositionException):
            return f"{key}: unknown key; {allowed(key, _known_keys(key))}"
    return re.sub(r"\s+", " ", str(error)).strip()


def _known_keys(key: str) -> list[str]:
    """Keys near `key`: those of the deepest config level that exists on its path."""
    config: Any = OmegaConf.create(OmegaConf.load(io.StringIO(printed([]))))
    path: list[str] = []
    for part in key.split(".")[:-1]:
        inner = OmegaConf.select(config, part) if isinstance(config, DictConfig) else None
        if not isinstance(inner, DictConfig):
            break
        config, path = inner, [*path, part]
    return [".".join([*path, str(name)]) for name in config]
