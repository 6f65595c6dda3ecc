"""The command line. Heavy imports live inside functions, so that help comes at once."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline import __version__
from frostline.errors import FrostlineError, GateFailed, TrainingFailed

if TYPE_CHECKING:
    from frostline.services import Services

DESCRIPTION = "Measure what transfer learning buys: pretrain, fine-tune under a freeze schedule, compare with a twin."
EXAMPLES = """\
examples:
  dvc repro                                                       the whole study that params.yaml selects
  frostline finetune dataset=image_folder dataset.root=DIR backbone=efficientnet_lite0 weights=imagenet
                     freeze=linear_probe out=DIR                  one run on your own pictures
  frostline finetune -m freeze=linear_probe,full seed=0,1,2       every combination
  frostline finetune --cfg job                                    what would run, as YAML
  frostline ui                                                    compare runs in the browser

KEY=VALUE is a Hydra override: a choice of option (freeze=gradual) or a value (trainer.epochs=5).
The options are the files of conf/, each with what to expect of it at its top.
"""

EXIT_USER, EXIT_TRAINING, EXIT_GATE, EXIT_INTERRUPTED = 2, 3, 4, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status: 0, 2 a mistake, 3 training broke down, 4 below the gate."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.command(arguments)
    except FrostlineError as error:
        if os.environ.get("FROSTLINE_TRACEBACK"):
            raise
        print(f"frostline: error: {error}", file=sys.stderr)
        return EXIT_GATE if isinstance(error, GateFailed) else EXIT_TRAINING if isinstance(error, TrainingFailed) else EXIT_USER
    except KeyboardInterrupt:
        print("frostline: interrupted; the same command goes on from its last resume point", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; a second complaint at exit would be noise.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if os.environ.get("FROSTLINE_TRACEBACK") or error.filename is None:
            raise
        print(f"frostline: error: {error.filename}: {error.strerror}; mend it and run again", file=sys.stderr)
        return EXIT_USER
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "frostline", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"frostline {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, command: Callable[[argparse.Namespace], None], text: str, epilog: str = "") -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=text, description=text, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        sub.set_defaults(command=command)
        return sub

    sub = add("compose", _compose, "resolve params.yaml and conf/ into artifacts/resolved/, one YAML a stage")
    sub.add_argument("--params", type=Path, default=Path("params.yaml"), help="the selection (default: %(default)s)")
    sub.add_argument("--arms", nargs="+", metavar="ARM", default=["scratch", "zero_shot", "linear_probe", "full"],
                     help="scratch (the twin), and schedules of conf/freeze (default: %(default)s)")
    sub.add_argument("--out", type=Path, default=Path("artifacts/resolved"), help="folder (default: %(default)s)")

    sub = add("prepare", _prepare, "read a data set once, check every image, write its index")
    _overrides(sub, "dataset=image_folder dataset.root=DIR out=DIR")
    sub.add_argument("--out", type=Path, help="folder of the index")

    for name, command, text in (
        ("pretrain", _pretrain, "train on the source data set"),
        ("finetune", _finetune, "copy weights to the target's network and fine-tune under a freeze schedule"),
    ):
        sub = add(name, command, text, RUN_FILES)
        _overrides(sub, "freeze=gradual seed=1 out=DIR")
        sub.add_argument("-m", "--multirun", action="store_true", help="run every combination: a=x,y b=1,2")
        sub.add_argument("--cfg", choices=["job"], help="print the composed config and stop")
        stage = sub.add_argument_group("as a stage of a pipeline")
        stage.add_argument("--data", type=Path, help="the prepared data's folder")
        stage.add_argument("--out", type=Path, help="folder of the results")
        stage.add_argument("--timing", type=Path, help="file for the measured seconds")
        stage.add_argument("--pretrained", type=Path, help="folder of the pretraining that weights=pretrain means")

    sub = add("evaluate", _evaluate, "measure trained networks on their test split", "The test split is read here only.")
    sub.add_argument("run", type=Path, nargs="?", help="the folder of a finished run, to measure again")
    sub.add_argument("--resolved", type=Path, help="a resolved YAML of `frostline compose`: measure a study's arm")
    sub.add_argument("--data", type=Path, help="the prepared data's folder")
    sub.add_argument("--finetuned", type=Path, help="folder of the arm's seeds")
    sub.add_argument("--out", type=Path, help="folder of the metrics and predictions")

    sub = add("report", _report, "say what the transfer bought: index.html, report.md, report.json, transfer.png")
    sub.add_argument("--resolved", type=Path, default=Path("artifacts/resolved/report.yaml"))
    sub.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="holds finetune/, evaluate/, timing/")
    sub.add_argument("--out", type=Path, default=Path("artifacts/report"))

    sub = add("gate", _gate, "fail, with exit status 4, if a metric of the report is below its bound")
    sub.add_argument("--resolved", type=Path, default=Path("artifacts/resolved/report.yaml"))
    sub.add_argument("--report", type=Path, default=Path("artifacts/report/report.json"))

    sub = add("ui", _ui, "open the MLflow pages of this project's runs, on this machine only")
    sub.add_argument("--port", type=int, default=5000, help="(default: %(default)s; taken: the next free one)")
    return parser


RUN_FILES = """\
leaves in out: metrics.json, weights.safetensors (the best epoch's), config.yaml, history.csv, training.json,
predictions.csv; out is runs/COMMAND/NAME unless given."""


def _overrides(parser: argparse.ArgumentParser, example: str) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=f"such as {example}")
    parser.add_argument("--resolved", type=Path, help="take a resolved YAML of `frostline compose` instead of overrides")


# ── one function a command ───────────────────────────────────────────────────────────────────────────────────────────


def _compose(arguments: argparse.Namespace) -> None:
    from frostline.stages import compose

    compose.run(arguments.params, arguments.arms, arguments.out)
    print(f"{arguments.out}: resolved for the arms {', '.join(dict.fromkeys(arguments.arms))}")


def _prepare(arguments: argparse.Namespace) -> None:
    from frostline import compose
    from frostline.progress import shown
    from frostline.schema import Prepare
    from frostline.stages import prepare

    if arguments.resolved:
        config, out = _resolved(arguments.resolved, Prepare), arguments.out or Path("artifacts/data")
    else:
        composed, _ = compose.experiment(arguments.overrides)
        config = compose.prepare_config(composed, "target")
        out = arguments.out or Path(composed.out or f"runs/prepare/{config.dataset.kind}")
    with _writing(out):
        index = prepare.run(config, out, shown)
    for warning in index.warnings:
        print(f"frostline: warning: {warning}", file=sys.stderr)
    counts = ", ".join(f"{len(index.rows(split))} {split}" for split in ("train", "val", "test"))
    print(f"{out}: {len(index.labels)} images of {len(index.classes)} classes ({counts})")


def _pretrain(arguments: argparse.Namespace) -> None:
    _train(arguments, "pretrain")


def _finetune(arguments: argparse.Namespace) -> None:
    _train(arguments, "finetune")


def _train(arguments: argparse.Namespace, stage: str) -> None:
    from frostline import compose

    if arguments.cfg:
        print(compose.printed(arguments.overrides), end="")
    elif arguments.resolved:
        _train_stage(arguments, stage)
    elif arguments.multirun:
        from frostline.alone import Job

        _print_sweep(compose.multirun(arguments.overrides, Job(stage)))
    else:
        from frostline.alone import Job

        composed, choices = compose.experiment(arguments.overrides)
        done = Job(stage)(composed, choices)
        test, val = done.metrics["test"], done.metrics["val"]
        print(f"{done.out}: test accuracy {test['accuracy']:.4f}, val accuracy {val['accuracy']:.4f}")


def _train_stage(arguments: argparse.Namespace, stage: str) -> None:
    """A stage of the pipeline: everything is named, nothing is composed."""
    from frostline.schema import PretrainWeights, Run
    from frostline.stages import finetune, pretrain

    if arguments.data is None or arguments.out is None:
        raise FrostlineError("--resolved needs --data and --out; name the prepared data's folder and the results'")
    config = _resolved(arguments.resolved, Run)
    if isinstance(config.weights, PretrainWeights) and config.weights.path is None and arguments.pretrained:
        weights = config.weights.model_copy(update={"path": str(arguments.pretrained / "weights.safetensors")})
        config = config.model_copy(update={"weights": weights})
    with _writing(arguments.out):
        run = pretrain.run if stage == "pretrain" else finetune.run
        run(config, arguments.data, arguments.out, _services(), arguments.timing)


def _evaluate(arguments: argparse.Namespace) -> None:
    from frostline.schema import Evaluate
    from frostline.stages import evaluate

    if arguments.resolved:
        if None in (arguments.data, arguments.finetuned, arguments.out):
            raise FrostlineError("--resolved needs --data, --finetuned and --out")
        config = _resolved(arguments.resolved, Evaluate)
        with _writing(arguments.out):
            evaluate.run(config, arguments.data, arguments.finetuned, arguments.out, _services())
    elif arguments.run:
        from frostline.alone import measure_again

        metrics = measure_again(arguments.run, arguments.out or arguments.run, _services())
        print(f"{arguments.out or arguments.run}: test accuracy {metrics['test']['accuracy']:.4f}")
    else:
        raise FrostlineError("evaluate: name the folder of a finished run, such as runs/finetune/NAME")


def _report(arguments: argparse.Namespace) -> None:
    from frostline.schema import Report
    from frostline.stages import report

    with _writing(arguments.out):
        report.run(_resolved(arguments.resolved, Report), arguments.artifacts, arguments.out)
    print((arguments.out / "report.md").read_text(encoding="utf-8"))


def _gate(arguments: argparse.Namespace) -> None:
    from frostline.schema import Report
    from frostline.stages import gate

    gate.run(_resolved(arguments.resolved, Report).gate, arguments.report)


def _ui(arguments: argparse.Namespace) -> None:
    from frostline.ui import serve

    serve(arguments.port)


# ── what they share ──────────────────────────────────────────────────────────────────────────────────────────────────


def _resolved(path: Path, model: type[Any]) -> Any:
    from frostline.compose import read_yaml
    from frostline.validate import validated

    return validated(model, read_yaml(path), str(path))


def _services() -> "Services":
    from frostline.alone import services

    return services()


def _writing(out: Path) -> Any:
    from frostline.alone import writing

    return writing(out)


def _print_sweep(jobs: Sequence[Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("run", "val accuracy", "test accuracy", "out", box=None)
    for job in sorted(jobs, key=lambda job: -job.metrics["val"]["accuracy"]):
        val, test = (f"{job.metrics[split]['accuracy']:.4f}" for split in ("val", "test"))
        table.add_row(job.name, val, test, str(job.out))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    console.print("compare them in the browser: frostline ui")
