"""A stage as a command of its own: prepares its data, pretrains if need be, runs and measures."""

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.base import project
from frostline.base.files import publish, remove_leftovers, remove_temporary, sound
from frostline.base.formats import read_yaml
from frostline.base.hashes import content_key, sha256_of
from frostline.base.locks import exclusive
from frostline.base.processes import end_with_dvc
from frostline.base.run_folder import WRITTEN, check_out
from frostline.config import stage_configs
from frostline.console import signals
from frostline.console.errors import FrostlineError, exhaustion
from frostline.console.progress import say_once, shown
from frostline.schema import Experiment, Prepare, PretrainWeights, Run, Weights
from frostline.schema.validation import validated
from frostline.training.services import Labelled, NoTracker, Services, Tracker, Watch, unwatched

if TYPE_CHECKING:
    from frostline.data.prepared.index import Index
    from frostline.tracking.recorder import Recorder

NAME_BYTES = 200
"""The longest name of a run's folder; file systems take 255."""


@dataclass(frozen=True)
class Done:
    """A finished run."""

    name: str
    out: Path
    metrics: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Stopped:
    """A trial that ended before its time, since others were better by then."""

    name: str


@dataclass(frozen=True)
class Job:
    """Runs `pretrain` or `finetune` for a composed experiment; picklable, for Hydra's launchers to send."""

    stage: str
    force: bool = False
    """Whether a run with other settings may be overwritten."""

    def inputs(self, experiments: Sequence[Experiment]) -> dict[str, list[str]]:
        """Return what is in the files that runs read: the data's fingerprints, the sha256 of weights."""
        weights: list[Weights] = []
        data: dict[str, Prepare] = {}
        for composed in experiments:
            from_source = self.stage == "pretrain" or _pretrains(composed.weights)
            from_target = self.stage == "finetune"
            weights += [composed.pretrain.weights] * from_source + [composed.weights] * from_target
            for role in ["source"] * from_source + ["target"] * from_target:
                config = stage_configs.prepare_config(composed, role)
                data[content_key(config.model_dump())] = config
        paths = {Path(path) for each in weights if (path := getattr(each, "path", None))}
        return {
            "data": sorted(prepared_from(config)[0].fingerprint for config in data.values()),
            "weights": sorted(sha256_of(path) for path in paths if path.is_file()),
        }

    @exhaustion()
    def __call__(
        self,
        composed: Experiment,
        choices: Mapping[str, str],
        label: str = "",
        watch: Watch = unwatched,
        tags: Mapping[str, str] | None = None,
    ) -> Done:
        """Run it.

        Args:
            composed: the experiment.
            choices: the option chosen in each group.
            label: in a sweep, what sets this job apart; becomes a folder below a given `out`.
            watch: told of each epoch, and may end the run.
            tags: for MLflow.

        Raises:
            Pruned: `watch` ended it.
            OutOfRoom: memory or the disk ran out, wherever.
        """
        given = services(label, watch, tags)
        from frostline.evaluation import evaluate
        from frostline.pipeline.pretrain import stage as pretrain
        from frostline.training.run_info import run_name

        make = stage_configs.pretrain_config if self.stage == "pretrain" else stage_configs.finetune_config
        config = make(composed, choices)
        name = run_name(config, config.seeds[0])
        drawn = composed.sweep.sampler.kind != "grid"
        needed = pretraining(composed, choices) if self.stage == "finetune" else None
        out = out_folder(composed.out, self.stage, name, label, config, needed, drawn=drawn)
        with writing(out, wait=bool(label)):
            checked = not (self.force or label)
            if checked:
                check_out(out, config.model_dump())
            index, data = prepared(composed, "source" if self.stage == "pretrain" else "target")
            if self.stage == "pretrain":
                pretrain.run(config, data, out, given)
            else:
                config = with_weights(config, composed, choices, given, index.classes)
                if checked:  # now that the pretraining is known
                    check_out(out, config.model_dump())
                finetune_alone(config, data, out, given)
            metrics = evaluate.read_metrics(out)
        return Done(label or name, out, metrics)


def finetune_alone(config: Run, data: Path, out: Path, given: Services) -> None:
    """Fine-tune once and measure, all into `out`: a run outside any study."""
    from frostline.evaluation import evaluate
    from frostline.models.pretrained import resolve
    from frostline.training import run as training
    from frostline.training.material import load_material

    start = resolve(config.backbone, config.weights)
    material = load_material(config, data, start, given)
    seed = config.seeds[0]
    with publish(out, WRITTEN) as work:
        training.train(
            config, seed, start, material, work, given, f"finetune {config.freeze_name} · seed {seed}"
        )
        evaluate.measure(config, seed, data, work, work, given)
    training.forget(config, start, material, given)


def prepared(composed: Experiment, role: str) -> "tuple[Index, Path]":
    """Return the index and folder of a data set, prepared now unless it has been."""
    return prepared_from(stage_configs.prepare_config(composed, role))


def with_weights(
    config: Run,
    composed: Experiment,
    choices: Mapping[str, str],
    given: Services,
    classes: Sequence[str],
) -> Run:
    """Return `config` with the path of `weights=pretrain`: pretrain first, once for all that want it.

    Args:
        config: the run's.
        composed: the experiment.
        choices: the option chosen in each group.
        given: what the run's stage shows on and records in.
        classes: the target's.

    Raises:
        FrostlineError: the source's head can't be used for them, or the schedule does not fit the network;
            before anything is trained.
    """
    from frostline.models.head_start import head_start
    from frostline.models.pretrained import resolve
    from frostline.pipeline.compose.stage import check_run
    from frostline.pipeline.pretrain import stage as pretrain
    from frostline.training import run as training

    if not _pretrains(config.weights):
        return config
    assert isinstance(config.weights, PretrainWeights)
    index, data = prepared(composed, "source")
    source = f"the source {index.name}"
    trains = bool(config.freeze.phases)
    head_start(config.weights.head, index.classes, classes, source=source, trains=trains)
    wanted = stage_configs.pretrain_config(composed, choices)
    start = resolve(wanted.backbone, wanted.weights).sha256
    key = content_key(
        [wanted.model_dump(exclude={"study"}), index.fingerprint, start, training.code("pretrain")]
    )[:16]
    folder = given.scratch / "pretrain" / key
    with exclusive(given.scratch / "locks" / f"pretrain-{key}.lock"):
        if not sound(folder):
            check_run(config, classes=classes)
            # No part of the trial that wants it first.
            pretrain.run(wanted, data, folder, services(), sealed=True)
    # Relative, since the run's config.yaml has it: a project that moves leaves the same bytes.
    path = os.path.relpath(folder / "weights.safetensors")
    weights = config.weights.model_copy(update={"path": path})
    return config.model_copy(update={"weights": weights})


def pretraining(composed: Experiment, choices: Mapping[str, str]) -> Run | None:
    """Return the pretraining that a fine-tuning runs first; None: it starts from other weights."""
    return stage_configs.pretrain_config(composed, choices) if _pretrains(composed.weights) else None


def _pretrains(weights: Weights) -> bool:
    """Whether weights are those of a pretraining that is run first."""
    return isinstance(weights, PretrainWeights) and weights.path is None


def services(label: str = "", watch: Watch = unwatched, tags: Mapping[str, str] | None = None) -> Services:
    """Return what a command's stages show on and record in; FROSTLINE_TRACKING=off records nothing.

    Called before the imports that training needs, so that the recorder gets ready beside them.
    """
    tracker: Tracker = NoTracker() if os.environ.get("FROSTLINE_TRACKING") == "off" else _recorder()
    if (short := short_label(label)) or tags:
        tracker = Labelled(tracker, short, tags or {})
    return Services(project.scratch(), shown, say_once, tracker, watch)


@cache
def _recorder() -> "Recorder":
    """One for all runs of this process."""
    from frostline.tracking.recorder import Recorder

    return Recorder()


def recorded() -> None:
    """Wait, for a while, until all that this process's runs say is recorded; later runs begin anew."""
    if _recorder.cache_info().currsize:
        _recorder().close()
        _recorder.cache_clear()


@contextmanager
def writing(out: Path, *, wait: bool = False) -> Iterator[None]:
    """Be the only one that writes to `out`, and end with the DVC process that started us.

    Args:
        out: the folder.
        wait: for another run that writes there, such as another command's trial with the same values.

    Raises:
        Busy: another run is writing there.
    """
    end_with_dvc()
    lock = project.scratch() / "locks" / f"{content_key(str(out.resolve()))[:16]}.lock"
    busy = f"out: another run is writing to {out}; wait for it, or name another folder"
    with signals.unwinding(), exclusive(lock, None if wait else busy):
        remove_temporary(out.parent, out.name)
        _clean_scratch()
        yield


def _clean_scratch() -> None:
    """Remove the temporary files of killed processes from the scratch, two folders deep."""
    scratch = project.scratch()
    for folder in (scratch, *scratch.glob("*/"), *scratch.glob("*/*/")):
        remove_temporary(folder)


def out_folder(
    out: str | None,
    stage: str,
    name: str,
    label: str,
    config: Run,
    needed: Run | None = None,
    *,
    drawn: bool = False,
) -> Path:
    """Return where results go: `out`, in a sweep a folder below it, else runs/<stage>/<name>-<hash>.

    In a sweep, a folder that holds another run is left alone: the name of this one's then ends in a hash.

    Args:
        out: what the user gave.
        stage: the run's.
        name: the run's.
        label: in a sweep, what sets the run apart.
        config: all that the run depends on…
        needed: …and the pretraining that is run first, if any.
        drawn: whether that came from an interval: two labels, of three digits, may be the same.
    """
    content: Any = config.model_dump()
    if needed is not None:
        content = [content, needed.model_dump()]
    if out is None:
        return named_folder(stage, name, content)
    if not label:
        return Path(out)
    plain, hashed = Path(out) / safe_name(label), Path(out) / f"{safe_name(label)}-{content_key(content)[:8]}"
    return hashed if drawn or _holds_another(plain, config, needed) else plain


def _holds_another(folder: Path, config: Run, needed: Run | None) -> bool:
    """Say whether a run lies in `folder` that is not this one, or that can't be told apart from it."""
    if not (folder / "config.yaml").is_file():
        return False
    try:
        found = validated(Run, read_yaml(folder / "config.yaml"))
        if needed is not None:
            weights = Path(getattr(found.weights, "path", None) or "")
            if _of_run(validated(Run, read_yaml(weights.parent / "config.yaml"))) != _of_run(needed):
                return True
    except FrostlineError:
        return True
    return _of_run(found) != _of_run(config)


def _of_run(run: Run) -> dict[str, Any]:
    """What a run's results depend on, but for the path of the weights that its own pretraining makes."""
    data = run.model_dump(exclude={"study"})
    if isinstance(run.weights, PretrainWeights):
        data["weights"]["path"] = None
    return data


def named_folder(stage: str, name: str, content: Any) -> Path:
    """Return runs/<stage>/<name>-<hash> for results that depend on the plain data `content`."""
    return Path("runs", stage, f"{_readable(name)}-{content_key([name, content])[:8]}")


def short_label(label: str) -> str:
    """Return what a run's name does not say yet: ``freeze=full,optimizer.lr=3e-4`` becomes ``lr3e-4``."""
    said = ("freeze", "backbone", "dataset", "seed", "backbone.name")
    parts = [part.partition("=") for part in label.split(",") if "=" in part]
    return "·".join(
        f"{key.split('.')[-1]}{'' if value[0].isdigit() else '='}{value}"
        for key, _, value in parts
        if key not in said and value
    )


def safe_name(name: str) -> str:
    """Return a name that any file system takes, and that no other name becomes.

    What had to be changed ends in a hash; so does what file systems may take for another: of other case, of
    another Unicode form, or with dots at its end.

    >>> safe_name("freeze=full,seed=1"), safe_name("Freeze=full")
    ('freeze=full,seed=1', 'Freeze=full-99bd0ea3')
    """
    safe = _readable(name)
    plain = re.fullmatch(r"[a-z0-9_=][a-z0-9_=.,+@-]*", name) and not re.search(r"-[0-9a-f]{8}$", name)
    return safe if safe == name and plain else f"{safe}-{content_key(name)[:8]}"


def _readable(name: str) -> str:
    """Return what any file system takes of a name; several names may become the same."""
    safe = re.sub(r"[^\w=.,+@-]+", "-", name).strip(".") or "-"
    return safe.encode()[:NAME_BYTES].decode(errors="ignore")


def prepared_from(config: Prepare) -> "tuple[Index, Path]":
    """Return the index and folder of the data set of a config, prepared now unless it has been."""
    from frostline.preparation import stage as prepare

    remove_leftovers(project.scratch() / "pixels")
    index, data = prepare.cached(config, project.scratch(), shown)
    for warning in index.warnings:
        print(f"frostline: warning: {warning}", file=sys.stderr)
    return index, data
