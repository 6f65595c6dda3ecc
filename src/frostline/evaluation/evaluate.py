"""Evaluates trained networks: metrics and predictions per split, summaries over seeds, soups."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from frostline.base import omitted
from frostline.base.files import publish, write_text
from frostline.base.formats import canonical_json, csv_text, read_json, read_yaml
from frostline.base.metrics import classification_metrics, held_out, spread
from frostline.base.run_folder import CONFIG, METRICS, PREDICTIONS, WEIGHTS, edited_config, verified
from frostline.base.seeds import derive
from frostline.console.errors import FrostlineError, resource_errors
from frostline.data.loading.pixels import Images, ImageStack, images_key, load_pixels, thumbnails
from frostline.data.prepared.index import Index, training_rows
from frostline.evaluation.soups import soups
from frostline.features.execution import Precision, device_of, precision_behind
from frostline.features.reuse import FeatureExtractor
from frostline.features.split_point import Split
from frostline.models.input_spec import InputSpec
from frostline.schema import Evaluate, NoAdapter, NoFeatures, Run
from frostline.schema.validation import validated
from frostline.training import machine, thaw
from frostline.training.inference import logits_behind, logits_of, network_with, read_weights, reuse_of
from frostline.training.run import plan_of
from frostline.training.run_info import backbone_name
from frostline.training.services import Mistake, RunInfo, Services

MAJORITY = "test/majority_rate"
"""MLflow's metric for the accuracy of always predicting the most frequent class."""
SPLITS = ("test", "val", "train")
"""In the order of evaluation; a data set may have no test split."""
MISTAKES, THUMBNAIL = 24, 160
"""Number of mistakes in the plot, and the longer side of each image in pixels."""


@resource_errors("measuring", ["trainer.eval_batch_size", "input.size"])
def run(config: Evaluate, data: Path, finetuned: Path, out: Path, services: Services) -> None:
    """Evaluate each seed of an arm in the folder `finetuned`; write files per seed and a summary to `out`.

    `out` gets metrics.json (mean, std and n over the seeds for each split and metric, each seed's values, and
    those of their soups), and seed-<s>/{metrics.json, predictions.csv} for each seed. For an omitted arm it
    gets the reason.

    Raises:
        FrostlineError: a seed's weights or the prepared data are missing, or do not belong together.
    """
    if (reason := omitted.reason_in(finetuned)) is not None:
        omitted.write(out, reason)
        return
    omitted.remove_reason(out)
    measured: dict[str, dict[str, dict[str, float]]] = {}
    runs = {seed: _read_run(finetuned / f"seed-{seed}") for seed in config.seeds}
    trained = runs[config.seeds[0]]
    tags = {
        "arm": config.arm,
        "backbone": backbone_name(trained),
        "dataset": config.dataset.kind,
        "freeze": trained.freeze_name,
    }
    index = Index.read(data)
    dataset = {"name": index.name, "kind": index.kind, "fingerprint": index.fingerprint}
    info = RunInfo(
        f"evaluate·{config.arm}·{config.dataset.kind}",
        "evaluate",
        config.study,
        config.model_dump(),
        dataset,
        "evaluation",
        tags,
    )
    with (
        publish(out) as work,
        services.tracker.run(info) as recorded,
        services.progress(f"evaluate {config.arm}", len(config.seeds)) as advance,
    ):
        for seed in config.seeds:
            folder = work / f"seed-{seed}"
            folder.mkdir()
            weights = finetuned / f"seed-{seed}"
            measured[str(seed)] = measure(runs[seed], seed, data, weights, folder, services)
            split = held_out(measured[str(seed)])
            advance(1, f"seed {seed}: {split}/accuracy {measured[str(seed)][split]['accuracy']:.4f}")
        splits = [split for split in SPLITS if split != "test" or index.held_out == "test"]
        summary = {split: _summary([m[split] for m in measured.values()]) for split in splits}
        accuracies = {seed: measured[str(seed)]["val"]["accuracy"] for seed in runs}
        mixed = soups(runs, accuracies, data, lambda seed: finetuned / f"seed-{seed}" / WEIGHTS, services)
        write_text(work / METRICS, canonical_json({**summary, "seeds": measured, "soups": mixed}))
        recorded.metrics(
            {
                f"{split}/{name}/{what}": v
                for split in splits
                for name, s in summary[split].items()
                for what, v in s.items()
            }
            | {
                f"soup/{kind}/test/accuracy": s["test"]["accuracy"]
                for kind, s in mixed.items()
                if "test" in s
            }
        )
        recorded.finished(work)


@resource_errors("measuring", ["trainer.eval_batch_size", "input.size"])
def measure(
    config: Run,
    seed: int,
    data: Path,
    run_folder: Path,
    out: Path,
    services: Services,
    index: Index | None = None,
) -> dict[str, dict[str, float]]:
    """Evaluate the network of a run and write metrics.json and predictions.csv to `out`.

    Args:
        data: the folder of the prepared data.
        services: progress, tracker and feature cache.
        index: the index of the run's own test split, if `data` has other images now: only that is evaluated.

    Returns:
        split → metric → value; without test if the data set has no test split. The train split consists of
        the images that the run could use.

    Raises:
        FrostlineError: the weights are not the ones that the run trained, or were trained on other data.
    """
    record = verified(run_folder)
    images = None if index is None else int(record["training_images"])
    if index is None:
        index = Index.read(data)
        if record.get("data", {}).get("fingerprint") not in (None, index.fingerprint):
            raise FrostlineError(
                f"{run_folder}: was trained on other images than {data} holds now; train it again on these"
            )
    state, spec = read_weights(run_folder / WEIGHTS, index, data)
    evaluator = Evaluator(config, seed, index, data, state, spec, services, images)
    return evaluator.measure(config, seed, str(record["weights_sha256"]), out)


class Evaluator:
    """Evaluates networks on the splits of a data set; they may differ only in their heads.

    Args:
        config: the config of the first network's run.
        data: the folder of the prepared data.
        state: the weights of the first network.
        services: scratch folder, feature cache and tracker.
        images: number of training images of the run, if `index` is of other data and only its test split is
            evaluated.
    """

    def __init__(
        self,
        config: Run,
        seed: int,
        index: Index,
        data: Path,
        state: Mapping[str, torch.Tensor],
        spec: InputSpec,
        services: Services,
        images: int | None = None,
    ) -> None:
        machine.pin(config.trainer.threads)
        self._index, self._data, self._spec = index, data, spec
        self._trainer, self._services = config.trainer, services
        self._network = network_with(state, config.backbone, spec, len(index.classes))
        self._splits = [split for split in SPLITS if split != "test" or index.held_out == "test"]
        self._rows = {split: index.rows(split) for split in self._splits}
        if images is None:
            self._rows["train"] = training_rows(index, config.dataset, derive(seed, "shots") % 2**31)
            images = len(self._rows["train"])
        else:
            self._splits = ["test"]
            self._rows = {"test": self._rows["test"]}
        self._images = {}
        for split, rows in self._rows.items():
            pixels = load_pixels(config.dataset, index, data, rows, spec, scratch=services.scratch)
            labels = torch.as_tensor(index.labels)[torch.as_tensor(rows)]
            self._images[split] = Images(pixels, labels, images_key(index, rows, spec), index.name, split)
        self._reuse = reuse_of(config, seed, spec, services)
        self._parts = split_for_inference(
            config, self._network, images, self._reuse, self._images[self._splits[0]]
        )

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Load the weights of another network's head."""
        unexpected = self._network.load_state_dict(state, strict=False).unexpected_keys
        assert not unexpected, unexpected

    def measure(self, config: Run, seed: int, weights_sha256: str, out: Path) -> dict[str, dict[str, float]]:
        """Do what `evaluate.measure` does, with the weights that were loaded last.

        Args:
            config: their run's config.
            seed: their run's seed.
            weights_sha256: the hash of their file.
            out: the folder for metrics.json and predictions.csv.
        """
        logits = {split: self._logits(split) for split in self._splits}
        metrics = {
            split: classification_metrics(logits[split], self._images[split].labels) for split in self._splits
        }
        split = self._index.held_out
        predicted = self._rows[split], logits[split]
        majority = self._majority(config, seed, split, metrics[split]["accuracy"])
        write_text(out / METRICS, canonical_json(metrics))
        write_text(
            out / PREDICTIONS,
            csv_text(["id", "label", "prediction", "confidence"], _predictions(self._index, *predicted)),
        )
        self._services.tracker.annotate(
            weights_sha256,
            {"study": config.study, "stage": config.stage, "arm": config.arm or "", "seed": str(seed)},
            {f"test/{k}": v for k, v in metrics.get("test", {}).items()}
            | {f"best/val/{k}": v for k, v in metrics.get("val", {}).items() if k != "n"}
            | ({MAJORITY: majority} if split == "test" else {}),
            out,
            _mistakes(config, self._index, self._data, *predicted, self._images[split].pixels),
        )
        return metrics

    def _majority(self, config: Run, seed: int, split: str, accuracy: float) -> float:
        """Return the accuracy of always predicting the most frequent class; warn below it."""
        counts = torch.as_tensor(self._images[split].labels).bincount()
        rate = float(counts.max()) / int(counts.sum())
        if accuracy < rate:
            name = self._index.classes[int(counts.argmax())]
            run = f"{config.stage} {config.arm or config.freeze_name}, seed {seed}"
            self._services.say(
                f"frostline: warning: {run}: {split} accuracy {accuracy:.4f} is below {rate:.4f}, the"
                f" accuracy of always predicting {name!r}"
            )
        return rate

    def _logits(self, split: str) -> torch.Tensor:
        if self._parts is None:
            return logits_of(self._network, self._images[split].pixels, self._spec, self._trainer)
        cut, precision = self._parts
        return logits_behind(cut, self._features[split], precision, self._trainer.eval_batch_size)

    @cached_property
    def _features(self) -> dict[str, torch.Tensor]:
        """Split of the data set → features of its images at the split point."""
        assert self._parts is not None
        return {split: self._reuse.features(self._parts[0], self._images[split]) for split in self._splits}


def split_for_inference(
    config: Run, network: torch.nn.Module, count: int, reuse: FeatureExtractor, images: Images
) -> tuple[Split, Precision] | None:
    """Return the network at the split point of its last phase, and the precision behind it.

    So evaluation can use the features that training cached. None: the whole network has to run.

    Args:
        count: number of training images.
    """
    if isinstance(config.features, NoFeatures) or not isinstance(config.adapter, NoAdapter):
        return None
    plan = plan_of(config, network, count)
    if not plan.phases:
        return None
    network.to(device_of(config.trainer.device))
    last = len(plan.phases) - 1
    thaw.apply_phase(network, plan, last)
    split = reuse.split_network(network, plan, last, images)
    thaw.release(network)
    if not isinstance(split, Split):
        return None
    return split, precision_behind(plan.trained(last), network, reuse.execution(network).trains)


def _predictions(index: Index, rows: NDArray[np.int64], logits: torch.Tensor) -> Any:
    confidence, best = logits.double().softmax(1).max(1)
    for row, p, k in zip(rows.tolist(), confidence.tolist(), best.tolist(), strict=True):
        # Seven digits: the precision of float32.
        yield index.keys[row], index.classes[int(index.labels[row])], index.classes[k], float(f"{p:.7g}")


def _mistakes(
    config: Run, index: Index, data: Path, rows: NDArray[np.int64], logits: torch.Tensor, pixels: ImageStack
) -> list[Mistake]:
    """Return the most confident mistakes, the most confident first, with the data set's images."""
    confidence, best = (tensor.numpy() for tensor in logits.double().softmax(1).max(1))
    wrong = np.flatnonzero(best != index.labels[rows])
    chosen = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
    try:
        shown = thumbnails(config.dataset, index, data, rows[chosen], THUMBNAIL)
    except FrostlineError:  # A file is gone: show the network's pixels.
        seen = pixels[torch.as_tensor(chosen)].permute(0, 2, 3, 1).numpy()
        shown = list(seen[..., 0] if seen.shape[-1] == 1 else seen)
    return [
        Mistake(
            index.keys[row], index.classes[index.labels[row]], index.classes[best[i]], confidence[i], image
        )
        for row, i, image in zip(rows[chosen], chosen, shown, strict=True)
    ]


def _summary(values: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    return {name: spread([v[name] for v in values]) for name in values[0]}


def _read_run(folder: Path) -> Run:
    path = folder / CONFIG
    if not path.is_file():
        raise FrostlineError(f"{path} is missing; run the finetune stage of this arm again")
    if sentence := edited_config(folder, verified(folder)):
        raise FrostlineError(f"{sentence}, or run the finetune stage of this arm again")
    return validated(Run, read_yaml(path), str(path))


def read_metrics(out: Path) -> dict[str, dict[str, float]]:
    """Return the metrics that `measure` wrote to `out`."""
    metrics: dict[str, dict[str, float]] = read_json(out / METRICS)
    return metrics
