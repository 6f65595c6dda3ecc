"""Each command of the documentation is one that frostline takes: its options exist and its config composes.

What commands do is tested elsewhere, and that of whole pages in test_readme.py, test_tutorial.py,
test_models_guide.py and test_schedule_guide.py.
"""

import re
import shlex

import pytest

from frostline.commands.main import COMMANDS, parse
from frostline.config import compose
from frostline.pipeline.compose import study
from tests.imports import SRC

ROOT = SRC.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^ *```[a-z]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
TRAINING = ("finetune", "probe", "plan", "prepare", "show", "lr-find")


def commands():
    """(page, command) of the lines in code blocks; for those in conf/ see tests/config/test_conf.py."""
    for page in PAGES:
        for block in FENCE.findall(page.read_text(encoding="utf-8")):
            text = re.sub(r" *\\\n *|\n {8,}(?=\S*=)", " ", block)  # a command over two lines
            for line in re.findall(
                rf"^(?:\$ )?(?:\.venv/bin/)?frostline ((?:{'|'.join(COMMANDS)}) ?.*)$", text, re.M
            ):
                yield page.name, line


def words_of(line):
    """The words of a command, without the explanation that stands two spaces behind it."""
    return shlex.split(re.split(r" {2,}", line)[0])


FOUND = [pytest.param(line, id=f"{place}: {line}") for place, line in dict.fromkeys(commands())]


def test_commands_are_found():
    assert len(FOUND) > 50
    assert {param.values[0].split()[0] for param in FOUND} >= {
        *TRAINING,
        "compare",
        "cache",
        "export",
        "init",
    }


@pytest.mark.parametrize("line", FOUND)
def test_it_is_a_command(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = parse(words_of(line))
    if arguments.command_name not in TRAINING:
        return
    own = re.compile("experiment=(NAME|signs|mine)$")  # of the page's reader
    overrides = [own.sub("experiment=article_mlp", word) for word in arguments.overrides]
    if arguments.command_name == "plan":
        overrides = study.on_selection(overrides)
    if arguments.command_name == "probe":
        compose.grid([*overrides, "freeze=linear_probe"], ("optimizer.lr", "loss.label_smoothing", "seed"))
    elif getattr(arguments, "multirun", False):
        _, space, _ = compose.space_of([compose.to_hydra(word, sweep=True) for word in overrides])
        assert space.parameters
    else:
        compose.experiment(overrides)
