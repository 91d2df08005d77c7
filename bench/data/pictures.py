"""One picture from bytes to the array that a sample holds: every mode to RGB, upright, resized, cropped square."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from bench.files import LargeFileError, read_regular

RESIZE = "pillow-lanczos-short-side-centre-crop-v1"
"""The resize protocol; goes into content hashes and cache keys, so a change of it must change this name."""

WHITE = (255, 255, 255)
MAX_PIXELS = 2**27
"""A larger picture is refused before it is decoded: half a gigabyte of RGBA is a bomb, not a training sample."""
MAX_BYTES = 2**29
"""A file of more is refused before it is read: so many are four for each of MAX_PIXELS, uncompressed."""
TOO_LARGE = "image too large"

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""What is read as a picture; Pillow knows more, some of which (EPS) start other programs."""
TURN = Image.Transpose
UPRIGHT = {
    2: TURN.FLIP_LEFT_RIGHT,
    3: TURN.ROTATE_180,
    4: TURN.FLIP_TOP_BOTTOM,
    5: TURN.TRANSPOSE,
    6: TURN.ROTATE_270,
    7: TURN.TRANSVERSE,
    8: TURN.ROTATE_90,
}
"""What puts a picture upright, by its EXIF orientation. ImageOps.exif_transpose would write all of the EXIF anew, which
fails on the odd tags of many cameras."""


class PictureError(Exception):
    """A picture that can't be used; the message is a reason that can be counted (no path, no number in it)."""


def decode(source: bytes | Path, size: int) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """A picture file as uint8 size x size x 3 RGB, and what was mended on the way, as reasons that can be counted.

    Transparency is composited on white, 16-bit grey is scaled (not clipped) to 8 bits, EXIF rotation is applied.
    Raises PictureError, and nothing else, where there is no whole picture in `source`.
    """
    image, notes = _open(source)
    return fit(image, size), notes


def whole(source: bytes | Path) -> tuple[Image.Image, tuple[str, ...]]:
    """A picture file as an upright RGB image of its own size, and what was mended; as `decode`, which fits it."""
    return _open(source)


def inspect(data: bytes) -> tuple[str, ...]:
    """The notes that `decode` would give, without the picture. Raises PictureError wherever `decode` would."""
    return _open(data, preview=True)[1]


def read(path: Path) -> bytes:
    """A file's content; PictureError where it can't be read, is no regular file, or has more than MAX_BYTES."""
    try:
        return read_regular(path, MAX_BYTES)
    except FileNotFoundError as error:
        raise PictureError("missing image file") from error
    except LargeFileError as error:
        raise PictureError(TOO_LARGE) from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise PictureError("unreadable image file") from error


def fit(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """An RGB image as uint8 size x size x 3: the shorter side brought to `size` with an antialiased Lanczos filter,
    the longer side's middle kept. The square is cut out first, so that what is cut off does not bleed in."""
    return np.asarray(middle(image).resize((size, size), Image.Resampling.LANCZOS), dtype=np.uint8)


def middle(image: Image.Image) -> Image.Image:
    """The square of an image's shorter side, from its middle."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def square(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """An open image of any mode as `decode` gives one from a file. PictureError where it can't be used."""
    return fit(_to_rgb(image)[0], size)


def on_white(image: Image.Image) -> Image.Image:
    """An RGBA image over a white ground, as RGB."""
    ground = Image.new("RGBA", image.size, (*WHITE, 255))
    return Image.alpha_composite(ground, image).convert("RGB")


def _open(source: bytes | Path, *, preview: bool = False) -> tuple[Image.Image, tuple[str, ...]]:
    """The whole picture, upright, as RGB. A preview reads every byte of the file but may give fewer pixels: JPEG's
    decoder shrinks on the way."""
    data = source if isinstance(source, bytes) else read(source)
    if not data:
        raise PictureError("empty image file")
    alone = threading.current_thread() is threading.main_thread()
    with quiet() if alone else nullcontext():  # whoever starts threads calls it around them
        try:
            with Image.open(io.BytesIO(data), formats=_formats()) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise PictureError(TOO_LARGE)
                if preview:
                    image.draft(None, (1, 1))
                deep = any(";16" in str(tile[3]) for tile in image.tile)
                image.load()
                found, notes = _to_rgb(image)
                cut = deep and image.mode in ("RGB", "RGBA", "LA")  # Pillow does it while it reads, without a word
                return found, (*notes, "16-bit colour cut to 8 bits") if cut else notes
        except PictureError:
            raise
        except Image.DecompressionBombError as error:
            raise PictureError(TOO_LARGE) from error
        except Exception as error:  # Pillow's plug-ins raise many kinds on damaged files
            raise PictureError("corrupt image") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, Pillow does not warn of broken metadata, which does not concern the pixels. Of the main thread: what is
    heard of warnings is the whole process', and threads that set it by turns would leave it set."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@lru_cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this build of Pillow reads."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _orientation(image: Image.Image) -> Any:
    """How its EXIF says that it lies; None where that can't be read, which does not concern the pixels."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow raises many kinds on damaged blocks
        return None


def _to_rgb(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """A loaded image as upright RGB, and what that took."""
    notes = []
    if (turn := UPRIGHT.get(_orientation(image))) is not None:
        image = image.transpose(turn)
        notes.append("EXIF rotation applied")
    mode = image.mode
    if mode == "RGB" and "transparency" not in image.info:
        return image, tuple(notes)
    if mode in ("I;16", "I;16B", "I;16L", "I;16N", "I"):
        deep = np.asarray(image).astype(np.int64)
        if deep.min() < 0 or deep.max() > 65535:  # mode "I" holds 16 bits in most files, and more in some
            raise PictureError("32-bit image")
        grey = np.rint(deep / 257).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB"), (*notes, "16-bit grey scaled to 8 bits")
    if mode == "F":
        raise PictureError("floating-point image")
    if mode == "La":  # the one mode with transparency that Pillow turns into no RGBA
        image = image.convert("LA")
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return on_white(image.convert("RGBA")), (*notes, "transparency put on white")
    reason = {"L": "grey", "1": "black-and-white", "P": "palette", "CMYK": "CMYK"}.get(mode, mode)
    return image.convert("RGB"), (*notes, f"{reason} converted to RGB")
