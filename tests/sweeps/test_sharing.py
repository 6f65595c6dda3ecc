"""How workers share a machine: which GPU each can use, how many there are, how many threads each has."""

import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from tests.imports import SRC
from tests.study import environment
from tests.sweeps.test_sweeper import WORDS, asked, trials

from frostline.base import devices
from frostline.base.processes import cores, sharing_cores
from frostline.base.sharing import ALL, Share, fitting_workers, share_of
from frostline.config import compose
from frostline.console.errors import FrostlineError

LIGHT = ["dataset=digits", "backbone=mlp", "weights=none"]
MIG = "MIG-6f2a0b1c-aaaa-5bbb-8ccc-1234567890ab"
GPUS = f"3,GPU-8932f937,{MIG}"
"""Simulated: there is no driver that could count them, so what is listed is taken to be there."""


def light(shell, *words, **variables):
    """Run a sweep of `tests.sweeps.light`; return the trials."""
    settings = environment(shell.folder / "x", PYTHONPATH=f"{SRC}:{SRC.parent}", **variables)
    command = [str(shell.python), "-m", "tests.sweeps.light", *LIGHT, *words]
    subprocess.run(command, cwd=shell.folder, env=settings, check=True, timeout=200)
    return trials(shell.folder)


def used(trials):
    """Process → the GPUs that its trials could use."""
    gpus = {}
    for trial in trials:
        gpus.setdefault(trial.user_attrs["process"], set()).add(trial.user_attrs.get(devices.VISIBLE))
    return gpus


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        (None, None),
        ("", []),
        ("0", ["0"]),
        ("2, 0", ["2", "0"]),
        (GPUS, ["3", "GPU-8932f937", MIG]),
        ("0,-1,1", ["0"]),
        ("-1", []),
        ("NoDevFiles", []),
        ("0,0,1", ["0", "1"]),
    ],
)
def test_what_is_listed_is_read_as_cuda_reads_it(text, entries, monkeypatch):
    monkeypatch.delenv(devices.VISIBLE, raising=False)
    if text is not None:
        monkeypatch.setenv(devices.VISIBLE, text)
    assert devices.listed_gpus() == entries


@pytest.mark.parametrize(
    ("text", "count", "entries"),
    [
        (None, 0, []),
        (None, 2, ["0", "1"]),
        ("GPU-a,GPU-b", 2, ["GPU-a", "GPU-b"]),
        ("1,7", 1, ["1"]),  # of two GPUs: CUDA stops at what is not there
        ("", 0, []),
    ],
)
def test_visible_are_the_devices_that_cuda_counts(text, count, entries, monkeypatch):
    monkeypatch.delenv(devices.VISIBLE, raising=False)
    if text is not None:
        monkeypatch.setenv(devices.VISIBLE, text)
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    assert devices.visible_gpus() == entries


def test_a_run_says_where_it_trained(monkeypatch):
    monkeypatch.setenv(devices.VISIBLE, "GPU-b")
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA H100")
    for there, name in ((True, "NVIDIA H100"), (False, "cpu")):
        monkeypatch.setattr("torch.cuda.is_available", lambda there=there: there)
        assert devices.device_label("auto") == f"{name} (CUDA_VISIBLE_DEVICES=GPU-b)"
    monkeypatch.delenv(devices.VISIBLE)
    assert devices.device_label("cpu") == "cpu"


def test_a_process_keeps_its_first_gpu():
    """CUDA reads the variable once. A fresh process, since this one is to stay as it is."""
    code = (
        "import os; from frostline.base import devices; devices.bind(4, ['0', '1', 'GPU-c']);"
        "devices.bind(0, ['0', '1', 'GPU-c']); print(os.environ['CUDA_VISIBLE_DEVICES'])"
    )
    settings = {**os.environ, "PYTHONPATH": str(SRC)}
    done = subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, check=True)
    assert done.stdout == b"1\n"


@pytest.mark.slow
def test_each_worker_has_a_gpu_to_itself(shell):
    by_process = used(light(shell, "seed=range(6)", "sweep.workers=3", CUDA_VISIBLE_DEVICES=GPUS, MEET="3"))
    assert sorted(by_process.values(), key=str) == sorted([{gpu} for gpu in GPUS.split(",")], key=str)


@pytest.mark.slow
def test_auto_is_some_workers_for_each_gpu(shell):
    words = ["seed=range(8)", "sweep.workers=auto", "sweep.workers_per_device=2"]
    by_process = used(light(shell, *words, CUDA_VISIBLE_DEVICES="0,GPU-b", MEET="4"))
    assert sorted(gpu for (gpu,) in by_process.values()) == ["0", "0", "GPU-b", "GPU-b"]


@pytest.mark.slow
def test_a_worker_that_replaces_a_lost_one_takes_its_gpu(shell):
    variables = {"PYTHONPATH": f"{SRC}:{SRC.parent}", "CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}
    variables |= {"MEET": "2", "LOST": "1"}
    words = ["seed=range(4)", "sweep.workers=2"]
    command = [str(shell.python), "-m", "tests.sweeps.light", *LIGHT, *words]
    settings = environment(shell.folder / "x", **variables)
    process = """SELECT value_json FROM trial_user_attributes JOIN trials USING (trial_id)
        WHERE key = 'process' AND state = 'RUNNING' AND trial_id IN
        (SELECT trial_id FROM trial_user_attributes WHERE value_json = '"GPU-b"')"""
    # The first workers wait for a loss, those after it for each other.
    with subprocess.Popen(command, cwd=shell.folder, env=settings) as sweep:
        while (lost := asked(shell.folder, process)) is None:
            assert sweep.poll() is None
            time.sleep(0.1)
        lost = lost.strip('"')
        pid = lost.partition("@")[0]
        while not (shell.folder / "here" / pid).exists():
            assert sweep.poll() is None
            time.sleep(0.1)
        os.kill(int(pid), signal.SIGKILL)
        assert sweep.wait(250) == 0
    by_process = used(trials(shell.folder))
    assert any(gpus == {"GPU-b"} for name, gpus in by_process.items() if name != lost)
    assert all(len(gpus) == 1 for gpus in by_process.values())


def test_a_sweep_in_one_process_does_not_set_the_variable(shell):
    (gpus,) = used(light(shell, "seed=0,1", CUDA_VISIBLE_DEVICES=GPUS)).values()
    assert gpus == {GPUS}


def test_workers_of_other_launchers_keep_what_those_give_them(monkeypatch):
    monkeypatch.setenv(devices.VISIBLE, "0,1")
    assert share_of("JoblibLauncher", 2) == Share(2, ("0", "1"))
    assert share_of("JoblibLauncher", 1) == ALL
    # submitit gives all jobs of this machine the same GPUs; each job takes one.
    assert share_of("LocalLauncher", 2) == Share(2)
    assert share_of("SlurmLauncher", 2) == share_of("RayLauncher", 2) == share_of("", 1) == ALL


@pytest.mark.parametrize(
    ("about", "workers"),
    [
        ({"gpus": 0, "per_gpu": 1, "cores": 8, "threads": 1, "trials": None}, 8),
        ({"gpus": 0, "per_gpu": 3, "cores": 8, "threads": 3, "trials": 100}, 2),
        ({"gpus": 0, "per_gpu": 1, "cores": 2, "threads": 8, "trials": 100}, 1),
        ({"gpus": 4, "per_gpu": 1, "cores": 8, "threads": 1, "trials": None}, 4),
        ({"gpus": 4, "per_gpu": 2, "cores": 8, "threads": 1, "trials": 100}, 8),
        ({"gpus": 4, "per_gpu": 2, "cores": 64, "threads": 1, "trials": 3}, 3),
    ],
)
def test_how_many_workers_fit(about, workers):
    assert fitting_workers(**about) == workers


def test_a_share_of_the_cores_is_the_default_of_trainer_threads(monkeypatch):
    monkeypatch.setattr("frostline.base.processes.processors", lambda: 8)
    monkeypatch.setattr("psutil.cpu_count", lambda **_: 8)
    words = ["source=digits", "dataset=digits", "backbone=resnet18"]
    threads = {}
    for workers in (1, 3, 100):
        with sharing_cores(workers):
            composed, _ = compose.experiment(words)
            chosen, _ = compose.experiment([*words, "trainer.threads=5"])
        threads[workers] = composed.trainer.threads
        assert composed.pretrain.trainer.threads == composed.trainer.threads
        assert chosen.trainer.threads == 5
    assert threads == {1: 8, 3: 2, 100: 1}
    assert cores() == 8


@pytest.mark.slow
def test_the_threads_that_a_trial_had_are_in_its_config_and_in_the_best_experiment(shell):
    """On two cores or more: a ResNet takes all of them alone, and half of them beside another worker."""
    words = [word for word in WORDS if not word.startswith(("trainer.threads", "backbone", "input."))]
    words += ["backbone=resnet10t", "input.size=8", "seed=0,1", "sweep.workers=2", "trainer.epochs=1"]
    shell("finetune", *words)
    half = max(1, cores() // 2)
    for trial in trials(shell.folder):
        config = yaml.safe_load((shell.folder / trial.user_attrs["out"] / "config.yaml").read_text())
        assert config["trainer"]["threads"] == half
    (best,) = (shell.folder / "conf/experiment").glob("*-best.yaml")
    assert yaml.safe_load(best.read_text())["trainer"]["threads"] == half


def test_auto_says_nothing_of_other_machines(shell):
    launcher = "hydra/launcher=submitit_slurm"
    assert shell.refused("finetune", *WORDS, "seed=0,1", launcher, "sweep.workers=auto") == (
        "sweep.workers: auto counts this machine's GPUs and cores, not those of submitit_slurm;"
        " give a number, such as sweep.workers=4"
    )


@pytest.mark.parametrize("workers", ["many", "0", "1.5"])
def test_other_words_for_workers_are_one_sentence(workers):
    sentence = rf"^sweep\.workers: found '?{workers}'?; allowed: auto, or a whole number above 0$"
    with pytest.raises(FrostlineError, match=sentence):
        compose.space_of(["seed=0,1", f"sweep.workers={workers}"])


@pytest.mark.slow
def test_auto_on_cpus_is_as_many_workers_as_cores_allow(shell):
    words = ["seed=range(12)", "sweep.workers=auto"]
    workers = min(cores(), 12)
    assert len(used(light(shell, *words, CUDA_VISIBLE_DEVICES="", MEET=str(workers)))) == workers
