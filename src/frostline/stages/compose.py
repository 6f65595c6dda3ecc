"""Step zero: resolve the selection into one file a stage, and refuse in time what can't work."""

from collections.abc import Sequence
from pathlib import Path

from frostline import compose, schema
from frostline.core.transfer import TWIN
from frostline.errors import FrostlineError
from frostline.files import publish, write_text, yaml_text
from frostline.stages import gate
from frostline.validate import validated


def run(params: Path, arms: Sequence[str], out: Path) -> None:
    """Write `<stage>.yaml` for each stage of the study into `out`.

    Args:
        params: the selection, params.yaml.
        arms: in the report's order; one that is named twice counts once.
        out: the folder of resolved files.

    Raises:
        FrostlineError: a choice is wrong, or a freeze schedule does not fit the network.
    """
    if TWIN not in arms:
        raise FrostlineError(f"--arms: {TWIN} is missing, the twin that the others are held against")
    resolved = compose.study(compose.read_selection(params), list(dict.fromkeys(arms)))
    gate.check_names(resolved["report"]["gate"], resolved["report"]["arms"])
    for stem, config in resolved.items():
        if stem == "pretrain" or stem.startswith("finetune-"):
            check_run(validated(schema.Run, config))
    with publish(out) as work:
        for stem, config in resolved.items():
            write_text(work / f"{stem}.yaml", yaml_text(config))
    for stale in set(out.glob("*.yaml")) - {out / f"{stem}.yaml" for stem in resolved}:
        stale.unlink()


def check_run(run: schema.Run) -> None:
    """Refuse a freeze schedule that does not fit its network, or an optimizer that can't be made.

    Neither data nor weights are read for that.

    Lengths in steps can't be judged yet: how many steps an epoch has depends on the data.

    Raises:
        FrostlineError: see `core.freeze.plan`, `models.pretrained.check_start` and
            `models.optimizers.make_optimizer`.
    """
    import torch

    from frostline.core import freeze
    from frostline.models import lora
    from frostline.models.backbones import build
    from frostline.models.optimizers import make_optimizer
    from frostline.models.pretrained import NO_WEIGHTS, check_start, input_spec

    many_steps = 10**6
    spec = input_spec(run.backbone, NO_WEIGHTS, run.input)
    with torch.device("meta"):
        network = build(run.backbone, spec, classes=2, seed=0)
    curve = freeze.curve(run.optimizer.schedule)
    try:
        check_start(run)
        lora.adapt(network, run, seed=0)
        freeze.plan(run.freeze, lora.layers_for(run, network), curve, run.trainer.epochs, many_steps)
        make_optimizer(run.optimizer, [{"params": [torch.nn.Parameter(torch.zeros(1, 1))]}])
    except FrostlineError as error:
        arm = f"arm {run.arm}: " if run.arm else ""
        raise FrostlineError(f"{arm}{error}") from None
