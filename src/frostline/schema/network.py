"""Configs of networks: backbones, and the weights that they start from."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from frostline.schema.types import Strict


class Mlp(Strict):
    """Fully connected layers on the flattened image."""

    kind: Literal["mlp"]
    hidden: list[Annotated[int, Field(ge=1)]]
    """Units of each hidden layer, input to head; an empty list is a linear classifier."""
    activation: Literal["linear", "exponential", "sigmoid", "bipolar_sigmoid", "tanh", "relu"]
    """Of the hidden layers; the output's softmax is in the loss. bipolar_sigmoid: (1 − e⁻ˣ)/(1 + e⁻ˣ)."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Probability that a hidden unit is dropped while training."""


class Timm(Strict):
    """Any model of timm."""

    kind: Literal["timm"]
    name: str
    """timm's name of it, as in `timm.list_models()`, with or without a tag of its weights (resnet18.a1_in1k);
    timm/NAME is the same; hf-hub:owner/name is a repository of the Hugging Face hub."""
    drop_rate: Annotated[float, Field(ge=0, lt=1)]
    """Dropout before the head."""
    drop_path_rate: Annotated[float, Field(ge=0, lt=1)]
    """Stochastic depth; 0 for models that have none."""

    @field_validator("name")
    @classmethod
    def _one_spelling(cls, name: str) -> str:
        """Return the same name for the same model: timm's own repositories are named by their models."""
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
    """A network that an installed package brings through the entry-point group `frostline.backbones`."""

    kind: Literal["plugin"]
    name: str
    """The entry point's name."""
    options: dict[str, Any]
    """Passed to the plug-in as they are."""


Backbone = Annotated[Mlp | Timm | PluginBackbone, Field(discriminator="kind")]

Head = Literal["auto", "keep", "reset"]
"""keep: start from the weights' head, whose classes have to be the data set's; matched by name. reset: start
from zeros. auto: keep where the classes are the same, else reset."""


class NoWeights(Strict):
    """Random weights, drawn from the run's seed."""

    kind: Literal["none"]


class PretrainWeights(Strict):
    """What the `pretrain` stage made."""

    kind: Literal["pretrain"]
    path: str | None
    """A weights.safetensors; null: the pipeline's own, or, outside it, a pretraining that is run first."""
    head: Head


class ImagenetWeights(Strict):
    """ImageNet weights, from an installed package if there is one, else timm's download; random head."""

    kind: Literal["imagenet"]


class FileWeights(Strict):
    """A file of weights: frostline's or timm's safetensors, or a state dict saved by torch."""

    kind: Literal["file"]
    path: str
    head: Head
    key: str | None = None
    """Which weights, where the file holds several: model, state_dict_ema, …; null: the only ones."""


Weights = Annotated[NoWeights | PretrainWeights | ImagenetWeights | FileWeights, Field(discriminator="kind")]
