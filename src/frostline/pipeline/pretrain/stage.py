"""Stage pretrain: train the network on the source data set, or without DVC on the target."""

from pathlib import Path

from frostline.base import omitted
from frostline.base.code import code_versions
from frostline.base.files import publish, write_checksums, write_text
from frostline.base.formats import canonical_json
from frostline.base.hashes import content_key, sha256_of
from frostline.base.repetitions import Repetition
from frostline.base.run_folder import OUTPUTS, WEIGHTS
from frostline.evaluation import evaluate
from frostline.models.pretrained import load_initial_weights
from frostline.schema import Run
from frostline.training.earlier_runs import EarlierRuns
from frostline.training.inputs import load_inputs
from frostline.training.run import train
from frostline.training.services import Services


def train_once(
    config: Run,
    data: Path,
    out: Path,
    services: Services,
    timing: Path | None = None,
    *,
    sealed: bool = False,
    earlier: EarlierRuns | None = None,
) -> None:
    """Train on the prepared data in `data`, measure on its test split, and write everything to `out`.

    `out` gets weights.safetensors, history.csv, training.json, config.yaml, metrics.json and predictions.csv.
    The measured seconds go to `timing`, a separate file, since they differ between runs; it also has the
    `result_key`, by which a single run finds the study's pretraining. `sealed` adds checksums, for a cache.
    If the run is among the `earlier` ones, it is not trained again; its results are kept there.

    Raises:
        FrostlineError: something in the config does not fit; before any training.
    """
    initial = load_initial_weights(config.backbone, config.weights)
    inputs = load_inputs(config, data, initial, services)
    earlier = earlier or EarlierRuns(services)
    earlier.restore([config], inputs)
    omitted.remove_reason(out)
    with publish(out, OUTPUTS) as work:
        repetition = Repetition(config.dataset.fold, config.seed)
        named = [f"pretrain on {inputs.index.name}", services.label]
        if config.stage == "finetune":
            named = [f"finetune {config.freeze_name}", services.label, str(repetition)]
        seconds = train(config, inputs, work, services, " · ".join(filter(None, named)))
        evaluate.measure(config, data, work, work, services)
        if sealed:
            write_checksums(work)
        if timing is not None:
            key = result_key(config, inputs.index.fingerprint, initial.sha256)
            result = {"key": key, "weights_sha256": sha256_of(work / WEIGHTS)}
            write_text(timing, canonical_json({"result": result, "seeds": {str(config.seed): seconds}}))
    earlier.store([config], inputs)


def result_key(config: Run, data: str, initial: str | None) -> str:
    """Return the hash of everything that a pretraining's result depends on.

    Args:
        data: fingerprint of the prepared data set.
        initial: sha256 of the initial weights; None: random ones.
    """
    content = [config.model_dump(exclude={"study"}), data, initial, code_versions("pretrain")]
    return content_key(content)[:16]
