"""What becomes of a sweep whose workers, or their machines, are lost."""

import time

import pytest
from tests.forks import FORKS
from tests.sweeps import light
from tests.sweeps.test_study import settings

from frostline.config.space import Parameter, Space, Values
from frostline.console import signals
from frostline.console.errors import FrostlineError
from frostline.sweeps import study as studies
from frostline.sweeps import summary, sweeper
from frostline.sweeps import trial as trials
from frostline.sweeps.trial import Remaining
from frostline.sweeps.worker import Worker

FIXED = ("dataset=digits", "backbone=mlp", "weights=none")


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """A study of some seeds, and its workers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweeper, "POLL_SECONDS", 0.2)

    def sweep(run, *seeds, **changes):
        config, space = settings(**changes), Space((Parameter("seed", Values(seeds)),))
        study = studies.Study("s", config, space, {})
        study.begin()
        study.enqueue_missing()
        return study, Worker(run, "s", config, space, FIXED, {})

    return sweep


def processes(worker, count):
    """Start workers in processes of their own."""
    started = [FORKS.Process(target=worker, args=(number,)) for number in range(count)]
    for process in started:
        process.start()
    return started


def launcher(worker, count):
    """Waits for all of so many workers, as Hydra's launchers do, and raises if one was killed."""

    def send():
        started = processes(worker, count)
        for process in started:
            process.join(60)
        if any(process.exitcode for process in started):
            raise sweeper.WorkersLostError(OSError("a node is gone\nwith its worker"))

    return send


def states(study):
    return {(trial.point["seed"], trial.state, trial.superseded) for trial in study.trials()}


def test_trials_of_a_lost_worker_are_run_and_none_is_run_twice(sweep, capsys):
    study, worker = sweep(light.fatal, "0", "1")
    sweeper._run_workers(study, worker, launcher(worker, 1))
    assert states(study) == {("0", "complete", False), ("1", "failed", True), ("1", "complete", False)}
    assert len(study.trials()) == 3
    said = capsys.readouterr().err
    assert said == (
        "frostline: workers were lost (OSError: a node is gone);"
        " restarting workers for the remaining trials: 1\n"
        "frostline: trials whose process died, and that were retried: 1\n"
    )


def test_a_trial_that_kills_its_worker_each_time_comes_last_and_is_given_up(sweep):
    study, worker = sweep(light.fatal, "2", "3", "4")
    with pytest.raises(FrostlineError, match=r"^sweep: workers were lost") as caught:
        sweeper._run_workers(study, worker, launcher(worker, 1))
    assert str(caught.value).endswith(
        "3 times in a row while no trial ended; the same command resumes with the remaining trials: 1"
    )
    assert {trial.point["seed"] for trial in study.trials() if trial.state == "complete"} == {"3", "4"}


def test_workers_that_can_t_start_are_one_sentence(sweep):
    def send():
        raise sweeper.WorkersLostError(ConnectionError())

    study, worker = sweep(light.measure, "0", "1")
    with pytest.raises(FrostlineError) as caught:
        sweeper._run_workers(study, worker, send)
    assert str(caught.value) == (
        "hydra/launcher: no worker could start (ConnectionError); docs/scale.md says what launchers need"
    )


def test_workers_that_still_run_when_the_launcher_gives_up_are_waited_for(sweep, capsys):
    study, worker = sweep(light.measure, "0", "1", "2", "3", "4")
    sent = []

    def send():
        sent.extend(processes(worker, 1))
        while not study.remaining().running:
            time.sleep(0.01)
        raise sweeper.WorkersLostError(OSError("another one is gone"))

    sweeper._run_workers(study, worker, send)
    assert [trial.state for trial in study.trials()] == ["complete"] * 5
    assert capsys.readouterr().err == "frostline: waiting for trials that run elsewhere: 1\n"
    (process,) = sent
    process.join(60)


def test_a_trial_without_heartbeat_is_waited_for_and_run_again(sweep, monkeypatch, capsys):
    monkeypatch.setattr(trials, "SILENCE_SECONDS", 1.0)
    study, worker = sweep(light.measure, "0")
    taken = study.ask()
    for key, value in {"host": "another", "beat": time.time() + 1}.items():
        taken._trial.set_user_attr(key, value)
    sweeper._run_workers(study, worker, worker)
    assert states(study) == {("0", "failed", True), ("0", "complete", False)}
    assert capsys.readouterr().err == (
        "frostline: waiting for trials that run elsewhere: 1\n"
        "frostline: processes died during their trials; restarting workers for the remaining trials: 1\n"
        "frostline: trials whose process died, and that were retried: 1\n"
    )
    folder = summary.write("s", study.current_trials(), worker.space, worker.settings, {})
    assert (
        "Interrupted or failed, and run again with another number: 0 as 1."
        in (folder / "index.html").read_text()
    )


@pytest.mark.parametrize("sampler", ["grid", "random", "tpe"])
def test_remaining_trials_are_counted(sweep, sampler):
    kind = {"kind": "tpe", "startup": 1, "multivariate": False} if sampler == "tpe" else {"kind": sampler}
    study, _ = sweep(light.measure, "0", "1", "2", sampler=kind, trials=3)
    assert study.remaining() == Remaining(3, 0)
    taken = study.ask()
    assert study.remaining() == Remaining(2, 1)
    taken.complete([0.5], {})
    assert study.remaining() == Remaining(2, 0)


def test_an_interrupt_says_how_many_trials_have_ended(sweep, monkeypatch):
    def interrupted(study):
        monkeypatch.setattr(signals._State, "sentence", signals.SENTENCE)
        with pytest.raises(KeyboardInterrupt), sweeper._resumable(study, 2):
            raise KeyboardInterrupt
        return signals._State.sentence

    study, worker = sweep(light.measure, "0", "1")
    sentence = "frostline: interrupted; the same command continues the sweep ({} of 2 trials have ended)"
    assert interrupted(study) == sentence.format(0)
    sweeper._run_workers(study, worker, launcher(worker, 1))
    assert interrupted(study) == sentence.format(2)
