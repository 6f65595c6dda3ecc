"""A study: the selection in params.yaml, resolved into one config per stage."""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frostline.base import project
from frostline.base.formats import read_yaml
from frostline.base.hashes import sha256_of
from frostline.config import compose, stage_configs
from frostline.config.overrides import from_hydra, to_overrides
from frostline.console.errors import FrostlineError
from frostline.data.reading.sources import name_of
from frostline.data.reading.table_file import TABLES
from frostline.pipeline.compose.located import located
from frostline.pipeline.compose.watched import PACKAGES, PARAMS, WATCHED, WATCHES, absolute
from frostline.schema import (
    Arm,
    Experiment,
    Input,
    NoAdapter,
    NoAveraging,
    NoRegularizer,
    NoWeights,
    Report,
    Strict,
    StudySetup,
    Weights,
    WiseFt,
    backbone_name,
    needs_pretraining,
)
from frostline.schema.validation import validated
from frostline.stats.transfer import BASELINE

ARM_NAME = re.compile(r"(?!(?:true|false|null|nan|inf)$)[A-Za-z][A-Za-z0-9_.-]*", re.IGNORECASE)
"""Names that a shell, DVC's stages and Hydra's overrides take without quotes."""
KEY = re.compile(r"[A-Za-z_][\w./@-]*")
"""The keys of a selection at its top."""


class _Paths(Strict):
    source: str
    target: str
    weights: str = PACKAGES[0]


class _Watched(Strict):
    data: _Paths


@dataclass(frozen=True)
class Study:
    """A selection, resolved."""

    params: Mapping[str, Any]
    choices: Mapping[str, str]
    """The option chosen in each group."""
    resolved: dict[str, dict[str, Any]]
    """File stem → plain data: prepare-<role>, pretrain, finetune-<arm>, evaluate-<arm>, report."""

    @contextmanager
    def located(self, stage: str = "", arm: str = "") -> Iterator[None]:
        """Prefix errors of the block with the file that their key is in, and the arm.

        Args:
            stage: pretrain: keys of the run are below the key pretrain.
        """
        choices = {**self.choices, "freeze": "full" if arm == BASELINE else arm} if arm else self.choices
        with located(self.params, choices, stage, arm):
            yield


def read_selection(path: Path) -> dict[str, Any]:
    """Return the content of a params.yaml; an empty one selects the defaults of conf/.

    Raises:
        FrostlineError: it can't be read, or holds no keys with values.
    """
    params = read_yaml(path)
    if params is None:
        return {}
    if not isinstance(params, dict):
        raise FrostlineError(f"{path}: found {params!r}, must be keys with values")
    if odd := [key for key in params if not (isinstance(key, str) and KEY.fullmatch(key))]:
        raise FrostlineError(f"{path}: {odd[0]!r} is not a key; write keys as optimizer: {{lr: 0.001}}")
    return params


def overrides(params: Mapping[str, Any]) -> list[str]:
    """Return the overrides that a selection stands for.

    Raises:
        FrostlineError: a data set reads a folder other than the one that DVC watches.
    """
    selected = list(to_overrides({key: value for key, value in params.items() if key != WATCHED}))
    if WATCHED not in params:
        return selected
    watched = validated(_Watched, {WATCHED: params[WATCHED]}, PARAMS).data
    composed = compose.paths(selected, [key for keys in WATCHES.values() for key in keys])
    for name, keys in WATCHES.items():
        path, key = getattr(watched, name), next((key for key in keys if key in composed), keys[-1])
        _check_watched(name, path, key, composed)
        if composed.get(key) is None and path not in PACKAGES:
            selected.append(f"{key}={path}")
    return selected


def on_selection(typed: Sequence[str]) -> list[str]:
    """Return the overrides of the project's params.yaml, then those typed, which take precedence.

    A typed experiment replaces the whole selection; ``experiment=null`` selects the defaults of conf/.
    """
    path = project.find_root() / PARAMS
    keys = _keys(typed)
    if "experiment" in keys or not path.is_file():
        return list(typed)
    params = read_selection(path)
    with located(params, {}):
        selected = overrides(params)

    def is_typed(override: str) -> bool:
        parts = from_hydra(override).partition("=")[0].lstrip("+").split(".")
        return not keys.isdisjoint(".".join(parts[:count]) for count in range(1, len(parts) + 1))

    return [*(override for override in selected if not is_typed(override)), *typed]


def _keys(typed: Sequence[str]) -> set[str]:
    """Return the keys of overrides."""
    return {from_hydra(override).partition("=")[0].lstrip("+~") for override in typed}


def note_if_unread(typed: Sequence[str]) -> None:
    """Print a note if a command would train on the default data set although params.yaml selects a study.

    Args:
        typed: the overrides of a command that does not read params.yaml.
    """
    path = project.find_root() / PARAMS
    if not path.is_file() or not _keys(typed).isdisjoint(("experiment", "dataset", "source")):
        return
    with suppress(FrostlineError):
        if experiment := read_selection(path).get("experiment"):
            print(
                f"frostline: note: experiment={experiment}, which params.yaml selects, is not read here;"
                " add it to use its data set and hyperparameters instead of the defaults",
                file=sys.stderr,
            )


def own_arm(params: Mapping[str, Any]) -> list[str]:
    """Return the arm that a selection adds to those of dvc.yaml, named by its freeze schedule.

    Raises:
        FrostlineError: the name can't be an arm's.
    """
    if "freeze" not in params:
        return []
    if (name := params["freeze"]) is None:
        raise FrostlineError(
            f"{PARAMS}: freeze: found null, but dvc.yaml runs the arm that it names; name a schedule, such as"
            " gradual, or full, which adds no arm"
        )
    if not isinstance(name, str) or not ARM_NAME.fullmatch(name):
        raise FrostlineError(
            f"{PARAMS}: freeze: found {name!r}, which can't name an arm; a name starts with a letter and"
            " consists of letters a-z, digits, '_', '-' and '.', and is none of true, false, null, nan, inf;"
            " rename the file in conf/freeze"
        )
    if name == BASELINE:
        raise FrostlineError(
            f"{PARAMS}: freeze: found {name!r}, the name of the from-scratch baseline; choose another"
            " schedule, or rename the file in conf/freeze"
        )
    return [name]


def _check_watched(name: str, path: str, read: str, composed: Mapping[str, str | None]) -> None:
    """Refuse a path that DVC does not watch, or that no data set or weights read.

    Args:
        read: the key of the experiment that has the path.
    """
    key, watches = f"{PARAMS}: {WATCHED}.{name}", path not in PACKAGES
    if watches and read not in composed:
        group, suffix = read.partition(".")[0], Path(path).suffix
        kind = "table" if suffix in TABLES else "npz" if suffix == ".npz" else "image_folder"
        raise FrostlineError(
            f"{key}: found {path!r}, which nothing reads; set {WATCHED}.{name}: {_packages()}, or"
            f" {group}: {'file' if name == 'weights' else kind}"
        )
    used = composed.get(read)
    if used is not None and (not watches or absolute(path) != absolute(used)):
        if watches and absolute(path).exists() and not absolute(used).exists():
            raise FrostlineError(
                f"{key}: found {path!r}, but {read} is {used!r}, which doesn't exist; set {read}={path} where"
                " it is set, in params.yaml or the experiment"
            )
        raise FrostlineError(
            f"{key}: found {path!r}, but {read} is {used!r}, where DVC would not see a change; set"
            f" {WATCHED}.{name}: {used}, or, for one run, dvc exp run -S '{WATCHED}.{name}={used}'"
        )


def _packages() -> str:
    """Return the path that stands for packages in this project."""
    return PACKAGES[(project.find_root() / project.LOCK).is_dir()]


def resolve(params: Mapping[str, Any], arms: Sequence[str]) -> Study:
    """Resolve a selection into the config of each stage.

    An arm is named by its freeze schedule and starts from the experiment's weights, which the stage pretrain
    makes unless they are ImageNet's or a file's. `scratch`, the baseline, has random weights instead and
    trains everything.

    Args:
        arms: in the report's order.

    Raises:
        FrostlineError: a choice is wrong; the sentence names the file, the arm if it is of one, and the key.
    """
    with located(params, {}):
        selected = overrides(params)
        try:
            base, choices = compose.experiment(selected)
        except FrostlineError as error:
            raise FrostlineError(_name_watched_key(str(error), params)) from None
        if isinstance(base.weights, NoWeights):
            raise FrostlineError(
                "weights: found none, with which nothing is transferred; set weights: pretrain or imagenet"
            )
    resolved: dict[str, dict[str, Any]] = {
        "prepare-source": stage_configs.prepare_config(base, "source").model_dump(),
        "prepare-target": stage_configs.prepare_config(base, "target").model_dump(),
        "pretrain": stage_configs.pretrain_config(base, choices).model_dump(),
    }
    resolved["leakage"] = {role: resolved[f"prepare-{role}"] for role in ("source", "target")}
    if not needs_pretraining(base.weights):
        # With the file's hash, so that later stages re-run when it changes.
        path = getattr(base.weights, "path", None)
        file = f" (sha256 {sha256_of(Path(path).expanduser())})" if path and Path(path).is_file() else ""
        kind = base.weights.kind
        reason = {"omitted": f"the arms start from weights={kind}{file}, so nothing is pretrained"}
        resolved |= dict.fromkeys(("prepare-source", "leakage", "pretrain"), reason)
    for arm in arms:
        freeze = "full" if arm == BASELINE else arm
        with located(params, {**choices, "freeze": freeze}, arm=arm):
            composed, chosen = compose.experiment([*selected, f"freeze={freeze}"])
            config = stage_configs.arm_config(composed, chosen, arm)
        if arm == BASELINE:
            config = from_scratch(_with_input_of(base.weights, config))
        resolved[f"finetune-{arm}"] = config.model_dump()
        resolved[f"evaluate-{arm}"] = stage_configs.evaluate_config(config, composed).model_dump()
    with located(params, choices):
        folds = stage_configs.study_folds(base)
    report = Report(
        study=base.study,
        arms=list(arms),
        seeds=base.seeds,
        monitor=base.trainer.monitor,
        gate=base.gate,
        folds=folds,
        dataset_folds=base.dataset.folds if folds else None,
        freeze=choices["freeze"],
        setup=_setup(base),
    )
    return Study(params, choices, {**resolved, "report": report.model_dump()})


def _setup(base: Experiment) -> StudySetup:
    """Return what the arms share."""
    weights = base.weights
    return StudySetup(
        source=name_of(base.source) if needs_pretraining(weights) else None,
        target=name_of(base.dataset),
        weights=getattr(weights, "path", None) or weights.kind,
        backbone=backbone_name(base.backbone),
        input_size=base.input.size,
        epochs=base.trainer.epochs,
        batch_size=base.trainer.images_per_step(base.trainer.batch_size),
        optimizer=base.optimizer.name,
        lr=base.optimizer.lr,
        weight_decay=base.optimizer.weight_decay,
    )


def _name_watched_key(sentence: str, params: Mapping[str, Any]) -> str:
    """Reword "needs a value" of a path: in a study, it is set below the key `data`."""
    for name, keys in WATCHES.items():
        for key in keys:
            if WATCHED in params and sentence.startswith(f"{key}: needs a value"):
                own = f"{WATCHED}.{name}"
                return f"{PARAMS}: {own}: found {_packages()}, but {key} needs a path; set {own} to it"
    return sentence


def _with_input_of(weights: Weights, arm: Arm) -> Arm:
    """Return an arm with the input that a file of weights was trained on, whatever its own weights are."""
    if getattr(weights, "path", None) is None:
        return arm
    from frostline.models.pretrained import input_spec, load_initial_weights

    spec = input_spec(arm.backbone, load_initial_weights(arm.backbone, weights), arm.input).to_dict()
    return arm.model_copy(update={"input": validated(Input, spec)})


def from_scratch(arm: Arm) -> Arm:
    """Return an arm from random weights, without what keeps a run near its initial weights."""
    changes: dict[str, Any] = {
        "weights": NoWeights(kind="none"),
        "adapter": NoAdapter(kind="none"),
        "regularizer": NoRegularizer(kind="none"),
    }
    if isinstance(arm.averaging, WiseFt):
        changes["averaging"] = NoAveraging(kind="none")
    return arm.model_copy(update=changes)
