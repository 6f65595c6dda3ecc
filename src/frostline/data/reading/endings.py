"""Recognize image files that lack their end, which Pillow decodes to grey or black rows without an error."""

# FF D9 can't occur in the compressed data of JPEG 2000 (ITU-T T.800, B.10.1).
_ENDS = {"PNG": b"IEND\xaeB`\x82", "JPEG2000": b"\xff\xd9"}
_JPEG_SCAN, _JPEG_END = b"\xff\xda", b"\xff\xd9"

_JPEG_ZEROS = bytes(64)
"""More zeros than a JPEG's compressed data ends with: what an interrupted copy in place leaves.

WebP and AVIF may encode a uniform area at the bottom as thousands of zeros.
"""


def lacks_end(content: bytes, format: str) -> bool:
    """Return whether an image file has no end marker, or zeros instead of its last bytes.

    Zeros behind the end, as cameras write them, are fine.

    Args:
        format: Pillow's name of the format.
    """
    match format:
        case "JPEG":
            # Neither marker can occur in the compressed data of a scan (ITU-T T.81, F.1.2.3).
            return content.endswith(_JPEG_ZEROS) and _JPEG_END not in content[content.rfind(_JPEG_SCAN) :]
    return _ENDS.get(format, b"") not in content
