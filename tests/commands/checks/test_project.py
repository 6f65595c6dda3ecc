"""Checks of the project: each thing that may be broken."""

import shutil

import pytest

from frostline.commands.checks import project as checks
from frostline.commands.checks import store

pytestmark = pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated")


def summaries(check) -> list[tuple[str, str]]:
    return [(finding.state, finding.message) for finding in check()]


@pytest.mark.parametrize(
    ("break_it", "check", "state", "words"),
    [
        (lambda root: shutil.rmtree(root / ".git"), checks.dvc, "broken", "is not a git repository"),
        (lambda root: shutil.rmtree(root / ".dvc"), checks.dvc, "broken", "is not a DVC repository"),
        (lambda root: (root / "dvc.yaml").unlink(), checks.dvc, "note", "no dvc.yaml in"),
        (lambda root: (root / "mlflow.db").unlink(), store.store, "ok", "will be created by the first run"),
        (
            lambda root: (root / "conf/freeze/full.yaml").write_text("a: ["),
            checks.configs,
            "broken",
            "the YAML",
        ),
    ],
)
def test_each_break(healthy, break_it, check, state, words):
    break_it(healthy)
    ((state_found, message),) = summaries(check)
    assert state_found == state
    assert words in message


def test_data_of_the_study_that_is_gone(healthy):
    selected = (healthy / "params.yaml").read_text()
    selected = selected.replace("dataset: null", "dataset: image_folder\ndataset.root: my photos")
    selected = selected.replace("target: requirements.lock", "target: my photos")
    (healthy / "params.yaml").write_text(selected)
    assert summaries(checks.configs)[1:] == [
        ("ok", "selects the study mnist_to_digits"),
        ("broken", "dataset.root: my photos doesn't exist"),
    ]
    (healthy / "my photos").mkdir()
    assert [state for state, _ in summaries(checks.configs)] == ["ok", "ok"]


def test_little_room(healthy, monkeypatch):
    usage = shutil.disk_usage(healthy)
    for free, state in ((0.5e9, "broken"), (3e9, "note"), (9e9, "ok")):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: usage._replace(free=int(free)))
        assert summaries(checks.disk)[0][0] == state


def test_weights_with_several_names_are_listed_once(healthy):
    messages = [finding.message for finding in checks.data() if finding.name == "weights"]
    assert messages == ["ImageNet weights of tf_efficientnet_lite0 are installed"]
