"""What a user probably means by an override that frostline does not know, as an override that works."""

import difflib
import os
import re
import shlex
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from frostline.base import project
from frostline.base.formats import read_yaml
from frostline.base.run_folder import CHECKPOINTS, WEIGHTS
from frostline.config import timm_models
from frostline.console.errors import FrostlineError

SYNONYMS = {
    "optimizer.lr": ("lr", "learning_rate"),
    "optimizer.weight_decay": ("weight_decay", "wd"),
    "trainer.epochs": ("epochs", "max_epochs", "num_epochs"),
    "trainer.batch_size": ("batch_size", "bs"),
    "trainer.accumulate": (
        "accumulate",
        "accumulate_grad_batches",
        "grad_accumulation",
        "gradient_accumulation_steps",
        "grad_accum_steps",
    ),
    "trainer.device": ("device", "accelerator"),
    "trainer.precision": ("precision",),
    "trainer.threads": ("threads",),
    "input.size": ("size", "image_size", "img_size", "imgsz", "resolution"),
    "input.channels": ("channels", "in_chans"),
    "loss.label_smoothing": ("label_smoothing",),
    "dataset.root": ("root", "data", "data_dir", "data_path"),
    "dataset.shots": ("shots",),
    "weights.path": ("checkpoint", "ckpt", "ckpt_path"),
    "backbone": ("model", "arch", "network", "net"),
}
"""Key → what users of other tools call it."""
KEYS = {synonym: key for key, synonyms in SYNONYMS.items() for synonym in synonyms}
NEEDED = {"dataset.root": "dataset=image_folder", "weights.path": "weights=file"}
"""Key → the option that has it."""
GROUPS = ("dataset.group", "source.group")
"""Keys that only data sets with columns have."""
PLAIN_KEYS = ("input", "out", "pretrain", "seed", "seeds", "folds", "source", "study")
"""Keys at the top that choose no option of a group."""
GROUPS_OF_A_RUN = ("experiment", "backbone", "dataset", "weights", "freeze")
"""Groups whose options are well enough known to be typed alone, as in ``frostline finetune digits``."""
IMAGES = "give image files, folders or tables"
"""What to do if images to predict are missing."""
PATHS = {
    "root": "give the folder of the images",
    "file": "give the file of the data set",
    "path": "give the folder of the data set",
}
"""Last part of a data set's key → what its value has to be."""
OVERRIDE = re.compile(
    r"(?<![\w./'\"-])(?P<key>[a-z_]+(?:\.[a-z_]+)*\.(?!root\b|file\b|path\b)[a-z_]+)"
    r"=(?P<value>[\w-]+(?:\.[0-9]+)?)(?![\w/=-])"
)
"""An override that an error proposes, other than of a path: params.yaml has those of a study."""
ANY = "…"
NEAR = 0.85
"""Similarity, from 0 to 1, above which a name is taken for a misspelling of another."""
INTERVALS = {
    "uniform": "interval({})",
    "loguniform": "tag(log, interval({}))",
    "log_uniform": "tag(log, interval({}))",
}
"""What other tools call a distribution → Hydra's form of it."""


def of_study(sentence: str) -> str | None:
    """Return where a study sets the key that an error of one of its stages proposes; None: it proposes none.

    Stages take no overrides: their configs come from params.yaml and the experiment that it selects.
    """
    proposed = [*OVERRIDE.finditer(sentence)]
    params = project.find_root() / "params.yaml"
    if not proposed or not params.is_file():
        return None
    match = proposed[-1]  # what is wrong comes before the fix
    if match.start() == 0:
        return None
    try:
        selection = read_yaml(params)
    except FrostlineError:  # the sentence is about another error
        return None
    if not isinstance(selection, dict):
        return None
    file = f"conf/experiment/{selection.get('experiment')}.yaml"
    place = file if (params.parent / file).is_file() else "the experiment that params.yaml selects"
    *groups, key = match["key"].split(".")
    text = f"{key}: {match['value']}"
    for group in reversed(groups):
        text = f"{group}: {{{text}}}"
    return f"a study sets its keys in {place}: {text}"


def of_key(key: str, overrides: Sequence[str]) -> str | None:
    """Return a sentence if an unknown key is what other tools call one of frostline's.

    Args:
        key: the unknown key.
        overrides: those that were typed, one with the key among them.
    """
    group, _, name = key.rpartition(".")
    if key in GROUPS:
        return (
            f"{key}: this kind of data set has no groups, which are a column of a table; write {group}=table "
            f"{group}.file=FILE {key}=COLUMN"
        )
    if name not in KEYS or (group and group != KEYS[name].rpartition(".")[0]):
        return None
    typed = dict(o.lstrip("+~").partition("=")[::2] for o in overrides)
    if key == KEYS[name]:  # known, but not to the option that was chosen
        chosen = f"{key}: the chosen {group} has no such key"
        return f"{chosen}; choose {NEEDED[key]}" if key in NEEDED else None
    return f"{key}: unknown key; write {written(KEYS[name], typed.get(key) or ANY, typed)}"


def written(key: str, value: str, typed: Collection[str]) -> str:
    """Return ``KEY=VALUE`` as a shell takes it, after the option that has the key unless one was typed.

    A run's folder as weights is the file in it.
    """
    group = key.partition(".")[0]
    needed = f"{NEEDED[key]} " if key in NEEDED and group not in typed else ""
    return needed + shell_word(key, weights_in(value) or value if key == "weights.path" else value)


def shell_word(key: str, value: str) -> str:
    """Return ``KEY=VALUE`` as a shell takes it."""
    text = f"{key}={value}"
    return text if value == ANY else shlex.quote(text)


def weights_in(path: str) -> str | None:
    """Return the weights of the run in the folder `path`, or of its first seed; None: it has none."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return None
    inside = sorted(folder.glob(WEIGHTS)) or sorted(folder.glob(f"*/{WEIGHTS}"))
    return str(Path(path) / inside[0].relative_to(folder)) if inside else None


def of_option(key: str, group: str, option: str) -> str | None:
    """Return what to write instead of an option that a group does not have.

    Args:
        key: as typed: ``source`` for a data set of the group ``dataset``.
        option: a model of timm, a folder of images, a table, a run's folder or a file of weights.
    """
    if group == "backbone" and (model := _model_of_timm(option)):
        guess = "" if model == option else f"did you mean timm's {model!r}? "
        return f"{guess}write {key}=timm {key}.name={model}"
    path = Path(option)
    is_file = path.suffix in CHECKPOINTS or path.expanduser().is_file()
    if group == "weights" and (weights := weights_in(option) or (option if is_file else None)):
        return f"for weights in a file, write {key}=file {shell_word(f'{key}.path', weights)}"
    if group == "dataset" and path.expanduser().is_dir():
        return f"for a folder of images, write {key}=image_folder {shell_word(f'{key}.root', option)}"
    if group == "dataset" and option.endswith((".csv", ".tsv", ".parquet")):
        return f"for a table of images, write {key}=table {shell_word(f'{key}.file', option)}"
    return None


def of_word(word: str) -> str | None:
    """Return a sentence for a word without ``=`` that names data, weights, a model or an option; None: no."""
    groups = [group for group in GROUPS_OF_A_RUN if word in project.conf_files(group)]
    if groups:
        instead = f"write {' or '.join(f'{group}={word}' for group in groups)}"
    else:
        is_weights = Path(word).suffix in CHECKPOINTS or weights_in(word)
        kinds = (*(["weights"] if is_weights else []), "dataset", "backbone")
        instead = next(filter(None, (of_option(kind, kind, word) for kind in kinds)), "")
    return f"{word!r} is not an override; {instead}" if instead else None


def _model_of_timm(option: str) -> str | None:
    """Return the model of timm that `option` is, or nearly is; None: an option of frostline is as near."""
    if option in timm_models.names():
        return option
    own = project.conf_files("backbone")
    if any(name.startswith(option) for name in own):
        return None
    near = difflib.get_close_matches(option, sorted({*timm_models.names(), *own}), n=1, cutoff=NEAR)
    return near[0] if near and near[0] not in own else None


def of_text(text: str) -> str | None:
    """Return a sentence for a text that is no override but another tool's form of a search space."""
    match = re.fullmatch(r"([\w.]+)=(\w+)\((.*)\)", text)
    if match is None or match[2] not in INTERVALS:
        return None
    return f"{text!r} is not an override; write '{match[1]}={INTERVALS[match[2]].format(match[3])}', with -m"


def of_flag(word: str, others: Sequence[str], renamed: Callable[[str], str] = str) -> str | None:
    """Return a sentence for an option with dashes, such as ``--lr``, that should be an override.

    Args:
        word: what was typed.
        others: the command's other words: overrides, and values of such options.
        renamed: converts overrides to the keys that the command reads.
    """
    typed = [other.partition("=")[0] for other in others if "=" in other]
    values = [other for other in others if "=" not in other]
    name, _, value = word.lstrip("-").replace("-", "_").partition("=")
    key = KEYS.get(name, name)
    group = key.partition(".")[0]
    if group not in PLAIN_KEYS and not (group.isidentifier() and project.conf_files(group)):
        return None
    instead = renamed(written(key, value or next(iter(values), ANY), typed))
    return f"{word}: no such option; write {instead}"


@contextmanager
def of_lists(overrides: Sequence[str]) -> Iterator[None]:
    """Add to an error in the block how to sweep over a list that was typed as one value.

    Args:
        overrides: of a sweep, as typed.
    """
    try:
        yield
    except FrostlineError as error:
        for override in overrides:
            key, _, value = override.lstrip("+").partition("=")
            inside = re.fullmatch(r"\[([^\[\]{}]+)\]", value.strip())
            is_single = (
                rf"{re.escape(key)}: found \[[^;]*\], must be a valid (number|integer|string|boolean)\b"
            )
            if inside and re.match(is_single, str(error)):
                values = ",".join(part.strip() for part in inside[1].split(","))
                raise FrostlineError(f"{error}; to run each, write {shell_word(key, values)}") from None
        raise


def is_empty(folder: Path) -> bool:
    """Return whether a path is a readable folder that contains, at any depth, neither files nor links."""

    def stop(error: OSError) -> None:
        raise error

    try:
        return not any(
            names or any(Path(place, name).is_symlink() for name in folders)
            for place, folders, names in os.walk(folder, onerror=stop)
        )
    except OSError:
        return False


def check_place(key: str, value: str) -> None:
    """Refuse a data set or weights that do not exist; other keys may have any value.

    Raises:
        FrostlineError: with the names that are like it.
    """
    section, _, name = key.rpartition(".")
    if section in ("dataset", "source") and name in PATHS:
        check_path(key, value, PATHS[name])
        if is_empty(Path(value).expanduser()):
            raise FrostlineError(f"{key}: {value} is empty: {PATHS[name]}")
    elif key in ("weights.path", "pretrain.weights.path"):
        check_path(key, value, "give a .safetensors or .pth file")
        if inside := weights_in(value):
            raise FrostlineError(f"{key}: {value} is the folder of a run; write {shell_word(key, inside)}")


def check_path(key: str, value: str, advice: str, after: Sequence[str] = ()) -> None:
    """Refuse a path that does not exist, and name those that are like it.

    Args:
        advice: what to give instead.
        after: the words that follow on the command line; a path with spaces may need quotes.
    """
    if not value:
        raise FrostlineError(f"{key}: found an empty text: {advice}")
    path = Path(value).expanduser()
    if value == "null" or path.exists() or path.is_symlink():
        return
    for count in range(1, len(after) + 1):
        whole = " ".join((value, *after[:count]))
        if Path(whole).expanduser().exists():
            raise FrostlineError(
                f"{key}: {value} doesn't exist, but {whole} does; quote it: {shlex.quote(whole)}"
            )
    siblings = [entry.name for entry in path.absolute().parent.glob("*")]
    near = difflib.get_close_matches(path.name, siblings, n=3)
    hint = f"; did you mean {' or '.join(str(path.with_name(name)) for name in near)}?" if near else ""
    raise FrostlineError(f"{key}: {value} doesn't exist: {advice}{hint}")
