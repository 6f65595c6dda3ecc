"""The command line's entry: parse, run a command, turn exceptions into one sentence and an exit status.

Heavy imports live inside the commands' functions, so that help comes at once.
"""

import argparse
import os
import re
import sys
from collections.abc import Collection, Sequence
from functools import partial
from importlib import import_module
from typing import NoReturn

from frostline import __version__
from frostline.commands import early_checks
from frostline.commands.project_lock import check_lock
from frostline.console import signals, terminal
from frostline.console.errors import (
    FrostlineError,
    GateFailed,
    OutOfResources,
    TrainingFailed,
    allowed,
    check_addresses,
    import_sentence,
    is_out_of_memory,
    memory_sentence,
    shorten_words,
    system_error,
)

EXIT_USER, EXIT_TRAINING, EXIT_GATE = 2, 3, 4
COMMANDS = {
    "finetune": "fine-tune a network under a freeze schedule",
    "plan": "print which layers a run would train when, the learning rates and the cost",
    "show": "write a sheet of labelled training images as the network sees them",
    "lr-find": "find a learning rate: the loss at increasing learning rates, and a suggestion",
    "probe": "measure a backbone's frozen features: linear heads, ridge regression, nearest neighbours",
    "pretrain": "pretrain a network on the source data set",
    "prepare": "check every image of a data set, split it, and write its index",
    "leakage": "find images of the source in the target's validation and test data",
    "evaluate": "measure a trained network on its test split, or on a further test set",
    "compare": "compare finished runs, grouped over seeds",
    "ui": "serve MLflow with this project's runs, on this machine only",
    "predict": "classify images with a trained network, as CSV or JSON",
    "register": "register a run's network in MLflow, as a new version of a model",
    "export": "export a trained network as ONNX, PT2 or safetensors",
    "init": "begin a study in your own repository: write its DVC pipeline and configs",
    "experiments": "compare the experiments of `dvc exp run`",
    "compose": "write the config of every pipeline stage from params.yaml and conf/",
    "report": "compare a study's arms with the from-scratch baseline: page, table, plot, JSON, CSV",
    "gate": "exit with status 4 if a metric of the report is below its bound",
    "upgrade": "let this project use the installed frostline; dvc repro then re-runs what changed",
    "cache": "list cached features and images, or free disk space",
    "sync": "deliver pending records to MLflow",
    "doctor": "check this machine, the environment and the project (exit status 1: something is broken)",
}
"""What each does, in the order of `frostline --help`. Each has a module, imported when it is needed."""
SYNONYMS = {
    "frostline finetune": ("train", "fit", "run", "fine-tune", "fine_tune"),
    "frostline finetune -m": ("sweep", "tune", "search", "optimize", "hpo"),
    "frostline evaluate": ("test", "validate", "val", "eval"),
    "frostline predict": ("infer", "inference", "classify"),
    "frostline lr-find": ("lr_find", "lrfind", "lr_finder"),
    "frostline plan": ("summary", "preview"),
    "frostline ui": ("mlflow", "serve", "server", "dashboard"),
    "frostline compare": ("list", "ls", "runs", "leaderboard"),
    "dvc repro": ("repro", "reproduce"),
    "frostline --version": ("version",),
}
"""Command → what users of other tools call it."""
MEANT = {synonym: command for command, synonyms in SYNONYMS.items() for synonym in synonyms}
NETWORK_COMMANDS = ("evaluate", "predict", "export", "register")
"""Commands without overrides that import torch."""
DESCRIPTION = """\
Fine-tune image classifiers under a freeze schedule, and compare them with training from scratch."""
EPILOG = """\
examples:
  frostline finetune dataset=image_folder dataset.root=DIR backbone=efficientnet_lite0 weights=imagenet
                     freeze=linear_probe out=DIR                  fine-tune on your own images
  frostline finetune -m freeze=linear_probe,full seed=0,1,2       run every combination
  frostline finetune --cfg job                                    print all keys and their values
  frostline plan freeze=gradual                                   print what would train when
  frostline probe optimizer.lr=1e-3,1e-2 seed=0,1,2               measure a backbone's frozen features
  frostline compare --study NAME                                  compare the runs of a study
  frostline ui                                                    compare runs in the browser
  frostline predict RUN FOLDER                                    classify images
  frostline init NAME --source DIR --target DIR                   begin a study in your own project
  dvc repro                                                       run the study that params.yaml selects

KEY=VALUE is a Hydra override: it selects a file of conf/ (freeze=gradual: conf/freeze/gradual.yaml) or sets a
value (trainer.epochs=5).

exit status: 0 done, 2 an error in a config, a file or the command, 3 training failed, 4 a metric below the
gate, 130 interrupted (SIGTERM: 143, SIGHUP: 129)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    terminal.configure_streams()
    try:
        return _run(parse(argv))
    except KeyboardInterrupt:
        return _interrupted()
    except Exception as error:
        # An exception that a signal raises during an import may arrive as an ImportError.
        if signals.received_signal() is not None:
            return _interrupted()
        if os.environ.get("FROSTLINE_TRACEBACK"):
            raise
        if isinstance(error, ImportError) and not (error.name or "").startswith("frostline"):
            return _report_error(FrostlineError(import_sentence(error)))
        if is_out_of_memory(error):
            return _report_error(
                OutOfResources(f"{memory_sentence(error)}; close other programs, and run again")
            )
        raise


def _run(arguments: argparse.Namespace) -> int:
    """Run the command; what goes wrong becomes a sentence and an exit status."""
    try:
        check_lock(arguments)
        early_checks.check(arguments)
        if hasattr(arguments, "overrides") or arguments.command_name in NETWORK_COMMANDS:
            check_addresses()
        status = arguments.command(arguments)
        sys.stdout.flush()
        signals.mark_complete()
        return status or 0
    except FrostlineError as error:
        if signals.received_signal() or os.environ.get("FROSTLINE_TRACEBACK"):
            raise
        status = _report_error(error)
        if getattr(arguments, "resolved", None):
            from frostline.config import hints

            if hint := hints.of_study(str(error)):
                print(f"frostline: {hint}", file=sys.stderr)
        return status
    except BrokenPipeError:
        # The reader of our output has closed it; another message at exit would only repeat that.
        terminal.discard_output(sys.stdout)
        return 0
    except OSError as error:
        if signals.received_signal() or is_out_of_memory(error) or os.environ.get("FROSTLINE_TRACEBACK"):
            raise
        return _report_error(system_error(error))


def _report_error(error: FrostlineError) -> int:
    """Print an error as one sentence, and return its exit status."""
    try:
        sys.stdout.flush()
    except OSError:
        terminal.discard_output(sys.stdout)
    print(f"frostline: error: {shorten_words(str(error))}", file=sys.stderr)
    _undo_set_params()
    match error:
        case GateFailed():
            return EXIT_GATE
        case TrainingFailed():
            return EXIT_TRAINING
    return EXIT_USER


def _interrupted() -> int:
    """Say that a signal ended the command, and return its exit status."""
    status = signals.exit_status()
    _undo_set_params()
    return status


def _undo_set_params() -> None:
    """Undo what `dvc exp run -S KEY=VALUE` wrote into params.yaml, since the run has failed."""
    if os.environ.get("DVC_EXP_NAME"):
        from frostline.pipeline import exp_params

        if sentence := exp_params.restore():
            print(f"frostline: {sentence}", file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    """Reports a mistake in one sentence, without the usage that argparse prints before it."""

    def error(self, message: str) -> NoReturn:
        if match := re.match(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", message):
            names = re.findall(r"[\w-]+", match[3])
            what = "no command" if match[1] == "COMMAND" else f"{match[1]}: there is no"
            meant = MEANT.get(match[2]) if match[1] == "COMMAND" else None
            instead = f"write {meant}" if meant else allowed(match[2], names, limit=len(names))
            message = f"{what} {match[2]!r}; {instead}"
        self.exit(EXIT_USER, f"frostline: error: {shorten_words(message)}; see {self.prog} --help\n")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed arguments; `command` is the function to call with them."""
    words = sys.argv[1:] if argv is None else argv
    parser = command_parser([word for word in words if not word.startswith("-")][:1])
    arguments, rest = parser.parse_known_args(words)
    # argparse rejects overrides that follow an option, if others precede it: finetune a=1 -m b=1,2
    late = [word for word in rest if "=" in word and not word.startswith("-")]
    if hasattr(arguments, "overrides") and len(late) == len(rest):
        arguments.overrides += late
    elif rest:
        parser.prog = arguments.program
        parser.error(_unknown_words(arguments, rest))
    return arguments


def _unknown_words(arguments: argparse.Namespace, words: Sequence[str]) -> str:
    """Return a sentence for words that no option takes; dashes before a key are a habit from other tools."""
    from frostline.config import hints
    from frostline.pipeline import unread

    overrides, command = getattr(arguments, "overrides", None), early_checks.name_of(arguments)
    hint = None if overrides is None else hints.of_flag(words[0], overrides, partial(unread.renamed, command))
    return hint or f"unrecognized arguments: {' '.join(words)}"


def command_parser(commands: Collection[str]) -> argparse.ArgumentParser:
    """Return the parser of the command line.

    Args:
        commands: those whose options are needed. The modules of the others are not imported; `--help` lists
            their summaries.
    """
    style = argparse.RawDescriptionHelpFormatter
    parser = _Parser("frostline", description=DESCRIPTION, epilog=EPILOG, formatter_class=style)
    parser.add_argument("--version", action="version", version=f"frostline {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        if name in commands:
            import_module(f"frostline.commands.{name.replace('-', '_')}").add(subparsers, summary)
        else:
            subparsers.add_parser(name, help=summary)
    return parser
