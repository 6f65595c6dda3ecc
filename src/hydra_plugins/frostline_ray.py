"""Hydra launcher that sends a sweep's workers to a Ray cluster; Hydra looks for plug-ins in this package."""

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

FORWARDED = ("FROSTLINE_", "MLFLOW_")
"""Prefixes of the environment variables that a worker gets from the command; the others are its node's."""
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class RaySweep:
    """What the jobs of a sweep have in common."""

    hydra_context: HydraContext
    config: DictConfig
    task_function: TaskFunction
    singletons: Any
    """Hydra's, of the command's process."""
    folder: str
    """The command's working directory."""
    variables: Mapping[str, str]
    """The environment variables to set."""


class RayLauncher(Launcher):
    """Runs each job as a task of Ray, all at once, in the command's folder.

    Args:
        ray: `init`, the arguments of ``ray.init``, and `remote`, the options of a task. Without an address in
            `init`, a Ray of this machine is started that ends with the launch.
    """

    def __init__(self, ray: DictConfig) -> None:
        self.init, self.remote = ({**_plain(ray[key])} for key in ("init", "remote"))

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store what `launch` needs."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs and wait for all of them; then raise if one was lost."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        init = {"logging_level": "warning", **self.init}
        if init.get("address") is None:
            init = _local(init, float(self.remote.get("num_cpus") or 1) * len(job_overrides))
        import ray

        assert self.config is not None
        variables = {key: value for key, value in os.environ.items() if key.startswith(FORWARDED)}
        sweep = RaySweep(
            self.hydra_context,
            self.config,
            self.task_function,
            Singleton.get_state(),
            str(Path.cwd()),
            variables,
        )
        ray.init(**init)
        try:
            task = ray.remote(worker).options(**self.remote)
            jobs = [
                task.remote(number, [*overrides], sweep)
                for number, overrides in enumerate(job_overrides, initial_job_idx)
            ]
            ray.wait(jobs, num_returns=len(jobs))
            returned: Sequence[JobReturn] = ray.get(jobs)
            return returned
        finally:
            ray.shutdown()


def _local(init: Mapping[str, Any], slots: float) -> dict[str, Any]:
    """Return the arguments for a local Ray that is not reachable from other machines."""
    # By default, Ray joins any cluster that it finds, replaces 127.0.0.1 by the machine's address and listens
    # on all interfaces (seen in 2.60). With this variable at 0, it assumes that there are no other machines.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    if "RAY_AUTH_MODE" not in os.environ:
        # By default, Ray writes a permanent token to the home folder.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    fixed = {"address": "local", "_node_ip_address": LOOPBACK, "include_dashboard": False}
    return {"num_cpus": max(1, round(slots)), **init, **fixed}


def worker(number: int, overrides: list[str], sweep: RaySweep) -> JobReturn:
    """Run a job in a process of Ray's."""
    # Not at the top: Hydra imports all plug-ins in other programs, too, which need none of frostline.
    from frostline.pipeline import session

    os.chdir(sweep.folder)
    os.environ |= sweep.variables
    setup_globals()
    Singleton.set_state(sweep.singletons)
    composed = sweep.hydra_context.config_loader.load_sweep_config(sweep.config, overrides)
    with open_dict(composed):
        composed.hydra.job.id, composed.hydra.job.num = f"{composed.hydra.job.name}_{number}", number
    try:
        return run_job(
            hydra_context=sweep.hydra_context,
            task_function=sweep.task_function,
            config=composed,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
    finally:
        # Ray kills a worker's child processes when it ends, the recorder among them.
        session.finish_recording()


def _plain(config: Any) -> Any:
    return OmegaConf.to_container(config, resolve=True)
