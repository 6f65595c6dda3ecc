import threading
import warnings
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile
from tests.data.trees import encoded, picture

from frostline.data.reading.decode import BadImage, decode, printable, read_bytes, to_channels

WHITE = 255


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def decoded(image: Image.Image, kind: str = "PNG", **options: object) -> Image.Image:
    read = decode(encoded(image, kind, **options), f"x.{kind.lower()}").image
    assert isinstance(read, Image.Image)
    return read


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_colour_and_grey_stay_as_they_are(mode):
    image = picture(1, mode=mode)
    assert decoded(image).mode == mode
    assert (pixels(decoded(image)) == pixels(image)).all()


def test_a_bitmap_becomes_grey():
    image = picture(1, mode="1")
    assert decoded(image).mode == "L"
    assert (pixels(decoded(image)) == pixels(image.convert("L"))).all()


def test_a_palette_is_expanded():
    image = picture(1, mode="P")
    assert (pixels(decoded(image)) == pixels(image.convert("RGB"))).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_composited_on_white(mode):
    image = picture(1, mode=mode)
    alpha = picture(2, mode="L")
    image.putalpha(alpha)
    share = pixels(alpha)[..., None] / 255
    colour = pixels(image)[..., :-1]
    expected = (colour * share + WHITE * (1 - share)).squeeze()
    assert decoded(image).mode == mode.removesuffix("A")
    assert np.abs(pixels(decoded(image)) - expected).max() <= 1


def test_fully_transparent_is_white_whatever_its_colour():
    image = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    assert (pixels(decoded(image)) == WHITE).all()


def test_a_transparent_palette_colour_is_white():
    image = Image.new("P", (8, 8), 3)
    image.putpalette([0, 0, 0] * 3 + [255, 0, 0])
    assert (pixels(decoded(image, transparency=3)) == WHITE).all()
    assert (pixels(decoded(image, transparency=bytes([255, 255, 255, 0]))) == WHITE).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "1"])
def test_a_transparent_colour_of_a_png_without_alpha_is_white(mode):
    colour = (10, 20, 30) if mode == "RGB" else 0
    image = Image.new(mode, (8, 8), colour)
    assert (pixels(decoded(image, transparency=colour)) == WHITE).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_by_257_and_rounded(kind):
    values = np.array([[0, 128, 129, 257], [32767, 32768, 65406, 65535]], dtype=np.uint16)
    picture = decode(encoded(Image.fromarray(values), kind), f"x.{kind}")
    assert picture.notes == ("16-bit",) if kind == "TIFF" else "16-bit" in picture.notes
    assert pixels(picture.image).tolist() == np.rint(values / 257).astype(int).tolist()


def test_sixteen_bit_colour_is_noted_too():
    # Pillow can't write one: an RGB PNG of 2×2 whose header says 16 bits per channel.
    import struct
    import zlib

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = b"".join(b"\0" + struct.pack(">6H", *[65535, 0, 32768] * 2) for _ in range(2))
    content = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    picture = decode(content, "x.png")
    assert (picture.mode, picture.notes) == ("RGB;16", ("16-bit",))
    assert pixels(picture.image)[0, 0].tolist() == [255, 0, 128]


def test_cmyk_becomes_rgb():
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    picture = decode(encoded(image, "JPEG"), "x.jpg")
    assert (picture.mode, picture.notes, picture.image.mode) == ("CMYK", ("cmyk",), "RGB")
    assert np.abs(pixels(picture.image) - [255, 0, 0]).max() <= 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations_are_undone(orientation, kind):
    upright = Image.new("L", (32, 16))
    upright.paste(200, (0, 0, 16, 8))
    # What a camera held at that angle stores; a viewer does the inverse.
    stored = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(upright if stored is None else upright.transpose(stored), kind, exif=exif)
    image = to_channels(decode(content, f"x.{kind}").image, 1)
    assert image.size == (32, 16)
    assert np.abs(pixels(image) - pixels(upright)).max() <= 12


def test_a_jpeg_may_be_decoded_at_a_part_of_its_size():
    whole = picture(1, (803, 401))
    for kind, size in (("JPEG", (201, 101)), ("PNG", (803, 401))):
        image = decode(encoded(whole, kind), f"x.{kind}", at_least=100).image
        assert image.size == size
        assert np.abs(pixels(image.resize((80, 40))) - pixels(whole.resize((80, 40)))).mean() < 3


def test_broken_exif_is_ignored():
    content = encoded(picture(1), "JPEG", exif=b"Exif\0\0" + b"II*\0\xff\xff\xff\xff" + b"garbage")
    assert decode(content, "x.jpg").image.size == picture(1).size


def test_a_name_tells_nothing():
    for name in ("x.png", "x.JPG", "x", "x.bmp"):
        picture_of = decode(encoded(picture(1), "JPEG"), name)
        assert picture_of.format == "JPEG"
        assert picture_of.notes == (("renamed",) if name in ("x.png", "x.bmp") else ())


def test_a_cameras_mpo_is_its_first_frame():
    frames = [picture(1), picture(2)]
    content = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    decoded_picture = decode(content, "x.jpg")
    assert decoded_picture.notes == ()
    assert np.abs(pixels(decoded_picture.image) - pixels(frames[0])).mean() < 10


@pytest.mark.parametrize(("kind", "what"), [("PNG", "frames"), ("WEBP", "frames"), ("TIFF", "pages")])
def test_animations_and_pages_of_other_formats_are_refused(kind, what):
    content = encoded(picture(1), kind, save_all=True, append_images=[picture(2)])
    with pytest.raises(BadImage, match=f"x has 2 {what}"):
        decode(content, "x")


def test_a_gif_of_one_frame_is_an_image():
    assert decode(encoded(picture(1), "GIF"), "x.gif").notes == ()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000"])
@given(share=st.floats(0, 0.999))
def test_no_cut_file_is_accepted(kind, share):
    content = WHOLE.setdefault(kind, encoded(picture(1), kind))
    with pytest.raises(BadImage) as raised:
        decode(content[: int(share * len(content))], "x")
    assert "\n" not in str(raised.value)


WHOLE: dict[str, bytes] = {}


def test_a_jpeg_2000_of_only_headers_is_refused():
    """Cut at the right byte, OpenJPEG decodes it, to grey."""
    content = encoded(picture(1), "JPEG2000")
    start_of_data = content.index(b"\xff\x93")
    for length in range(start_of_data + 16):
        with pytest.raises(BadImage):
            decode(content[:length], "x")


@given(st.binary(max_size=300))
def test_any_bytes_give_a_sentence(content):
    with pytest.raises(BadImage, match=r"^x .*: .*"):
        decode(content, "x")


def test_what_other_code_has_set_does_not_let_truncated_images_pass(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    content = encoded(picture(1), "JPEG")
    with pytest.raises(BadImage, match="is truncated"):
        decode(content[:-100], "x.jpg")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_git_lfs_pointers_are_named():
    with pytest.raises(BadImage, match=r"x\.jpg is a Git LFS pointer, not the image: run git lfs pull"):
        decode(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "x.jpg")


def test_pillows_warnings_stay_inside_and_others_pass():
    images = [
        encoded(Image.new("1", (9500, 9500)), "PNG"),
        encoded(
            picture(1), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x0f\x01\x02\0\xff\xff\xff\0\0\1\0\0"
        ),
    ]

    def work() -> None:
        for content in images:
            with suppress(BadImage):
                decode(content, "x.jpg")

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not seen
        warnings.warn("another's", stacklevel=1)
        assert len(seen) == 1


def test_to_channels():
    grey, colour = picture(1, mode="L"), picture(1)
    assert to_channels(grey, 1) is grey
    assert to_channels(colour, 3) is colour
    assert (pixels(to_channels(grey, 3)) == pixels(grey)[..., None]).all()
    luma = pixels(colour) @ [0.299, 0.587, 0.114]
    assert np.abs(pixels(to_channels(colour, 1)) - luma).max() <= 1


def test_printable_escapes_what_a_terminal_cannot_show():
    assert printable("猫 é\n\x1b[31m\udcff") == r"猫 é\n\x1b[31m\udcff"


def test_read_bytes_names_a_missing_file(tmp_path):
    with pytest.raises(BadImage, match=r"cat/x\.jpg is missing: restore it"):
        read_bytes(tmp_path / "x.jpg", "cat/x.jpg")
    with pytest.raises(BadImage, match=r"cat is not a regular file"):
        read_bytes(tmp_path, "cat")
