"""Stage finetune: copy weights to the target's network, and fine-tune it under a freeze schedule."""

from pathlib import Path

from frostline.base import omitted
from frostline.base.files import publish, write_text
from frostline.base.formats import canonical_json
from frostline.data.prepared.index import Index
from frostline.models.head_init import NoSharedClasses
from frostline.models.pretrained import head_init_of, load_initial_weights
from frostline.schema import Arm
from frostline.training.material import load_material
from frostline.training.run import forget, train
from frostline.training.services import Services


def finetune(arm: Arm, data: Path, out: Path, services: Services, timing: Path | None = None) -> None:
    """Fine-tune an arm of a study once per seed, into `out/seed-<s>/`; the stage evaluate measures it.

    An arm that trains nothing is omitted if the weights' head has no class of the data set.

    Raises:
        FrostlineError: something in the config does not fit; before any training.
    """
    start = load_initial_weights(arm.backbone, arm.weights)
    try:
        head_init_of(start, Index.read(data).classes, trains=bool(arm.freeze.phases))
    except NoSharedClasses as error:
        services.say(f"finetune {arm.arm}: omitted, since {error.reason}")
        omitted.write(out, error.reason, timing)
        return
    runs = [arm.run(seed) for seed in arm.seeds]
    material = load_material(runs[0], data, start, services)
    omitted.remove_reason(out)
    seconds = {}
    with publish(out) as work:
        for number, run in enumerate(runs, start=1):
            title = f"finetune {arm.arm} · seed {run.seed} ({number}/{len(runs)})"
            folder = work / f"seed-{run.seed}"
            seconds[str(run.seed)] = train(run, material, folder, services, title)
        if timing is not None:
            write_text(timing, canonical_json({"seeds": seconds}))
    for run in runs:
        forget(run, material, services)
