"""The formats of an exported network, and the packages that they need."""

from importlib.util import find_spec

from frostline.console.errors import FrostlineError

FORMATS = {"onnx": ".onnx", "pt2": ".pt2", "safetensors": ".safetensors"}
"""Format → file suffix."""
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


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
