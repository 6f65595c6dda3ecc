"""The files of a study in a user's project: what `frostline init` writes."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from frostline.base import project
from frostline.base.code import FOLDERS
from frostline.base.files import write_text
from frostline.console.errors import FrostlineError, allowed
from frostline.data.reading.table_file import TABLES
from frostline.pipeline.data_places import parsed_keys
from frostline.plotting.templates import templates
from frostline.projects import lock
from frostline.projects.data_sets import DataSet
from frostline.projects.input_size import input_size

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
IGNORED = ("/.frostline/", "/runs/", "/mlflow.db*", "/mlartifacts/", "/dvc_plots/", "__pycache__/")
"""Lines of .gitignore and .dvcignore: what commands make beside the study's outputs, which DVC has to see."""
BEST_TRIALS = "/conf/experiment/*-best.yaml"
"""What sweeps add to `conf`, on which the stage `compose` depends as a whole."""
GROUPS = ("source", "dataset")
"""The config groups of the data sets, whose keys may be given."""
SIDE, SIDE_FROM_IMAGENET = 64, 128
"""Side of the input, pixels: a network trained from random weights, and one with ImageNet weights."""
SCHEDULE = "gradual"
"""The schedule of params.yaml, unless the experiment has one."""
TEMPLATES = Path(__file__).parent / "templates"
PACKAGED_DATA = f"{project.LOCK}/{lock.PACKAGES}"


@dataclass(frozen=True)
class Study:
    """A study to begin."""

    name: str
    """Of the study and of its experiment."""
    source: Path | None = None
    """The images to pretrain on: a folder, a table, …; None: start from ImageNet weights."""
    target: Path | None = None
    """The images to fine-tune on."""
    experiment: str | None = None
    """The experiment that is copied; None: a new one."""
    keys: Sequence[str] = ()
    """KEY=VALUE, further keys of the data sets."""

    @cached_property
    def data_sets(self) -> dict[str, DataSet]:
        """The user's own data sets, by role."""
        keys = parsed_keys(self.keys, GROUPS, "others can be set in conf/experiment afterwards")
        places = {"source": self.source, "target": self.target}
        return {
            role: DataSet(f"--{role}", place, keys["source" if role == "source" else "dataset"])
            for role, place in places.items()
            if place is not None
        }

    def check(self) -> None:
        """Refuse names and data sets that can't work.

        Raises:
            FrostlineError: with the option that is wrong.
        """
        if not NAME.fullmatch(self.name):
            raise FrostlineError(
                f"NAME: found {self.name!r}; give letters, digits, - and _, beginning with a letter"
            )
        if self.experiment is not None:
            known = list(project.conf_files("experiment"))
            if self.experiment not in known:
                raise FrostlineError(
                    f"--from: no experiment {self.experiment!r}; {allowed(self.experiment, known)}"
                )
            self._check_copied()
            return
        if "target" not in self.data_sets:
            raise FrostlineError(
                "--target: missing; give the images to fine-tune on, or --from EXPERIMENT to copy one with"
                " its data sets"
            )
        for data_set in self.data_sets.values():
            data_set.check()
        if "source" in self.data_sets:
            self.data_sets["source"].check_apart(self.data_sets["target"])
        elif key := next((key for key in self.keys if key.startswith("source.")), None):
            raise FrostlineError(f"{key}: without --source, the study starts from ImageNet; leave it out")

    def _check_copied(self) -> None:
        """Refuse data sets, and keys of them, where an experiment is copied, which has its own."""
        if self.data_sets:
            given = " and ".join(f"--{role}" for role in self.data_sets)
            raise FrostlineError(
                f"{given}: --from {self.experiment} copies that experiment with its data sets; leave out"
                f" {given}, or leave out --from and give --source and --target"
            )
        if self.keys:
            raise FrostlineError(
                f"{self.keys[0]}: --from {self.experiment} copies that experiment as it is; leave it out, and"
                f" set it in conf/experiment/{self.name}.yaml afterwards"
            )

    def contents(self) -> dict[str, str]:
        """Return path → content of the study's files, without the lock."""
        places = {"source": self.source, "target": self.target}
        data = {role: str(place) if place else PACKAGED_DATA for role, place in places.items()}
        values: dict[str, Any] = {"name": self.name, "data": data | {"weights": PACKAGED_DATA}}
        target = self.data_sets.get("target")
        values["fold"] = " dataset.fold=0" if target and target.config.get("folds") else ""
        watched = {role: data_set.watched() for role, data_set in self.data_sets.items()}
        experiment = self._experiment(values)
        chosen = re.search(r"override /freeze: (\w+)", experiment)  # one that fits its network
        values["freeze"] = chosen[1] if chosen else SCHEDULE
        values["imagenet"] = self.experiment is None and self.source is None
        return {
            "params.yaml": render("params.yaml", values),
            "dvc.yaml": pipeline(in_project=True, watched=watched),
            f"conf/experiment/{self.name}.yaml": experiment,
            "README.md": render("README.md", values),
        }

    def _choices(self) -> dict[str, Any]:
        """Return what a new experiment chooses by looking at the images."""
        target, source = self.data_sets["target"], self.data_sets.get("source")
        side = SIDE_FROM_IMAGENET if source is None else SIDE
        size = input_size(target.dataset(), source.dataset() if source else None, side)
        why = size.why
        if source is None and not why:
            why = "null: the size that the weights were trained at; slower, often better"
        return {"input": {**size.keys, "channels": 3}, "why": why}

    def _experiment(self, values: Mapping[str, Any]) -> str:
        if self.experiment is None:
            return render("experiment.yaml", {**values, **self._choices(), "source": None, **self.data_sets})
        text = project.conf_files("experiment")[self.experiment].read_text(encoding="utf-8")
        return re.sub(r"^study: .*$", f"study: {self.name}", text, flags=re.MULTILINE)


@dataclass
class Written:
    """What `begin` did."""

    new: list[str]
    replaced: list[str]
    extended: list[str]
    """Files that got more lines."""
    notes: list[str] = field(default_factory=list)
    """What the user has to do before `dvc repro`."""


def begin(study: Study, root: Path, *, force: bool = False) -> Written:
    """Write a study's files into `root` and make it a DVC repository if it is in a git repository.

    Args:
        study: the study.
        root: the project's folder.
        force: whether to replace files that exist.

    Raises:
        FrostlineError: the study is wrong, or files exist; nothing is written then.
    """
    study.check()
    contents = study.contents()
    if (root / "README.md").exists() and not _is_ours(root / "README.md", contents["README.md"]):
        contents[f"{study.name}.md"] = contents.pop("README.md")  # the README is the project's
    names = [*contents, project.LOCK]
    existing = [name for name in names if (root / name).exists()]
    if existing and not force:
        raise FrostlineError(
            f"{root} already has {', '.join(existing)}; begin the study in another folder, or replace them"
            " with --force"
        )
    for name, text in contents.items():
        write_text(root / name, text)
    lock.write(root)
    ignored = {".gitignore": ("/artifacts/", *IGNORED), ".dvcignore": (*IGNORED, BEST_TRIALS)}
    return Written(
        new=[name for name in names if name not in existing],
        replaced=existing,
        extended=[name for name, lines in ignored.items() if _extend(root / name, lines)],
        notes=[*_lists_of_labels(study), *_prepare_dvc(root), *_images_in_git(study, root)],
    )


def _is_ours(path: Path, readme: str) -> bool:
    """Return whether a README was written by an earlier `begin`: it starts as the study's own does."""
    begins = "\n".join(readme.splitlines()[:3])
    return path.read_text(encoding="utf-8", errors="replace").startswith(begins)


def pipeline(*, in_project: bool, watched: Mapping[str, Sequence[str]] = {}) -> str:
    """Return dvc.yaml: of a user's project, or of frostline's own repository, where code is in folders.

    Args:
        watched: role → the paths that `prepare` reads beside that in params.yaml.
    """
    if in_project:
        comment = (
            "frostline.lock/ says which code of frostline a stage depends on; frostline upgrade renews it."
        )
        code = {stage: [f"{project.LOCK}/{stage}"] for stage in FOLDERS}
        run = "frostline"
    else:
        comment = "docs/pipeline.md explains what re-runs when. Written by `python -m frostline.projects`."
        code = {
            stage: [f"src/frostline/{folder}" for folder in sorted(folders)]
            for stage, folders in FOLDERS.items()
        }
        run = "scripts/stage"
    most = max(map(len, watched.values()), default=0)
    also = {role: [*watched.get(role, ()), *[PACKAGED_DATA] * most][:most] for role in ("source", "target")}
    return render("dvc.yaml", {"comment": comment, "code": code, "run": run, "also": also, "most": most})


def render(name: str, values: Mapping[str, Any]) -> str:
    """Return a template with values filled in; missing values are errors."""
    environment = templates(TEMPLATES)
    environment.filters["yaml"] = _yaml_scalar
    environment.filters["flow"] = _yaml_flow
    return environment.get_template(f"{name}.j2").render(values)


def _yaml_scalar(value: str) -> str:
    """Return a string as a YAML scalar, in quotes where it needs them."""
    text: str = yaml.safe_dump(value, allow_unicode=True, width=1 << 20)
    return text.removesuffix("\n").removesuffix("\n...")


def _yaml_flow(value: Any) -> str:
    """Return plain data as YAML on one line; it is JSON, too, so that it fits into any collection."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else _yaml_line(value)


def _yaml_line(value: Any) -> str:
    text: str = yaml.safe_dump(
        value, allow_unicode=True, width=1 << 20, default_flow_style=True, sort_keys=False
    )
    return text.removesuffix("\n")


def _extend(path: Path, lines: Sequence[str]) -> bool:
    """Add the lines that a file lacks; return whether there were any."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    missing = [line for line in lines if line not in before.splitlines()]
    if missing:
        gap = "" if not before or before.endswith("\n") else "\n"
        write_text(path, before + gap + "".join(f"{line}\n" for line in missing))
    return bool(missing)


def _prepare_dvc(root: Path) -> list[str]:
    """Run `dvc init` in a git repository; return what the user has to do before `dvc repro`."""
    top = _run(["git", "rev-parse", "--show-toplevel"], root)
    if top is None:
        return ["git init && dvc init    (for `dvc repro`; single runs and sweeps work without)"]
    if (root / ".dvc").is_dir():
        return []
    below = [] if Path(top.strip()).resolve() == root.resolve() else ["--subdir"]
    return (
        ["dvc init"] if _run([sys.executable, "-m", "dvc", "init", "--quiet", *below], root) is None else []
    )


def _lists_of_labels(study: Study) -> list[str]:
    """Return a note for each table whose labels look like lists of several."""
    return [
        f"frostline init … {data_set.group}.task=multi_label --force    (if images have several labels: "
        f"{name!r} is one class now)"
        for data_set in study.data_sets.values()
        if (name := data_set.like_list())
    ]


def _images_in_git(study: Study, root: Path) -> list[str]:
    """Return a note for each folder of images, or file with images, that `git add .` would store in git."""
    if _run(["git", "rev-parse", "--show-toplevel"], root) is None:
        return []
    read = [
        path
        for data_set in study.data_sets.values()
        for path in (data_set.place, *map(Path, data_set.watched()))
        if path.suffix not in TABLES
    ]
    return [
        f"dvc add {shlex.quote(str(folder))}    (so that DVC stores the images, not git)"
        for folder in dict.fromkeys(read)
        if (root / folder.expanduser()).resolve().is_relative_to(root.resolve())
        and _run(["git", "check-ignore", "--quiet", str(folder.expanduser())], root) is None
    ]


def _run(words: Sequence[str], folder: Path) -> str | None:
    """Return what a program prints; None: it is not installed, or failed."""
    try:
        return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
