"""The formats of an exported network, and the packages that they need."""

from importlib.util import find_spec
from pathlib import Path

from frostline.console.errors import FrostlineError

FORMATS = {"onnx": ".onnx", "pt2": ".pt2", "safetensors": ".safetensors"}
"""Format → file suffix."""
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def format_of(file: Path, where: str) -> str:
    """Return the format that a file's suffix means, a key of `FORMATS`.

    Args:
        where: the option or argument that names the file.

    Raises:
        FrostlineError: no format has this suffix.
    """
    form = next((form for form, suffix in FORMATS.items() if suffix == file.suffix), None)
    if form is None:
        *others, last = FORMATS.values()
        raise FrostlineError(f"{where}: found {file}; name a file that ends in {', '.join(others)} or {last}")
    return form


def check_packages(form: str) -> None:
    """Refuse a format whose packages are missing, before a network is loaded.

    Args:
        form: a key of FORMATS.
    """
    if form != "onnx":
        return
    for name in ONNX_PACKAGES:
        if find_spec(name) is None:
            raise FrostlineError(
                f"onnx: needs the package {name}; pip install {' '.join(ONNX_PACKAGES)}, or choose pt2"
            )
