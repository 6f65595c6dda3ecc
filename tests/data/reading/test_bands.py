"""Images of any number of channels and of 16 bits are decoded exactly, whatever wrote them."""

import io

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.data.tiffs import tiff
from tests.data.trees import encoded, picture

from frostline.data.reading.bands import PLAIN, PixelFormat, conform, decode_as
from frostline.data.reading.decode import BadImage, decode, shown

SIXTEEN = PixelFormat(3, 16)


def noise(*shape: int, kind: str = "uint16") -> np.ndarray:
    return np.random.default_rng(len(shape)).integers(0, np.iinfo(kind).max, shape, dtype=kind, endpoint=True)


def npy(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def written(values: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, **options)
    return stream.getvalue()


def refusal(content: bytes, wanted: PixelFormat = PLAIN) -> str:
    with pytest.raises(BadImage) as raised:
        decode_as(content, "x", wanted)
    return raised.value.reason


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [2, 4, 7])
def test_bands_of_a_tiff(channels, kind):
    values = noise(9, 12, channels, kind=kind)
    depth = 8 if kind == "uint8" else 16
    wanted = PixelFormat(channels, depth)
    planes = np.moveaxis(values, 2, 0)
    for content in (
        tiff(values, 1),
        written(values, photometric="minisblack", planarconfig="contig"),
        written(values, photometric="minisblack", planarconfig="contig", compression="zlib"),
        written(planes, photometric="minisblack", planarconfig="separate"),
        written(planes, photometric="minisblack"),
    ):
        decoded = decode_as(content, "x.tif", wanted)
        assert (decoded.image == values).all()
        assert (decoded.size, decoded.mode, decoded.notes) == ((12, 9), f"{channels}×{kind}", ())


def test_pages_of_a_tiff_are_channels():
    pages = noise(5, 9, 12, kind="uint8")
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as file:
        for page in pages:
            file.write(page, photometric="minisblack", contiguous=False)
    decoded = decode_as(stream.getvalue(), "x.tif", PixelFormat(5))
    assert (decoded.image == np.moveaxis(pages, 0, 2)).all()
    assert refusal(stream.getvalue()).endswith("or set input.channels=5 for a stack of channels")


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_three_pages_or_grey_channels_of_eight_bits_are_no_colour(channels):
    """The errors don't name input.channels=3, which would change nothing."""
    pages = noise(3, 9, 12, kind="uint8")
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as file:
        for page in pages:
            file.write(page, photometric="minisblack", contiguous=False)
    assert refusal(stream.getvalue(), PixelFormat(channels)) == (
        "has 3 pages: save the page to use as a file of its own, or the three channels as one RGB image"
    )
    grey = written(noise(9, 12, 3, kind="uint8"), photometric="minisblack", planarconfig="contig")
    assert refusal(grey, PixelFormat(channels)).endswith(
        "save it with the 1 or 3 channels to learn from, as grey or RGB"
    )


@pytest.mark.parametrize(("kind", "depth"), [("<u2", 16), (">u2", 16), (">u2", 8)])
def test_the_byte_order_of_an_array_does_not_matter(kind, depth):
    values = noise(9, 12, 5)
    wanted = PixelFormat(5, depth)
    decoded = decode_as(npy(values.astype(kind)), "x.npy", wanted)
    assert decoded.mode == "5×uint16"
    assert (decoded.image == decode_as(npy(values), "x.npy", wanted).image).all()
    assert decoded.image.dtype == (np.uint16 if depth == 16 else np.uint8)


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_arrays_have_their_channels_last_or_first(kind):
    last = noise(9, 12, 5, kind=kind)
    wanted = PixelFormat(5, 8 if kind == "uint8" else 16)
    assert (decode_as(npy(last), "x.npy", wanted).image == last).all()
    assert (decode_as(npy(np.moveaxis(last, 2, 0)), "x.npy", wanted).image == last).all()
    both = noise(5, 9, 5, kind=kind)
    assert (decode_as(npy(both), "x.npy", wanted).image == both).all()


def test_arrays_of_grey_and_colour_are_ordinary_images():
    grey, colour = noise(9, 12, kind="uint8"), noise(9, 12, 3, kind="uint8")
    assert decode_as(npy(grey), "x.npy").picture.mode == "L"
    assert (np.asarray(decode_as(npy(colour), "x.npy").image) == colour).all()
    assert (np.asarray(decode_as(npy(np.moveaxis(colour, 2, 0)), "x.npy").image) == colour).all()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.zeros((4, 4)), "has float64 pixels, which have no set range: save it as uint8 or uint16"),
        (np.zeros((4, 4), bool), "has bool pixels"),
        (
            np.zeros((2, 4, 4, 4), np.uint8),
            "is an array of 2×4×4×4: save height×width, or",
        ),
        (np.zeros((4, 4, 4), np.uint8), "has 4 channels, and input.channels is 3: set input.channels=4, or"),
        (np.zeros((1, 4), np.uint8), "is 4×1 pixels, too small for an image"),
        (np.array([None]), "is not a NumPy array of numbers (Object arrays cannot be loaded"),
    ],
)
def test_arrays_that_are_no_images(values, sentence):
    assert refusal(npy(values)).startswith(sentence)


def test_a_truncated_array_or_tiff():
    assert refusal(npy(noise(9, 12))[:-7]).startswith("is not a NumPy array of numbers (")
    content = written(noise(9, 12, 5), photometric="minisblack")
    assert refusal(content[: len(content) // 2], PixelFormat(5, 16)).startswith("is truncated or damaged")


def test_other_channels_than_those_that_are_wanted():
    content = tiff(noise(9, 12, 4), 1)
    assert refusal(content, PixelFormat(5, 16)).startswith(
        "has 4 channels, and input.channels is 5: set input.c"
    )
    assert refusal(content).endswith("as grey or RGB, or set input.channels=4")
    assert refusal(tiff(noise(9, 12, 5).astype(np.float32), 1), PixelFormat(5)).startswith(
        "has float32 pixels"
    )
    lzw = tiff(noise(9, 12, 5), 1)
    assert decode_as(lzw, "x", PixelFormat(5, 8)).image.dtype == np.uint8


def test_colour_whose_bits_would_be_lost():
    values = b"P6 4 4 65535 " + noise(4, 4, 3).astype(">u2").tobytes()
    assert decode_as(values, "x.ppm").notes == ("16-bit",)
    assert refusal(values, SIXTEEN).startswith(
        "has 16 bits per channel, and this format is read with 8: save"
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_stay(channels):
    values = noise(9, 12, channels)
    wanted = PixelFormat(channels, 16)
    plane = values[..., 0] if channels == 1 else values
    assert (decode_as(tiff(values, 1 if channels == 1 else 2), "x.tif", wanted).image == values).all()
    assert (decode_as(npy(plane), "x.npy", wanted).image == values).all()


def test_a_grey_png_of_sixteen_bits():
    values = noise(9, 12)
    content = encoded(Image.fromarray(values), "PNG")
    decoded = decode_as(content, "x.png", PixelFormat(1, 16))
    assert (decoded.image[..., 0] == values).all()
    assert decoded.notes == ()


def test_eight_bits_fill_the_range_of_sixteen():
    image = picture(1)
    wide = decode_as(encoded(image, "PNG"), "x.png", SIXTEEN)
    assert (wide.image == np.asarray(image).astype(int) * 257).all()
    assert (np.asarray(wide.picture) == np.asarray(image)).all()


@given(st.sampled_from([1, 2, 3, 6]), st.sampled_from(["uint8", "uint16"]), st.sampled_from([8, 16]))
def test_conform(channels, kind, depth):
    values = noise(3, 4, channels, kind=kind)
    same = conform(values, PixelFormat(channels, depth), "x")
    assert (same.shape, same.dtype.itemsize) == (values.shape, depth // 8)
    assert (conform(same, PixelFormat(channels, depth), "x") == same).all()
    assert shown(values).shape == ((3, 4) if channels < 3 else (3, 4, 3))
    if channels == 1:
        assert (conform(values, PixelFormat(3, depth), "x") == same).all()


def test_colour_becomes_grey_as_pillow_does():
    image = picture(3)
    ours = conform(np.asarray(image), PixelFormat(1), "x")[..., 0].astype(int)
    assert np.abs(ours - np.asarray(image.convert("L")).astype(int)).max() <= 1


def test_plain_images_are_decoded_as_ever():
    content = encoded(picture(5), "JPEG")
    assert decode_as(content, "x.jpg", PixelFormat(1)) == decode(content, "x.jpg")


@pytest.mark.parametrize(("mode", "kind"), [("RGB", "PNG"), ("RGB", "JPEG"), ("L", "PNG"), ("RGB", "WEBP")])
def test_four_channels_of_an_image_without_transparency(mode, kind):
    content = encoded(picture(1, mode=mode), kind)
    decoded = decode_as(content, "x", PixelFormat(4))
    assert decoded.image.shape == (36, 40, 4)
    assert (decoded.image[..., 3] == 255).all()
    assert (decoded.image[..., :3] == np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))).all()
    assert decoded.notes == ("opaque",)


def test_four_channels_keep_transparency():
    values = noise(9, 12, 4, kind="uint8")
    decoded = decode_as(encoded(Image.fromarray(values), "PNG"), "x", PixelFormat(4))
    assert (decoded.image == values).all()
    assert decoded.notes == ()
    deep = decode_as(encoded(Image.fromarray(values), "PNG"), "x", PixelFormat(4, 16))
    assert (deep.image == values.astype(np.uint16) * 257).all()


def test_four_channels_of_a_stack_are_its_own():
    """A lost infrared band is not transparency."""
    assert "has 3 channels, and input.channels is 4" in refusal(tiff(noise(9, 12, 3), 2), PixelFormat(4))
