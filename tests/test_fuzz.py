"""A short run of tests/fuzz.py: some cases of each kind, always the same."""

import json
import os
import subprocess

import pytest

from tests import fuzz
from tests.imports import SRC

CODE = """
import json, sys
from tests import fuzz
fuzz.prepare()
kind, numbers = sys.argv[1], range(int(sys.argv[2]))
print(json.dumps([[f"{kind}/{n}", *vars(fuzz.run(kind, n)[1]).values()] for n in numbers]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_random_input_is_taken_or_refused_in_one_sentence(kind, warm):
    # In a process of its own: a hook that watches what is opened stays for good.
    count = 2 if kind == "command" else 8
    done = subprocess.run(
        [str(warm), "-c", CODE, kind, str(count)],
        cwd=SRC.parent,
        env={**os.environ, "PYTHONPATH": f"{SRC}:{SRC.parent}", "FROSTLINE_PYTHON": str(warm)},
        capture_output=True,
        text=True,
        check=True,
    )
    outcomes = json.loads(done.stdout.splitlines()[-1])
    assert len(outcomes) == count
    assert [each for each in outcomes if each[1] not in ("ok", "refused")] == []
