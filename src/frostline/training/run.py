"""Trains one network with one seed, and writes its run folder; for the stages `pretrain` and `finetune`.

It writes `weights.safetensors` (of the best epoch), `history.csv`, `training.json` and `config.yaml`. The
epochs themselves are in `training.trainer`.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from frostline.base.code import fingerprint
from frostline.base.files import (
    is_intact,
    link_or_copy,
    publish,
    remove_temporary,
    write_checksums,
    write_text,
)
from frostline.base.formats import canonical_json, read_csv, read_json
from frostline.base.hashes import content_key
from frostline.base.locks import exclusive
from frostline.base.run_folder import HISTORY
from frostline.base.seeds import derive
from frostline.console.errors import Pruned, resource_errors
from frostline.data.loading import batches
from frostline.data.loading.class_balance import counts
from frostline.data.prepared.index import training_rows
from frostline.features.execution import Execution, device_of, execution_of, undefined_gradient
from frostline.freezing.build import build_plan
from frostline.freezing.curves import build_curve
from frostline.freezing.plan import FreezePlan
from frostline.models import lora
from frostline.models.head_init import check_trained
from frostline.models.input_spec import InputSpec
from frostline.models.pretrained import InitialWeights, check_initial_weights, create_network
from frostline.models.weights import LoadReport
from frostline.schema import L2Sp, L2Start, NoAdapter, Regularizer, Run, WiseFt
from frostline.training import machine, regularizers, wise_ft
from frostline.training.inference import network_with, reuse_of
from frostline.training.material import Material
from frostline.training.outputs import OUTPUTS, TIMING, record_outputs, write_outputs
from frostline.training.run_info import run_info
from frostline.training.services import Services

if TYPE_CHECKING:
    from frostline.training.data_module import ImageData
    from frostline.training.module import Classifier


@resource_errors("training")
def train(
    run: Run, seed: int, start: InitialWeights, material: Material, out: Path, services: Services, title: str
) -> dict[str, Any]:
    """Train one network with one seed and write its files to `out`.

    An interrupted run resumes from its last checkpoint. A finished run whose stage was interrupted is not
    repeated. Both are in the scratch folder, below a hash of everything that the result depends on. If two
    processes start the same run, the second waits and uses the first one's result.

    Returns:
        The measured times: train_seconds, epoch_seconds (cumulative, per epoch), images_per_second.

    Raises:
        FrostlineError: schedule, weights and data do not fit together; raised before training.
        TrainingFailed: the loss is NaN or infinite, or memory or disk ran out.
        Pruned: `services.watch` stopped the trial.
    """
    key = scratch_key(run, seed, start, material)
    scratch = services.scratch / "resume" / key
    done = scratch / "done"
    with exclusive(_lock(services, key)):
        remove_temporary(scratch)
        if is_intact(done):
            _record_late(run, seed, start, material, done, services, key)
        else:
            try:
                with publish(done) as work:
                    _train(run, seed, start, material, work, scratch, services, title)
                    write_checksums(work)
            except Pruned:
                shutil.rmtree(scratch, ignore_errors=True)  # a pruned trial is not resumed
                raise
        out.mkdir(parents=True, exist_ok=True)
        for name in OUTPUTS:
            link_or_copy(done / name, out / name)
        timing: dict[str, Any] = read_json(done / TIMING)
    return timing


def forget(run: Run, start: InitialWeights, material: Material, services: Services) -> None:
    """Remove the checkpoints of all seeds of a run; its stage has published the results."""
    for seed in run.seeds:
        key = scratch_key(run, seed, start, material)
        with exclusive(_lock(services, key)):
            shutil.rmtree(services.scratch / "resume" / key, ignore_errors=True)


def scratch_key(run: Run, seed: int, start: InitialWeights, material: Material) -> str:
    """Return the hash of everything that a run's result depends on."""
    config = run.model_dump(exclude={"seeds", "study", "arm"})
    inputs = [start.sha256, material.index.fingerprint, material.spec.to_dict()]
    return content_key([config, seed, inputs, code(run.stage)])[:24]


def code(stage: str) -> list[str]:
    """Return the fingerprint of a stage's code and the versions of the libraries that it trains with."""
    return [fingerprint(stage), *(version(name) for name in ("torch", "pytorch-lightning", "timm"))]


def _lock(services: Services, key: str) -> Path:
    return services.scratch / "locks" / f"run-{key}.lock"


def plan_of(run: Run, network: torch.nn.Module, images: int) -> FreezePlan:
    """Return the freeze plan of a run.

    Args:
        network: the network, with its adapter if the run has one (`models.lora.adapt`).
        images: number of training images.
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
    start: InitialWeights,
    material: Material,
    out: Path,
    scratch: Path,
    services: Services,
    title: str,
) -> None:
    import timm.optim  # noqa: F401  # before `machine.pin`, which turns garbage collection on again

    from frostline.training.trainer import fit

    machine.pin(run.trainer.threads)
    if run.trainer.threads > (cores := os.cpu_count() or 1):
        services.say(
            f"trainer.threads: {run.trainer.threads} threads share {cores} processors, which is slow"
        )
    prepared = _prepare(run, seed, start, material, services)
    network, plan, images = prepared.classifier.network, prepared.classifier.plan, len(prepared.data.train)
    spec = material.spec
    epochs = run.trainer.epochs if plan.phases else 0
    with (
        services.tracker.run(run_info(run, seed, material.index, scratch.name)) as recorded,
        services.progress(title, epochs or 1) as advance,
    ):

        def on_epoch(row: Mapping[str, float | int | None]) -> None:
            recorded.epoch(row)
            # Epoch 0 is the network before training: it counts as progress only if nothing trains.
            advance(1 if row["epoch"] or not epochs else 0, f"val/accuracy {row['val/accuracy']:.4f}")
            services.watch(row)

        if start.sha256 is not None:
            recorded.started_from(start.sha256)
        recorded.planned(run, plan, network, spec, images)
        reuse = reuse_of(run, seed, spec, services)
        execution, fp32_reason = _execution(run, network, spec, services)
        result = fit(
            prepared.classifier,
            prepared.data,
            run.trainer,
            scratch,
            on_epoch,
            run.averaging,
            execution,
            reuse,
        )
        if not isinstance(run.adapter, NoAdapter):
            result.best_state = lora.merged(network, result.best_state)
        extra: dict[str, Any] = {"fp32_because": fp32_reason} if fp32_reason else {}
        if isinstance(run.averaging, WiseFt) and plan.phases:
            initial, val = prepared.initial, prepared.data.val
            plain = network_with(initial, run.backbone, spec, len(material.index.classes))
            result.best_state, extra["wise_ft"] = wise_ft.sweep_alphas(
                plain, initial, result.best_state, (val.pixels, val.labels), spec, run.averaging, run.trainer
            )
        write_outputs(run, seed, material, result, plan, prepared.report, images, out, extra)
        seconds = result.epoch_seconds[-1] if result.epoch_seconds else 0.0
        timing: dict[str, Any] = {
            "train_seconds": seconds,
            "epoch_seconds": result.epoch_seconds,
            "images_per_second": result.images / seconds if seconds else 0.0,
        }
        write_text(out / TIMING, canonical_json(timing))
        record_outputs(recorded, plan, timing, out)


def _execution(
    run: Run, network: torch.nn.Module, spec: InputSpec, services: Services
) -> tuple[Execution, str | None]:
    """Return precision and memory format, and the reason if the network can't train in bfloat16 as set."""
    device, precision = device_of(run.trainer.device), run.trainer.precision
    execution, reason = execution_of(network, precision, device, spec.shape), None
    if precision == "bf16" and execution.trains == "fp32":
        reason = f"on a CPU the gradient of {undefined_gradient(network, spec.shape)} is undefined in bf16"
        services.say(f"{run.stage} {run.arm or run.freeze_name}: {reason}; it trains in fp32")
    return execution, reason


@dataclass(frozen=True)
class _Prepared:
    """What `fit` trains, and on which data."""

    classifier: "Classifier"
    data: "ImageData"
    initial: dict[str, torch.Tensor]
    """The network's weights before training, without an adapter."""
    report: LoadReport


def _prepare(run: Run, seed: int, start: InitialWeights, material: Material, services: Services) -> _Prepared:
    """Build the network, its freeze plan and its data; raise an error if they do not fit together."""
    from frostline.training.data_module import ImageData
    from frostline.training.module import Classifier

    index, spec = material.index, material.spec
    rows = training_rows(index, run.dataset, derive(seed, "shots") % 2**31)
    check_initial_weights(run)
    network, report = create_network(
        run.backbone, start, spec, index.classes, seed, trains=bool(run.freeze.phases)
    )
    say_head(run, report, services)
    initial = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    lora.adapt(network, run, seed)
    plan = plan_of(run, network, len(rows))
    trained = {name for phase in range(len(plan.phases)) for name in plan.trained(phase)}
    check_trained(report.head, report.reset, trained)
    images, val = material.images("train", rows), material.images("val", index.rows("val"))
    classifier = Classifier(
        network,
        plan,
        run.optimizer,
        run.loss,
        seed,
        class_counts=counts(images.labels, len(index.classes)),
        penalty=penalty_of(run.regularizer, network, report),
    )
    data = ImageData(images, val, spec, run.trainer, run.augment, seed, len(index.classes))
    return _Prepared(classifier, data, initial, report)


def _record_late(
    run: Run, seed: int, start: InitialWeights, material: Material, done: Path, services: Services, key: str
) -> None:
    """Record a run that a killed process finished, unless that process's recorder already did."""
    images = training_rows(material.index, run.dataset, derive(seed, "shots") % 2**31)
    network, _ = create_network(
        run.backbone, start, material.spec, material.index.classes, seed, trains=bool(run.freeze.phases)
    )
    lora.adapt(network, run, seed)
    plan = plan_of(run, network, len(images))
    info = replace(run_info(run, seed, material.index, key), late=True)
    with services.tracker.run(info) as recorded:
        if start.sha256 is not None:
            recorded.started_from(start.sha256)
        recorded.planned(run, plan, network, material.spec, len(images))
        for row in read_csv(done / HISTORY):
            recorded.epoch({name: float(text) if text else None for name, text in row.items()})
        record_outputs(recorded, plan, read_json(done / TIMING), done)


def say_head(run: Run, report: LoadReport, services: Services) -> None:
    """Print a notice if the head's initial weights are not what the config suggests."""
    if report.head.notice:
        warning = "frostline: warning: " if report.head.warns else ""
        services.say(f"{warning}{run.stage} {run.arm or run.freeze_name}: {report.head.notice}")


def penalty_of(
    config: Regularizer, network: torch.nn.Module, report: LoadReport
) -> regularizers.StartPenalty | None:
    """Return the regularizer's penalty, if it has one, for a network with its initial weights."""
    match config:
        case L2Sp():
            new = {*report.reset, *report.missing}
            return regularizers.StartPenalty(network, config.alpha, config.beta, new)
        case L2Start():
            return regularizers.StartPenalty(network, config.alpha, 0.0, ())
        case _:
            return None
