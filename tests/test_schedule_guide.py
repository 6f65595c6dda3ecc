"""The guide to freeze schedules: its commands run, its pictures and listings are what the code makes."""

import re
import shlex

import pytest
import yaml

from frostline.commands import main as cli
from tests.imports import SRC

ROOT = SRC.parent
GUIDE = (ROOT / "docs" / "freeze-schedules.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ frostline (.*)", GUIDE, flags=re.MULTILINE)
LISTINGS = re.findall(r"```yaml\n# (conf/freeze/\w+\.yaml)\n(.*?)```", GUIDE, flags=re.DOTALL)


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_make_its_pictures(command, tmp_path, capsys):
    words = shlex.split(command)
    picture = next((word for word in words if word.endswith(".svg")), None)
    made = tmp_path / "made.svg"
    assert cli.main([str(made) if word == picture else word for word in words]) == 0
    assert "phase" in capsys.readouterr().out
    if picture:
        assert f"![]({picture.removeprefix('docs/')})" in GUIDE
        assert made.read_bytes() == (ROOT / picture).read_bytes(), f"make it again: frostline {command}"


def test_it_has_commands_and_listings():
    assert len(COMMANDS) >= 5
    assert len(LISTINGS) >= 2


@pytest.mark.parametrize(("path", "listing"), LISTINGS)
def test_its_listings_are_the_files(path, listing):
    assert yaml.safe_load(listing) == yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def test_it_lists_every_ready_schedule():
    listed = re.findall(r"^\| `(\w+)` \|", GUIDE.split("## Ready schedules")[1].split("## ")[0], re.MULTILINE)
    assert sorted(listed) == sorted(path.stem for path in (ROOT / "conf" / "freeze").glob("*.yaml"))
