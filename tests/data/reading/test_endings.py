import io

import numpy as np
import pytest
from PIL import Image
from tests.data.trees import encoded, picture

from frostline.data.reading.decode import BadImage, decode


def noise(size: int = 200) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8))


OPTIONS = [
    ("JPEG", {"quality": 95}),
    ("JPEG", {"quality": 95, "progressive": True}),
    ("WEBP", {"quality": 90}),
    ("WEBP", {"lossless": True}),
    ("AVIF", {}),
    ("PNG", {}),
    ("JPEG2000", {}),
]


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize(("kind", "options"), [case for case in OPTIONS if case[0] not in ("WEBP", "AVIF")])
def test_zeros_in_place_of_the_end_are_a_truncated_image(kind, options, share):
    """As an interrupted copy in place leaves them."""
    whole = encoded(noise(), kind, **options)
    length = int(len(whole) * share)
    assert decode(whole, "x").format == kind
    with pytest.raises(BadImage, match="is truncated"):
        decode(whole[:length] + bytes(len(whole) - length), "x")


@pytest.mark.parametrize("trailer", [b"", b"SEFT of a phone"])
@pytest.mark.parametrize(("kind", "options"), [case for case in OPTIONS if case[0] != "AVIF"])
def test_zeros_behind_the_end_are_padding(kind, options, trailer):
    """As cameras write them, also behind data of their own."""
    whole = encoded(noise(), kind, **options)
    padded, same = (decode(content, "x").image for content in (whole + trailer + bytes(4096), whole))
    assert padded.mode == same.mode
    assert padded.tobytes() == same.tobytes()


@pytest.mark.parametrize(("kind", "options"), OPTIONS)
@pytest.mark.parametrize(
    "image", [Image.new("RGB", (1500, 1200)), Image.new("RGB", (64, 64), "white"), picture(1)]
)
def test_images_that_compress_well_are_whole(kind, options, image):
    assert decode(encoded(image, kind, **options), "x").size == image.size


def test_a_webp_with_a_uniform_ground_ends_in_zeros_and_is_whole():
    """A drawing on white: 610 zeros at the end."""
    pixels = np.full((2600, 2600, 3), 255, dtype=np.uint8)
    pixels[:200, :200] = noise()
    content = encoded(Image.fromarray(pixels), "WEBP")
    assert content.endswith(bytes(512))
    assert decode(content, "x").size == (2600, 2600)


def test_metadata_of_a_webp_may_end_in_zeros():
    stream = io.BytesIO()
    noise(32).save(stream, "WEBP", exif=b"Exif\0\0II*\0" + bytes(2000))
    assert decode(stream.getvalue(), "x").size == (32, 32)
