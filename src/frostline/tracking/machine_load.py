"""What the machine does while a run trains: CPU, memory, disk, network, and GPUs where there are some.

The keys and numbers are those of MLflow's own system metrics, so that its page for them shows ours; they are
of the whole machine. MLflow's monitor has a thread and a connection a run, and no sample of a run that is
shorter than its interval.
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
"""Between two samples, unless MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL says otherwise."""


def wanted() -> bool:
    """Say whether to sample: unless MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING is false."""
    return not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.is_set() or MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get()


class MachineLoad:
    """Samples the load: the CPU's is a mean since the sample before, the network's a sum from the start."""

    def __init__(self) -> None:
        self._monitors = list(_monitors(CPUMonitor, DiskMonitor, NetworkMonitor, GPUMonitor, ROCMMonitor))
        self._seconds = float(MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or SECONDS)
        self.sample()  # From here the CPU's mean is taken.

    @property
    def due(self) -> bool:
        """Whether it is time for a sample."""
        return time.monotonic() - self._sampled >= self._seconds

    def sample(self) -> dict[str, float]:
        """Return the load: MLflow's key → value; what can't be measured is not among them."""
        self._sampled = time.monotonic()
        found: dict[str, float] = {}
        for monitor in self._monitors:
            try:
                monitor.collect_metrics()
                found |= {f"system/{key}": float(v) for key, v in monitor.aggregate_metrics().items()}
            except Exception:  # A sensor that is not there, or not for us.
                continue
            finally:
                monitor.clear_metrics()
        return found


def _monitors(*kinds: Callable[[], BaseMetricsMonitor]) -> Iterator[BaseMetricsMonitor]:
    for kind in kinds:
        try:
            yield kind()
        except Exception:  # No such device, or no driver for it.
            continue
