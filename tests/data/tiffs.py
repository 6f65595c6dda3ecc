"""TIFFs as other programs write them, and Pillow does not: any channels, bits, signs, planes, byte order."""

import struct
from collections.abc import Sequence

import numpy as np

_KINDS = {"u": 1, "i": 2, "f": 3}
_SHORT, _LONG = 3, 4


def tiff(
    pixels: np.ndarray,
    photometric: int,
    extra: Sequence[int] | None = None,
    *,
    order: str = "<",
    planar: bool = False,
    **tags: int,
) -> bytes:
    """Return an uncompressed TIFF.

    Args:
        pixels: (H, W) or (H, W, channels), unsigned, signed or floating-point.
        photometric: 0: white is zero, 1: black is zero, 2: RGB, 5: CMYK, 6: YCbCr.
        extra: values of ExtraSamples; None: no such tag.
        order: of bytes, '<' or '>'.
        planar: whether each channel lies by itself.
        tags: more of them, such as tag_332=2.
    """
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    height, width, channels = pixels.shape
    data = (
        (pixels.transpose(2, 0, 1) if planar else pixels).astype(pixels.dtype.newbyteorder(order)).tobytes()
    )
    bits, planes = 8 * pixels.dtype.itemsize, channels if planar else 1
    entries: dict[int, tuple[int, list[int]]] = {
        256: (_LONG, [width]),
        257: (_LONG, [height]),
        258: (_SHORT, [bits] * channels),
        259: (_SHORT, [1]),
        262: (_SHORT, [photometric]),
        273: (_LONG, []),
        277: (_SHORT, [channels]),
        278: (_LONG, [height]),
        279: (_LONG, [len(data) // planes] * planes),
        284: (_SHORT, [2 if planar else 1]),
        339: (_SHORT, [_KINDS[pixels.dtype.kind]] * channels),
    }
    if extra is not None:
        entries[338] = (_SHORT, list(extra))
    entries |= {int(name.removeprefix("tag_")): (_SHORT, [value]) for name, value in tags.items()}
    start = 8 + 2 + 12 * len(entries) + 4
    after = b""
    sizes = {_SHORT: ("H", 2), _LONG: ("I", 4)}
    # The pixels' place depends on how much the longer values take, which does not depend on the place.
    room = sum(
        sizes[kind][1] * len(values or [0] * planes)
        for kind, values in entries.values()
        if sizes[kind][1] * len(values or [0] * planes) > 4
    )
    entries[273] = (_LONG, [start + room + i * (len(data) // planes) for i in range(planes)])
    listing = struct.pack(order + "H", len(entries))
    for tag, (kind, values) in sorted(entries.items()):
        letter, _ = sizes[kind]
        packed = struct.pack(f"{order}{len(values)}{letter}", *values)
        listing += struct.pack(order + "HHI", tag, kind, len(values))
        if len(packed) > 4:
            listing += struct.pack(order + "I", start + len(after))
            after += packed
        else:
            listing += packed.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(order + "I", 8) + listing + b"\0" * 4 + after + data
