"""The command line. Heavy imports live inside functions, so that help comes at once."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from frostline import __version__
from frostline.commands.help_texts import (
    CACHE_EXAMPLES,
    COMPARE_EXAMPLES,
    DESCRIPTION,
    EXAMPLES,
    EXPORT_EXAMPLES,
    PREDICT_EXAMPLES,
    PROBE_EXAMPLES,
    REGISTER_EXAMPLES,
    RUN_FILES,
    SYNC_NOTES,
)
from frostline.console import signals, terminal
from frostline.console.errors import (
    FrostlineError,
    GateFailed,
    OutOfRoom,
    TrainingFailed,
    allowed,
    import_sentence,
    memory_sentence,
    no_memory,
    readable,
)
from frostline.training.garbage import uncollected

if TYPE_CHECKING:
    from frostline.training.services import Services

EXIT_USER, EXIT_TRAINING, EXIT_GATE = 2, 3, 4
CLASSES = 10
"""Of a plan for which no data set is looked at: as many as those have that come with frostline."""
PICTURES = (".svg", ".png")
FORCE = "overwrite a run with other settings in out"
SHOWN_RUNS = 24
"""Of a sweep, the best; its page and its table of trials have all."""
TABLE_WIDTH = 160
"""Of a sweep's table where it does not go to a terminal."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    terminal.readable()
    try:
        return _run(_arguments(argv))
    except KeyboardInterrupt:
        return signals.ended()
    except Exception as error:
        # Imports turn an exception that a signal raised amid them into one of their own.
        if signals.received() is not None:
            return signals.ended()
        if os.environ.get("FROSTLINE_TRACEBACK"):
            raise
        if isinstance(error, ImportError) and not (error.name or "").startswith("frostline"):
            return _complain(FrostlineError(import_sentence(error)))
        if no_memory(error):
            return _complain(OutOfRoom(f"{memory_sentence(error)}; close other programs, and run again"))
        raise


def _run(arguments: argparse.Namespace) -> int:
    try:
        status = arguments.command(arguments)
        sys.stdout.flush()
        signals.complete()
        return status or 0
    except FrostlineError as error:
        if signals.received() or os.environ.get("FROSTLINE_TRACEBACK"):
            raise
        return _complain(error)
    except BrokenPipeError:
        # Whoever read our output has gone; a second complaint at exit would be noise.
        terminal.drop(sys.stdout)
        return 0
    except OSError as error:
        if signals.received() or no_memory(error) or os.environ.get("FROSTLINE_TRACEBACK"):
            raise
        where = f"{error.filename}: " if error.filename else ""
        return _complain(FrostlineError(f"{where}{error.strerror or error}; fix that and run again"))


def _complain(error: FrostlineError) -> int:
    try:
        sys.stdout.flush()
    except OSError:
        terminal.drop(sys.stdout)
    print(f"frostline: error: {readable(str(error))}", file=sys.stderr)
    if os.environ.get("DVC_EXP_NAME"):
        from frostline.pipeline import exp_params

        if said := exp_params.take_back():
            print(f"frostline: {said}", file=sys.stderr)
    match error:
        case GateFailed():
            return EXIT_GATE
        case TrainingFailed():
            return EXIT_TRAINING
    return EXIT_USER


# ── what may be typed ───────────────────────────────────────────────────────────────────────────────────────


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in a sentence, without repeating how everything is used."""

    def error(self, message: str) -> NoReturn:
        if match := re.match(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", message):
            names = re.findall(r"\w+", match[3])
            what = "no command" if match[1] == "COMMAND" else f"{match[1]}: there is no"
            message = f"{what} {match[2]!r}; {allowed(match[2], names, limit=len(names))}"
        self.exit(EXIT_USER, f"frostline: error: {readable(message)}; see {self.prog} --help\n")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    # argparse takes no override that stands behind an option's: finetune a=1 -m b=1,2
    late = [word for word in rest if "=" in word and not word.startswith("-")]
    if hasattr(arguments, "overrides") and len(late) == len(rest):
        arguments.overrides += late
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments


def _parser() -> argparse.ArgumentParser:
    style = argparse.RawDescriptionHelpFormatter
    parser = _Parser("frostline", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=style)
    parser.add_argument("--version", action="version", version=f"frostline {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(
        name: str, command: Callable[[argparse.Namespace], int | None], text: str, epilog: str = ""
    ) -> Any:
        sub = commands.add_parser(name, help=text, description=text, epilog=epilog, formatter_class=style)
        sub.set_defaults(command=command)
        return sub

    sub = add("compose", _compose, "resolve params.yaml and conf/ into artifacts/resolved/, one YAML a stage")
    sub.add_argument(
        "--params", type=Path, default=Path("params.yaml"), help="the selection (default: %(default)s)"
    )
    sub.add_argument(
        "--arms",
        nargs="+",
        metavar="ARM",
        default=["scratch", "zero_shot", "linear_probe", "full"],
        help="scratch (the from-scratch baseline), and schedules of conf/freeze; the one that the selection"
        " names is added (default: %(default)s)",
    )
    sub.add_argument(
        "--out", type=Path, default=Path("artifacts/resolved"), help="folder (default: %(default)s)"
    )

    sub = add("prepare", _prepare, "read a data set once, check every image, write its index")
    _overrides(sub, "dataset=image_folder dataset.root=DIR out=DIR")
    _resolved_option(sub)
    sub.add_argument("--out", type=Path, help="folder of the index")

    sub = add(
        "plan", _plan, "say what would train when, at which rates, in the study that params.yaml selects"
    )
    _overrides(sub, "freeze=gradual backbone=resnet18")
    sub.add_argument(
        "--stage", choices=["pretrain", "finetune"], default="finetune", help="default: %(default)s"
    )
    sub.add_argument(
        "--images", type=_positive, metavar="N", help="training images, instead of preparing the data"
    )
    sub.add_argument(
        "--classes", type=_positive, metavar="N", default=CLASSES, help="with --images (default: %(default)s)"
    )
    sub.add_argument(
        "--format",
        choices=["table", "yaml", "json"],
        default="table",
        help="yaml: the schedule written out, to edit and run (default: %(default)s)",
    )
    sub.add_argument(
        "--picture", type=_picture, metavar="FILE", help="draw rates and thaw depth too: .svg or .png"
    )

    for name, train, text in (
        ("pretrain", _pretrain, "train on the source data set"),
        ("finetune", _finetune, "copy weights to the target's network and fine-tune under a freeze schedule"),
    ):
        sub = add(name, train, text, RUN_FILES)
        _overrides(sub, "freeze=gradual seed=1 out=DIR")
        sub.add_argument("-m", "--multirun", action="store_true", help="run every combination: a=x,y b=1,2")
        sub.add_argument("--fresh", action="store_true", help="with -m: forget what this sweep has done")
        sub.add_argument("--force", action="store_true", help=FORCE)
        sub.add_argument("--cfg", choices=["job"], help="print the composed config and stop")
        stage = sub.add_argument_group("as a stage of a pipeline")
        _resolved_option(stage)
        stage.add_argument("--data", type=Path, help="the prepared data's folder")
        stage.add_argument("--out", type=Path, help="folder of the results")
        stage.add_argument("--timing", type=Path, help="file for the measured seconds")
        stage.add_argument(
            "--pretrained", type=Path, help="folder of the pretraining that weights=pretrain means"
        )

    sub = add("probe", _probe, "judge a backbone's frozen features: many heads at once", PROBE_EXAMPLES)
    _overrides(sub, "optimizer.lr=1e-3,1e-2 seed=0,1,2 out=DIR")
    sub.add_argument("-m", "--multirun", action="store_true", help="not needed: lists are tried anyway")
    sub.add_argument("--force", action="store_true", help=FORCE)
    sub.add_argument("--out", type=Path, help="folder of the results")

    sub = add("evaluate", _evaluate, "measure trained networks on their test split, which is read here only")
    sub.add_argument("run", type=Path, nargs="?", help="the folder of a finished run, to measure again")
    sub.add_argument("--out", type=Path, help="folder of the metrics and predictions (default: the run's)")
    sub.add_argument(
        "--force", action="store_true", help="overwrite other metrics; accept an edited config.yaml"
    )
    stage = sub.add_argument_group("as a stage of a pipeline")
    _resolved_option(stage)
    stage.add_argument("--data", type=Path, help="the prepared data's folder")
    stage.add_argument("--finetuned", type=Path, help="folder of the arm's seeds")

    sub = add(
        "report", _report, "say what the transfer bought: index.html, report.md, report.json, transfer.png"
    )
    sub.add_argument("--resolved", type=Path, default=Path("artifacts/resolved/report.yaml"))
    sub.add_argument(
        "--artifacts", type=Path, default=Path("artifacts"), help="holds finetune/, evaluate/, timing/"
    )
    sub.add_argument("--out", type=Path, default=Path("artifacts/report"))

    sub = add("gate", _gate, "fail, with exit status 4, if a metric of the report is below its bound")
    sub.add_argument("--resolved", type=Path, default=Path("artifacts/resolved/report.yaml"))
    sub.add_argument("--report", type=Path, default=Path("artifacts/report/report.json"))

    sub = add("ui", _ui, "open the MLflow pages of this project's runs, on this machine only")
    sub.add_argument(
        "--port", type=int, default=5000, help="(default: %(default)s; taken: the next free one)"
    )

    sub = add("compare", _compare, "put finished runs side by side, grouped over seeds", COMPARE_EXAMPLES)
    sub.add_argument(
        "runs", nargs="*", metavar="RUN", help="an id, a name with or without its seed, or a run's folder"
    )
    sub.add_argument("--study", help="all runs of a study or a sweep (default: the newest)")
    sub.add_argument("--filter", metavar="TEXT", help="all runs for which MLflow's filter holds")
    sub.add_argument(
        "--metric", action="append", metavar="NAME", help="a column, the first orders; may be repeated"
    )
    sub.add_argument("--format", choices=["table", "md", "csv", "html"], default="table", help="to print")
    sub.add_argument("--out", type=Path, help="write a file instead: .md, .csv or .html")
    sub.add_argument(
        "--open", action="store_true", help="then open MLflow's page that compares the same runs"
    )

    sub = add("cache", _cache, "list what is kept for runs to come, or make room", CACHE_EXAMPLES)
    _answer_option(sub, "table")
    actions = sub.add_subparsers(metavar="ACTION")
    for name, action, text in (
        ("prune", _cache_prune, "remove the least recently used features until the rest fits"),
        ("clear", _cache_clear, "remove all features, and the images that are kept at a network's size"),
    ):
        sub = actions.add_parser(name, help=text, description=text, formatter_class=style)
        sub.set_defaults(command=action)
        _answer_option(sub, argparse.SUPPRESS)
        if action is _cache_prune:
            sub.add_argument(
                "--to", type=_size, metavar="SIZE", help="such as 5GiB, 500MiB or 0 (default: the limit)"
            )

    add("sync", _sync, "deliver to MLflow what it could not record when it happened", SYNC_NOTES)

    sub = add("register", _register, "make a run's network a version of a model in MLflow", REGISTER_EXAMPLES)
    sub.add_argument("run", metavar="RUN", help="a run's folder, its id or its name; see below")
    sub.add_argument("--name", required=True, help="of the model; made if there is none yet")
    sub.add_argument("--alias", help="such as champion: models:/NAME@ALIAS is then this version")

    sub = add(
        "predict", _predict, "say what a trained network sees in pictures, as CSV or JSON", PREDICT_EXAMPLES
    )
    sub.add_argument(
        "model", metavar="RUN", help="such as models:/digits@champion or a run's folder; see below"
    )
    sub.add_argument("images", metavar="IMAGE|FOLDER", nargs="+", help="image files, and folders of them")
    sub.add_argument("--format", choices=["csv", "json"], default="csv", help="(default: %(default)s)")
    sub.add_argument("--out", type=Path, metavar="FILE", help="(default: standard output)")
    sub.add_argument(
        "--top-k", type=_positive, metavar="K", default=1, help="likeliest classes (default: %(default)s)"
    )
    sub.add_argument(
        "--batch-size", type=_positive, metavar="N", help="images a pass (default: the run's eval_batch_size)"
    )

    sub = add("export", _export, "write a trained network as a file, and check it", EXPORT_EXAMPLES)
    sub.add_argument(
        "run", metavar="RUN", help="such as models:/digits@champion or a run's folder; see below"
    )
    sub.add_argument("--format", choices=["torchscript", "onnx", "safetensors"], required=True)
    sub.add_argument("--out", type=Path, metavar="FILE", required=True)

    add(
        "doctor",
        _doctor,
        "check this machine, the environment and the project; exit 1 if something is broken",
    )
    return parser


def _overrides(parser: argparse.ArgumentParser, example: str) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=f"such as {example}")


def _resolved_option(parser: Any) -> None:
    parser.add_argument("--resolved", type=Path, help="a resolved YAML of `frostline compose`, for overrides")


def _answer_option(parser: Any, default: str) -> None:
    parser.add_argument(
        "--format", choices=["table", "json"], default=default, help="json: for scripts (default: table)"
    )


def _size(text: str) -> int:
    from frostline.commands.cache import bytes_of

    try:
        return bytes_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"found {value}; give at least 1")
    return value


def _picture(text: str) -> Path:
    path = Path(text)
    if path.suffix not in PICTURES:
        raise argparse.ArgumentTypeError(f"found {text}; name a file that ends in {' or '.join(PICTURES)}")
    return path


# ── one function a command ──────────────────────────────────────────────────────────────────────────────────


def _compose(arguments: argparse.Namespace) -> None:
    from frostline.pipeline.compose import stage as compose

    arms, omitted = compose.run(arguments.params, arguments.arms, arguments.out)
    print(f"{arguments.out}: resolved for the arms {', '.join(arms)}")
    for arm, reason in omitted.items():
        print(f"{arm} is omitted, since {reason}")


def _prepare(arguments: argparse.Namespace) -> None:
    from frostline.base import project
    from frostline.config import compose, stage_configs
    from frostline.console.progress import shown
    from frostline.schema import Prepare

    if arguments.resolved:
        out = arguments.out or Path("artifacts/data")
        if _is_omitted(arguments.resolved, out):
            return
        config = _resolved(arguments.resolved, Prepare)
    else:
        composed, _ = compose.experiment(arguments.overrides)
        config = stage_configs.prepare_config(composed, "target")
        out = arguments.out or Path(composed.out or f"runs/prepare/{config.dataset.kind}")
    from frostline.preparation import stage as prepare

    with _writing(out):
        index = prepare.run(config, out, shown)
    if not arguments.resolved:
        prepare.set_aside_if_damaged(config, project.scratch())
    for warning in index.warnings:
        print(f"frostline: warning: {warning}", file=sys.stderr)
    counts = ", ".join(f"{len(index.rows(split)) or 'no'} {split}" for split in ("train", "val", "test"))
    print(f"{out}: {len(index.labels)} images of {len(index.classes)} classes ({counts})")


def _plan(arguments: argparse.Namespace) -> None:
    from frostline.config import compose
    from frostline.pipeline.compose import study

    composed, choices = compose.experiment(study.on_selection(arguments.overrides))
    from frostline.planning import plan
    from frostline.planning import text as plan_text

    made = plan.make(composed, choices, arguments.stage, arguments.images, arguments.classes)
    match arguments.format:
        case "table":
            plan_text.show(made, None if sys.stdout.isatty() else TABLE_WIDTH)
        case "yaml":
            print(plan_text.as_yaml(made), end="")
        case "json":
            print(made.as_json(), end="")
    if arguments.picture:
        from frostline.base.files import write_bytes
        from frostline.planning import plot as plan_picture

        write_bytes(arguments.picture, plan_picture.draw(made.as_data(), arguments.picture.suffix))


def _pretrain(arguments: argparse.Namespace) -> None:
    _train(arguments, "pretrain")


def _finetune(arguments: argparse.Namespace) -> None:
    _train(arguments, "finetune")


@uncollected()
def _train(arguments: argparse.Namespace, stage: str) -> None:
    from frostline.config import compose
    from frostline.pipeline.standalone import Job

    if arguments.cfg:
        print(compose.printed(arguments.overrides), end="")
    elif arguments.resolved:
        _train_stage(arguments, stage)
    elif arguments.multirun:
        from frostline.probing import batched_finetune as together

        at_once = {"at_once": together.finetune} if stage == "finetune" else {}
        with signals.unwinding():  # a launcher has workers to end
            jobs = compose.multirun(
                _with_out(arguments), Job(stage, arguments.force), **at_once, fresh=arguments.fresh
            )
        _print_sweep(jobs)
    else:
        composed, choices = compose.experiment(_with_out(arguments))
        done = Job(stage, arguments.force)(composed, choices)
        splits = [split for split in ("test", "val") if split in done.metrics]
        shown = ", ".join(f"{split} accuracy {done.metrics[split]['accuracy']:.4f}" for split in splits)
        print(f"{done.out}: {shown}")


def _train_stage(arguments: argparse.Namespace, stage: str) -> None:
    """A stage of the pipeline: everything is named, nothing is composed."""
    from frostline.schema import PretrainWeights, Run

    _required(arguments, "data", "out")
    if _is_omitted(arguments.resolved, arguments.out, arguments.timing):
        return
    config = _resolved(arguments.resolved, Run)
    if isinstance(config.weights, PretrainWeights) and config.weights.path is None and arguments.pretrained:
        weights = config.weights.model_copy(
            update={"path": str(arguments.pretrained / "weights.safetensors")}
        )
        config = config.model_copy(update={"weights": weights})
    with _writing(arguments.out):
        services = _services()  # before the imports that training needs: the recorder gets ready beside them
        from frostline.pipeline.finetune import stage as finetune
        from frostline.pipeline.pretrain import stage as pretrain

        run = pretrain.run if stage == "pretrain" else finetune.run
        run(config, arguments.data, arguments.out, services, arguments.timing)


@uncollected()
def _probe(arguments: argparse.Namespace) -> None:
    from frostline.probing import command as probing

    probing.run(_with_out(arguments), force=arguments.force)


@uncollected()
def _evaluate(arguments: argparse.Namespace) -> None:
    from frostline.schema import Evaluate

    if arguments.resolved:
        _required(arguments, "data", "finetuned", "out")
        config = _resolved(arguments.resolved, Evaluate)
        with _writing(arguments.out):
            services = _services()
            from frostline.evaluation import evaluate

            evaluate.run(config, arguments.data, arguments.finetuned, arguments.out, services)
    elif arguments.run:
        from frostline.base.metrics import held_out
        from frostline.pipeline import reevaluate

        metrics = reevaluate.run(arguments.run, arguments.out, force=arguments.force)
        split = held_out(metrics)
        print(f"{arguments.out or arguments.run}: {split} accuracy {metrics[split]['accuracy']:.4f}")
    else:
        raise FrostlineError("evaluate: name the folder of a finished run, such as runs/finetune/NAME")


def _report(arguments: argparse.Namespace) -> None:
    from frostline.pipeline.report import stage as report
    from frostline.schema import Report

    with _writing(arguments.out):
        result = report.run(_resolved(arguments.resolved, Report), arguments.artifacts, arguments.out)
    print(f"{result.sentence}\n\n{result.table}\n{result.page}")


def _gate(arguments: argparse.Namespace) -> None:
    from frostline.schema import Report
    from frostline.stats import gate

    gate.run(_resolved(arguments.resolved, Report).gate, arguments.report)


def _ui(arguments: argparse.Namespace) -> None:
    from frostline.commands.ui import serve

    serve(arguments.port)


def _compare(arguments: argparse.Namespace) -> None:
    if arguments.runs and (arguments.study or arguments.filter):
        raise FrostlineError("compare: name runs, or use --study and --filter")
    from frostline.comparison import command as comparing

    width = None if sys.stdout.isatty() else TABLE_WIDTH
    given = (arguments.runs, arguments.study, arguments.filter, arguments.metric or ())
    made = comparing.run(*given, arguments.out, arguments.format, width)
    if arguments.open:
        from frostline.commands.ui import serve
        from frostline.tracking.store import Store

        sys.stdout.flush()
        serve(5000, comparing.page(made, Store(reading=True).experiment))


def _cache(arguments: argparse.Namespace) -> None:
    from frostline.commands import cache as kept

    kept.show(arguments.format)


def _cache_prune(arguments: argparse.Namespace) -> None:
    from frostline.commands import cache as kept

    kept.prune(arguments.to, arguments.format)


def _cache_clear(arguments: argparse.Namespace) -> None:
    from frostline.commands import cache as kept

    kept.clear(arguments.format)


def _sync(arguments: argparse.Namespace) -> None:
    from frostline.tracking import sync as syncing

    syncing.run()


def _register(arguments: argparse.Namespace) -> None:
    from frostline.serving import resolve as located
    from frostline.tracking import sync as syncing

    syncing.first()

    folder = located.folder(arguments.run)
    from frostline.runs.trained_run import Trained
    from frostline.tracking.registry import Models
    from frostline.tracking.store import Store

    made = Models(Store()).register(Trained.read(folder), arguments.name, arguments.alias)
    what = f"{made.name} version {made.version}"
    print(
        f"{what}: {made.description}" if made.new else f"{what} has these weights already: {made.description}"
    )
    if made.difference is not None:
        print(f"differs from the network by {made.difference:.1e} at most, on {made.tried_on}")
    if arguments.alias:
        before = f" (before: version {made.moved})" if made.moved else ""
        print(f"models:/{made.name}@{arguments.alias} is version {made.version}{before}")


def _predict(arguments: argparse.Namespace) -> int:
    from frostline.serving import resolve as located

    folder = located.folder(arguments.model)
    from frostline.runs.trained_run import Trained
    from frostline.serving import prediction as predicting

    bad = predicting.run(
        Trained.read(folder),
        arguments.images,
        arguments.format,
        arguments.out,
        arguments.top_k,
        arguments.batch_size,
    )
    if bad:
        sys.stdout.flush()
        what = "1 picture" if bad == 1 else f"{bad} pictures"
        raise FrostlineError(
            f"predict: {what} could not be used; the error column says why, the rest is there"
        )
    return 0


def _export(arguments: argparse.Namespace) -> None:
    from frostline.serving import resolve as located

    folder = located.folder(arguments.run)
    from frostline.console.units import size
    from frostline.runs.trained_run import Trained
    from frostline.serving import export as exporting

    made = exporting.run(Trained.read(folder), arguments.format, arguments.out)
    print(
        f"{made.file}: {size(made.file.stat().st_size)}, differs from the network by {made.difference:.1e}"
        f" at most, on {made.tried_on}"
    )


def _doctor(arguments: argparse.Namespace) -> int:
    from frostline.commands import doctor

    return 0 if doctor.run() else 1


# ── what they share ─────────────────────────────────────────────────────────────────────────────────────────


def _with_out(arguments: argparse.Namespace) -> list[str]:
    """The overrides; `--out DIR` means what `out=DIR` does."""
    out = [f"out={arguments.out}"] if arguments.out else []
    return [*arguments.overrides, *out]


def _required(arguments: argparse.Namespace, *names: str) -> None:
    if missing := [f"--{name}" for name in names if getattr(arguments, name) is None]:
        raise FrostlineError(f"--resolved: needs {' and '.join(missing)} too")


def _resolved(path: Path, model: type[Any]) -> Any:
    from frostline.base.formats import read_yaml
    from frostline.schema.validation import validated

    return validated(model, read_yaml(path), str(path))


def _is_omitted(resolved: Path, out: Path, timing: Path | None = None) -> bool:
    """Write the reason into `out` where a study does without a stage; return whether it does."""
    from frostline.base import omitted
    from frostline.base.formats import read_yaml
    from frostline.schema import Omitted
    from frostline.schema.validation import validated

    data = read_yaml(resolved)
    if not isinstance(data, dict) or "omitted" not in data:
        return False
    reason = validated(Omitted, data, str(resolved)).omitted
    with _writing(out):
        omitted.write(out, reason, timing)
    print(f"{out}: omitted, since {reason}")
    return True


def _services() -> "Services":
    from frostline.pipeline.standalone import services

    return services()


def _writing(out: Path) -> AbstractContextManager[None]:
    from frostline.pipeline.standalone import writing

    return writing(out)


def _print_sweep(jobs: Sequence[Any]) -> None:
    """Print a sweep's runs, the best on validation first; those that failed come last and make an error."""
    from rich.console import Console
    from rich.table import Table

    from frostline.config.compose import Failed
    from frostline.pipeline.standalone import Done, Stopped

    failed = [job for job in jobs if isinstance(job, Failed)]
    done = [job for job in jobs if isinstance(job, Done)]
    table = Table("run", "val accuracy", "test accuracy", "out", box=None)
    best = sorted(done, key=lambda job: -job.metrics["val"]["accuracy"])
    for job in best[:SHOWN_RUNS]:
        val, test = (
            f"{job.metrics[split]['accuracy']:.4f}" if split in job.metrics else ""
            for split in ("val", "test")
        )
        table.add_row(job.name, val, test, str(job.out))
    for stopped in (job for job in jobs if isinstance(job, Stopped)):
        table.add_row(stopped.name, "pruned", "", "")
    for broken in failed:
        table.add_row(broken.label, "failed", "failed", "")
    console = Console(width=None if sys.stdout.isatty() else TABLE_WIDTH, highlight=False)
    console.print(table)
    if len(best) > SHOWN_RUNS:
        console.print(f" … and {len(best) - SHOWN_RUNS} more, whose val accuracy is lower")
    if done:
        console.print("compare them: frostline compare; in the browser: frostline ui")
    if failed:
        sys.stdout.flush()
        sentences = "\n".join(f"{job.label}: {job.error}" for job in failed)
        broke_down = any(isinstance(job.error, TrainingFailed) for job in failed)
        kind = TrainingFailed if broke_down else FrostlineError
        raise kind(f"{len(failed)} of {len(jobs)} runs failed\n{sentences}")
