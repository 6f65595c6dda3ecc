"""Stage finetune: copy weights to the target's network, and fine-tune it under a freeze schedule."""

from pathlib import Path

from frostline.base import omitted
from frostline.base.files import publish, write_text
from frostline.base.formats import canonical_json
from frostline.data.prepared.index import Index
from frostline.models.head_init import NoSharedClasses
from frostline.models.pretrained import head_init_of, load_initial_weights
from frostline.schema import Run
from frostline.training import run as training
from frostline.training.material import load_material
from frostline.training.services import Services


def run(config: Run, data: Path, out: Path, services: Services, timing: Path | None = None) -> None:
    """Fine-tune an arm of a study once per seed, into `out/seed-<s>/`; the stage evaluate measures it.

    An arm that trains nothing is omitted if the weights' head has no class of the data set.

    Raises:
        FrostlineError: something in the config does not fit; before any training.
    """
    start = load_initial_weights(config.backbone, config.weights)
    try:
        head_init_of(start, Index.read(data).classes, trains=bool(config.freeze.phases))
    except NoSharedClasses as error:
        services.say(f"finetune {config.arm}: omitted, since {error.reason}")
        omitted.write(out, error.reason, timing)
        return
    material = load_material(config, data, start, services)
    omitted.remove_reason(out)
    seconds = {}
    with publish(out) as work:
        for i, seed in enumerate(config.seeds):
            title = f"finetune {config.arm} · seed {seed} ({i + 1}/{len(config.seeds)})"
            seconds[str(seed)] = training.train(
                config, seed, start, material, work / f"seed-{seed}", services, title
            )
        if timing is not None:
            write_text(timing, canonical_json({"seeds": seconds}))
    training.forget(config, start, material, services)
