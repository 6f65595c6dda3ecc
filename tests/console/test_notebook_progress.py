"""Progress in a notebook is one output that is updated, and text is escaped."""

import subprocess
import sys

from tests.imports import SRC

CODE = """
import sys
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.displaypub import DisplayPublisher
from frostline.console import progress

assert not progress.in_notebook()  # IPython in a terminal
class Kept(DisplayPublisher):
    def publish(self, data, metadata=None, *, transient=None, update=False, **more):
        kept.append(transient["display_id"])
        print(update, kept[-1] == kept[0], data["text/html"])
kept = []
shell = InteractiveShell.instance()
shell.display_pub = Kept()
shell.kernel = object()  # as ipykernel's shell has
progress.NOTEBOOK_SECONDS = 0
assert progress.in_notebook()
try:
    with progress.shown("<b>fit", 3) as advance:
        advance(1, "loss & more")
        advance(1)
        raise KeyboardInterrupt
except KeyboardInterrupt:
    pass
"""


def test_one_output_is_updated(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=True, cwd=tmp_path,
        env={"PYTHONPATH": str(SRC), "HOME": str(tmp_path), "IPYTHONDIR": str(tmp_path), "PATH": ""},
    )  # fmt: skip
    first, *updates, last = result.stdout.splitlines()
    assert first.startswith("False True &lt;b&gt;fit: 0/3")
    assert [line.split()[:2] for line in updates] == [["True", "True"]] * 2
    assert '<progress value="1" max="3">' in updates[0]
    assert "&lt;b&gt;fit: 1/3 loss &amp; more" in updates[0]
    assert last.startswith("True True <div><small>&lt;b&gt;fit: 2/3 loss &amp; more, ")
