"""Steps two and three: copy the weights to the target's network, and fine-tune it under a freeze schedule."""

from pathlib import Path

from frostline.files import canonical_json, publish, write_text
from frostline.models.pretrained import resolve
from frostline.schema import Run
from frostline.services import Services
from frostline.stages import training


def run(config: Run, data: Path, out: Path, services: Services, timing: Path | None = None) -> None:
    """Fine-tune an arm of a study once for each of its seeds, into `out/seed-<s>/`; `evaluate` measures it.

    Raises:
        FrostlineError: something in the config does not fit; before any training.
    """
    start = resolve(config.backbone, config.weights)
    given = training.material(config, data, start, services)
    seconds = {}
    with publish(out) as work:
        for i, seed in enumerate(config.seeds):
            title = f"finetune {config.arm} · seed {seed} ({i + 1}/{len(config.seeds)})"
            seconds[str(seed)] = training.train(
                config, seed, start, given, work / f"seed-{seed}", services, title
            )
        if timing is not None:
            write_text(timing, canonical_json({"seeds": seconds}))
    training.forget(config, start, given, services)
