"""`frostline init`: begin a study in a project of your own."""

import argparse
from pathlib import Path
from typing import Any

from frostline.commands import options

EPILOG = """\
examples:
  frostline init my-study --source photos_a --target photos_b    two folders of images, a folder per class
  frostline init my-study --source photos_a --target labels.csv dataset.group=patient dataset.folds=5
  frostline init my-study --target photos_b                      from ImageNet weights, without pretraining
  frostline init my-digits --from mnist_to_digits                a copy of an experiment of frostline

writes into the current folder: params.yaml, dvc.yaml, conf/experiment/NAME.yaml, frostline.lock/, a README,
and lines of .gitignore and .dvcignore. Existing files are replaced with --force only. Then run `dvc repro`;
the report is artifacts/report/index.html."""


def add(commands: Any, summary: str) -> None:
    """Add the command's parser."""
    parser = options.add_command(commands, "init", run, summary, EPILOG)
    parser.add_argument(
        "study", metavar="NAME", help="name of the study: letters, digits, - and _, no spaces"
    )
    data = "a folder, a CSV, TSV or Parquet file, an .npz file, or a saved Hugging Face data set"
    parser.add_argument(
        "--source",
        type=Path,
        metavar="DATA",
        help=f"images to pretrain on: {data}; without any, the study starts from ImageNet weights",
    )
    parser.add_argument("--target", type=Path, metavar="DATA", help="images to fine-tune on")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],  # else argparse lists them among the required arguments
        metavar="KEY=VALUE",
        help="keys of the data sets, such as dataset.group=patient",
    )
    parser.add_argument(
        "--from", dest="experiment", metavar="EXPERIMENT", help="experiment to copy with its data sets"
    )
    parser.add_argument("--force", action="store_true", help="replace existing files, and list them")


def run(arguments: argparse.Namespace) -> None:
    """Write the study's files and print what to do next."""
    from frostline.projects.study import Study, begin

    study = Study(
        arguments.study,
        arguments.source and arguments.source.expanduser(),  # DVC does not expand ~
        arguments.target and arguments.target.expanduser(),
        arguments.experiment,
        tuple(arguments.overrides),
    )
    written = begin(study, Path.cwd(), force=arguments.force)
    done = {"wrote": written.new, "replaced": written.replaced, "added lines to": written.extended}
    for verb, names in done.items():
        if names:
            print(f"{verb} {', '.join(names)}")
    print("\nnext:")
    commit = f'git add . && git commit -m "Begin {arguments.study}"'
    plan = "frostline plan --time    (how long it trains on this machine)"
    reproduce = "dvc repro    (run the study; then open artifacts/report/index.html)"
    for note in (*written.notes, commit, plan, reproduce):
        print(f"  {note}")
