"""Recognize image files that lack their end, which Pillow decodes to grey or black rows without an error."""

# FF D9 can't occur in the compressed data of JPEG 2000 (ITU-T T.800, B.10.1).
_ENDS = {"PNG": b"IEND\xaeB`\x82", "JPEG2000": b"\xff\xd9"}
_JPEG_SCAN, _JPEG_END = b"\xff\xda", b"\xff\xd9"

_JPEG_ZEROS, _OTHER_ZEROS = bytes(64), bytes(512)
"""More zeros than compressed data ends with: what an interrupted copy in place leaves."""


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
        case "WEBP":
            whole = content[: 8 + int.from_bytes(content[4:8], "little")]
            metadata = b"EXIF" in whole or b"XMP " in whole  # They follow the pixels, and may be padded.
            return whole.endswith(_OTHER_ZEROS) and not metadata
        case "AVIF":
            return content.endswith(_OTHER_ZEROS)
    return _ENDS.get(format, b"") not in content
