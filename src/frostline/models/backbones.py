"""Build a network from the config of a backbone: (N, C, H, W) float32 images → (N, classes) logits."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from torch import nn

from frostline import schema
from frostline.base.plugins import Plugin
from frostline.base.seeds import derive
from frostline.console.errors import FrostlineError
from frostline.models.input_spec import Fit, InputSpec, size_of
from frostline.models.timm_names import SOURCES, first_sentence, resolve_name

FITS: dict[str, Fit] = {"center": "crop", "border": "pad", "squash": "squash"}
"""timm's `crop_mode` → `input.fit`."""


def build(backbone: schema.Backbone, spec: InputSpec, classes: int, seed: int) -> nn.Module:
    """Return the network with random weights drawn from `seed`.

    Raises:
        FrostlineError: there is no such backbone, or it can't take such images.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "weights"))
        model = BUILDERS[backbone.kind](backbone, spec, classes)
        errors = Plugin("backbone", backbone.name).errors() if backbone.kind == "plugin" else nullcontext()
        with errors:
            _check_forward(model, backbone, spec, classes)
        return model


def default_input(backbone: schema.Backbone) -> InputSpec:
    """Return the backbone's default input, which config and weights may override."""
    return DEFAULT_INPUTS[backbone.kind](backbone)


def _check_forward(model: nn.Module, backbone: schema.Backbone, spec: InputSpec, classes: int) -> None:
    """Refuse a network that fails on an image or does not return one logit per class (not on meta)."""
    import torch

    image = torch.zeros(1, *spec.shape)
    if image.is_meta:
        return
    name = getattr(backbone, "name", backbone.kind)
    try:
        with torch.no_grad():
            logits = model.eval()(image)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise FrostlineError(
            f"input.size: {name} can't take {spec.shape_text} images ({first_sentence(error)});"
            " try a larger input.size"
        ) from error
    model.train()
    if not isinstance(logits, torch.Tensor):
        raise FrostlineError(
            f"backbone.name: {name} returns a {type(logits).__name__}, not a tensor of logits; choose an"
            " image classifier"
        )
    if logits.shape != (1, classes):
        raise FrostlineError(
            f"backbone.name: {name} gives {tuple(logits.shape)} for one image, not (1, {classes}) logits;"
            " choose an image classifier"
        )


def _mlp(backbone: schema.Mlp, spec: InputSpec, classes: int) -> nn.Module:
    from frostline.models.mlp import Mlp

    return Mlp(math.prod(spec.shape), backbone.hidden, classes, backbone.activation, backbone.dropout)


def _timm(backbone: schema.Timm, spec: InputSpec, classes: int) -> nn.Module:
    import timm

    arguments: dict[str, Any] = {"num_classes": classes, "in_chans": spec.channels}
    if backbone.drop_rate:
        arguments["drop_rate"] = backbone.drop_rate
    if backbone.drop_path_rate:
        arguments["drop_path_rate"] = backbone.drop_path_rate
    name, config, saved = resolve_name(backbone.name)
    arguments = {**saved, **arguments}
    if backbone.name.startswith(SOURCES):
        arguments["pretrained_cfg"] = config
    # Transformers are built for one image size; convolutional networks accept any.
    if config.get("fixed_input_size") and spec.shape[1:] != tuple(config["input_size"][1:]):
        arguments["img_size"] = spec.size
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, **arguments)
    except (TypeError, AssertionError, RuntimeError, ValueError) as error:
        raise FrostlineError(
            f"backbone.name: timm can't make {backbone.name} for {spec.shape_text} images"
            f" ({first_sentence(error)}); try its own size, input.size={config['input_size'][-1]}"
        ) from None
    return model


def _timm_input(backbone: schema.Timm) -> InputSpec:
    from timm.data import resolve_data_config

    return timm_input(resolve_data_config(pretrained_cfg=resolve_name(backbone.name)[1]))


def timm_input(config: dict[str, Any]) -> InputSpec:
    """Return timm's data config as an `InputSpec`."""
    channels, *size = config["input_size"]
    interpolation = config["interpolation"]
    return InputSpec(
        size=size_of(size),
        channels=channels,
        interpolation="bicubic" if interpolation in ("", "random") else interpolation,
        crop=float(config["crop_pct"]),
        mean=tuple(float(v) for v in config["mean"]),
        std=tuple(float(v) for v in config["std"]),
        fit=FITS.get(config.get("crop_mode", "center"), "crop"),
    )


def _plugin(backbone: schema.PluginBackbone, spec: InputSpec, classes: int) -> nn.Module:
    plugin = Plugin("backbone", backbone.name)
    make = plugin.load()
    with plugin.errors():
        model = make(classes=classes, channels=spec.channels, size=spec.size, **backbone.options)
        if not isinstance(model, nn.Module):
            raise TypeError(f"it returned a {type(model).__name__}, not a torch module")
    return model


def _plugin_input(backbone: schema.PluginBackbone) -> InputSpec:
    plugin = Plugin("backbone", backbone.name)
    default = getattr(plugin.load(), "default_input", None)
    if default is None:
        half = (0.5, 0.5, 0.5)
        return InputSpec(size=224, channels=3, interpolation="bicubic", crop=1.0, mean=half, std=half)
    with plugin.errors():
        return InputSpec.from_dict(default)


BUILDERS: dict[str, Callable[..., nn.Module]] = {"mlp": _mlp, "timm": _timm, "plugin": _plugin}
DEFAULT_INPUTS: dict[str, Callable[..., InputSpec]] = {
    "mlp": lambda backbone: InputSpec(
        size=28, channels=1, interpolation="bicubic", crop=1.0, mean=(0.0,), std=(1.0,)
    ),
    "timm": _timm_input,
    "plugin": _plugin_input,
}
