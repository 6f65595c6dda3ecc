"""Read properties of pixels that Pillow's mode does not tell from file headers: bits, extra channels, signs.

Pillow reads 16-bit colour as 8 bits, drops channels beyond RGB or interprets the fourth as transparency,
reads signed values as unsigned, and does not invert 16-bit "white is zero", all without a warning.
"""

import io
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import TiffImagePlugin


@dataclass(frozen=True)
class Header:
    """How a file stores its pixels."""

    bits: int = 8
    """Largest number of bits of any channel."""
    inverted: bool = False
    """Whether 0 is white, but Pillow reads it as black."""
    fault: str | None = None
    """Why these pixels can't be used; follows the file's name in a sentence."""


def read_header(content: bytes) -> Header:
    """Read an image file's header; `Header()` for a damaged file, or if Pillow's mode says everything."""
    for starts, read in _READERS:
        if content.startswith(starts):
            return read(content)
    return _avif(content) if content[4:8] == b"ftyp" else Header()


def _extra_channels(channels: int, extra: int) -> str | None:
    if extra <= 0:
        return None
    # Three channels are read as colour, not as a stack.
    more = f", or set input.channels={channels}" if channels != 3 else ""
    are = "1 of them is" if extra == 1 else f"{extra} of them are"
    return (
        f"has {channels} channels, and {are} neither colour nor marked as transparency (alpha): "
        f"save it with the 1 or 3 channels to learn from, as grey or RGB{more}"
    )


# ── TIFF ────────────────────────────────────────────────────────────────────────────────────────────────────

_BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANAR = 258, 259, 262, 277, 284
_INK_SET, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _SUBSAMPLING = 332, 338, 339, 530
_WHITE_IS_ZERO, _SEPARATED, _YCBCR = 0, 5, 6
_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}
"""Photometric interpretation → channels that are colour."""
_ALPHA = (1, 2, 999)
"""Values of ExtraSamples: associated and unassociated alpha, and what CorelDRAW writes for the latter."""
_SAMPLE_KINDS = {2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}
_UNCOMPRESSED, _JPEG = 1, (6, 7)


def _tiff(content: bytes) -> Header:
    try:
        return _tiff_header(_tiff_tags(content))
    except Exception:  # Damaged: Pillow's parser may raise anything, and will again on opening the file.
        return Header()


def _tiff_tags(content: bytes) -> Mapping[int, Any]:
    """Return the tags of the first page."""
    tags = TiffImagePlugin.ImageFileDirectory_v2(content[: 16 if content[2] == 43 else 8])
    stream = io.BytesIO(content)
    stream.seek(tags.next)
    tags.load(stream)
    return tags


def _tiff_header(tags: Mapping[int, Any]) -> Header:
    photometric, compression = tags.get(_PHOTOMETRIC, _WHITE_IS_ZERO), tags.get(_COMPRESSION, _UNCOMPRESSED)
    bits = max(tags.get(_BITS, (1,)))
    fault = _tiff_fault(tags, photometric, compression, bits)
    return Header(bits, inverted=photometric == _WHITE_IS_ZERO and bits == 16, fault=fault)


def _tiff_fault(tags: Mapping[int, Any], photometric: int, compression: int, bits: int) -> str | None:
    colours = _COLOURS.get(photometric, 1)
    samples = tags.get(_SAMPLES, colours if compression in _JPEG else 1)
    if photometric == _YCBCR and samples == 1:
        colours = 1  # Only luma.
    alpha = tags.get(_EXTRA_SAMPLES, (0,))[:1]
    extra = samples - colours - (samples > colours and bool(alpha) and alpha[0] in _ALPHA)
    if fault := _extra_channels(samples, extra):
        return fault
    kinds = [_SAMPLE_KINDS[value] for value in tags.get(_SAMPLE_FORMAT, (1,)) if value in _SAMPLE_KINDS]
    if kinds:
        return f"has {kinds[0]} pixels of {bits} bits, which have no set range: save it with 8 bits, 0 to 255"
    if bits > 16:
        return f"has {bits}-bit pixels, which have no set range: save it with 8 bits, 0 to 255"
    if 8 < bits < 16:
        return f"has {bits} bits per channel: save it with 8 or 16"
    if photometric == _SEPARATED and tags.get(_INK_SET, 1) != 1:
        return "has inks that are not CMYK: save it as grey or RGB"
    if (
        photometric == _YCBCR
        and compression == _UNCOMPRESSED
        and tags.get(_SUBSAMPLING) not in (None, (1, 1))
    ):
        return "is uncompressed YCbCr with subsampled colour: save it as grey or RGB"
    if bits == 16 and samples > 1 and tags.get(_PLANAR, 1) == 2 and compression == _UNCOMPRESSED:
        return "has 16-bit channels in separate planes, uncompressed: save it with interleaved channels"
    return None


# ── PNG, PNM ────────────────────────────────────────────────────────────────────────────────────────────────


def _png(content: bytes) -> Header:
    return Header(bits=max(content[24:25], default=8))  # Bit depth in the header chunk, which comes first.


def _pnm(content: bytes) -> Header:
    """Read the fourth word of the header, the largest value; comments go from # to the end of the line."""
    lines = [line.partition(b"#")[0] for line in content[:4096].splitlines()]
    words = b" ".join(lines).split()[:4]
    largest = int(words[3]) if len(words) == 4 and words[3].isdigit() and len(words[3]) <= 10 else 0
    return Header(bits=max(8, largest.bit_length()))


# ── JPEG 2000 (ITU-T T.800) ─────────────────────────────────────────────────────────────────────────────────

_CODESTREAM = b"\xff\x4f\xff\x51"
_GREY, _CMYK = 17, 12
"""Enumerated colour spaces."""
_CONTAINERS = (b"jp2h",)


def _jpeg2000(content: bytes) -> Header:
    start = content.find(_CODESTREAM)
    try:
        (channels,) = struct.unpack_from(">H", content, start + 40)
        depths = struct.unpack_from(">" + "Bxx" * channels, content, start + 42)
        boxes = dict(_boxes(content[:start]))
    except struct.error:  # Damaged: Pillow will report it.
        return Header()
    space = int.from_bytes(boxes[b"colr"][3:7]) if boxes.get(b"colr", b"")[:1] == b"\x01" else None
    colours = {_GREY: 1, _CMYK: 4}.get(space or 0, 3 if channels >= 3 else 1)
    definitions = boxes.get(b"cdef", b"")[2:]
    kinds = [kind for _, kind, _ in struct.iter_unpack(">HHH", definitions[: len(definitions) // 6 * 6])]
    alpha = sum(kind in (1, 2) for kind in kinds)
    bits = max(((depth & 0x7F) + 1 for depth in depths), default=8)
    # With a palette, the codestream has one channel of indices.
    fault = None if b"pclr" in boxes else _extra_channels(channels, channels - colours - min(alpha, 1))
    if bits > 8 and channels > 1 and not fault:
        # Pillow 13 rounds before it truncates to 8 bits, so the brightest values become 0.
        fault = f"is JPEG 2000 with {bits} bits per channel of colour: save it with 8, or as TIFF or PNG"
    return Header(bits, fault=fault)


def _boxes(content: bytes) -> list[tuple[bytes, bytes]]:
    """Return (type, content) of the boxes; boxes in `_CONTAINERS` are replaced by the boxes inside them."""
    boxes: list[tuple[bytes, bytes]] = []
    start = 0
    while start + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, start)
        begin = start + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", content, begin)
            begin += 8
        end = start + size if size else len(content)
        if end <= start:
            break
        inner = content[begin:end]
        boxes += _boxes(inner) if kind in _CONTAINERS else [(kind, inner)]
        start = end
    return boxes


# ── AVIF (AV1-ISOBMFF, 2.3) ─────────────────────────────────────────────────────────────────────────────────


def _avif(content: bytes) -> Header:
    configuration = content.find(b"av1C")
    if configuration < 0 or configuration + 6 >= len(content):
        return Header()
    flags = content[configuration + 6]
    return Header(bits=(12 if flags & 0x20 else 10) if flags & 0x40 else 8)


_READERS: tuple[tuple[tuple[bytes, ...], Callable[[bytes], Header]], ...] = (
    ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), _tiff),
    ((b"\x89PNG",), _png),
    ((b"P2", b"P3", b"P5", b"P6"), _pnm),
    ((_CODESTREAM, b"\0\0\0\x0cjP  "), _jpeg2000),
)
