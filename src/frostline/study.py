"""A study: the selection in params.yaml, resolved into one file a stage."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frostline import compose, project
from frostline.core.transfer import TWIN
from frostline.errors import FrostlineError
from frostline.files import read_yaml
from frostline.overrides import STAGES_OF_PRETRAINING, selection
from frostline.schema import (
    Experiment,
    Input,
    NoAdapter,
    NoAveraging,
    NoRegularizer,
    NoWeights,
    PretrainWeights,
    Report,
    Run,
    Strict,
    Weights,
    WiseFt,
)
from frostline.validate import validated

PARAMS = "params.yaml"
WATCHED = "data"
"""The key of params.yaml that is no choice of conf/: dvc.yaml takes from it what DVC watches."""
PACKAGES = "requirements.lock"
"""What DVC watches for the data sets that come with packages."""
ROLES = {"source": "source", "target": "dataset"}
"""Role of a data set → its key in an experiment."""


class _Folders(Strict):
    source: str
    target: str


class _Watched(Strict):
    data: _Folders


@dataclass(frozen=True)
class Study:
    """What a selection comes to."""

    params: Mapping[str, Any]
    choices: Mapping[str, str]
    """The option chosen in each group."""
    resolved: dict[str, dict[str, Any]]
    """File stem → plain data: prepare-<role>, pretrain, finetune-<arm>, evaluate-<arm>, report."""

    @contextmanager
    def located(self, stage: str = "", arm: str = "") -> Iterator[None]:
        """Begin an error with the file that its key is in, and the arm.

        Args:
            stage: pretrain, where keys of a run lie below it.
            arm: that the block is about.
        """
        choices = {**self.choices, "freeze": "full" if arm == TWIN else arm} if arm else self.choices
        with _located(self.params, choices, stage, arm):
            yield


def read_selection(path: Path) -> dict[str, Any]:
    """Return what a params.yaml holds; an empty one selects what conf/ does.

    Raises:
        FrostlineError: it can't be read, or holds no keys with values.
    """
    params = read_yaml(path)
    if params is None:
        return {}
    if not isinstance(params, dict):
        raise FrostlineError(f"{path}: found {params!r}, must be keys with values")
    return params


def overrides(params: Mapping[str, Any]) -> list[str]:
    """Return the overrides that a selection stands for.

    Raises:
        FrostlineError: a data set reads a folder other than the one that DVC watches.
    """
    selected = list(selection({key: value for key, value in params.items() if key != WATCHED}))
    if WATCHED not in params:
        return selected
    folders = validated(_Watched, {WATCHED: params[WATCHED]}, PARAMS).data
    roots = compose.roots(selected, list(ROLES.values()))
    for role, group in ROLES.items():
        folder = getattr(folders, role)
        _check_watched(role, folder, *roots.get(group, (None, None)))
        if group in roots and roots[group][1] is None and folder != PACKAGES:
            selected.append(f"{group}.root={folder}")
    return selected


def _check_watched(role: str, folder: str, kind: str | None, root: str | None) -> None:
    """Refuse a folder that DVC does not watch, and one that nothing reads."""
    key, group, watches = f"{WATCHED}.{role}", ROLES[role], folder != PACKAGES
    if kind is None and watches:
        raise FrostlineError(
            f"{PARAMS}: {key}: found {folder!r}, but the {role} reads no folder; set {key}: {PACKAGES}, or"
            f" {group}: image_folder"
        )
    if kind == "image_folder" and root is None and not watches:
        raise FrostlineError(
            f"{PARAMS}: {key}: found {folder}, but the {role} is a folder of images; set {key} to its path"
        )
    if root is not None and (not watches or _place(folder) != _place(root)):
        raise FrostlineError(
            f"{PARAMS}: {key}: found {folder!r}, but {group}.root is {root!r}, where DVC would not see a"
            f" change; set {key}: {root}, or, for one run, dvc exp run -S '{key}={root}'"
        )


def _place(path: str) -> Path:
    return Path(path).expanduser().resolve()


def resolve(params: Mapping[str, Any], arms: Sequence[str]) -> Study:
    """Resolve a selection into what each stage needs, and no more.

    An arm is named by its freeze schedule and starts from the experiment's weights, which the stage pretrain
    makes unless they are ImageNet's or a file's. `scratch`, the baseline, has random weights instead and
    trains everything.

    Args:
        params: what params.yaml holds.
        arms: in the report's order.

    Raises:
        FrostlineError: a choice is wrong; the sentence names the file, the arm if it is of one, and the key.
    """
    with _located(params, {}):
        selected = overrides(params)
        base, choices = compose.experiment(selected)
        if isinstance(base.weights, NoWeights):
            raise FrostlineError(
                "weights: found none, with which nothing is transferred; set weights: pretrain or imagenet"
            )
    resolved: dict[str, dict[str, Any]] = {
        "prepare-source": compose.prepare_config(base, "source").model_dump(),
        "prepare-target": compose.prepare_config(base, "target").model_dump(),
        "pretrain": compose.pretrain_config(base, choices).model_dump(),
    }
    if not pretrains(base):
        why = {"omitted": f"the arms start from weights={base.weights.kind}, so nothing is pretrained"}
        resolved |= {"prepare-source": why, "pretrain": why}
    for arm in arms:
        freeze = "full" if arm == TWIN else arm
        with _located(params, {**choices, "freeze": freeze}, arm=arm):
            composed, chosen = compose.experiment([*selected, f"freeze={freeze}"])
            run = compose.finetune_config(composed, chosen, arm=arm, seeds=composed.seeds)
        if arm == TWIN:
            run = from_nothing(_seen_by(base.weights, run))
        resolved[f"finetune-{arm}"] = run.model_dump()
        resolved[f"evaluate-{arm}"] = compose.evaluate_config(run).model_dump()
    report = Report(
        study=base.study, arms=list(arms), seeds=base.seeds, monitor=base.trainer.monitor, gate=base.gate
    )
    return Study(params, choices, {**resolved, "report": report.model_dump()})


def _seen_by(weights: Weights, run: Run) -> Run:
    """Return a run that sees what a file of weights was trained on, whatever it starts from itself."""
    if getattr(weights, "path", None) is None:
        return run
    from frostline.models.pretrained import input_spec
    from frostline.models.pretrained import resolve as start_of

    spec = input_spec(run.backbone, start_of(run.backbone, weights), run.input).to_dict()
    return run.model_copy(update={"input": validated(Input, spec)})


def pretrains(composed: Experiment) -> bool:
    """Return whether the arms start from what the stage pretrain makes."""
    return isinstance(composed.weights, PretrainWeights) and composed.weights.path is None


def from_nothing(run: Run) -> Run:
    """Return a run from random weights without what would hold it there, or mix its end with them."""
    changes: dict[str, Any] = {
        "weights": NoWeights(kind="none"),
        "adapter": NoAdapter(kind="none"),
        "regularizer": NoRegularizer(kind="none"),
    }
    if isinstance(run.averaging, WiseFt):
        changes["averaging"] = NoAveraging(kind="none")
    return run.model_copy(update=changes)


# ── where a key is ──────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _located(
    params: Mapping[str, Any], choices: Mapping[str, str], stage: str = "", arm: str = ""
) -> Iterator[None]:
    try:
        yield
    except FrostlineError as error:
        text = str(error)
        key = match[1] if (match := re.match(r"([A-Za-z_][\w.@/-]*): ", text)) else ""
        if not key or key.endswith((".yaml", ".yml")):
            raise
        parts = key.split(".")
        if stage == "pretrain" and parts[0] in STAGES_OF_PRETRAINING:
            parts, text = ["pretrain", *parts], f"pretrain.{text}"
        about = f"arm {arm}: " if arm else ""
        raise FrostlineError(f"{_file_of(parts, params, choices)}: {about}{text}") from None


def _file_of(key: Sequence[str], params: Mapping[str, Any], choices: Mapping[str, str]) -> str:
    """Return the file that gives a key its value, as far as that can be told from outside Hydra."""
    if _gives(params, key) and not (key[0] == "freeze" and len(key) > 1):
        return PARAMS
    experiment = params.get("experiment") or choices.get("experiment")
    if experiment and experiment != "null":
        path = project.conf_dir() / "experiment" / f"{experiment}.yaml"
        if path.is_file() and _gives(read_yaml(path), key):
            return f"conf/experiment/{path.name}"
    package = key[:2] if key[0] == "pretrain" else key[:1]
    group = "dataset" if package == ["source"] else package[-1]
    option = choices.get(group if list(package) == [group] else f"{group}@{'.'.join(package)}")
    return f"conf/{group}/{option}.yaml" if option else "conf/config.yaml"


def _gives(content: Any, key: Sequence[str]) -> bool:
    """Whether nested keys with values give `key` one."""
    for part in key:
        if not isinstance(content, Mapping) or content.get(part) is None:
            return False
        content = content[part]
    return True
