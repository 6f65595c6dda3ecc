"""A stage as a command of its own: prepares its data, pretrains if need be, runs, and says where the results lie."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from frostline import compose, project
from frostline.files import content_key, exclusive, publish
from frostline.models.pretrained import resolve
from frostline.progress import shown
from frostline.schema import Experiment, Prepare, PretrainWeights, Run
from frostline.services import NoTracker, Services
from frostline.stages import evaluate, prepare, pretrain, training
from frostline.validate import validated

ORPHAN_CHECK_SECONDS = 1.0


@dataclass(frozen=True)
class Done:
    """A finished run."""

    name: str
    out: Path
    metrics: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Job:
    """Runs `pretrain` or `finetune` for a composed experiment; picklable, so that any Hydra launcher can send it."""

    stage: str

    def __call__(self, composed: Experiment, choices: Mapping[str, str], differs: str = "") -> Done:
        """Run it.

        Args:
            composed: the experiment.
            choices: the option chosen in each group.
            differs: in a sweep, what sets this job apart; becomes a folder below a given `out`.
        """
        make = compose.pretrain_config if self.stage == "pretrain" else compose.finetune_config
        config = make(composed, choices)
        name = training.run_name(config, config.seeds[0])
        out = Path(composed.out or f"runs/{self.stage}") / _folder(config, name, composed.out, differs)
        given = services()
        with writing(out):
            _, data = prepared(composed, "source" if self.stage == "pretrain" else "target")
            if self.stage == "pretrain":
                pretrain.run(config, data, out, given)
            else:
                finetune_alone(_with_weights(config, composed, choices, given), data, out, given)
        metrics = evaluate.read_metrics(out)
        return Done(differs or name, out, metrics)


def finetune_alone(config: Run, data: Path, out: Path, given: Services) -> None:
    """Fine-tune once and measure, all into `out`: a run outside any study."""
    start = resolve(config.backbone, config.weights)
    material = training.material(config, data, start, given)
    seed = config.seeds[0]
    with publish(out) as work:
        training.train(config, seed, start, material, work, given, f"finetune {config.freeze_name} · seed {seed}")
        evaluate.measure(config, seed, data, work, work, given)
    training.forget(config, start, material, given)


def prepared(composed: Experiment, role: str) -> tuple[object, Path]:
    """Return the index and folder of a data set, prepared now unless it has been."""
    index, data = prepare.cached(compose.prepare_config(composed, role), project.scratch(), shown)
    for warning in index.warnings:
        print(f"frostline: warning: {warning}", file=sys.stderr)
    return index, data


def measure_again(folder: Path, out: Path, given: Services) -> Mapping[str, Mapping[str, float]]:
    """Measure a finished run's network again, with the data set that its config.yaml names."""
    config = validated(Run, compose.read_yaml(folder / "config.yaml"), str(folder / "config.yaml"))
    dataset = config.dataset.model_copy(update={"shots": None, "fraction": None})
    _, data = prepare.cached(Prepare(dataset=dataset), project.scratch(), shown)
    with writing(out):
        return evaluate.measure(config, config.seeds[0], data, folder, out, given)


def services() -> Services:
    """Return what a command's stages show on and record in; FROSTLINE_TRACKING=off records nothing."""
    if os.environ.get("FROSTLINE_TRACKING") == "off":
        return Services(project.scratch(), shown, NoTracker())
    from frostline.adapters.tracking import MlflowTracker

    return Services(project.scratch(), shown, MlflowTracker())


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Be the only one that writes to `out`, and end with the DVC process that started us.

    Raises:
        FrostlineError: another run is writing there.
    """
    _end_with_dvc()
    lock = project.scratch() / "locks" / f"{content_key(str(out.resolve()))[:16]}.lock"
    with exclusive(lock, f"out: another run is writing to {out}; wait for it, or name another folder"):
        yield


def _with_weights(config: Run, composed: Experiment, choices: Mapping[str, str], given: Services) -> Run:
    """Fill in the path of `weights=pretrain`: pretrain first, once for all runs that want the same."""
    if not isinstance(config.weights, PretrainWeights) or config.weights.path is not None:
        return config
    index, data = prepared(composed, "source")
    wanted = compose.pretrain_config(composed, choices)
    key = content_key([wanted.model_dump(exclude={"study"}), getattr(index, "fingerprint")])[:16]  # noqa: B009
    folder = given.scratch / "pretrain" / key
    with exclusive(given.scratch / "locks" / f"pretrain-{key}.lock"):
        if not (folder / "metrics.json").is_file():
            pretrain.run(wanted, data, folder, given)
    weights = config.weights.model_copy(update={"path": str(folder / "weights.safetensors")})
    return config.model_copy(update={"weights": weights})


def _folder(config: Run, name: str, out: str | None, differs: str) -> str:
    if out is not None:
        return differs.replace("/", "_")
    return f"{name.replace('·', '-')}-{content_key(config.model_dump())[:8]}"


def _end_with_dvc() -> None:
    """End this process when the `dvc` that started it is gone.

    A killed `dvc repro` leaves its command running, and the next one would start a second beside it.
    """
    if "DVC_STAGE" not in os.environ:
        return
    import psutil

    above = [p for p in psutil.Process().parents() if "dvc" in " ".join(p.cmdline()[:3])]
    if not above:
        return

    def watch() -> None:
        while above[0].is_running() and above[0].status() != psutil.STATUS_ZOMBIE:
            time.sleep(ORPHAN_CHECK_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="ends with dvc", daemon=True).start()


