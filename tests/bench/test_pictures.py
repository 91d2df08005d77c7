"""Every wrong-mode picture is judged by its pixels; damaged bytes raise PictureError and nothing else."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from bench.data.pictures import PictureError, decode, fit, inspect, square
from tests.bench.png import chunk, deep_colour

SIZE = 8
WHITE, RED = (255, 255, 255), (255, 0, 0)


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width=24, height=20, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def deep_grey(value):
    return Image.fromarray(np.full((9, 9), value, dtype=np.uint16))


def palette(transparent=None):
    image = Image.new("P", (9, 9), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    return encode(image) if transparent is None else encode(image, transparency=transparent)


UNIFORM = {
    "RGB": (encode(Image.new("RGB", (9, 9), RED)), RED, ()),
    "grey": (encode(Image.new("L", (9, 9), 100)), (100, 100, 100), ("grey converted to RGB",)),
    "black-and-white": (encode(Image.new("1", (9, 9), 1)), WHITE, ("black-and-white converted to RGB",)),
    "opaque RGBA": (encode(Image.new("RGBA", (9, 9), (*RED, 255))), RED, ("transparency put on white",)),
    "half-transparent RGBA": (
        encode(Image.new("RGBA", (9, 9), (255, 0, 0, 128))), (255, 127, 127), ("transparency put on white",)
    ),
    "invisible RGBA": (encode(Image.new("RGBA", (9, 9), (0, 0, 0, 0))), WHITE, ("transparency put on white",)),
    "LA": (encode(Image.new("LA", (9, 9), (0, 51))), (204, 204, 204), ("transparency put on white",)),
    "palette": (palette(), RED, ("palette converted to RGB",)),
    "palette, other colour transparent": (palette(0), RED, ("transparency put on white",)),
    "palette, this colour transparent": (palette(1), WHITE, ("transparency put on white",)),
    "RGB with a colour key": (
        encode(Image.new("RGB", (9, 9), RED), transparency=RED), WHITE, ("transparency put on white",)
    ),
    "grey with a colour key": (
        encode(Image.new("L", (9, 9), 7), transparency=7), WHITE, ("transparency put on white",)
    ),
    "16-bit colour": (deep_colour(), (128, 128, 128), ("16-bit colour cut to 8 bits",)),
    "16-bit transparent": (
        deep_colour(alpha=True), (191, 191, 191), ("transparency put on white", "16-bit colour cut to 8 bits")
    ),
    "16-bit grey": (encode(deep_grey(0x8000)), (128, 128, 128), ("16-bit grey scaled to 8 bits",)),
    "16-bit white": (encode(deep_grey(0xFFFF)), WHITE, ("16-bit grey scaled to 8 bits",)),
    "16-bit TIFF": (encode(deep_grey(257), "TIFF"), (1, 1, 1), ("16-bit grey scaled to 8 bits",)),
    "CMYK TIFF": (encode(Image.new("CMYK", (9, 9), (0, 255, 255, 0)), "TIFF"), RED, ("CMYK converted to RGB",)),
}  # fmt: skip


@pytest.mark.parametrize("mode", UNIFORM)
def test_modes(mode):
    data, colour, notes = UNIFORM[mode]
    image, found = decode(data, SIZE)
    assert image.dtype == np.uint8 and image.shape == (SIZE, SIZE, 3)
    assert np.array_equal(image, np.broadcast_to(np.array(colour), image.shape))
    assert found == notes == inspect(data)


def test_premultiplied_grey_is_put_on_white():
    """Pillow turns the mode La into nothing but LA."""
    image = Image.new("LA", (9, 9), (0, 51)).convert("La")
    assert np.array_equal(square(image, SIZE), np.full((SIZE, SIZE, 3), 204, np.uint8))


def test_cmyk_jpeg_is_not_inverted():
    image, notes = decode(encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100), SIZE)
    assert np.abs(image.astype(int) - RED).max() <= 3
    assert notes == ("CMYK converted to RGB",)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (6, 3), (3, 2), (8, 1)])
def test_exif_rotation(kind, orientation, turns):
    stored = np.zeros((16, 16, 3), dtype=np.uint8)
    stored[:8, :8], stored[8:, :8] = (255, 0, 0), (0, 0, 255)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    image, notes = decode(encode(Image.fromarray(stored), kind, exif=exif, **options), 16)
    assert np.abs(image.astype(int) - np.rot90(stored, turns)).max() <= 6
    assert notes == (() if orientation == 1 else ("EXIF rotation applied",))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_put_upright_as_pillow_does_it(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(noise(), exif=exif)
    with Image.open(io.BytesIO(data)) as opened:
        upright = fit(ImageOps.exif_transpose(opened).convert("RGB"), SIZE)
    assert np.array_equal(decode(data, SIZE)[0], upright)


def exif_block(*entries):
    """An EXIF block as a camera writes it, of (tag, value): a number as one SHORT, a text as ASCII."""
    offset, rows, texts = 8 + 2 + 12 * len(entries) + 4, b"", b""
    for tag, value in entries:
        if isinstance(value, int):
            rows += struct.pack("<HHIHH", tag, 3, 1, value, 0)
        else:
            text = value.encode() + bytes(8 - len(value))
            rows += struct.pack("<HHII", tag, 2, len(text), offset + len(texts))
            texts += text
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + rows + bytes(4) + texts


@pytest.mark.parametrize("tag", [0x0100, 0x011A, 0x0213])  # the width, the resolution, and where colours are sampled
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_odd_tags_beside_an_orientation_do_not_concern_the_pixels(kind, tag):
    data = encode(noise(), kind, exif=exif_block((tag, "wide"), (0x0112, 6)))
    with Image.open(io.BytesIO(data)) as opened, pytest.raises(Exception, match="."):
        ImageOps.exif_transpose(opened)  # which writes them anew
    image, notes = decode(data, SIZE)
    assert notes == ("EXIF rotation applied",) and image.shape == (SIZE, SIZE, 3)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_block_that_is_no_exif_does_not_concern_the_pixels(kind):
    image, notes = decode(encode(noise(), kind, exif=b"Exif\0\0nonsense"), SIZE)
    assert notes == () and image.shape == (SIZE, SIZE, 3)


def test_an_invalid_orientation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 77
    assert decode(encode(noise(), exif=exif), SIZE)[1] == ()


@pytest.mark.parametrize("turned", [False, True])
def test_the_centre_survives_and_the_borders_do_not_bleed_in(turned):
    strip = np.zeros((20, 40, 3), dtype=np.uint8)
    strip[:, 10:30] = RED
    picture = Image.fromarray(strip.swapaxes(0, 1).copy() if turned else strip)
    assert np.array_equal(fit(picture, SIZE), np.broadcast_to(np.array(RED), (SIZE, SIZE, 3)))


def test_shrinking_is_antialiased():
    checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    image, _ = decode(encode(Image.fromarray(checks).convert("RGB")), SIZE)
    assert np.abs(image.astype(int) - 127).max() <= 3


def test_a_picture_of_the_right_size_is_untouched():
    picture = noise(SIZE, SIZE)
    assert np.array_equal(decode(encode(picture), SIZE)[0], np.asarray(picture))


def test_paths_and_bytes_agree(tmp_path):
    (tmp_path / "a.png").write_bytes(encode(noise()))
    assert np.array_equal(decode(tmp_path / "a.png", SIZE)[0], decode(encode(noise()), SIZE)[0])


@pytest.mark.parametrize(
    ("name", "reason"),
    [("absent.png", "missing image file"), ("nul\0.png", "unreadable image file"), ("", "unreadable image file")],
)
def test_unreadable_paths(tmp_path, name, reason):
    with pytest.raises(PictureError, match=reason):
        decode(tmp_path / name, SIZE)


BAD = {
    "empty image file": b"",
    "corrupt image": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n",
    "image too large": b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    + chunk(b"IDAT", zlib.compress(bytes(64)))
    + chunk(b"IEND", b""),
    "32-bit image": encode(Image.fromarray(np.full((9, 9), 70_000, dtype=np.int32)), "TIFF"),
    "floating-point image": encode(Image.fromarray(np.zeros((9, 9), dtype=np.float32)), "TIFF"),
}


@pytest.mark.parametrize("reason", BAD)
def test_refusals(reason):
    for judge in (lambda data: decode(data, SIZE), inspect):
        with pytest.raises(PictureError, match=reason):
            judge(BAD[reason])


PNG, JPEG = encode(noise()), encode(noise(), "JPEG")


def outcome(judge, data):
    """Notes, or the reason; anything but PictureError fails the test."""
    try:
        return judge(data)
    except PictureError as error:
        return str(error)


@pytest.mark.parametrize("whole", [PNG, JPEG], ids=["PNG", "JPEG"])
def test_a_truncated_picture_is_refused_or_whole(whole):
    pixels = decode(whole, SIZE)[0]
    refused = []
    for length in range(len(whole)):
        found = outcome(lambda data: decode(data, SIZE), whole[:length])
        refused.append(isinstance(found, str))
        assert refused[-1] or np.array_equal(found[0], pixels), "only what follows the pixels may lack"
        assert refused[-1] == isinstance(outcome(inspect, whole[:length]), str)
    assert all(refused[:-30])


@given(st.binary(max_size=200), st.sampled_from([b"", PNG[:16], PNG[:60], JPEG[:4], JPEG[:200], b"II*\0", b"RIFF"]))
@settings(max_examples=150, deadline=None)
def test_random_bytes_raise_only_picture_errors(tail, head):
    outcome(lambda data: decode(data, SIZE), head + tail)


@given(st.sampled_from([PNG, JPEG]), st.integers(0, 10_000), st.integers(1, 255))
@settings(max_examples=300, deadline=None)
def test_a_changed_byte_is_judged_by_inspect_as_by_decode(whole, place, change):
    data = bytearray(whole)
    data[place % len(data)] ^= change
    assert outcome(inspect, bytes(data)) == outcome(lambda each: decode(each, SIZE)[1], bytes(data))
