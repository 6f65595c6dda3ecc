"""The machine's load while a run trains: real sensors, MLflow's keys."""

import time

import psutil
import pytest

from frostline.tracking import machine_load
from frostline.tracking.machine_load import MachineLoad

CPU, MEMORY = "system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"


def test_what_is_sampled_is_what_the_machine_does():
    load = MachineLoad()
    until = time.process_time() + 0.3
    while time.process_time() < until:  # one core is busy
        pass
    sample = load.sample()
    assert {
        CPU,
        MEMORY,
        "system/system_memory_usage_percentage",
        "system/disk_usage_percentage",
        "system/disk_usage_megabytes",
        "system/disk_available_megabytes",
        "system/network_receive_megabytes",
        "system/network_transmit_megabytes",
    } <= sample.keys()
    assert 0.3 * 100 / psutil.cpu_count() < sample[CPU] <= 100
    assert 0.5 < sample[MEMORY] * 1e6 / psutil.virtual_memory().used < 2


def test_it_is_due_after_the_interval(monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    load = MachineLoad()
    assert not load.due
    time.sleep(0.06)
    assert load.due
    load.sample()
    assert not load.due


def test_sensors_that_fail_are_omitted(monkeypatch):
    class Broken:
        def __init__(self):
            raise RuntimeError("no driver")

    monkeypatch.setattr(machine_load, "NetworkMonitor", Broken)
    monkeypatch.setattr(psutil, "disk_usage", lambda path: 1 / 0)
    sample = MachineLoad().sample()
    assert CPU in sample
    assert not [key for key in sample if "network" in key or "disk" in key]


@pytest.mark.parametrize(("value", "wanted"), [(None, True), ("true", True), ("false", False), ("0", False)])
def test_mlflows_variable_turns_it_off(monkeypatch, value, wanted):
    monkeypatch.delenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", raising=False)
    if value:
        monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", value)
    assert machine_load.wanted() is wanted
