"""The tags of a run: what it is, and which code trained it, on which machine, for which user."""

import getpass
import os
import platform
import socket
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

import frostline
from frostline.base import project
from frostline.base.hashes import content_key
from frostline.training.services import RunInfo

STUDY_RUN, MEAN_RUN, SINGLE_RUN, SEED_RUN = "study", "mean run", "single run", "seed"
"""Values of the tag `kind`; those of the rows of a study's results end in `run`."""
REPEATED = ("seed", "dataset.fold", "pretrain.seed")
"""The keys that distinguish the runs of one setting; they are no hyperparameters."""
EVALUATION = "evaluation"
RECORDED_PACKAGES = ("torch", "torchvision", "timm", "pytorch-lightning", "mlflow", "numpy")


def tags_of(about: RunInfo, process: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return a run's tags.

    Args:
        environment: its `environment_tags`.
    """
    fixed = {
        "stage": about.stage,
        "study": about.study,
        "dataset.fingerprint": about.dataset["fingerprint"],
        "process": process,
        "mlflow.source.name": f"frostline {about.stage}",
    }
    tags = {**fixed, **environment, **about.tags}
    if about.seed is not None:
        shared = {key: value for key, value in about.config.items() if key != "seed"}
        if "fold" in shared.get("dataset", {}):
            shared["dataset"] = {k: value for k, value in shared["dataset"].items() if k != "fold"}
        tags["setting"] = content_key([shared, about.dataset["fingerprint"]])[:16]
    return tags


def kind_of(about: RunInfo) -> str:
    """Return the tag `kind` of a run that begins."""
    return EVALUATION if about.stage == "evaluate" else SINGLE_RUN


def environment_tags() -> dict[str, str]:
    """Return the tags of this process: user, machine, commit, package versions."""
    machine = {
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
    }
    experiment = {"dvc.experiment": name} if (name := os.environ.get("DVC_EXP_NAME")) else {}
    return {**machine, **user(), **experiment, **_git(), **_versions()}


def user() -> dict[str, str]:
    """Return the tag with the user's name, if it is known."""
    with suppress(OSError, KeyError):  # no such user, as in a container that runs under a bare number
        return {"mlflow.user": getpass.getuser()}
    return {}


def _git() -> dict[str, str]:
    def git(*arguments: str) -> str:
        result = subprocess.run(
            ["git", *arguments],
            cwd=project.find_root(),
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        return result.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        dirty = str(bool(git("status", "--porcelain", "--untracked-files=no"))).lower()
    except (OSError, subprocess.SubprocessError):
        return {"git.commit": "none"}
    return {"git.commit": commit, "git.dirty": dirty, "mlflow.source.git.commit": commit}


def _versions() -> dict[str, str]:
    versions = {"version.frostline": frostline.__version__}
    for package in RECORDED_PACKAGES:
        with suppress(PackageNotFoundError):
            versions[f"version.{package}"] = version(package)
    return versions
