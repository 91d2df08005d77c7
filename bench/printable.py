"""Texts of others without what is no letter: fit for a terminal, and for a page. Standard library only; a leaf
module."""

from __future__ import annotations

import re
from typing import Any

MARK = "\N{REPLACEMENT CHARACTER}"
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""C0 and C1, by which a text commands a terminal, but for the tab and the line's end."""
_LAST_TWO = "".join(chr(plane + last) for plane in range(0, 0x110000, 0x10000) for last in (0xFFFE, 0xFFFF))
_UNFIT = re.compile(f"[\ud800-\udfff\ufdd0-\ufdef{_LAST_TWO}]")
"""Lone surrogates, and what is no character in any plane."""


def printable(text: Any) -> str:
    """Text that commands no terminal: each control character becomes a mark of replacement."""
    return _CONTROLS.sub(MARK, str(text))


def spelled(name: str) -> str:
    r"""A file's name as UTF-8 can hold it: bytes that are none, lone surrogates here, are written out as \udce9."""
    return name.encode("utf-8", "backslashreplace").decode()


def clean(text: Any) -> str:
    """Text without what HTML and XML can't hold: control characters, lone surrogates and what is no character become a
    mark of replacement."""
    return _UNFIT.sub(MARK, printable(text))
