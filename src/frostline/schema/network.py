"""Configs of networks: backbones and initial weights."""

from typing import Annotated, Any, Literal, TypeGuard

from pydantic import Field, field_validator

from frostline.schema.types import PathText, Strict


class Mlp(Strict):
    """Fully connected layers on the flattened image."""

    kind: Literal["mlp"]
    hidden: list[Annotated[int, Field(ge=1)]]
    """Units of each hidden layer, input to head; an empty list is a linear classifier."""
    activation: Literal["linear", "exponential", "sigmoid", "bipolar_sigmoid", "tanh", "relu"]
    """Activation of hidden layers; the softmax is in the loss. bipolar_sigmoid: (1 − e⁻ˣ)/(1 + e⁻ˣ)."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Probability that a hidden unit is dropped while training."""


class Timm(Strict):
    """A timm model."""

    kind: Literal["timm"]
    name: str
    """A name from `timm.list_models()`, with or without a pretrained tag (resnet18.a1_in1k); timm/NAME is the
    same; hf-hub:owner/name is a repository of the Hugging Face hub."""
    drop_rate: Annotated[float, Field(ge=0, lt=1)]
    """Dropout before the head."""
    drop_path_rate: Annotated[float, Field(ge=0, lt=1)]
    """Rate of stochastic depth; 0 for models without it."""

    @field_validator("name")
    @classmethod
    def _one_spelling(cls, name: str) -> str:
        """Normalize the name: the repositories of timm have the names of their models."""
        name = name.removeprefix("https://huggingface.co/")
        source, colon, place = name.partition(":")
        if source.lower() in ("hf-hub", "hf_hub"):
            name = place
        if colon and name != place:
            return name  # local-dir:
        if name.startswith("timm/") and "@" not in name:
            return name.removeprefix("timm/")
        return f"hf-hub:{name}" if colon or "/" in name else name


class PluginBackbone(Strict):
    """A network of an installed package, from the entry-point group `frostline.backbones`."""

    kind: Literal["plugin"]
    name: str
    """The entry point's name."""
    options: dict[str, Any]
    """Keyword arguments of the plug-in."""


Backbone = Annotated[Mlp | Timm | PluginBackbone, Field(discriminator="kind")]


def backbone_name(backbone: Backbone) -> str:
    """Return a backbone's name."""
    return backbone.kind if isinstance(backbone, Mlp) else backbone.name


Head = Literal["auto", "keep", "reset"]
"""keep: start from the head of the weights, with classes matched by name; the data set must have the same
classes. reset: start from zeros. auto: keep if the classes are the same, else reset. Weights without classes,
and runs that train nothing: see `models.head_init.choose_head_init`."""


class NoWeights(Strict):
    """Random initial weights, drawn from the run's seed."""

    kind: Literal["none"]


class PretrainWeights(Strict):
    """The weights of the `pretrain` stage."""

    kind: Literal["pretrain"]
    path: PathText | None
    """A weights.safetensors; null: the study's, if they are of this config, else those of a pretraining that
    runs first."""
    head: Head


class ImagenetWeights(Strict):
    """ImageNet weights from an installed package, else downloaded by timm; the head starts from zeros."""

    kind: Literal["imagenet"]


class FileWeights(Strict):
    """A file of weights: safetensors of frostline or timm, or a state dict saved by torch."""

    kind: Literal["file"]
    path: PathText
    """The file."""
    head: Head
    key: str | None = None
    """Name of the state dict in a file with several: model, state_dict_ema, …; null: the only one."""


Weights = Annotated[NoWeights | PretrainWeights | ImagenetWeights | FileWeights, Field(discriminator="kind")]


def needs_pretraining(weights: Weights) -> TypeGuard[PretrainWeights]:
    """Return whether weights are those of a pretraining that runs first."""
    return isinstance(weights, PretrainWeights) and weights.path is None
