"""The machine's colour-emoji fonts: where they lie and how they store colour. Standard library only, so that the
command line can judge `emoji` before anything heavy is imported."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench.errors import UserError
from bench.files import at_home

PACKAGE = "fonts-noto-color-emoji (Debian/Ubuntu)"
NO_FONT = f"no colour-emoji font found: install {PACKAGE} or pass --data.path FONT.ttf"


def colour_format(path: Path) -> str:
    """How a font stores colour: "CBDT" or "sbix" (bitmaps), "COLRv0" or "COLRv1" (outlines), "" where it has none or
    the file is no OpenType font. Reads the table directory only (OpenType 1.9, section "Table directory")."""
    try:
        with path.open("rb") as file:
            start = 0
            if file.read(4) == b"ttcf":  # a collection: its first font
                file.seek(12)
                (start,) = struct.unpack(">I", file.read(4))
            file.seek(start + 4)
            (count,) = struct.unpack(">H", file.read(2))
            file.seek(start + 12)
            records = (struct.unpack(">4sIII", file.read(16)) for _ in range(count))
            tables = {tag: offset for tag, _, offset, _ in records}
            for tag in (b"CBDT", b"sbix"):
                if tag in tables:
                    return tag.decode()
            if b"COLR" in tables:
                file.seek(tables[b"COLR"])
                (version,) = struct.unpack(">H", file.read(2))
                return f"COLRv{version}"
    except (OSError, struct.error):
        pass
    return ""


def find_font() -> Path | None:
    """The colour-emoji font to draw with where the user names none; None where there is none that Pillow can draw."""
    found = sorted(set(_candidates()), key=lambda path: ("noto" not in path.name.lower(), str(path)))
    return next((path for path in found if colour_format(path) in ("CBDT", "sbix", "COLRv0")), None)


def choose_font(path: str | None) -> Path:
    """The font at `path`, or the machine's own. UserError where there is none, or Pillow can't draw its colours."""
    if path is None:
        if (font := find_font()) is None:
            raise UserError(NO_FONT)
        return font
    font = at_home(path)
    if not font.is_file():
        raise UserError(f"--data.path {path}: no such font file; expected a colour-emoji font (.ttf, .ttc)")
    match colour_format(font):
        case "":
            raise UserError(f"--data.path {path} is no colour font (it has no CBDT, sbix or COLR table)")
        case "COLRv1":
            raise UserError(
                f"--data.path {path} is a COLRv1 font, which Pillow can't draw; "
                "pass a bitmap one, such as NotoColorEmoji.ttf with a CBDT table"
            )
    return font


def _candidates() -> Iterator[Path]:
    """Files in the usual font folders, and in fontconfig's list, that are named like an emoji font."""
    home = at_home("~")
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    folders = [
        Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), data / "fonts", home / ".fonts",
        Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library" / "Fonts",
        Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts",
    ]  # fmt: skip
    for folder in folders:
        for parent, _, names in os.walk(folder):
            yield from (Path(parent, name) for name in names if _is_emoji_name(name))
    if lister := shutil.which("fc-list"):
        try:
            listed = subprocess.run([lister, "--format=%{file}\n"], capture_output=True, text=True, timeout=5).stdout
        except (OSError, subprocess.SubprocessError):
            return
        yield from (path for path in map(Path, listed.splitlines()) if _is_emoji_name(path.name))


def _is_emoji_name(name: str) -> bool:
    """Windows' own is called seguiemj.ttf."""
    lowered = name.lower()
    return ("emoji" in lowered or lowered.startswith("seguiemj")) and lowered.endswith((".ttf", ".otf", ".ttc"))
