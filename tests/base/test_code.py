"""The fingerprint of a stage's code: it changes with what computes, and with nothing else."""

import shutil
from pathlib import Path

import pytest

from frostline.base import code


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of frostline whose files a test may change."""
    copy = tmp_path / "frostline"
    shutil.copytree(code.PACKAGE, copy)
    monkeypatch.setattr(code, "PACKAGE", copy)
    code.fingerprint.cache_clear()
    yield copy
    code.fingerprint.cache_clear()


def changed(package, path):
    """The stages whose fingerprint changes with a file."""
    before = {stage: code.fingerprint(stage) for stage in code.FOLDERS}
    path = package / path
    path.parent.mkdir(exist_ok=True)
    path.write_bytes((path.read_bytes() if path.is_file() else b"") + b"\n# more\n")
    code.fingerprint.cache_clear()
    return {stage for stage in code.FOLDERS if code.fingerprint(stage) != before[stage]}


@pytest.mark.parametrize(
    ("path", "stages"),
    [
        ("reporting/words.py", {"report"}),
        ("plotting/page.css", {"report"}),
        ("reporting/page.html.j2", {"report"}),
        ("console/errors.py", set()),
        ("planning/text.py", set()),
        ("commands/main.py", set()),
        ("tracking/store.py", set()),
        ("schema/training.py", {"compose"}),
        ("freezing/curves.py", {"compose", "pretrain", "finetune", "evaluate"}),
        ("training/losses.py", {"pretrain", "finetune", "evaluate"}),
        ("data/loading/augment.py", {"pretrain", "finetune", "evaluate"}),
        ("duplicates/search.py", {"prepare", "leakage"}),
        ("base/files.py", set(code.FOLDERS)),
        ("base/__pycache__/files.cpython-311.pyc", set()),
    ],
)
def test_a_stage_depends_on_what_computes_its_result(package, path, stages):
    assert changed(package, path) == stages


def test_a_copy_elsewhere_has_the_same_fingerprint(package, monkeypatch):
    copied = code.fingerprint("finetune")
    monkeypatch.setattr(code, "PACKAGE", Path(code.__file__).parents[1])
    code.fingerprint.cache_clear()
    assert code.fingerprint("finetune") == copied
