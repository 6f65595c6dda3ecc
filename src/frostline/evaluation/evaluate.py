"""Evaluates trained networks: metrics and predictions per split."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from frostline.base.files import write_text
from frostline.base.formats import canonical_json, csv_text, read_json
from frostline.base.metrics import ACCURACY, MAJORITY, WITHOUT_TTA, task_metrics
from frostline.base.repetitions import Repetition
from frostline.base.run_folder import METRICS, PREDICTIONS, THRESHOLDS, WEIGHTS, verified
from frostline.console.errors import FrostlineError, resource_errors
from frostline.data.loading.label_budget import label_budget
from frostline.data.loading.pixels import Images, images_of, thumbnails
from frostline.data.loading.resize import format_of
from frostline.data.prepared.index import Index, PreparedData
from frostline.data.reading.decode import shown
from frostline.evaluation import label_tables, tta
from frostline.features.execution import Precision, device_of
from frostline.features.reuse import FeatureExtractor
from frostline.features.split_point import NetworkSplit
from frostline.schema import NoAdapter, NoFeatures, Run
from frostline.training import garbage, machine, trainable
from frostline.training.inference import (
    TrainedWeights,
    logits_after_split,
    logits_of,
    network_with,
    read_weights,
    reuse_of,
)
from frostline.training.run import plan_of
from frostline.training.services import Evaluation, Misclassified, Services

Metrics = dict[str, dict[str, float]]
"""Split → metric → value."""
SPLITS = ("test", "val", "train")
"""In the order of evaluation; a data set may have no test split."""
MISTAKES, THUMBNAIL = 24, 160
"""Number of mistakes in the plot, and the longer side of each image in pixels."""
_BLOCK = 1024
"""Images whose probabilities are computed at once."""


@resource_errors("measuring", ["trainer.eval_batch_size", "input.size"])
def measure(run: Run, folder: Path, run_folder: Path, out: Path, services: Services) -> Metrics:
    """Evaluate the network of a run and write metrics.json and predictions.csv to `out`.

    Args:
        folder: the folder of the prepared data.
        services: progress, tracker and feature cache.

    Returns:
        split → metric → value; without test if the data set has no test split. `train` has the images
        that the run trained on; `selection`, if any, the labelled images that selected its epoch.

    Raises:
        FrostlineError: the weights are not the ones that the run trained, or were trained on other data.
    """
    record, data = verified(run_folder), PreparedData.read(run.dataset, folder)
    if record.get("data", {}).get("fingerprint") not in (None, data.index.fingerprint):
        raise FrostlineError(
            f"{run_folder}: was trained on other images than {folder} holds now; train it again on these"
        )
    evaluator = Evaluator(run, data, read_weights(run_folder / WEIGHTS, data), services)
    return evaluator.measure(run, record, out)


@resource_errors("measuring", ["trainer.eval_batch_size", "input.size"])
def measure_test(run: Run, data: PreparedData, run_folder: Path, out: Path, services: Services) -> Metrics:
    """Do what `measure` does for the test split alone, since the images of other splits have changed.

    Args:
        data: the prepared data, with the test split that the run had.
    """
    record = verified(run_folder)
    weights, images = read_weights(run_folder / WEIGHTS, data), int(record["training_images"])
    evaluator = Evaluator(run, data, weights, services, images)
    return evaluator.measure(run, record, out)


class Evaluator:
    """Evaluates networks on the splits of a data set. The networks may differ only in their heads.

    Args:
        run: the config of the first network's run.
        weights: the weights of the first network.
        images: number of training images of the run, if `data` has other ones and only its test split is
            evaluated.
    """

    def __init__(
        self,
        run: Run,
        data: PreparedData,
        weights: TrainedWeights,
        services: Services,
        images: int | None = None,
    ) -> None:
        garbage.enable()  # off during imports
        machine.configure(run.trainer.threads)
        index, spec = data.index, weights.spec
        self._data, self._spec = data, spec
        self._trainer, self._services = run.trainer, services
        self._network = network_with(weights.state, run.backbone, spec, len(index.classes))
        if images is None:
            budget = label_budget(index, run.dataset, run.seed)
            splits = [split for split in SPLITS if split in ("train", "val", index.held_out)]
            self._rows = {split: index.rows(split) for split in splits} | {"train": budget.train}
            if len(budget.selection):
                self._rows["selection"] = budget.selection
            images = len(budget.train)
        else:
            self._rows = {"test": index.rows("test")}
        parts = {split: (data, rows) for split, rows in self._rows.items()}
        parts |= {
            f"test/{name}": (tests, tests.index.rows("test")) for name, tests in data.test_sets().items()
        }
        self._images: dict[str, Images] = {}
        self._features: dict[str, torch.Tensor] = {}
        """Split → the features of its images at the split point, once they are used."""
        self._viewed: dict[str, list[tta.Viewed]] = {}
        """Split → the further views of its images that are measured, too."""
        for split, (source, rows) in parts.items():
            used = run.tta if split == index.held_out or split.startswith("test/") else None
            pixels, views = tta.loaded(source, rows, spec, used, services.scratch)
            self._images[split] = images_of(source.index, rows, pixels, spec, split)
            if views:
                self._viewed[split] = views
        self._reuse = reuse_of(run, spec, services)
        self._parts = split_for_inference(
            run, self._network, images, self._reuse, next(iter(self._images.values()))
        )

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Load the weights of another network's head."""
        unexpected = self._network.load_state_dict(state, strict=False).unexpected_keys
        assert not unexpected, unexpected

    def measure(self, run: Run, record: Mapping[str, Any], out: Path) -> Metrics:
        """Do what `evaluate.measure` does, with the weights that were loaded last.

        Args:
            run: their run's config.
            record: the content of their training.json.
            out: the folder for metrics.json, predictions.csv and, with several labels, per_class.csv.
        """
        index, thresholds = self._data.index, record.get(THRESHOLDS, [])
        logits = {split: self._logits(split) for split in self._images}
        split, metrics = index.held_out, {}
        if self._viewed:
            metrics[split + WITHOUT_TTA] = task_metrics(
                logits[split], self._images[split].labels, thresholds or None
            )
            for part, views in self._viewed.items():
                further = [self._logits(part, view) for view in views]
                logits[part] = tta.averaged([logits[part], *further], several_labels=index.several_labels)
        metrics |= {
            part: task_metrics(logits[part], images.labels, thresholds or None)
            for part, images in self._images.items()
        }
        write_text(out / METRICS, canonical_json(metrics))
        majority: dict[str, float] = {}
        mistakes: list[Misclassified] = []
        if index.several_labels:
            label_tables.write(index, self._rows[split], logits[split], thresholds, out)
        else:
            rate = self._majority(run, split, metrics[split][ACCURACY])
            rows = _predictions(index, self._rows[split], logits[split])
            write_text(out / PREDICTIONS, csv_text(["id", "label", "prediction", "confidence"], rows))
            majority = {MAJORITY: rate} if split == "test" else {}
            mistakes = self._mistakes(split, logits[split])
        tags = {"study": run.study, "stage": run.stage, "arm": run.arm or "", "seed": str(run.seed)}
        if run.dataset.fold is not None:
            # If nothing trains, the weights are the same in every fold, and don't tell whose they are.
            tags["fold"] = str(run.dataset.fold)
        tests = [part for part in metrics if part.startswith("test")]
        values = {f"{part}/{k}": v for part in tests for k, v in metrics[part].items()}
        val = metrics.get("val" + WITHOUT_TTA, metrics.get("val", {}))
        values |= {f"best/val/{k}": v for k, v in val.items() if k != "n"}
        values |= majority
        sha256 = str(record["weights_sha256"])
        self._services.tracker.annotate(Evaluation(sha256, tags, values, out, mistakes))
        return metrics

    def _majority(self, run: Run, split: str, accuracy: float) -> float:
        """Return the accuracy of always predicting the most frequent class; warn if it is not exceeded."""
        counts = torch.as_tensor(self._images[split].labels).bincount()
        rate = float(counts.max()) / int(counts.sum())
        if accuracy <= rate:
            name = self._data.index.classes[int(counts.argmax())]
            named = [
                run.arm or run.freeze_name,
                self._services.label,
                str(Repetition(run.dataset.fold, run.seed)),
            ]
            self._services.say(
                f"frostline: warning: {run.stage} {', '.join(filter(None, named))}:"
                f" {split} accuracy {accuracy:.4f} is not above {rate:.4f}, the accuracy of always predicting"
                f" {name!r}"
            )
        return rate

    def _mistakes(self, split: str, logits: torch.Tensor) -> list[Misclassified]:
        """Return the most confident mistakes, the most confident first, with the data set's images."""
        index, rows = self._data.index, self._rows[split]
        confidence, best = (tensor.numpy() for tensor in _most_likely(logits))
        wrong = np.flatnonzero(best != index.labels[rows])
        chosen = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
        try:
            images = thumbnails(self._data, rows[chosen], THUMBNAIL, format_of(self._spec))
        except FrostlineError:  # A file is gone: show the network's pixels.
            pixels = self._images[split].pixels[torch.as_tensor(chosen)].permute(0, 2, 3, 1).numpy()
            images = [shown(image) for image in pixels]
        return [
            Misclassified(
                index.keys[row],
                index.classes[index.labels[row]],
                index.classes[best[i]],
                confidence[i],
                image,
            )
            for row, i, image in zip(rows[chosen], chosen, images, strict=True)
        ]

    def _logits(self, split: str, view: tta.Viewed | None = None) -> torch.Tensor:
        """Return the logits of a split's images, or of a view of them, whose features are not cached."""
        images = self._images[split]
        if self._parts is None:
            pixels = images.pixels if view is None else view
            return logits_of(self._network, pixels, self._spec, self._trainer)
        split_point, precision = self._parts
        if view is not None:
            features = self._reuse.uncached_features(split_point, view)
        else:
            if split not in self._features:
                self._features[split] = self._reuse.features(split_point, images)
            features = self._features[split]
        return logits_after_split(split_point, features, precision, self._trainer.eval_batch_size)


def split_for_inference(
    config: Run, network: torch.nn.Module, count: int, reuse: FeatureExtractor, images: Images
) -> tuple[NetworkSplit, Precision] | None:
    """Return the split of the network for its last phase, and the precision of the layers after it.

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
    trainable.apply_phase(network, plan, last)
    split = reuse.split_network(network, plan, last, images)
    trainable.release(network)
    if not isinstance(split, NetworkSplit):
        return None
    return split, reuse.precision_after_split(network, plan, last)


def _predictions(index: Index, rows: NDArray[np.int64], logits: torch.Tensor) -> Any:
    confidence, best = _most_likely(logits)
    for row, p, k in zip(rows.tolist(), confidence.tolist(), best.tolist(), strict=True):
        # Seven digits: the precision of float32.
        yield index.keys[row], index.classes[int(index.labels[row])], index.classes[k], float(f"{p:.7g}")


def _most_likely(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return probability, float64, and index of each image's most likely class, (N,), from (N, K) logits."""
    # In blocks: the probabilities of 10,000 images and classes take 800 MB.
    blocks = [block.double().softmax(1).max(1) for block in logits.split(_BLOCK)]
    values, classes = zip(*blocks, strict=True)
    return torch.cat(values), torch.cat(classes)


def read_metrics(out: Path) -> Metrics:
    """Return the metrics that `measure` wrote to `out`."""
    metrics: Metrics = read_json(out / METRICS)
    return metrics
