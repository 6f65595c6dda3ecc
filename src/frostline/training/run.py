"""What `pretrain` and `finetune` share: one network, trained once, and the files that it leaves.

A run leaves in its folder `weights.safetensors` (the best epoch's), `history.csv`, `training.json`,
`config.yaml`.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from frostline.base import devices
from frostline.base.code import fingerprint
from frostline.base.files import publish, remove_temporary, seal, share, sound, write_text
from frostline.base.formats import canonical_json, csv_text, read_csv, read_json, yaml_text
from frostline.base.hashes import content_key, sha256_of
from frostline.base.locks import exclusive
from frostline.base.seeds import derive
from frostline.console.errors import Pruned, exhaustion
from frostline.data.loading import batches
from frostline.data.loading.class_balance import counts
from frostline.data.loading.pixels import Images, Stack, images_key, load_pixels, those
from frostline.data.prepared.index import Index, training_rows
from frostline.freezing.build import build_plan
from frostline.freezing.curves import build_curve
from frostline.freezing.plan import FreezePlan
from frostline.models import lora, weights
from frostline.models.head_start import check_trained
from frostline.models.input_spec import InputSpec
from frostline.models.pretrained import Start, about, check_start, input_spec, start_network
from frostline.models.weights import LoadReport
from frostline.schema import L2Sp, L2Start, NoAdapter, Regularizer, Run, WiseFt
from frostline.training import machine, regularizers, wise_ft
from frostline.training.inference import network_with, reuse_of
from frostline.training.precision import execution_for
from frostline.training.services import RUN_KEY, Recorded, RunInfo, Services

WEIGHTS, HISTORY, TRAINING, CONFIG = "weights.safetensors", "history.csv", "training.json", "config.yaml"
FILES = (WEIGHTS, HISTORY, TRAINING, CONFIG)
TIMING = "timing.json"


@dataclass(frozen=True)
class Material:
    """Prepared data at the network's resolution: what every seed of a run trains and chooses on."""

    index: Index
    rows: torch.Tensor
    """(N,) the index rows that are loaded, sorted: train and val, never test."""
    pixels: Stack
    """(N, C, H, W) uint8."""
    spec: InputSpec

    def images(self, split: str, rows: Any) -> Images:
        """Return the images of some index rows, all of one split."""
        rows = torch.as_tensor(rows)
        return Images(
            those(self.pixels, torch.searchsorted(self.rows, rows)),
            torch.as_tensor(self.index.labels)[rows],
            images_key(self.index, rows, self.spec),
            self.index.name,
            split,
        )


@exhaustion("loading the images", ["input.size"])
def material(run: Run, data: Path, start: Start, services: Services) -> Material:
    """Load the train and val images of the prepared data in the folder `data`."""
    index = Index.read(data)
    spec = input_spec(run.backbone, start, run.input)
    rows = np.sort(np.concatenate([index.rows("train"), index.rows("val")]))
    pixels = load_pixels(
        run.dataset, index, data, rows, spec, progress=services.progress, scratch=services.scratch
    )
    return Material(index, torch.as_tensor(rows), pixels, spec)


@exhaustion("training")
def train(
    run: Run, seed: int, start: Start, given: Material, out: Path, services: Services, title: str
) -> dict[str, Any]:
    """Train one network with one seed and leave its files in `out`.

    A run that was cut off goes on from its last resume point, and one that was finished but not yet published
    by its stage is not run again: both are kept in the scratch, under a key of all that the result depends
    on. Of two processes that want the same run, one waits for the other.

    Returns:
        The measured times: train_seconds, epoch_seconds (cumulative), images_per_second.

    Raises:
        FrostlineError: the schedule, the weights or the data do not fit together; before any training.
        TrainingFailed: training broke down, or memory or disk ran out.
        Pruned: `services.watch` ended it.
    """
    key = scratch_key(run, seed, start, given)
    scratch = services.scratch / "resume" / key
    done = scratch / "done"
    with exclusive(_lock(services, key)):
        remove_temporary(scratch)
        if sound(done):
            _record_late(run, seed, start, given, done, services, key)
        else:
            try:
                with publish(done) as work:
                    _train(run, seed, start, given, work, scratch, services, title)
                    seal(work)
            except Pruned:
                shutil.rmtree(scratch, ignore_errors=True)  # nobody goes on with it
                raise
        out.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            share(done / name, out / name)
        timing: dict[str, Any] = read_json(done / TIMING)
    return timing


def forget(run: Run, start: Start, given: Material, services: Services) -> None:
    """Remove what was kept for resuming, once the stage's results are safe."""
    for seed in run.seeds:
        key = scratch_key(run, seed, start, given)
        with exclusive(_lock(services, key)):
            shutil.rmtree(services.scratch / "resume" / key, ignore_errors=True)


def scratch_key(run: Run, seed: int, start: Start, given: Material) -> str:
    """Return the key of all that a run's result depends on."""
    config = run.model_dump(exclude={"seeds", "study", "arm"})
    inputs = [start.sha256, given.index.fingerprint, given.spec.to_dict()]
    return content_key([config, seed, inputs, code(run.stage)])[:24]


def code(stage: str) -> list[str]:
    """Return what a stage runs: the hash of frostline's code, and the versions of what it trains with."""
    return [fingerprint(stage), *(version(name) for name in ("torch", "pytorch-lightning", "timm"))]


def _lock(services: Services, key: str) -> Path:
    return services.scratch / "locks" / f"run-{key}.lock"


def setting_name(run: Run) -> str:
    """Return what people call the run, whatever its seed, such as ``resnet10t·full·digits``."""
    what = run.arm or (run.freeze_name if run.stage == "finetune" else run.stage)
    return "·".join([backbone_name(run), what, run.dataset.kind])


def run_name(run: Run, seed: int) -> str:
    """Return what people call the run, such as ``resnet10t·full·digits·s0``."""
    return f"{setting_name(run)}·s{seed}"


def backbone_name(run: Run) -> str:
    """Return the backbone's name."""
    return getattr(run.backbone, "name", run.backbone.kind)


def plan_of(run: Run, network: torch.nn.Module, images: int) -> FreezePlan:
    """Return the freeze plan of a run on `images` training images.

    Args:
        run: its config.
        network: with the run's adapter, if it has one: see `models.lora.adapt`.
        images: that it trains on.
    """
    steps = len(batches.sizes(images, run.trainer.batch_size))
    curve = build_curve(run.optimizer.schedule)
    plan = build_plan(
        run.freeze,
        lora.layers_for(run, network),
        curve,
        run.trainer.epochs,
        steps,
        steps_at=lambda batch_size: len(batches.sizes(images, batch_size)),
    )
    return lora.plan_for(run, plan)


def _train(
    run: Run,
    seed: int,
    start: Start,
    given: Material,
    out: Path,
    scratch: Path,
    services: Services,
    title: str,
) -> None:
    import timm.optim  # noqa: F401  # here, since garbage is collected from the next line on

    from frostline.training.data_module import ImageData
    from frostline.training.module import Classifier
    from frostline.training.trainer import fit

    machine.pin(run.trainer.threads)
    if run.trainer.threads > (cores := os.cpu_count() or 1):
        services.say(
            f"trainer.threads: {run.trainer.threads} threads share {cores} processors, which is slow"
        )
    index, spec = given.index, given.spec
    labelled = training_rows(index, run.dataset, derive(seed, "shots") % 2**31)
    check_start(run)
    network, report = start_network(
        run.backbone, start, spec, index.classes, seed, trains=bool(run.freeze.phases)
    )
    say_head(run, report, services)
    begun = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    lora.adapt(network, run, seed)
    plan = plan_of(run, network, len(labelled))
    trained = {name for phase in range(len(plan.phases)) for name in plan.trained(phase)}
    check_trained(report.head, report.reset, trained)
    images, val = given.images("train", labelled), given.images("val", index.rows("val"))
    classifier = Classifier(
        network,
        plan,
        run.optimizer,
        run.loss,
        seed,
        class_counts=counts(images.labels, len(index.classes)),
        penalty=penalty_of(run.regularizer, network, report),
    )
    data = ImageData(
        images,
        val,
        spec,
        run.trainer,
        run.augment,
        seed,
        len(index.classes),
    )
    epochs = run.trainer.epochs if plan.phases else 0
    with (
        services.tracker.run(info(run, seed, index, scratch.name)) as recorded,
        services.progress(title, epochs or 1) as advance,
    ):

        def on_epoch(row: Mapping[str, float | int | None]) -> None:
            recorded.epoch(row)
            # Epoch 0 is the network before training: a step of the progress only where nothing trains.
            advance(1 if row["epoch"] or not epochs else 0, f"val/accuracy {row['val/accuracy']:.4f}")
            services.watch(row)

        if start.sha256 is not None:
            recorded.started_from(start.sha256)
        recorded.planned(run, plan, network, spec, len(labelled))
        reuse = reuse_of(run, seed, spec, services)
        execution, instead = execution_for(run, classifier, data, services)
        result = fit(classifier, data, run.trainer, scratch, on_epoch, run.averaging, execution, reuse)
        if not isinstance(run.adapter, NoAdapter):
            result.best_state = lora.merged(network, result.best_state)
        more: dict[str, Any] = {"fp32_because": instead} if instead else {}
        if isinstance(run.averaging, WiseFt) and plan.phases:
            plain = network_with(begun, run.backbone, spec, len(index.classes))
            result.best_state, more["wise_ft"] = wise_ft.swept(
                plain, begun, result.best_state, (val.pixels, val.labels), spec, run.averaging, run.trainer
            )
        leave(run, seed, given, result, plan, report, len(labelled), out, more)
        seconds = result.epoch_seconds[-1] if result.epoch_seconds else 0.0
        timing: dict[str, Any] = {
            "train_seconds": seconds,
            "epoch_seconds": result.epoch_seconds,
            "images_per_second": result.images / seconds if seconds else 0.0,
            "batches_ahead": result.ahead,
        }
        write_text(out / TIMING, canonical_json(timing))
        record(recorded, plan, timing, out)


def _record_late(
    run: Run, seed: int, start: Start, given: Material, done: Path, services: Services, key: str
) -> None:
    """Record a run that a killed process finished, unless that process's recorder lived long enough to."""
    images = training_rows(given.index, run.dataset, derive(seed, "shots") % 2**31)
    network, _ = start_network(
        run.backbone, start, given.spec, given.index.classes, seed, trains=bool(run.freeze.phases)
    )
    lora.adapt(network, run, seed)
    plan = plan_of(run, network, len(images))
    about = replace(info(run, seed, given.index, key), late=True)
    with services.tracker.run(about) as recorded:
        if start.sha256 is not None:
            recorded.started_from(start.sha256)
        recorded.planned(run, plan, network, given.spec, len(images))
        for row in read_csv(done / HISTORY):
            recorded.epoch({name: float(text) if text else None for name, text in row.items()})
        record(recorded, plan, read_json(done / TIMING), done)


def leave(
    run: Run,
    seed: int,
    given: Material,
    result: Any,
    plan: FreezePlan,
    report: LoadReport,
    images: int,
    out: Path,
    more: Mapping[str, Any],
) -> str:
    """Leave a finished run's files in `out`; return the sha256 of its weights.

    Args:
        run: its config.
        seed: the run's.
        given: what it was trained on.
        result: an `training.trainer.Fit`, or what is like it.
        plan: what trained when.
        report: how its first weights were loaded.
        images: that it trained on.
        out: the folder.
        more: for training.json.
    """
    weights.save(out / WEIGHTS, result.best_state, about(given.spec, given.index.classes, run.backbone))
    columns = list(result.history[0])
    write_text(out / HISTORY, csv_text(columns, ([row[c] for c in columns] for row in result.history)))
    write_text(out / CONFIG, yaml_text(run.model_copy(update={"seeds": [seed]}).model_dump()))
    sha256, index = sha256_of(out / WEIGHTS), given.index
    data = {
        "fingerprint": index.fingerprint,
        "images": len(index),
        "held_out": index.digest(index.rows(index.held_out)),
    }
    record = {"config_sha256": sha256_of(out / CONFIG), "data": data}
    done = _training(result, plan, report, images, sha256) | record | dict(more)
    write_text(out / TRAINING, canonical_json(done))
    return sha256


def record(recorded: Recorded, plan: FreezePlan, timing: Mapping[str, Any], out: Path) -> None:
    """Record what a finished run came to, and the files that it left in `out`."""
    told: dict[str, Any] = read_json(out / TRAINING)
    best = read_csv(out / HISTORY)[told["best_epoch"]]
    recorded.metrics(
        {f"best/{name}": float(best[name] or 0) for name in ("epoch", "val/loss", "val/accuracy")}
        | {name: timing[name] for name in ("train_seconds", "images_per_second")}
    )
    recorded.tags(
        {
            "weights.sha256": told["weights_sha256"],
            "phases": _phases_text(plan, [phase["first_step"] for phase in told["phases"]]),
            "features": _features_text(told["features"]),
            "head": told["head"]["notice"] or told["head"]["start"],
        }
    )
    recorded.finished(out)


def say_head(run: Run, report: LoadReport, services: Services) -> None:
    """Say what the head starts from, where that is not as expected."""
    if report.head.notice:
        warning = "frostline: warning: " if report.head.warns else ""
        services.say(f"{warning}{run.stage} {run.arm or run.freeze_name}: {report.head.notice}")


def penalty_of(
    config: Regularizer, network: torch.nn.Module, report: LoadReport
) -> regularizers.StartPenalty | None:
    """Return what a regularizer adds to the loss of a network at its start; None: nothing."""
    match config:
        case L2Sp():
            new = {*report.reset, *report.missing}
            return regularizers.StartPenalty(network, config.alpha, config.beta, new)
        case L2Start():
            return regularizers.StartPenalty(network, config.alpha, 0.0, ())
        case _:
            return None


def info(run: Run, seed: int, index: Index, key: str | None = None) -> RunInfo:
    """Return what is known of a run before it begins; `key` is of all that its result depends on."""
    tags = {
        "arm": run.arm or "",
        "backbone": backbone_name(run),
        "dataset": run.dataset.kind,
        "freeze": run.freeze_name,
        "seed": str(seed),
        "threads": str(run.trainer.threads),
        "device": devices.described(run.trainer.device),
    }
    if key is not None:
        tags[RUN_KEY] = key
    config = {**run.model_dump(exclude={"seeds"}), "seed": seed}
    dataset = {"name": index.name, "kind": index.kind, "fingerprint": index.fingerprint}
    return RunInfo(setting_name(run), run.stage, run.study, config, dataset, "training", tags, seed)


def _training(
    result: Any, plan: FreezePlan, report: LoadReport, images: int, weights_sha256: str
) -> dict[str, Any]:
    """What a run did, beyond its curves."""
    phases = [
        {
            "index": i,
            "train": "all" if set(plan.phases[i].train) == set(plan.groups) else list(plan.phases[i].train),
            "first_step": step,
            "first_epoch": step // plan.steps_per_epoch + 1,
            "trainable_parameters": len(plan.trained(i)),
        }
        for i, step in enumerate(result.starts)
    ]
    return {
        "best_epoch": result.best_epoch,
        "epochs": len(result.history) - 1,
        "steps": result.history[-1]["step"],
        "training_images": images,
        "phases": phases,
        "features": result.features,
        "precision": {"frozen": result.execution.frozen, "trains": result.execution.trains},
        "weights_sha256": weights_sha256,
        "head": report.head.to_dict(),
        "load_report": {key: len(names) for key, names in report.to_dict().items()}
        | {"reset": list(report.reset)},
    }


def _features_text(features: Sequence[str]) -> str:
    return "; ".join(f"phase {i}: {text}" for i, text in enumerate(features)) or "nothing trains"


def _phases_text(plan: FreezePlan, starts: Sequence[int]) -> str:
    return (
        "; ".join(f"step {step}: {', '.join(plan.phases[i].train)}" for i, step in enumerate(starts))
        or "nothing trains"
    )
