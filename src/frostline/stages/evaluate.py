"""Step four: measure trained networks. The only place that reads a test split, once a network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from frostline import machine
from frostline.core import thaw
from frostline.core.execution import Precision, behind, device_of
from frostline.core.frost_line import Split
from frostline.core.metrics import classification_metrics, spread
from frostline.core.seeds import derive
from frostline.data.features import Reuse
from frostline.data.index import Index, training_rows
from frostline.data.pixels import Images, Stack, images_key, load_pixels, thumbnails
from frostline.errors import FrostlineError, exhaustion
from frostline.files import canonical_json, csv_text, publish, read_json, read_yaml, sha256_of, write_text
from frostline.schema import Evaluate, NoAdapter, NoFeatures, Run
from frostline.services import Mistake, RunInfo, Services
from frostline.stages.measuring import (
    logits_behind,
    logits_of,
    network_with,
    read_weights,
    reuse_of,
)
from frostline.stages.soup import soups
from frostline.stages.training import backbone_name, plan_of
from frostline.validate import validated

METRICS, PREDICTIONS, WEIGHTS, CONFIG = (
    "metrics.json",
    "predictions.csv",
    "weights.safetensors",
    "config.yaml",
)
SPLITS = ("test", "val", "train")
MISTAKES, THUMBNAIL = 24, 160
"""How many are shown, and the longer side of each in pixels."""


@exhaustion()
def run(config: Evaluate, data: Path, finetuned: Path, out: Path, services: Services) -> None:
    """Measure each seed of an arm, in the folder `finetuned`; leave each one's files and a summary in `out`.

    `out` gets metrics.json (mean, std and n over the seeds for each split and metric, each seed's values, and
    those of their soups) and for each seed seed-<s>/{metrics.json, predictions.csv}.

    Raises:
        FrostlineError: a seed's weights or the prepared data are missing or do not fit together.
    """
    measured: dict[str, dict[str, dict[str, float]]] = {}
    runs = {seed: _run_of(finetuned / f"seed-{seed}" / CONFIG) for seed in config.seeds}
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
            advance(1, f"test/accuracy {measured[str(seed)]['test']['accuracy']:.4f}")
        summary = {split: _summary([m[split] for m in measured.values()]) for split in SPLITS}
        accuracies = {seed: measured[str(seed)]["val"]["accuracy"] for seed in runs}
        mixed = soups(runs, accuracies, data, lambda seed: finetuned / f"seed-{seed}" / WEIGHTS, services)
        write_text(work / METRICS, canonical_json({**summary, "seeds": measured, "soups": mixed}))
        recorded.metrics(
            {
                f"{split}/{name}/{what}": v
                for split in SPLITS
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


@exhaustion()
def measure(
    config: Run, seed: int, data: Path, trained: Path, out: Path, services: Services
) -> dict[str, dict[str, float]]:
    """Measure the network in the folder `trained` and leave metrics.json and predictions.csv in `out`.

    Returns:
        split → metric → value; train is measured on the images that the run was allowed to use.
    """
    machine.pin(config.trainer.threads)
    index = Index.read(data)
    state, spec = read_weights(trained / WEIGHTS, index, data)
    network = network_with(state, config.backbone, spec, len(index.classes))
    rows = {"train": training_rows(index, config.dataset, derive(seed, "shots") % 2**31)}
    rows |= {split: index.rows(split) for split in ("val", "test")}
    reuse = reuse_of(config, seed, spec, services)
    parts: tuple[Split, Precision] | None = None
    metrics, predictions, mistakes = {}, [], []
    for split in SPLITS:
        pixels = load_pixels(config.dataset, index, data, rows[split], spec, scratch=services.scratch)
        labels = torch.as_tensor(index.labels)[torch.as_tensor(rows[split])]
        images = Images(pixels, labels, images_key(index, rows[split], spec), index.name, split)
        if split == SPLITS[0]:
            parts = parts_of(config, network, len(rows["train"]), reuse, images)
        if parts:
            cut, precision = parts
            features = reuse.features(cut, images)
            logits = logits_behind(cut, features, precision, config.trainer.eval_batch_size)
        else:
            logits = logits_of(network, pixels, spec, config.trainer)
        metrics[split] = classification_metrics(logits, labels)
        if split == "test":
            predictions = list(_predictions(index, rows[split], logits))
            mistakes = _mistakes(config, index, data, rows[split], logits, pixels)
    write_text(out / METRICS, canonical_json(metrics))
    write_text(out / PREDICTIONS, csv_text(["id", "label", "prediction", "confidence"], predictions))
    services.tracker.annotate(
        sha256_of(trained / WEIGHTS),
        {"study": config.study, "stage": config.stage, "arm": config.arm or "", "seed": str(seed)},
        {f"test/{k}": v for k, v in metrics["test"].items()}
        | {f"best/val/{k}": v for k, v in metrics["val"].items() if k != "n"},
        out,
        mistakes,
    )
    return metrics


def parts_of(
    config: Run, network: torch.nn.Module, count: int, reuse: Reuse, images: Images
) -> tuple[Split, Precision] | None:
    """Return the network, cut as in its last phase, whose features are found again, and the rest's precision.

    Args:
        config: the run's.
        network: with its trained weights.
        count: of the images that it trained on.
        reuse: the run's.
        images: on which cuts are tried.
    """
    if isinstance(config.features, NoFeatures) or not isinstance(config.adapter, NoAdapter):
        return None
    plan = plan_of(config, network, count)
    if not plan.phases:
        return None
    network.to(device_of(config.trainer.device))
    last = len(plan.phases) - 1
    thaw.enter(network, plan, last)
    found = reuse.cut(network, plan, last, images)
    thaw.release(network)
    if not isinstance(found, Split):
        return None
    return found, behind(plan.trained(last), network, reuse.execution(network).trains)


def _predictions(index: Index, rows: NDArray[np.int64], logits: torch.Tensor) -> Any:
    confidence, best = logits.double().softmax(1).max(1)
    for row, p, k in zip(rows.tolist(), confidence.tolist(), best.tolist(), strict=True):
        # Seven digits: a float32 network has no more to say.
        yield index.keys[row], index.classes[int(index.labels[row])], index.classes[k], float(f"{p:.7g}")


def _mistakes(
    config: Run, index: Index, data: Path, rows: NDArray[np.int64], logits: torch.Tensor, pixels: Stack
) -> list[Mistake]:
    """The images whose wrong answer is the surest, the surest first, as the data set has them."""
    confidence, best = (each.numpy() for each in logits.double().softmax(1).max(1))
    wrong = np.flatnonzero(best != index.labels[rows])
    chosen = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
    try:
        pictures = thumbnails(config.dataset, index, data, rows[chosen], THUMBNAIL)
    except FrostlineError:  # One is gone since: as the network sees them.
        seen = pixels[torch.as_tensor(chosen)].permute(0, 2, 3, 1).numpy()
        pictures = list(seen[..., 0] if seen.shape[-1] == 1 else seen)
    return [
        Mistake(
            index.keys[row], index.classes[index.labels[row]], index.classes[best[i]], confidence[i], picture
        )
        for row, i, picture in zip(rows[chosen], chosen, pictures, strict=True)
    ]


def _summary(values: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    return {name: spread([v[name] for v in values]) for name in values[0]}


def _run_of(path: Path) -> Run:
    if not path.is_file():
        raise FrostlineError(f"{path} is missing; run the finetune stage of this arm again")
    return validated(Run, read_yaml(path), str(path))


def read_metrics(out: Path) -> dict[str, dict[str, float]]:
    """Return what `measure` left in `out`."""
    metrics: dict[str, dict[str, float]] = read_json(out / METRICS)
    return metrics
