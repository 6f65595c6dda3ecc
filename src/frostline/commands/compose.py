"""`frostline compose`: resolve a study into one config per stage."""

import argparse
from pathlib import Path
from typing import Any

from frostline.commands import options
from frostline.console.progress import waiting

ARMS = ["scratch", "zero_shot", "linear_probe", "full"]
PARAMS = Path("params.yaml")


def add(commands: Any, summary: str) -> None:
    """Add the command's parser."""
    parser = options.add_command(commands, "compose", run, summary)
    parser.add_argument(
        "--params", type=Path, default=PARAMS, help="file that selects the study (default: %(default)s)"
    )
    parser.add_argument(
        "--arms",
        nargs="+",
        metavar="ARM",
        default=ARMS,
        help="scratch (the from-scratch baseline) and schedules of conf/freeze; that of params.yaml is added"
        f" (default: {' '.join(ARMS)})",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("artifacts/resolved"),
        help="folder of the configs (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Write the resolved configs and print which arms run and which are omitted."""
    from frostline.pipeline import unread
    from frostline.pipeline.compose import study
    from frostline.pipeline.compose.stage import compose_study
    from frostline.projects import folder

    if arguments.params == PARAMS:
        folder.require(PARAMS, f"restore it, with `git checkout {PARAMS}`")
    unread.check_selection(study.read_selection(arguments.params))
    with waiting("building the network of each arm"):
        arms, checked = compose_study(arguments.params, arguments.arms, arguments.out)
    print(f"{arguments.out}: resolved for the arms {', '.join(arms)}")
    for arm, reason in checked.omitted.items():
        print(f"{arm} is omitted, since {reason}")
    for notice, of_arms in checked.notices.items():
        print(f"{', '.join(of_arms)}: {notice}")
