"""PNG files that Pillow doesn't write."""

from __future__ import annotations

import struct
import zlib


def chunk(kind: bytes, data: bytes) -> bytes:
    """A part of a file, with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def deep_colour(*, alpha: bool = False, side: int = 9) -> bytes:
    """A square of 16 bits a channel, each 0x8080."""
    head = struct.pack(">IIBBBBB", side, side, 16, 6 if alpha else 2, 0, 0, 0)
    rows = (b"\0" + b"\x80" * (side * 2 * (4 if alpha else 3))) * side
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)
