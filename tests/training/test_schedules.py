"""Freeze schedules by name or file."""

from pathlib import Path

import pytest
import yaml

from frostline import schema
from frostline.base import project
from frostline.console.errors import FrostlineError
from frostline.training import schedules

READY = list(project.conf_files("freeze").values())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of a user's own, with a schedule."""
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("groups: {all: '*'}\nphases: [{train: all, until: end}]\n")
    return tmp_path


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_every_ready_schedule_is_what_its_name_its_file_and_its_content_give(path, folder):
    by_name = schedules.load(path.stem)
    assert isinstance(by_name, schema.Freeze)
    assert schedules.load(path) == schedules.load(str(path)) == by_name
    assert schedules.load(yaml.safe_load(path.read_text())) == by_name
    assert schedules.load(by_name) is by_name


def test_a_file_of_ones_own(folder):
    assert schedules.load("mine.yaml").phases[0].train == "all"


def test_a_rate_is_a_phases_schedule():
    curve = schedules.load_lr_schedule({"kind": "cosine", "warmup": 0.1})
    assert (curve.kind, curve.warmup, curve.final) == ("cosine", 0.1, 0.0)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("gradul", "no freeze schedule 'gradul'; did you mean 'gradual'?"),
        ("min.yaml", "min.yaml: there is no such file; did you mean 'mine.yaml'? (allowed: mine.yaml)"),
        ("gradual.yml", "gradual.yml: there is no such file; the ready schedule is called 'gradual', wi"),
        ("nowhere/mine.yaml", "nowhere/mine.yaml: there is no such file; name another"),
        (".yaml", "no freeze schedule '.yaml'; "),
        ({"groups": {"all": "*"}}, "freeze: phases: missing; give it a value"),
        ({"groups": {"all": "*"}, "phases": [], "fases": []}, "freeze: fases: unknown key; did you mean"),
        ("phases: [", "bad.yaml: line 1: expected the node content, but found '<stream end>'; fix the YAML"),
        ("groups: {a: '*'}\ngroups: {b: '*'}", "bad.yaml: line 2: found duplicate key groups; fix the YAML"),
        ("", "bad.yaml: found None, must be keys with values"),
        ("- a", "bad.yaml: found ['a'], must be keys with values"),
        (b"\xff", "bad.yaml can't be read (not UTF-8); name another file"),
    ],
)  # fmt: skip
def test_what_is_no_schedule_gets_a_sentence(given, sentence, folder):
    content = given if isinstance(given, bytes) else str(given).encode()
    if isinstance(given, bytes) or given == "" or "\n" in str(given) or str(given)[-1] in "[a":
        Path("bad.yaml").write_bytes(content)
        given = "bad.yaml"
    with pytest.raises(FrostlineError) as error:
        schedules.load(given)
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)


def test_a_wrong_learning_rate_schedule_names_its_key():
    with pytest.raises(FrostlineError, match=r"^lr_schedule: warm: unknown key; did you mean 'warmup'\?"):
        schedules.load_lr_schedule({"kind": "cosine", "warm": 0.1})
