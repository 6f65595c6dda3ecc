"""Processes that are forked from one that has imported what any of them needs, so that they start at once."""

import multiprocessing

FORKS = multiprocessing.get_context("forkserver")
"""Where to take processes from. It has one list of modules, since the first that is given to it stays."""
FORKS.set_forkserver_preload(
    [
        "timm",
        "frostline.training.trainer",
        "frostline.pipeline.finetune.stage",
        "frostline.tracking.store",
        "mlflow.store.tracking.sqlalchemy_store",
        "frostline.sweeps.worker",
        "tests.frozen",
    ]
)
