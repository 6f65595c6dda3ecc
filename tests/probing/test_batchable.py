"""What batched heads do not support is refused before the imports that training needs."""

import subprocess
import sys

PROGRAM = """
import sys
from frostline.probing import standalone
try:
    standalone.run(["dataset=digits", *sys.argv[1:]])
except Exception as error:
    print(type(error).__name__, "torch" in sys.modules)
"""


def test_a_schedule_of_several_phases_is_refused_before_torch_is_imported(tmp_path):
    words = ["freeze=gradual", "augment=light"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["NotBatchable False"]
