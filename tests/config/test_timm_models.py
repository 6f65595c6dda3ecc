"""The names of timm's models, read from its source code, are those that timm registers."""

import subprocess
import sys

import timm
from timm.models._registry import get_deprecated_models

from frostline.config import timm_models


def test_the_names_are_those_of_timm():
    assert timm_models.names() == set(timm.list_models())


def test_deprecated_names_are_those_of_timm():
    assert timm_models.deprecated() == set(get_deprecated_models())


def test_timm_is_not_imported_for_them():
    code = (
        "import sys; from frostline.config import timm_models as m; m.names(); print('timm' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "False\n"
