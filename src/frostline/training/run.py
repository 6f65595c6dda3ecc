"""Trains one network, and writes its run folder; for the stages `pretrain` and `finetune`.

It writes `weights.safetensors` (of the selected epoch), `history.csv`, `training.json` and `config.yaml`. The
training loop is in `training.trainer`.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from frostline.base.files import (
    is_intact,
    link_or_copy,
    publish,
    remove_temporary,
    write_checksums,
    write_text,
)
from frostline.base.formats import canonical_json, read_csv, read_json, yaml_text
from frostline.base.hashes import sha256_of
from frostline.base.locks import exclusive
from frostline.base.metrics import headline
from frostline.base.run_folder import CONFIG, HISTORY, THRESHOLDS, TRAINING
from frostline.console import signals
from frostline.console.errors import FrostlineError, Pruned, resource_errors
from frostline.data.loading import batches
from frostline.data.loading.class_balance import counts
from frostline.data.loading.label_budget import LabelBudget, label_budget
from frostline.data.loading.mix import mixes
from frostline.data.loading.pixels import Images
from frostline.features.execution import Execution, device_of, execution_of, undefined_gradient
from frostline.freezing.build import RunLength, build_plan
from frostline.freezing.curves import build_curve
from frostline.freezing.plan import FreezePlan
from frostline.models import lora
from frostline.models.head_init import check_new_head_trains
from frostline.models.input_spec import InputSpec
from frostline.models.pretrained import check_initial_weights, create_network
from frostline.models.weights import LoadReport
from frostline.schema import Bce, L2Sp, L2Start, NoAdapter, Regularizer, Run, WiseFt
from frostline.training import garbage, machine, regularizers
from frostline.training.earlier_runs import DONE, checkpoint_folder, lock_of, run_key
from frostline.training.inference import network_with, reuse_of
from frostline.training.inputs import TrainingInputs
from frostline.training.outputs import OUTPUTS, TIMING, Fit, TrainedNetwork, record_outputs, write_outputs
from frostline.training.run_info import run_info
from frostline.training.services import Services
from frostline.training.thresholds import thresholds

if TYPE_CHECKING:
    from frostline.training.data_module import ImageData
    from frostline.training.module import Classifier


@resource_errors("training")
def train(run: Run, inputs: TrainingInputs, out: Path, services: Services, title: str) -> dict[str, Any]:
    """Train one network and write its files to `out`.

    An interrupted run resumes from its last checkpoint. If its stage is interrupted after the run has
    finished, the run is not repeated. Checkpoints and finished results are in the scratch folder, in a
    subfolder named by `run_key`. If two processes start the same run, the second waits and uses the first
    one's result.

    Returns:
        The measured times: train_seconds, epoch_seconds (from the start of training to the end of each
            epoch), images_per_second.

    Raises:
        FrostlineError: the freeze schedule, the initial weights and the data set do not fit together; raised
            before training.
        TrainingFailed: the loss is NaN or infinite, or memory or disk ran out.
        Pruned: `services.watch` stopped the trial.
    """
    checkpoints = checkpoint_folder(run, inputs, services)
    done = checkpoints / DONE
    with exclusive(lock_of(checkpoints)):
        remove_temporary(checkpoints)
        if is_intact(done):
            _rename(run, done)
            services.say(f"{title}: trained before, {measured(done)}")
            _backfill(run, inputs, done, services)
        else:
            try:
                with publish(done) as work:
                    _train(run, inputs, work, services, title)
                    write_checksums(work)
            except Pruned:
                shutil.rmtree(checkpoints, ignore_errors=True)  # a pruned trial is not resumed
                raise
        signals.mark_resumable()  # for the message of an interrupt: the same command will find this result
        out.mkdir(parents=True, exist_ok=True)
        for name in OUTPUTS:
            link_or_copy(done / name, out / name)
        timing: dict[str, Any] = read_json(done / TIMING)
    return timing


def plan_of(run: Run, network: torch.nn.Module, images: int) -> FreezePlan:
    """Return the freeze plan of a run.

    Args:
        network: the network, with its adapter if the run has one (`models.lora.adapt`).
        images: number of training images.
    """

    def steps(batch_size: int) -> int:
        return len(batches.sizes(images, run.trainer.images_per_step(batch_size)))

    length = RunLength(run.trainer.epochs, steps(run.trainer.batch_size), steps)
    curve = build_curve(run.optimizer.schedule)
    # Without an adapter, `layers_for` returns the network's layers, and `plan_for` the plan unchanged.
    return lora.plan_for(run, build_plan(run.freeze, lora.layers_for(run, network), curve, length))


def _rename(run: Run, done: Path) -> None:
    """Give the results of a run that finished in another study the names of this one's study and arm."""
    config = yaml_text(run.model_dump())
    if (done / CONFIG).read_text(encoding="utf-8") == config:
        return
    write_text(done / CONFIG, config)
    record = read_json(done / TRAINING) | {"config_sha256": sha256_of(done / CONFIG)}
    write_text(done / TRAINING, canonical_json(record))
    write_checksums(done)


def _train(run: Run, inputs: TrainingInputs, out: Path, services: Services, title: str) -> None:
    from frostline.training.trainer import callbacks_of, fit

    garbage.enable()  # off during imports
    machine.configure(run.trainer.threads)
    device = device_of(run.trainer.device)
    prefix = "pretrain." if run.stage == "pretrain" else ""
    if device.type == "cpu" and (reason := machine.why_slow(run.trainer.threads, prefix)):
        services.say(reason)
    setup = set_up(run, inputs, services)
    plan, budget = setup.classifier.plan, setup.budget
    checkpoints = checkpoint_folder(run, inputs, services)
    epochs = run.trainer.epochs if plan.phases else 0
    with (
        services.tracker.run(run_info(run, inputs.index, budget, checkpoints.name)) as tracked_run,
        services.progress(title, epochs or 1) as advance,
    ):

        def on_epoch(row: Mapping[str, float | int | None]) -> None:
            tracked_run.log_epoch(row)
            # Epoch 0 is the network before training: it counts as progress only if nothing trains.
            name = f"val/{headline(row)}"
            advance(1 if row["epoch"] or not epochs else 0, f"{name} {row[name]:.4f}")
            services.watch(row)

        if inputs.initial.sha256 is not None:
            tracked_run.log_initial_weights(inputs.initial.sha256)
        network = setup.classifier.network
        tracked_run.log_plan(run, plan, network, inputs.spec, len(budget.train))
        tracked_run.log_images(setup.data, inputs.index.classes)
        setup.classifier.execution, fp32_reason = _execution(run, network, inputs.spec, services)
        reuse = reuse_of(run, inputs.spec, services)
        callbacks = replace(
            callbacks_of(setup.classifier, setup.data, run.averaging, reuse, on_epoch),
            on_resume=lambda epoch: services.say(f"{title}: resuming at epoch {epoch} of {epochs}"),
        )
        result = fit(setup.classifier, setup.data, run.trainer, checkpoints, callbacks)
        if epochs:
            advance(0, _selected(result))
        extra: dict[str, Any] = {"fp32_because": fp32_reason} if fp32_reason else {}
        if not isinstance(run.adapter, NoAdapter):
            result.best_state = lora.merged(network, result.best_state)
        if isinstance(run.averaging, WiseFt) and plan.phases:
            from frostline.training import wise_ft

            classes = len(inputs.index.classes)
            without_adapter = network_with(setup.initial_state, run.backbone, inputs.spec, classes)
            endpoints = setup.initial_state, result.best_state
            result.best_state, extra["wise_ft"] = wise_ft.sweep_alphas(
                without_adapter, endpoints, setup.data, run
            )
        if isinstance(run.loss, Bce):
            extra[THRESHOLDS] = thresholds(run.loss.threshold, result.best_state, setup.data, run)
        write_outputs(run, inputs, TrainedNetwork(result, network, plan, setup.report, budget, extra), out)
        timing = _timing(result)
        write_text(out / TIMING, canonical_json(timing))
        record_outputs(tracked_run, plan, timing, out)


def _selected(result: Fit) -> str:
    """Return the headline metric of the epoch whose weights are saved, as the last note of the progress."""
    name = f"val/{headline(result.history[0])}"
    return f"{name} {result.history[result.best_epoch][name]:.4f} after epoch {result.best_epoch}"


def _timing(result: Fit) -> dict[str, Any]:
    """Return the content of timing.json."""
    seconds = result.epoch_seconds[-1] if result.epoch_seconds else 0.0
    return {
        "train_seconds": seconds,
        "epoch_seconds": result.epoch_seconds,
        "images_per_second": result.images / seconds if seconds else 0.0,
    }


def _execution(
    run: Run, network: torch.nn.Module, spec: InputSpec, services: Services
) -> tuple[Execution, str | None]:
    """Return precision and memory format, and why the run trains in float32 though bf16 is set, or None."""
    device, precision = device_of(run.trainer.device), run.trainer.precision
    if precision == "fp16" and device.type == "cpu":
        raise FrostlineError(
            "trainer.precision: fp16 trains on a GPU only; set trainer.precision to bf16, fp32 or auto"
        )
    execution, reason = execution_of(network, precision, device, spec.shape), None
    if precision == "bf16" and execution.precision == "fp32":
        layer = undefined_gradient(network, spec.shape)
        reason = f"on a CPU, bf16 may leave a part of the weight gradient of {layer} uninitialized"
        services.say(f"{run.stage} {run.arm or run.freeze_name} trains in fp32, not bf16: {reason}")
    return execution, reason


@dataclass(frozen=True)
class Setup:
    """What `fit` trains, and on which data."""

    classifier: "Classifier"
    data: "ImageData"
    budget: LabelBudget
    initial_state: dict[str, torch.Tensor]
    """The network's weights before training, without an adapter."""
    report: LoadReport


def set_up(run: Run, inputs: TrainingInputs, services: Services) -> Setup:
    """Build the network, its freeze plan and its data; raise an error if they do not fit together."""
    from frostline.training.data_module import ImageData
    from frostline.training.module import Classifier

    index, spec = inputs.index, inputs.spec
    budget = label_budget(index, run.dataset, run.seed)
    check_initial_weights(run)
    network, report = create_network(run, inputs.initial, spec, index.classes)
    say_head_init(run, report, services)
    initial_state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    lora.adapt(network, run)
    plan = plan_of(run, network, len(budget.train))
    trained = {name for phase in range(len(plan.phases)) for name in plan.trained(phase)}
    check_new_head_trains(report.head, report.reset, trained)
    images, val = inputs.images("train", budget.train), inputs.images("val", index.rows("val"))
    if images.weights is not None and mixes(run.augment):
        raise FrostlineError(
            "dataset.columns.weight: image weights can't be combined with mixup or CutMix, which mix images; "
            "set augment.mixup=0 and augment.cutmix=0, or dataset.columns.weight=null"
        )
    classifier = Classifier(
        network,
        plan,
        run.optimizer,
        run.loss,
        run.seed,
        class_counts=counts(images.labels, len(index.classes)),
        penalty=penalty_of(run.regularizer, network, report),
    )
    split = budget.selection_split
    select_on: Images | Literal["val", "last"] = (
        inputs.images("selection", budget.selection) if split == "selection" else split
    )
    classes = len(index.classes)
    data = ImageData(images, val, spec, run.trainer, run.augment, run.seed, classes, select_on)
    return Setup(classifier, data, budget, initial_state, report)


def _backfill(run: Run, inputs: TrainingInputs, done: Path, services: Services) -> None:
    """Record a run that finished in an earlier process, since that may have been killed before recording it.

    If the run is recorded already, the tracker does nothing (`RunInfo.late`).
    """
    budget = label_budget(inputs.index, run.dataset, run.seed)
    network, _ = create_network(run, inputs.initial, inputs.spec, inputs.index.classes)
    lora.adapt(network, run)
    plan = plan_of(run, network, len(budget.train))
    info = replace(run_info(run, inputs.index, budget, run_key(run, inputs)), late=True)
    with services.tracker.run(info) as tracked_run:
        if inputs.initial.sha256 is not None:
            tracked_run.log_initial_weights(inputs.initial.sha256)
        tracked_run.log_plan(run, plan, network, inputs.spec, len(budget.train))
        for row in read_csv(done / HISTORY):
            tracked_run.log_epoch({name: float(text) if text else None for name, text in row.items()})
        record_outputs(tracked_run, plan, read_json(done / TIMING), done)


def measured(done: Path) -> str:
    """Return the headline metric of a finished run on the val split after its best epoch, as text."""
    row = read_csv(done / HISTORY)[read_json(done / TRAINING)["best_epoch"]]
    name = f"val/{headline(row)}"
    return f"{name} {float(row[name]):.4f}"


def say_head_init(run: Run, report: LoadReport, services: Services) -> None:
    """Print the notice on the head's initialization, if there is one.

    Not for an arm of a study, since the stage compose has already printed it.
    """
    if report.head.notice and run.arm is None:
        services.say(f"{'frostline: warning: ' if report.head.warns else ''}{report.head.short_notice}")


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
