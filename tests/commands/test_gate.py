"""`frostline gate`: what it prints."""

import pytest

from frostline.base.files import write_text
from frostline.base.formats import canonical_json, yaml_text
from frostline.commands import main as cli

CONFIG = {"study": "mine", "monitor": "val/accuracy", "arms": ["scratch"], "seeds": [0]}


@pytest.mark.parametrize(
    ("gate", "sentence"),
    [
        ({}, "gate: the study has no bounds (key gate of its experiment): nothing is checked"),
        ({"arms.scratch.epochs": 3}, "gate: arms.scratch.epochs is 4, at least 3"),
    ],
)
def test_it_says_what_it_checked(tmp_path, monkeypatch, capsys, gate, sentence):
    write_text(tmp_path / "artifacts/resolved/report.yaml", yaml_text({**CONFIG, "gate": gate}))
    write_text(
        tmp_path / "artifacts/report/report.json", canonical_json({"arms": {"scratch": {"epochs": 4}}})
    )
    monkeypatch.chdir(tmp_path)
    assert cli.main(["gate"]) == 0
    assert capsys.readouterr().out == f"{sentence}\n"
