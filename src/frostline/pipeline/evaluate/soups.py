"""Model soups: averages the weights of an arm's seeds (Wortsman et al. 2022a)."""

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from frostline.base.metrics import headline_value, task_metrics
from frostline.data.loading.label_budget import label_budget
from frostline.data.loading.pixels import labels_of
from frostline.data.prepared.index import Index, PreparedData
from frostline.evaluation import tta
from frostline.schema import NoWeights, Run
from frostline.training import averaging
from frostline.training.inference import logits_of, network_with, read_weights
from frostline.training.services import Services

Metrics = dict[str, float]


def soups(
    runs: Mapping[int, Run],
    scores: Mapping[int, float],
    data: PreparedData,
    weights_of: Callable[[int], Path],
    services: Services,
) -> dict[str, Any]:
    """Average the networks of an arm's seeds: all of them, and a greedy choice on validation.

    Each soup is evaluated once on the test split, if there is one. BatchNorm's statistics are averaged like
    weights.

    Args:
        runs: seed → config of its run.
        scores: seed → validation accuracy, or mAP with several labels per image.
        data: the prepared data.
        weights_of: seed → the file of its weights.
        services: the scratch folder, for pixels.

    Returns:
        `uniform` and `greedy`, each with its seeds and its val and test metrics, or with `skipped`, the
        reason why there is no such soup; or `skipped` alone, if there is none at all.
    """
    if reason := why_none(runs):
        return {"skipped": reason}
    index = data.index

    @cache  # the greedy soup is often the uniform one
    def measured(seeds: tuple[int, ...], split: str) -> Metrics:
        run, rows = runs[seeds[0]], index.rows(split)
        spec = read_weights(weights_of(seeds[0]), data).spec
        state = averaging.uniform_soup(read_weights(weights_of(seed), data).state for seed in seeds)
        network = network_with(state, run.backbone, spec, len(index.classes))
        used = run.tta if split == index.held_out else None
        pixels, views = tta.loaded(data, rows, spec, used, services.scratch)
        logits = [logits_of(network, images, spec, run.trainer) for images in (pixels, *views)]
        averaged = tta.averaged(logits, several_labels=index.several_labels) if views else logits[0]
        return task_metrics(averaged, labels_of(index, rows))

    splits = dict.fromkeys(("val", index.held_out))

    def soup(seeds: Iterable[int]) -> dict[str, Any]:
        chosen = tuple(sorted(seeds))
        return {"seeds": list(chosen), **{split: measured(chosen, split) for split in splits}}

    uniform = soup(runs)
    if reason := why_no_choice(next(iter(runs.values())), index):
        return {"uniform": uniform, "greedy": {"skipped": reason}}
    chosen = averaging.greedy_soup(
        {seed: (value,) for seed, value in scores.items()},
        lambda seeds: (headline_value(measured(tuple(seeds), "val")),),
    )
    return {"uniform": uniform, "greedy": soup(chosen)}


def why_no_choice(run: Run, index: Index) -> str | None:
    """Return the reason why no soup can be chosen on validation; None: it can be.

    Args:
        run: one of the runs.
    """
    match label_budget(index, run.dataset, run.seed).selection_split:
        case "selection":
            return (
                "a choice among seeds needs labels that none of them used, beyond the label budget of"
                " dataset.selection=within"
            )
        case "last":
            return "with dataset.selection=last no images choose"
    return None


def why_none(runs: Mapping[int, Run]) -> str | None:
    """Return the reason why these seeds can't be averaged; None: they can.

    The mean of two networks is as good as they are if both were fine-tuned from the same weights, and no
    better than chance otherwise (Wortsman et al. 2022a, section 2; Neyshabur et al. 2020).
    """
    if len(runs) == 1:
        return "one seed has nothing to be averaged with"
    run = next(iter(runs.values()))
    if isinstance(run.weights, NoWeights):
        return "the seeds start from different random weights, which can't be averaged"
    if not run.freeze.phases:
        return "nothing was trained"
    return None
