"""No format loses channels or bits without a word: what the file's header says counts, not Pillow's mode."""

import base64
import struct

import numpy as np
import pytest
from PIL import Image, features
from tests.data.tiffs import tiff
from tests.data.trees import encoded, image_folder, picture, plant

from frostline.console.errors import FrostlineError, OutOfResources
from frostline.data.reading.decode import BadImage, decode
from frostline.data.reading.headers import read_header
from frostline.preparation.stage import prepare

GREY, COLOUR, CMYK, YCBCR = 1, 2, 5, 6
UNSPECIFIED, ASSOCIATED, UNASSOCIATED = 0, 1, 2
# 4×4, made with OpenJPEG and libavif: above (60000, 30000, 300), below (0, 50000, 25700).
J2K_16 = base64.b85decode(
    "|4;u>051Rl000040000400000000000000400004000000000000R#J0S^HI4*>!HQUDA90003200aa80smY81VDiQWB?@q0Yh?S"
    "VRU6=AYyqSPjF>!N>D{dAa-SPb7^mGATlmBE;Rp;015yA0001J00IA#!Ttrn5ZpK&#lJ7Ov12LPGZK@W=Q>79JI<%i{4jJ8P)+8G"
    "T?{$Fvv+#(n$Gi5lbq)|B=<gXO-)ii-}sQw1~EG4YRzU+E_}}7#f+5IARvOcB0SRSk`n*f"
)
AVIF_10 = base64.b85decode(
    "0000WW^{RQVRmU|00000VRmU|ZE0pPZE0a<O+hh10002%ZDn*}000000000XXk=`10000000000aA{+700000000000000000000"
    "4sdC7Z2$lO000310016oY;R)#0000)000310RR910RR926951JEC2uiC~0YKW&i*H00031000_kZf0cy000000RRADb}%tRZ)|UJ"
    "00000YH4tCZ~y=ROKEUpZvX%Q6lrsCWdHyG000001ONa41ONa45O8UDX#fBK00RmN3IG5A3}JRLLxCVb000006Ju{|a&BX6cmM(b"
    "0ssJj0000NX>e^}0000000001009I60)qqq001;?WMOm?015~=1b>_e2m(Md9uNQki>Peh3((=xXQ7UNLdV33?EoQb{l{sg7S)I"
)


def noise(channels: int, kind: str = "uint8", side: int = 12) -> np.ndarray:
    """(side, side, channels), over the whole range of an unsigned type."""
    rng = np.random.default_rng(channels)
    if kind.startswith("float"):
        return rng.random((side, side, channels)).astype(kind)
    return rng.integers(0, np.iinfo(kind).max, (side, side, channels), dtype=kind, endpoint=True)


def refusal(content: bytes, name: str) -> str:
    with pytest.raises(BadImage) as raised:
        decode(content, name)
    return raised.value.reason


def pixels(content: bytes, name: str) -> np.ndarray:
    return np.asarray(decode(content, name).image).astype(int)


# ── channels that are neither colour nor transparency ───────────────────────────────────────────────────────


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("kind", ["uint8", "uint16"])
@pytest.mark.parametrize(
    ("channels", "photometric", "extra", "unused"),
    [
        (2, GREY, [UNSPECIFIED], 1),
        (2, GREY, None, 1),
        (4, GREY, [UNSPECIFIED] * 3, 3),
        (4, COLOUR, [UNSPECIFIED], 1),
        (4, COLOUR, None, 1),
        (5, COLOUR, [UNASSOCIATED, UNSPECIFIED], 1),
        (5, COLOUR, [UNSPECIFIED] * 2, 2),
        (5, COLOUR, None, 2),
        (5, COLOUR, [UNSPECIFIED, UNASSOCIATED], 2),
        (13, GREY, [UNSPECIFIED] * 12, 12),
        (5, CMYK, [UNSPECIFIED], 1),
        (6, CMYK, None, 2),
    ],
)
def test_a_tiff_of_more_channels_is_refused(channels, photometric, extra, unused, kind, planar, order):
    content = tiff(noise(channels, kind), photometric, extra, order=order, planar=planar)
    count = "1 of them is" if unused == 1 else f"{unused} of them are"
    assert refusal(content, "x.tif").startswith(f"has {channels} channels, and {count} neither colour nor")


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compression_changes_nothing(compression):
    content = encoded(Image.fromarray(noise(4), "RGBA"), "TIFF", compression=compression)
    assert decode(content, "x.tif").mode == "RGBA"
    entry = struct.pack("<HHI", 338, 3, 1)
    unspecified = content.replace(entry + b"\2", entry + b"\0")
    assert "has 4 channels" in refusal(unspecified, "x.tif")


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_jpeg_2000_says_what_its_last_channel_is(mode):
    content = encoded(picture(1, mode=mode), "JPEG2000")
    assert decode(content, "x.jp2").mode == mode
    channels = len(mode)
    # Without a channel definition, the last may be near infrared.
    assert refusal(content.replace(b"cdef", b"free"), "x.jp2").startswith(f"has {channels} channels, and 1")
    raw = encoded(picture(1, mode=mode), "JPEG2000", no_jp2=True)
    assert refusal(raw, "x.j2k").startswith(f"has {channels} channels, and 1 of them is neither colour nor")


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("raw", [False, True])
def test_other_jpeg_2000_are_read(mode, raw):
    assert decode(encoded(picture(1, mode=mode), "JPEG2000", no_jp2=raw), "x.jp2").notes == ()


def test_cmyk_of_jpeg_2000_is_noted():
    content = encoded(picture(1, mode="CMYK"), "JPEG2000")
    assert decode(content, "x.jp2").notes == ("cmyk",)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", ["uint8", "uint16"])
@pytest.mark.parametrize("extra", [ASSOCIATED, UNASSOCIATED, 999])
def test_transparency_that_is_marked_stays_transparency(kind, extra, order):
    most = np.iinfo(kind).max
    values = np.zeros((12, 12, 4), kind)
    values[:6] = (most, 0, 0, most)  # Opaque red above, nothing below.
    if extra == 999 and kind == "uint16":
        return  # CorelDRAW writes 8 bits.
    assert pixels(tiff(values, COLOUR, [extra], order=order), "x.tif")[[0, -1], 0].tolist() == [
        [255, 0, 0],
        [255, 255, 255],
    ]


# ── bits ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("order", "<>")
def test_sixteen_bit_colour_of_a_tiff_is_noted(order):
    values = noise(3, "uint16")
    found = decode(tiff(values, COLOUR, order=order), "x.tif")
    assert (found.mode, found.notes) == ("RGB;16", ("16-bit",))
    assert np.abs(np.asarray(found.image).astype(int) - values / 257).max() <= 1


def test_sixteen_bit_cmyk_is_noted_twice():
    assert decode(tiff(noise(4, "uint16"), CMYK), "x.tif").notes == ("cmyk", "16-bit")


def test_white_is_zero_at_any_depth():
    values = noise(1, "uint16")[..., 0]
    assert np.abs(pixels(tiff(values, 0), "x.tif") - (255 - values / 257)).max() <= 1
    values = noise(1)[..., 0]
    assert (pixels(tiff(values, 0), "x.tif") == 255 - values.astype(int)).all()


@pytest.mark.parametrize(("magic", "channels"), [(b"P5", 1), (b"P6", 3)])
@pytest.mark.parametrize("largest", [1023, 65535])
def test_sixteen_bit_pnm_is_noted(magic, channels, largest):
    values = (noise(channels, "uint16") & largest).astype(">u2")
    content = b"%s\n# made by hand\n12 12\n%d\n" % (magic, largest) + values.tobytes()
    found = decode(content, "x.ppm")
    assert found.notes == ("16-bit",)
    assert np.abs(np.asarray(found.image).astype(int) - (values * (255 / largest)).squeeze()).max() <= 1


def test_ordinary_pnm_is_not():
    assert decode(encoded(picture(1), "PPM"), "x.ppm").notes == ()


@pytest.mark.skipif(not features.check("avif"), reason="Pillow has no AVIF here")
def test_ten_bit_avif_is_noted():
    found = decode(AVIF_10, "x.avif")
    assert (found.mode, found.notes) == ("RGB;16", ("16-bit",))
    assert np.asarray(found.image)[[0, -1], 0].tolist() == [[234, 117, 1], [0, 195, 100]]
    assert decode(encoded(picture(1), "AVIF"), "x.avif").notes == ()


def test_sixteen_bit_colour_of_jpeg_2000_is_refused_since_pillow_turns_white_to_black():
    assert refusal(J2K_16, "x.j2k").startswith(
        "is JPEG 2000 with 16 bits per channel of colour: save it with 8"
    )


def test_sixteen_bit_grey_of_jpeg_2000_is_noted():
    values = np.linspace(0, 65535, 144).astype(np.uint16).reshape(12, 12)
    found = decode(encoded(Image.fromarray(values), "JPEG2000", irreversible=False), "x.jp2")
    assert found.notes == ("16-bit",)
    assert np.abs(np.asarray(found.image).astype(int) - values / 257).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_twelve_bit_values_in_sixteen_bits_are_noted(kind):
    values = noise(1, "uint16")[..., 0] >> 4
    assert decode(encoded(Image.fromarray(values), kind), "x").notes == ("16-bit", "dim")


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("int8", "signed pixels of 8 bits"),
        ("int16", "signed pixels of 16 bits"),
        ("float16", "floating-point pixels of 16 bits"),
        ("float32", "floating-point pixels of 32 bits"),
        ("float64", "floating-point pixels of 64 bits"),
        ("uint32", "32-bit pixels"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("order", "<>")
def test_values_without_a_range_are_refused(kind, what, channels, order):
    values = noise(channels, kind)
    content = tiff(values, COLOUR if channels == 3 else GREY, order=order)
    assert refusal(content, "x.tif").startswith(f"has {what}, which have no set range: save it with 8 bits")


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_packed_bits_are_refused(bits):
    assert refusal(tiff(noise(1, "uint16"), GREY, tag_258=bits), "x.tif") == (
        f"has {bits} bits per channel: save it with 8 or 16"
    )


# ── layouts ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("order", "<>")
def test_separate_planes(order):
    values = noise(3)
    assert (pixels(tiff(values, COLOUR, planar=True, order=order), "x.tif") == values).all()
    # Pillow makes noise of these.
    content = tiff(noise(3, "uint16"), COLOUR, planar=True, order=order)
    assert refusal(content, "x.tif").startswith("has 16-bit channels in separate planes, uncompressed")


def test_inks_that_are_not_cmyk_are_refused():
    assert refusal(tiff(noise(4), CMYK, tag_332=2), "x.tif").startswith("has inks that are not CMYK")


def test_subsampled_colour_is_refused_where_pillow_misreads_it():
    assert refusal(tiff(noise(3), YCBCR, tag_530=2), "x.tif").startswith(
        "is uncompressed YCbCr with subsampl"
    )


@pytest.mark.parametrize("mode", ["1", "L", "P"])
@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_value_is_white(mode, kind):
    image = Image.new(mode, (8, 8), 1 if mode == "1" else 3)
    if mode == "P":
        image.putpalette([0, 0, 0] * 3 + [255, 0, 0])
    transparent = 255 if mode == "1" and kind == "PNG" else 1 if mode == "1" else 3
    assert (pixels(encoded(image, kind, transparency=transparent), f"x.{kind}") == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "TIFF", "AVIF"])
def test_frames_and_pages_are_refused(kind):
    content = encoded(picture(1), kind, save_all=True, append_images=[picture(2), picture(3)])
    assert refusal(content, "x").startswith("has 3 pages" if kind == "TIFF" else "has 3 frames")


# ── the data set ────────────────────────────────────────────────────────────────────────────────────────────


def test_prepare_names_such_files_and_can_skip_them(tmp_path):
    plant(tmp_path / "photos")
    for name, extra in (("a.tif", None), ("b.tif", [UNSPECIFIED])):
        (tmp_path / "photos/cat" / name).write_bytes(tiff(noise(4), COLOUR, extra))
    with pytest.raises(
        FrostlineError, match=r"2 files that can't be used: cat/a.tif has 4 channels, .*b.tif"
    ):
        prepare(image_folder(tmp_path / "photos"), tmp_path / "out")
    index = prepare(image_folder(tmp_path / "photos", on_bad_image="skip"), tmp_path / "out")
    assert [problem.key for problem in index.skipped] == ["cat/a.tif", "cat/b.tif"]


def test_prepare_warns_of_bits_and_of_values_that_use_few_of_them(tmp_path):
    plant(tmp_path / "photos")
    (tmp_path / "photos/cat/a.tif").write_bytes(tiff(noise(3, "uint16"), COLOUR))
    (tmp_path / "photos/dog/b.tif").write_bytes(tiff(noise(1, "uint16") >> 5, GREY))
    warnings = prepare(image_folder(tmp_path / "photos"), tmp_path / "out").warnings
    assert "2 images have more than 8 bits per channel, scaled to 8: cat/a.tif, dog/b.tif" in warnings
    dim = "1 16-bit image uses less than an eighth of its range"
    assert any(text.startswith(dim) and text.endswith("dog/b.tif") for text in warnings)


# ── damage and memory ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("content", [tiff(noise(4), COLOUR), J2K_16, AVIF_10, encoded(picture(1), "PNG")])
def test_no_cut_or_garbled_header_raises_anything_else(content):
    rng = np.random.default_rng(0)
    for length in range(min(len(content), 200)):
        read_header(content[:length])
        garbled = bytearray(content)
        garbled[length] = int(rng.integers(256))
        read_header(bytes(garbled))


def test_an_image_that_memory_is_too_small_for_is_named(monkeypatch):
    def full(self):
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", full)
    with pytest.raises(
        OutOfResources, match=r"cat/x.png: 40×36 pixels take about 8.44 KiB of memory to decode"
    ):
        decode(encoded(picture(1), "PNG"), "cat/x.png")
