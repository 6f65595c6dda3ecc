"""`frostline export`: writes a trained network for other programs and compares it with the original."""

import json
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from frostline.base.run_folder import METADATA, WEIGHTS
from frostline.console.errors import FrostlineError, first_line
from frostline.console.progress import say_once
from frostline.models import weights
from frostline.runs.serving_model import TOLERANCE, TRACED, Predictor, ServingModel, largest_difference
from frostline.runs.trained_run import TrainedRun
from frostline.serving.formats import FORMATS
from frostline.training import machine
from frostline.training.inference import network_with

CHECKED = 64
"""Images that the exported network is tested on, as one batch and one alone."""
INPUT, OUTPUT = "images", "probabilities"
ANY_BATCH = ({0: torch.export.Dim("batch", min=1)},)


@dataclass(frozen=True)
class Exported:
    """An exported network."""

    file: Path
    difference: float
    """The largest difference of a probability from the original network's."""
    tried_on: str
    """The images of the comparison, in words."""


def run(trained: TrainedRun, form: str, out: Path) -> Exported:
    """Export the network of a run to the file `out`, if the exported network gives the same outputs.

    Args:
        form: a key of `formats.FORMATS`.

    Raises:
        FrostlineError: the format can't express the network, or the outputs differ by
            more than TOLERANCE.
    """
    machine.configure_inference(trained.run.trainer.threads, torch.device("cpu"), say_once)
    model = trained.serving_model()
    images, tried_on = trained.images(CHECKED)
    write = {"onnx": _onnx, "pt2": _pt2, "safetensors": _safetensors}[form]
    with tempfile.TemporaryDirectory(prefix="frostline-") as folder, torch.no_grad():
        file = Path(folder, f"model{FORMATS[form]}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, which users can't act on
            try:
                written = write(trained, model, images[torch.arange(TRACED) % len(images)], file)
            except FrostlineError:
                raise
            except Exception as error:
                raise FrostlineError(
                    f"{form}: can't express this network ({type(error).__name__}:"
                    f" {first_line(error)}); try another format"
                ) from error
            difference = largest_difference(model, written, images)
        if not difference <= TOLERANCE:
            raise FrostlineError(
                f"{form}: the exported network's probabilities differ by {difference:.1e} on {tried_on},"
                f" and {TOLERANCE:.0e} is allowed; nothing was written, try another format"
            )
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = out.with_name(f".{out.name}.new")
        shutil.copyfile(file, temporary)
        temporary.replace(out)
    return Exported(out, difference, tried_on)


def _onnx(trained: TrainedRun, model: ServingModel, example: Tensor, file: Path) -> Predictor:
    import onnxruntime

    program = torch.onnx.export(
        model,
        (example,),
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=ANY_BATCH,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props[METADATA] = json.dumps(trained.about())
    program.save(str(file), external_data=False)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])


def _pt2(trained: TrainedRun, model: ServingModel, example: Tensor, file: Path) -> Predictor:
    program = torch.export.export(model, (example,), dynamic_shapes=ANY_BATCH)
    torch.export.save(program, file, extra_files={f"{METADATA}.json": json.dumps(trained.about())})
    return torch.export.load(file).module()


def _safetensors(trained: TrainedRun, model: ServingModel, example: Tensor, file: Path) -> Predictor:
    source = trained.folder / WEIGHTS
    if trained.several_labels:  # the run has its thresholds in another file
        state, metadata = weights.load(source)
        weights.save(file, state, {**(metadata or {}), **trained.about()})
    else:
        shutil.copyfile(source, file)
    state, _ = weights.load(file)
    network = network_with(state, trained.run.backbone, trained.spec, len(trained.classes))
    return ServingModel(network.eval(), trained.spec, several_labels=trained.several_labels)
