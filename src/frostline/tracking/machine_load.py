"""System metrics while a run trains: CPU, memory, disk, network and GPUs of the whole machine.

Keys and units are those of MLflow's system metrics, so that MLflow's page shows them. MLflow's own monitor is
not used: it needs a thread and a connection a run, and takes no sample of a run shorter than its interval.
"""

import time
from collections.abc import Callable, Iterator

from mlflow.environment_variables import (
    MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING,
    MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL,
)
from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

SECONDS = 10.0
"""Between two samples, unless MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL is set."""


def wanted() -> bool:
    """Return whether to sample: True unless MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING is false."""
    return not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.is_set() or MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get()


class MachineLoad:
    """Samples the load: the CPU's mean since the previous sample, the network's total since the start."""

    def __init__(self) -> None:
        self._monitors = list(_monitors(CPUMonitor, DiskMonitor, NetworkMonitor, GPUMonitor, ROCMMonitor))
        self._seconds = float(MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or SECONDS)
        self.sample()  # The CPU's mean starts here.

    @property
    def due(self) -> bool:
        """Whether it is time for a sample."""
        return time.monotonic() - self._sampled >= self._seconds

    def sample(self) -> dict[str, float]:
        """Return MLflow's key → value; values that can't be measured are missing."""
        self._sampled = time.monotonic()
        values: dict[str, float] = {}
        for monitor in self._monitors:
            try:
                monitor.collect_metrics()
                values |= {f"system/{key}": float(v) for key, v in monitor.aggregate_metrics().items()}
            except Exception:  # A sensor is missing or not readable.
                continue
            finally:
                monitor.clear_metrics()
        return values


def _monitors(*kinds: Callable[[], BaseMetricsMonitor]) -> Iterator[BaseMetricsMonitor]:
    for kind in kinds:
        try:
            yield kind()
        except Exception:  # No such device, or no driver.
            continue
