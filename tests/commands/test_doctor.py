"""`frostline doctor`: its screen for a healthy project and a broken one."""

import time

import pytest

from frostline.commands import doctor
from frostline.commands.checks.finding import Finding
from frostline.commands.main import main
from frostline.console import progress

pytestmark = pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated")


def test_one_screen_and_nothing_broken(healthy, capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "nothing is broken"
    assert len(lines) < 25
    names = {line.split()[1] for line in lines if line.startswith(("ok", "note"))}
    assert {
        "python",
        "packages",
        "processor",
        "gpu",
        "conf",
        "params.yaml",
        "mlflow",
        "weights",
        "data",
    } <= names
    assert f"sqlite:///{healthy}/mlflow.db, 0 runs" in "\n".join(lines)


def test_a_long_wait_says_what_is_checked(monkeypatch, capsys):
    def slow():
        time.sleep(0.5)
        yield Finding("slow", "ok", "done")

    progress.say_once.cache_clear()
    monkeypatch.setattr(progress, "WAITING_SECONDS", 0.0)
    monkeypatch.setattr(progress, "is_watched", lambda: True)
    monkeypatch.setattr(doctor, "_checks", lambda: [slow])
    assert main(["doctor"]) == 0
    assert capsys.readouterr().err == "checking the machine, the environment and the project …\n"


def test_what_is_broken_is_counted_and_named(healthy, capsys, monkeypatch):
    (healthy / "params.yaml").write_text("freeze: nope\n")
    (healthy / "mlflow.db").write_text("not a database, and long enough to be told from one" * 10)
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "broken  params.yaml  freeze: no option 'nope'; allowed: bit_hyperrule, bitfit" in " ".join(
        out.split("   ")
    )
    assert "file is not a database" in out
    assert f"move it aside: mv {healthy}/mlflow.db {healthy}/mlflow.db.aside" in out
    assert out.endswith("2 broken: params.yaml, mlflow\n")
