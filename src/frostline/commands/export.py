"""`frostline export`: write a trained network as a file."""

import argparse
from pathlib import Path
from typing import Any

from frostline.commands import options
from frostline.console.progress import NETWORK, waiting

EPILOG = f"""\
examples:
  frostline export runs/finetune/NAME --out model.onnx
  frostline export models:/digits@champion --out model.pt2

{options.RUN_HELP}

onnx and pt2 (torch.export): the model takes (N, channels, height, width) uint8 images (uint16 with
input.depth=16) and returns (N, classes) probabilities. The file's metadata has the class names, and the size
to which your program resizes images and how: in onnx under "frostline", in pt2 in the extra file
"frostline.json".
safetensors: the weights, under the network's parameter names, which are timm's for its networks.
The file is read again and compared with the network on up to 64 test images, or on random ones if the data
set is not on this machine. If a probability differs by more than 1e-4, nothing is written."""


def add(commands: Any, summary: str) -> None:
    """Add the command's parser."""
    parser = options.add_command(commands, "export", run, summary, EPILOG)
    options.add_model(parser, "run")
    parser.add_argument(
        "--format",
        type=_not_torchscript,
        choices=["onnx", "pt2", "safetensors"],
        help="onnx, pt2: the network, from pixels to probabilities; safetensors: its weights (default: the"
        " suffix of FILE)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", required=True, help="file to write")


def _not_torchscript(form: str) -> str:
    if form == "torchscript":
        raise argparse.ArgumentTypeError("torchscript is deprecated by torch; write pt2 or onnx instead")
    return form


def run(arguments: argparse.Namespace) -> None:
    """Export the network, and print how far its outputs differ from the original's."""
    from frostline.serving import formats, resolve

    form = arguments.format or formats.format_of(arguments.out, "--out")
    formats.check_packages(form)
    folder = resolve.folder(arguments.run)
    from frostline.console.units import size

    with waiting(NETWORK):
        from frostline.runs.trained_run import TrainedRun
        from frostline.serving import export

        trained = TrainedRun.read(folder)
    with waiting("exporting, and comparing the file with the network"):
        exported = export.run(trained, form, arguments.out)
    print(
        f"{exported.file}: {size(exported.file.stat().st_size)},"
        f" differs from the network in float32 by {exported.difference:.1e} at most, on {exported.tried_on}"
    )
