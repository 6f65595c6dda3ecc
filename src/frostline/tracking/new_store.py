"""Makes the SQLite file of a new MLflow store."""

import shutil
from pathlib import Path

from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine

from frostline.base.files import remove_temporary, temporary_path
from frostline.tracking import local_store


def create(path: Path) -> None:
    """Make the store at `path`, unless it is there and not empty; the caller holds its lock.

    MLflow takes a second for tables and migrations, and never repairs what a killed process, or a full disk,
    left of them. So they are made in a folder beside `path`, and the finished file is moved to it.
    """
    remove_temporary(path.parent, path.name)
    work = temporary_path(path)
    try:
        work.mkdir()
        engine = create_sqlalchemy_engine(local_store.address(work / path.name))
        try:
            _initialize_tables(engine)
        finally:
            engine.dispose()
        if local_store.is_empty(path):  # nobody without the lock, such as `mlflow ui`, has made it meanwhile
            local_store.remove_journals(path)  # of a store that is gone; SQLite would apply them
            (work / path.name).replace(path)
    finally:
        shutil.rmtree(work, ignore_errors=True)
