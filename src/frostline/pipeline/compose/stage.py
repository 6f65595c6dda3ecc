"""Stage compose: resolve the selection into one config per stage, and check that they fit together."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from frostline import schema
from frostline.base.files import publish, write_text
from frostline.base.formats import yaml_text
from frostline.base.metrics import measured_metrics
from frostline.config import stage_configs
from frostline.console.errors import FrostlineError
from frostline.pipeline.compose import study
from frostline.pipeline.compose.study import Study
from frostline.pipeline.compose.watched import WATCHED, check_watched
from frostline.schema.validation import validated
from frostline.stats import gate
from frostline.stats.transfer import BASELINE

if TYPE_CHECKING:
    from frostline.models.head_init import HeadInit
    from frostline.models.initial_weights import InitialWeights
    from frostline.models.weights import LoadReport

ANY_CLASSES = ("a", "b")
"""Classes of a network that is checked without its data set."""


@dataclass
class Checked:
    """What the arms of a study, which fit together, do with the weights' head."""

    omitted: dict[str, str] = field(default_factory=dict)
    """Arm → the reason: nothing trains, and the weights have no class of the target."""
    reset: list[str] = field(default_factory=list)
    """Arms whose head starts anew."""
    notices: dict[str, list[str]] = field(default_factory=dict)
    """A sentence about the head → the arms."""


def compose_study(params: Path, arms: Sequence[str], out: Path) -> tuple[list[str], Checked]:
    """Write `<stage>.yaml` for each stage of the study into `out`.

    Args:
        arms: in the report's order, then the selection's own; duplicates are dropped.
        out: the folder of resolved files.

    Returns:
        The arms that will run; what is omitted, and how heads start.

    Raises:
        FrostlineError: a choice is wrong, or parts of the study do not fit together; see `check`.
    """
    if BASELINE not in arms:
        raise FrostlineError(
            f"--arms: {BASELINE} is missing; add the from-scratch baseline that the others are compared with"
        )
    selected = study.read_selection(params)
    arms = list(dict.fromkeys([*arms, *study.own_arm(selected)]))
    made = study.resolve(selected, arms)
    if WATCHED in selected:
        _check_watched(made, params.resolve().parent)
    checked = check(made, arms)
    several = made.resolved[f"finetune-{BASELINE}"]["loss"]["kind"] == "bce"
    with made.located():
        measured = measured_metrics(several_labels=several)
        gate.check_names(made.resolved["report"]["gate"], arms, checked.omitted, checked.reset, measured)
    with publish(out) as work:
        for stem, config in made.resolved.items():
            write_text(work / f"{stem}.yaml", yaml_text(config))
    for stale in set(out.glob("*.yaml")) - {out / f"{stem}.yaml" for stem in made.resolved}:
        stale.unlink()
    return [arm for arm in arms if arm not in checked.omitted], checked


def check(made: Study, arms: Sequence[str]) -> Checked:
    """Check that all stages of a study fit together: data, classes, weights, heads, inputs, schedules.

    Images are listed, not read.

    Raises:
        FrostlineError: something does not fit; the sentence names the file, the arm and the key.
    """
    from frostline.models.head_init import HeadNotUsable

    checker = _Checker(_classes(made, "target"))
    pretrained = None
    if "omitted" not in made.resolved["pretrain"]:
        source = _classes(made, "source")
        with made.located("pretrain"):
            config = validated(schema.Run, made.resolved["pretrain"])
            pretrained = _Checker(source).result(config)
    checked = Checked()
    for arm in arms:
        with made.located(arm=arm):
            arm_config = validated(schema.Arm, made.resolved[f"finetune-{arm}"])
            config = next(iter(arm_config.runs().values()))
            try:
                head = checker.run(config, pretrained)
            except HeadNotUsable as error:
                checked.omitted[arm] = error.reason
                continue
            if not head.is_informed:
                checked.reset.append(arm)
            if head.notice:
                sentence = f"{'warning: ' if head.warns else ''}{head.notice}"
                checked.notices.setdefault(sentence, []).append(arm)
    return checked


def _check_watched(made: Study, root: Path) -> None:
    """Refuse data sets that read what DVC does not watch; see `watched.check_watched`."""
    for role in ("source", "target"):
        data = made.resolved[f"prepare-{role}"]
        if "omitted" not in data:
            with made.located(), stage_configs.keys_of(role):
                dataset = validated(schema.Prepare, data).dataset
                check_watched(dataset, made.params[WATCHED], root)


def _classes(made: Study, role: str) -> tuple[str, ...]:
    """Return the classes of the source or the target data set."""
    from frostline.data.reading.sources import classes_of

    config = validated(schema.Prepare, made.resolved[f"prepare-{role}"])
    with made.located(), stage_configs.keys_of(role):
        return classes_of(config.dataset)


@dataclass
class _Checker:
    """Checks runs on one data set; shared weights are loaded once."""

    classes: tuple[str, ...]
    initial: "dict[str, InitialWeights]" = field(default_factory=dict)
    reports: "dict[str, LoadReport]" = field(default_factory=dict)

    def result(self, config: schema.Run) -> "InitialWeights":
        """Check a pretraining; return its future weights, without values."""
        import torch

        from frostline.models.backbones import build
        from frostline.models.initial_weights import InitialWeights
        from frostline.models.pretrained import expected_weights, input_spec

        self.run(config, None)
        spec = input_spec(config.backbone, expected_weights(config.backbone, config.weights), config.input)
        with torch.device("meta"):
            state = build(config.backbone, spec, len(self.classes), seed=0).state_dict()
        return InitialWeights(state, spec, self.classes, "the pretraining", None)

    def run(self, config: schema.Run, pretrained: "InitialWeights | None") -> "HeadInit":
        """Check a run; return how its head starts."""
        import torch

        from frostline.models.backbones import build
        from frostline.models.pretrained import create_network, expected_weights, input_spec

        weights = config.weights
        kind = repr((config.backbone, weights))
        if kind not in self.initial:
            if schema.needs_pretraining(weights):
                assert pretrained is not None
                self.initial[kind] = replace(pretrained, head=weights.head)
            else:
                self.initial[kind] = expected_weights(config.backbone, weights)
        initial = self.initial[kind]
        spec, trains = input_spec(config.backbone, initial, config.input), bool(config.freeze.phases)
        key = f"{kind} {spec} {trains}"
        if key not in self.reports:
            build(config.backbone, spec, len(self.classes), seed=0)  # Tests it on an image, too.
            with torch.device(initial.device):
                _, self.reports[key] = create_network(config, initial, spec, self.classes)
        check_run(config, initial, self.classes, self.reports[key])
        return self.reports[key].head


def check_run(
    run: schema.Run,
    initial: "InitialWeights | None" = None,
    classes: Sequence[str] = ANY_CLASSES,
    report: "LoadReport | None" = None,
) -> None:
    """Refuse a freeze schedule that does not fit its network, or an optimizer that can't be made.

    Lengths in steps are not checked: the number of steps per epoch depends on the data.

    Args:
        initial: initial weights; only their input specification is used.
        report: how the initial weights fit the network.

    Raises:
        FrostlineError: see `freezing.build.build_plan`, `models.pretrained.check_initial_weights`,
            `models.optimizers.make_optimizer` and `models.head_init.check_new_head_trains`.
    """
    import torch

    from frostline.freezing.build import RunLength, build_plan
    from frostline.freezing.curves import build_curve
    from frostline.models import lora
    from frostline.models.backbones import build
    from frostline.models.head_init import check_new_head_trains
    from frostline.models.initial_weights import NO_WEIGHTS
    from frostline.models.optimizers import make_optimizer
    from frostline.models.pretrained import check_initial_weights, input_spec

    many_steps = 10**6
    spec = input_spec(run.backbone, initial or NO_WEIGHTS, run.input)
    with torch.device("meta"):
        network = build(run.backbone, spec, len(classes), seed=0)
    curve = build_curve(run.optimizer.schedule)
    check_initial_weights(run)
    lora.adapt(network, run)
    plan = build_plan(
        run.freeze, lora.layers_for(run, network), curve, RunLength(run.trainer.epochs, many_steps)
    )
    make_optimizer(run.optimizer, [{"params": [torch.nn.Parameter(torch.zeros(1, 1))]}])
    if report is not None:
        trained = {name for phase in range(len(plan.phases)) for name in plan.trained(phase)}
        check_new_head_trains(report.head, report.reset, trained)
