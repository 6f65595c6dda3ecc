"""Where things lie: the project that a command runs in, its configs, and the home that outlives one experiment."""

from pathlib import Path

PACKAGED_CONF = Path(__file__).parent / "conf"
CHECKOUT = Path(__file__).parents[2]


def find_root(start: Path | None = None) -> Path:
    """Return the nearest folder, from `start` (default: here) upwards, that holds `conf/config.yaml`, else `start`."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "conf" / "config.yaml").is_file():
            return folder
    return here


def conf_dir() -> Path:
    """Return the folder of configs: the project's own, else the checkout's, else the installed package's."""
    for conf in (find_root() / "conf", CHECKOUT / "conf", PACKAGED_CONF):
        if (conf / "config.yaml").is_file():
            return conf
    raise FileNotFoundError(f"no conf/config.yaml in {find_root()} or beside the package")


def home() -> Path:
    """Return the project whose MLflow store, scratch and caches a command uses.

    DVC runs queued experiments in copies of the project under `.dvc/tmp/exps/`, which are removed afterwards: their
    home is the project around them.
    """
    root = find_root()
    for folder in root.parents:
        if folder.name == "exps" and folder.parent.name == "tmp" and folder.parent.parent.name == ".dvc":
            return folder.parents[2]
    return root


def scratch() -> Path:
    """Return `.frostline/`: resume state, caches and locks; safe to delete while nothing runs."""
    return home() / ".frostline"
