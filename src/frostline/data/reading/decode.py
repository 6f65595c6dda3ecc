"""Decode an image file to an upright 8-bit grey or RGB image, or say what is wrong and how to fix it."""

import errno
import io
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from frostline.base.files import is_html
from frostline.console.errors import FrostlineError, OutOfResources
from frostline.console.units import size
from frostline.data.reading.endings import lacks_end
from frostline.data.reading.headers import Header, read_header

Values = NDArray[np.unsignedinteger[Any]]
"""Pixels of one image, uint8 or uint16: (H, W, C), or (H, W)."""

Note = Literal["16-bit", "dim", "cmyk", "renamed", "opaque"]
"""A conversion of an image that its owner should know about."""

MAX_PIXELS = 89_478_485
"""Images with more pixels are refused before decoding; Pillow's own limit for decompression bombs."""

DIM = 32
"""A 16-bit image whose brightest value is below this level of 256 probably has 12 bits or less."""

MIN_SIDE = 2
"""Images with a shorter side are refused: they are tracking pixels or placeholders."""

# Decoders that may read a user's files. Excluded are formats that start other programs (EPS), match almost
# any file (TGA), or are no photographs or drawings (ICO, PDF, HDF5).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "PPM", "JPEG2000")

_FORMATS_OF_SUFFIX = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), ("JPEG", "MPO")),
    **dict.fromkeys((".png", ".apng"), ("PNG",)),
    ".webp": ("WEBP",),
    ".gif": ("GIF",),
    **dict.fromkeys((".bmp", ".dib"), ("BMP", "DIB")),
    **dict.fromkeys((".tif", ".tiff"), ("TIFF",)),
    **dict.fromkeys((".avif", ".avifs"), ("AVIF",)),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), ("PPM",)),
    **dict.fromkeys((".jp2", ".j2k", ".jpx"), ("JPEG2000",)),
}

# Files with these suffixes are meant as images, so they are reported rather than skipped.
_SUFFIXES_WITHOUT_DECODER = (
    *(".heic", ".heif", ".hif", ".jxl", ".svg", ".psd", ".tga", ".ico", ".eps", ".jxr", ".exr", ".hdr"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
)
SUFFIXES = frozenset((*_FORMATS_OF_SUFFIX, *_SUFFIXES_WITHOUT_DECODER))

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_SIGNATURES = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF")
_SIGNATURE_BYTES = 16


class BadImage(FrostlineError):
    """A file that can't be used as an image; `reason` follows its name in a sentence."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} {reason}")
        self.reason = reason


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image."""

    image: Image.Image | Values
    """Mode L or RGB, upright, transparency on white; (H, W, C) if it has other channels or 16 bits."""
    format: str
    """Pillow's name of the format, such as JPEG."""
    mode: str
    """Pillow's mode of the stored pixels, such as P or CMYK, with ;16 for more than 8 bits per channel."""
    notes: tuple[Note, ...]
    """Conversions that the owner should know about."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, pixels."""
        if isinstance(self.image, Image.Image):
            return self.image.size
        return self.image.shape[1], self.image.shape[0]

    @property
    def picture(self) -> Image.Image:
        """The image in mode L or RGB, to show to people; of other channels, the first or the first three."""
        return self.image if isinstance(self.image, Image.Image) else Image.fromarray(shown(self.image))


def shown(values: Values) -> NDArray[np.uint8]:
    """Return an image, (H, W, C) of 8 or 16 bits, as people can see it: (H, W) or (H, W, 3) uint8."""
    values = values[..., 0] if values.shape[2] < 3 else np.ascontiguousarray(values[..., :3])
    return eight_bits(values) if values.dtype == np.uint16 else values.astype(np.uint8)


def no_larger(image: Image.Image, side: int) -> NDArray[np.uint8]:
    """Return an image, L or RGB, reduced in place to at most `side` pixels wide and high."""
    image.thumbnail((side, side))
    return np.asarray(image)


def read_bytes(path: Path, name: str) -> bytes:
    """Return the content of the file at `path`, called `name` in errors.

    Raises:
        BadImage: it is missing, not a regular file, or unreadable.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadImage(name, "is not a regular file: replace it by an image file")
        return path.read_bytes()
    except OSError as error:
        raise BadImage(name, unreadable(path, error)) from None


def unreadable(path: Path, error: OSError) -> str:
    """Return the reason why `path` can't be read, and how to fix it."""
    if isinstance(error, FileNotFoundError):
        try:
            target = path.readlink()
        except OSError:  # no link, or one without a target, as in /proc
            return "is missing: restore it"
        return f"is a link to {target}, which doesn't exist: remove the link or restore its target"
    if isinstance(error, PermissionError):
        return "can't be read (permission denied): give yourself the right to read it (chmod u+rX)"
    if error.errno == errno.ELOOP:
        return "is a link that leads back to itself (a symlink loop): remove it"
    return f"can't be read ({error.strerror}): copy or download it again"


def decode(
    content: bytes,
    name: str,
    at_least: int | None = None,
    depth: Literal[8, 16] = 8,
    *,
    alpha: bool = False,
) -> DecodedImage:
    """Decode an image file completely, into an upright image.

    Transparency is composited on white, palettes are expanded, 16 bits per channel are scaled to 8 (grey:
    v/257, rounded; colour: v/256, rounded down), CMYK is converted without a colour profile, and the EXIF
    orientation is applied.

    Args:
        name: name of the file, for errors and to check its suffix.
        at_least: minimum side in pixels; a JPEG is decoded at a half, a quarter or an eighth of its size,
            which is faster, if no side gets shorter than this.
        depth: 16 keeps the bits of 16-bit grey, as (H, W, 1) uint16.
        alpha: whether transparency is kept, as the fourth channel of RGBA.

    Raises:
        BadImage: empty, truncated, not an image, without a decoder, animated, too small or too large, or with
            channels or values that an 8-bit grey or RGB image can't hold.
        OutOfResources: there is not enough memory.
    """
    if not content:
        raise BadImage(name, "is empty (0 bytes): copy or download it again")
    notes: list[Note] = []
    with _strict_pillow():
        header = read_header(content)
        if header.fault:
            raise BadImage(name, header.fault)
        image = _open(content, name)
        mode = _mode(image, header)
        if image.format not in _FORMATS_OF_SUFFIX.get(suffix(name), (image.format,)):
            notes.append("renamed")
        if image.mode == "CMYK":
            notes.append("cmyk")
        try:
            if at_least:
                image.draft(None, (at_least, at_least))
            image.load()
            with suppress(Exception):  # Pillow's parser may raise anything on damaged EXIF data.
                ImageOps.exif_transpose(image, in_place=True)
            if depth == 16 and header.bits > 8:
                return DecodedImage(_sixteen_bits(image, header, name), str(image.format), mode, tuple(notes))
            if alpha and not image.has_transparency_data:
                notes.append("opaque")
            upright = _grey_or_rgb(image, header, name, alpha)
            if header.bits > 8:
                notes.append("16-bit")
                if np.max(upright.getextrema()) < DIM:  # of any channel
                    notes.append("dim")
            return DecodedImage(upright, str(image.format), mode, tuple(notes))
        except BadImage:
            raise
        except MemoryError:
            raise _too_large(image, name) from None
        except Exception as error:  # Pillow's decoders may raise anything on damaged files.
            raise BadImage(name, _damaged(error)) from None


def suffix(name: str) -> str:
    """Return the suffix of a file name in lower case, such as '.jpg'."""
    return PurePath(name).suffix.lower()


def to_channels(image: Image.Image, channels: int) -> Image.Image:
    """Return a grey (L) or colour (RGB) version of a decoded image; colour to grey by ITU-R 601 luma."""
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def printable(name: str) -> str:
    r"""Return `name` with unprintable characters escaped: ``a\nb.jpg`` for a name with a newline."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def _open(content: bytes, name: str) -> Image.Image:
    """Open the image, and refuse files that should not be decoded."""
    try:
        image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise BadImage(name, _unidentified(content)) from None
    except Image.DecompressionBombError:
        raise decompression_bomb(name, f"more than {2 * MAX_PIXELS // 10**6} million") from None
    except MemoryError:
        raise OutOfResources(
            f"{name}: there is no memory to open it; close other programs, and run again"
        ) from None
    except Exception as error:
        raise BadImage(name, _damaged(error)) from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise decompression_bomb(name, f"{width}×{height}")
    if min(width, height) < MIN_SIDE:
        raise BadImage(name, f"is {width}×{height} pixels, too small for an image: replace or remove it")
    if lacks_end(content, str(image.format)):
        raise BadImage(name, "is truncated: copy or download it again")
    # The other frames of a camera's MPO are previews; in other formats, frames are an animation or pages.
    if image.format != "MPO":
        try:
            frames = getattr(image, "n_frames", 1)
        except Exception as error:
            raise BadImage(name, _damaged(error)) from None
        if frames > 1:
            if image.format == "TIFF":
                # Three channels are colour, whose pages Pillow doesn't join.
                stack = f"set input.channels={frames} for a stack of channels"
                stack = "the three channels as one RGB image" if frames == 3 else stack
                raise BadImage(
                    name, f"has {frames} pages: save the page to use as a file of its own, or {stack}"
                )
            raise BadImage(
                name, f"has {frames} frames (an animation): save the frame to use as a file of its own"
            )
    return image


def _mode(image: Image.Image, header: Header) -> str:
    """Return Pillow's mode of the stored pixels, with ';16' if it hides more than 8 bits per channel."""
    if header.bits <= 8 or image.mode.startswith("I;16"):
        return image.mode
    return "I;16" if image.mode == "I" else f"{image.mode};16"


def _unidentified(content: bytes) -> str:
    if is_html(content):
        return "is an HTML page, not an image (a failed download?): download it again"
    if content.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the image: run git lfs pull"
    if content[4:8] == b"ftyp" and content[8:12] in _HEIF_BRANDS:
        return "is HEIC, for which no decoder is installed: convert it to JPEG or PNG"
    if content.startswith(_SIGNATURES):
        return "is damaged or of a kind without a decoder: copy it again or convert it to JPEG or PNG"
    if len(content) < _SIGNATURE_BYTES:
        return f"is truncated ({len(content)} bytes): copy or download it again"
    return "has no format with an installed decoder: convert it to JPEG or PNG"


def _damaged(error: Exception) -> str:
    detail = printable(str(error).strip().rstrip(".")) or type(error).__name__
    if "truncated" in detail.lower():
        return "is truncated: copy or download it again"
    return f"is truncated or damaged ({detail}): copy or download it again"


def decompression_bomb(name: str, size: str) -> BadImage:
    """Return the error for an image with too many pixels, such as 40000×30000."""
    most = MAX_PIXELS // 10**6
    return BadImage(
        name,
        f"has {size} pixels, and {most} million are allowed (a decompression bomb?): shrink or remove it",
    )


def _too_large(image: Image.Image, name: str) -> OutOfResources:
    """Return the error for too little memory to decode: for the pixels and their 8-bit version."""
    width, height = image.size
    needed = 2 * width * height * max(3, len(image.getbands()))
    return OutOfResources(
        f"{name}: {width}×{height} pixels take about {size(needed)} of memory to decode, which is not "
        "free; close other programs, or shrink the image, and run again"
    )


def _has_16_bits(image: Image.Image) -> bool:
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _sixteen_bits(image: Image.Image, header: Header, name: str) -> Values:
    if not _has_16_bits(image):
        raise BadImage(
            name,
            f"has {header.bits} bits per channel, and this format is read with 8: save it as TIFF or .npy,"
            " or set input.depth=8",
        )
    values = np.asarray(image).astype(np.uint16)[..., None]
    return 65535 - values if header.inverted else values


def _grey_or_rgb(image: Image.Image, header: Header, name: str, alpha: bool) -> Image.Image:
    if _has_16_bits(image):
        values = eight_bits(np.asarray(image))
        return Image.fromarray(255 - values if header.inverted else values)
    if image.mode in ("I", "F"):
        raise BadImage(
            name,
            f"has 32-bit pixels (mode {image.mode}), which have no set range: save it with 8 bits, 0 to 255",
        )
    if alpha:
        return image.convert("RGBA")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        flat = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        return flat.convert("L" if image.mode in ("1", "L", "LA", "La") else "RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def eight_bits(values: Values) -> NDArray[np.uint8]:
    """Scale 0…65535 to 0…255, rounded: 65535 = 255·257."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


class _StrictPillow:
    """Suppress Pillow's warnings, and refuse truncated images, while any thread decodes.

    `warnings.catch_warnings` is not thread-safe, so the first thread sets the state and the last one resets
    it.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self.lock:
            if self.users == 0:
                self.filters = warnings.catch_warnings()
                self.filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
                self.lenient = ImageFile.LOAD_TRUNCATED_IMAGES
                ImageFile.LOAD_TRUNCATED_IMAGES = False
            self.users += 1
        try:
            yield
        finally:
            with self.lock:
                self.users -= 1
                if self.users == 0:
                    self.filters.__exit__(None, None, None)
                    ImageFile.LOAD_TRUNCATED_IMAGES = self.lenient


_strict_pillow = _StrictPillow()
