"""Processes that are forked from one that has imported what any of them needs, so that they start at once."""

import multiprocessing

FORKS = multiprocessing.get_context("forkserver")
"""Where to take processes from. It has one list of modules, since the first that is given to it stays."""
FORKS.set_forkserver_preload(
    [
        "timm",
        "frostline.adapters.trainer",
        "frostline.stages.finetune",
        "frostline.adapters.tracking",
        "mlflow.store.tracking.sqlalchemy_store",
        "frostline.sweep.worker",
        "tests.frozen",
    ]
)
