"""Puts the environment's commands first on PATH. Set-up copies this into .venv, where a .pth file imports it.

`.venv/bin/dvc` and `.venv/bin/frostline` should work without activating anything, but DVC's queue worker
runs the bare word `dvc`, found by PATH, and the stages' commands inherit that PATH. Every start of Python
pays for this file, so it imports nothing that is not there already.
"""

import os
import sys

_bin = sys.prefix + "/bin"
_path = os.environ.get("PATH", os.defpath).split(os.pathsep)

# Another interpreter may be led here (site.addsitedir), whose PATH is none of our business.
if __file__.startswith(sys.prefix + "/") and _path[0] != _bin:
    os.environ["PATH"] = os.pathsep.join([_bin, *(folder for folder in _path if folder != _bin)])
