"""Stage finetune: train a network on the target data set under an arm's freeze schedule.

It starts from the arm's pretrained weights, if it has any; the from-scratch baseline is an arm without.
"""

from itertools import groupby
from pathlib import Path
from typing import Any

from frostline.base import omitted, repetitions
from frostline.base.files import publish, write_text
from frostline.base.formats import canonical_json
from frostline.base.repetitions import Repetition
from frostline.data.prepared.index import Index
from frostline.models.head_init import HeadNotUsable
from frostline.models.pretrained import head_init_of, load_initial_weights
from frostline.schema import Arm
from frostline.training.earlier_runs import RunsOfStage
from frostline.training.inputs import load_inputs
from frostline.training.run import train
from frostline.training.services import Services


def finetune(config: Arm, data: Path, out: Path, services: Services, timing: Path | None = None) -> None:
    """Fine-tune an arm of a study once per seed, or fold and seed; the stage `evaluate` measures the runs.

    A run's folder is `out/seed-<s>/`, or `out/fold-<f>/seed-<s>/`. An arm that trains nothing is omitted if
    the weights' head can't be used for the classes of the data set.

    Args:
        timing: file for the training times of all runs.

    Raises:
        FrostlineError: the freeze schedule, the initial weights and the data set do not fit together; raised
            before the first run trains. What is wrong only with the images of one fold, or with those that
            one seed draws, is raised when that fold or seed begins.
    """
    initial = load_initial_weights(config.backbone, config.weights)
    try:  # only to know whether the head can be used
        head_init_of(initial, Index.read(data).classes, trains=bool(config.freeze.phases))
    except HeadNotUsable as error:
        services.say(f"finetune {config.arm}: omitted, since {error.reason}")
        omitted.write(out, error.reason, timing)
        return
    config_of = config.runs()  # repetition (a seed, or a fold and a seed) → config of its run
    folds = [list(members) for _, members in groupby(config_of, key=lambda repetition: repetition.fold)]
    earlier, timings = RunsOfStage(services, out), dict[Repetition, dict[str, Any]]()
    inputs = load_inputs(config_of[folds[0][0]], data, initial, services)
    # `restore` and `store` only pass the inputs on to `training.run.run_key`. What it reads of them is the
    # same for all folds, so those of any fold will do.
    earlier.restore(config_of.values(), inputs)
    omitted.remove_reason(out)
    with publish(out) as work:
        for number, members in enumerate(folds):
            if number:  # the inputs of the first fold are loaded already
                inputs = load_inputs(config_of[members[0]], data, initial, services)
            for repetition in members:
                title = f"finetune {config.arm} · {repetition} ({len(timings) + 1}/{len(config_of)})"
                folder = work / repetition.folder
                timings[repetition] = train(config_of[repetition], inputs, folder, services, title)
        if timing is not None:
            write_text(timing, canonical_json(repetitions.as_json(timings)))
    earlier.store(config_of.values(), inputs)
