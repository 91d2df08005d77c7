"""Real pictures with names: the machine's colour-emoji font, drawn by Pillow, captioned by the Unicode names."""

from __future__ import annotations

import json
import unicodedata
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fontTools.ttLib import TTFont, TTLibError
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from bench.config import DataConfig
from bench.data.dataset import Dataset, Sample
from bench.data.fonts import choose_font, colour_format
from bench.data.pictures import RESIZE, fit
from bench.data.splits import rank_of, split_of
from bench.errors import UserError
from bench.files import atomic_path, cache_directory, hash_bytes, hash_file

SHARES = (80, 10, 10)
DRAWING = "emoji-on-white-v1"
"""The drawing protocol; goes into the cache key and the content hash."""

OUTLINE_PIXELS = 128  # the em at which an outline font (COLRv0) is drawn


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A font's emoji.

    images: uint8, count size size 3.
    codes: their code points.
    exclusions: reason -> code points left out.
    """

    images: NDArray[np.uint8]
    codes: tuple[int, ...]
    exclusions: dict[str, int]


class Emoji(Dataset):
    """One picture per emoji of a single code point. A name is in one split only; equal drawings appear once."""

    name = "emoji"

    def __init__(self, *, font: Path, size: int, split: str, seed: int = 0, bound: int | None = None) -> None:
        """`bound`: at most so many pictures."""
        self.split, self.size = split, size
        self.font_hash = hash_file(font)
        drawn = drawn_emoji(font, size)
        self.exclusions = Counter(drawn.exclusions)
        names = [unicodedata.name(chr(code)).lower() for code in drawn.codes]
        chosen = [i for i, name in enumerate(names) if split_of(name, seed=seed, shares=SHARES) == split]
        chosen.sort(key=lambda i: rank_of(names[i], seed=seed))
        chosen = chosen[:bound]
        self._names = [names[i] for i in chosen]
        self._codes = [drawn.codes[i] for i in chosen]
        self._images = drawn.images[chosen]
        self._images.flags.writeable = False

    @classmethod
    def build(cls, config: DataConfig, split: str) -> Emoji:
        """The split that a config asks for. UserError where there is no font that can be drawn."""
        bound = config.bound(split)
        return cls(font=choose_font(config.path), size=config.size, split=split, seed=config.seed, bound=bound)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        name = self._names[index]
        return Sample(
            key=f"U+{self._codes[index]:04X}",
            image=self._images[index],
            captions=(name, f"an emoji of {name}", f"a picture of {name}"),
        )

    def content_hash(self) -> str:
        """See Dataset. Holds the font's hash and the Unicode version that gave the names."""
        return hash_bytes(
            self.name, self.split, DRAWING, RESIZE, self.font_hash, unicodedata.unidata_version,
            str(self.size), "\n".join(self._names), self._images.tobytes(),
        )  # fmt: skip


def drawn_emoji(font: Path, size: int) -> Drawn:
    """Every emoji of a font, at size x size; drawn once a font, size and Unicode version, then read from the cache."""
    key = hash_bytes(DRAWING, RESIZE, hash_file(font), unicodedata.unidata_version, str(size))
    target = cache_directory() / "emoji" / f"{key}.npz"
    try:
        with target.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return Drawn(
                images=stored["images"],
                codes=tuple(stored["codes"].tolist()),
                exclusions=json.loads(str(stored["exclusions"])),
            )
    except (OSError, ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile):
        pass  # absent, or damaged from outside: draw again
    drawn = draw_all(font, size)
    with atomic_path(target) as part, part.open("wb") as sink:
        np.savez_compressed(
            sink, images=drawn.images, codes=np.array(drawn.codes), exclusions=json.dumps(drawn.exclusions)
        )
    return drawn


def draw_all(font: Path, size: int) -> Drawn:
    """Draw every single-code-point emoji of a font, in code-point order. UserError where it has none."""
    glyphs, pixels = colour_glyphs(font)
    drawer = ImageFont.truetype(str(font), pixels, layout_engine=ImageFont.Layout.BASIC)
    images: list[NDArray[np.uint8]] = []
    codes: list[int] = []
    exclusions: Counter[str] = Counter()
    seen: set[bytes] = set()
    for code in sorted(glyphs):
        if reason := why_not(chr(code)):
            exclusions[reason] += 1
        elif (image := draw(drawer, chr(code))) is None:
            exclusions["drawn empty"] += 1
        elif (native := image.tobytes()) in seen:
            exclusions["drawn like an earlier one"] += 1
        else:
            seen.add(native)
            codes.append(code)
            images.append(fit(image, size))
    if not codes:
        raise UserError(f"{font} has no emoji that Pillow can draw; install fonts-noto-color-emoji and pass its font")
    return Drawn(images=np.stack(images), codes=tuple(codes), exclusions=dict(exclusions))


def why_not(character: str) -> str:
    """The reason to leave a code point out, or ""."""
    name = unicodedata.name(character, "")
    if not name:
        return f"no name in Unicode {unicodedata.unidata_version}"
    if name.startswith("REGIONAL INDICATOR"):
        return "regional indicator"
    if name.startswith("EMOJI MODIFIER") or unicodedata.category(character) in ("Sk", "Mn", "Me", "Cf"):
        return "modifier or joiner"
    if character in "0123456789#*":
        return "keycap base"
    return "white space" if character.isspace() else ""


def draw(font: ImageFont.FreeTypeFont, character: str) -> Image.Image | None:
    """One emoji, centred on a white square that holds it, RGB; None where nothing is drawn."""
    left, top, right, bottom = map(int, font.getbbox(character))
    side = max(right - left, bottom - top)
    if min(right - left, bottom - top) < 1:
        return None
    picture = Image.new("RGB", (side, side), "white")
    place = ((side - right + left) // 2 - left, (side - bottom + top) // 2 - top)
    ImageDraw.Draw(picture).text(place, character, font=font, embedded_color=True)
    lowest = min(low for low, _ in _extrema(picture))
    return None if lowest > 250 else picture


def colour_glyphs(font: Path) -> tuple[frozenset[int], int]:
    """The code points for which a font has a colour glyph, and the pixel size to draw them at. UserError where the
    file is damaged."""
    try:
        with TTFont(font, fontNumber=0, lazy=True) as tables:
            names, pixels = _coloured(tables, colour_format(font))
            cmap = tables.getBestCmap() or {}
    except (TTLibError, KeyError, ValueError, AssertionError, OSError) as error:
        raise UserError(f"{font} can't be read as a colour font: {error}") from error
    return frozenset(code for code, name in cmap.items() if name in names), pixels


def _coloured(tables: Any, kind: str) -> tuple[frozenset[str], int]:
    """The names of a font's colour glyphs, and its pixel size: the largest strike of a bitmap font."""
    if kind == "CBDT":
        strike = max(tables["CBLC"].strikes, key=lambda each: each.bitmapSizeTable.ppemY)
        names = (name for table in strike.indexSubTables for name in table.names)
        return frozenset(names), strike.bitmapSizeTable.ppemY
    if kind == "sbix":
        pixels, strike = max(tables["sbix"].strikes.items())
        return frozenset(name for name, glyph in strike.glyphs.items() if glyph.graphicType), pixels
    return frozenset(tables["COLR"].ColorLayers), OUTLINE_PIXELS


def _extrema(picture: Image.Image) -> Any:
    """(lowest, highest) of each of the three channels."""
    return picture.getextrema()
