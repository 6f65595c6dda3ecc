"""Options and arguments that several commands share."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from frostline.console.errors import FrostlineError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from frostline.schema import Report

Model = TypeVar("Model", bound="BaseModel")

REPORT_CONFIG = Path("artifacts/resolved/report.yaml")
"""Where `dvc repro` writes the config of the report."""
Run = Callable[[argparse.Namespace], int | None]
"""A command's function: takes what was typed and returns an exit status; None is 0."""
RUN_HELP = """\
RUN is a run's folder (runs/finetune/NAME), a registered model (models:/NAME@ALIAS, models:/NAME/VERSION,
runs:/ID/model), or a run's id or name in MLflow, if its weights are still in this project. The name of a
study or sweep means its best run, `best` the best run of the study or sweep that ran last, and `last` the
last finished run."""


def add_command(commands: Any, name: str, run: Run, text: str, epilog: str = "") -> argparse.ArgumentParser:
    """Add a command to the subparsers `commands` and return its parser.

    Args:
        commands: what `ArgumentParser.add_subparsers` returned.
        run: called with the parsed arguments.
        text: one line of help.
        epilog: help below the options, printed as it is.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(command=run, command_name=name, program=parser.prog)
    return parser


def add_overrides(parser: argparse.ArgumentParser, example: str) -> None:
    """Add Hydra overrides as positional arguments."""
    help_text = f"config keys, such as {example}"
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help=help_text)


def add_resolved(parser: Any, default: Path | None = None) -> None:
    """Add `--resolved` to a parser or a group of options; without a default, overrides may replace it."""
    more = " (default: %(default)s)" if default else ", instead of overrides"
    text = f"config that `frostline compose` wrote{more}"
    parser.add_argument("--resolved", type=Path, default=default, help=text)


def add_model(parser: argparse.ArgumentParser, name: str) -> None:
    """Add RUN, the trained network that a command uses, as the argument `name`."""
    parser.add_argument(name, metavar="RUN", help="a run's folder or name, best, last, or models:/NAME@ALIAS")


def add_force(parser: argparse.ArgumentParser) -> None:
    """Add `--force`, for commands that write a run into `out`."""
    parser.add_argument("--force", action="store_true", help="overwrite a run in out that has another config")


def add_tta(parser: argparse.ArgumentParser) -> None:
    """Add `--tta`."""
    parser.add_argument(
        "--tta",
        choices=["none", "flip", "five_crop", "ten_crop"],
        help="test-time augmentation: average the class probabilities of views (default: as the run's config "
        "says)",
    )


def positive(text: str) -> int:
    """Return the whole number that an option's value means."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"found {value}; give at least 1")
    return value


def html_path(text: str) -> Path:
    """Return the path of the HTML page that an option names."""
    path = Path(text)
    if path.suffix != ".html":
        raise argparse.ArgumentTypeError(f"found {text}; name a file that ends in .html")
    return path


def overrides_with_out(arguments: argparse.Namespace) -> list[str]:
    """Return the overrides; `--out DIR` means what `out=DIR` does."""
    return [*arguments.overrides, *([f"out={arguments.out}"] if arguments.out else [])]


def require(arguments: argparse.Namespace, *names: str) -> None:
    """Refuse `--resolved` without the options that it needs."""
    if missing := [f"--{name}" for name in names if getattr(arguments, name) is None]:
        raise FrostlineError(f"--resolved: needs {' and '.join(missing)} too")


def read_resolved(path: Path, model: type[Model]) -> Model:
    """Return the config that a resolved YAML of `frostline compose` holds.

    Raises:
        FrostlineError: it can't be read, or does not fit the schema.
    """
    from frostline.base.formats import read_yaml
    from frostline.schema.validation import validated

    return validated(model, read_yaml(path), str(path))


def read_report_config(path: Path) -> "Report":
    """Return the config of a study's report.

    Raises:
        FrostlineError: as `read_resolved`; or there is no study here, or it did not run.
    """
    from frostline.projects import folder
    from frostline.schema import Report

    if path == REPORT_CONFIG:
        folder.require(path, "run `dvc repro`")
    return read_resolved(path, Report)


def write_if_omitted(resolved: Path, out: Path, timing: Path | None = None) -> bool:
    """Return whether the study omits this stage; if so, write the reason into `out` and print it."""
    from frostline.base import omitted
    from frostline.base.formats import read_yaml
    from frostline.pipeline.session import writing
    from frostline.schema import Omitted
    from frostline.schema.validation import validated

    data = read_yaml(resolved)
    if not isinstance(data, dict) or "omitted" not in data:
        return False
    reason = validated(Omitted, data, str(resolved)).omitted
    with writing(out):
        omitted.write(out, reason, timing)
    print(f"{out}: omitted, since {reason}")
    return True
