"""Pictures that nobody prepared: every picture file of a folder, at its own size, and what is wrong with some of them.

N pictures, each uint8 H H 3: the middle square of one that is not square."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from bench.data import pictures
from bench.data.pictures import PictureError
from bench.errors import UserError
from bench.files import hash_bytes
from bench.printable import spelled

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".jp2", ".avif",
)  # fmt: skip
"""How the names of picture files end, in either case."""
CHUNK = 64  # pictures decoded at a time


class Files(Sequence[NDArray[np.uint8]]):
    """Pictures by their files, decoded whenever they are asked for. UserError where one has become unreadable."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, place: int) -> NDArray[np.uint8]: ...

    @overload
    def __getitem__(self, place: slice) -> list[NDArray[np.uint8]]: ...

    def __getitem__(self, place: int | slice) -> NDArray[np.uint8] | list[NDArray[np.uint8]]:
        if isinstance(place, int):
            return _array(self.paths[place])
        with pictures.quiet(), ThreadPoolExecutor() as pool:  # Pillow decodes outside of Python's lock
            return list(pool.map(_array, self.paths[place]))


@dataclass(frozen=True, kw_only=True)
class Loose:
    """What a folder's picture files are. names: of those that can be used, N, in order. digests: of their pixels, N.
    sides: of the squares, N. oblong: how many were not square. left_out, mended: a reason -> the names of those that
    can't be used, or that decoding had to change."""

    names: tuple[str, ...]
    files: Files
    digests: tuple[str, ...]
    sides: tuple[int, ...]
    oblong: int = 0
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)
    mended: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def warning(self, where: str) -> str:
        """One line about what can't be used, or was mended; "" where there is nothing to say."""
        total = len(self) + sum(map(len, self.left_out.values()))
        parts = [
            f"{len(set().union(*found.values()))} of {total} pictures in {where} {what}: {_listed(found)}"
            for what, found in (("can't be used and are left out", self.left_out), ("were changed", self.mended))
            if found
        ]
        return "; ".join(parts)


def named(folder: Path) -> dict[str, Path]:
    """The picture files under a folder, by their names within it, in the order of these. What begins with a dot is left
    out, as are the pictures of linked folders."""
    found = {}
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(place, name)
            if path.suffix.lower() in SUFFIXES and not name.startswith("."):
                found[spelled(path.relative_to(folder).as_posix())] = path
    return dict(sorted(found.items()))


def look(files: Mapping[str, Path], advance: Callable[[int], None]) -> Loose:
    """Decode every picture once. advance: told how many more were looked at."""
    names: list[str] = []
    seen: list[tuple[str, int]] = []
    left_out: dict[str, list[str]] = {}
    mended: dict[str, list[str]] = {}
    oblong = 0
    for name, found in _judged(files, advance):
        if isinstance(found, str):
            left_out.setdefault(found, []).append(name)
            continue
        names.append(name)
        seen.append((found.digest, found.side))
        oblong += found.oblong
        for note in found.notes:
            mended.setdefault(note, []).append(name)
    return Loose(
        names=tuple(names),
        files=Files([files[name] for name in names]),
        digests=tuple(digest for digest, _ in seen),
        sides=tuple(side for _, side in seen),
        oblong=oblong,
        left_out=left_out,
        mended=mended,
    )


@dataclass(frozen=True, kw_only=True)
class _Seen:
    digest: str
    side: int
    oblong: bool
    notes: tuple[str, ...]


def _judged(files: Mapping[str, Path], advance: Callable[[int], None]) -> Iterator[tuple[str, _Seen | str]]:
    """Each name with what was seen of the picture, or why it can't be used."""
    names = list(files)
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(names), CHUNK):
            some = names[start : start + CHUNK]
            with pictures.quiet():
                seen = list(pool.map(_look, (files[name] for name in some)))
            yield from zip(some, seen, strict=True)
            advance(len(some))


def _look(path: Path) -> _Seen | str:
    try:
        image, notes = pictures.whole(path)
    except PictureError as error:
        return str(error)
    array = np.asarray(pictures.middle(image))
    digest = hash_bytes(str(array.shape), np.ascontiguousarray(array).reshape(-1).data)
    return _Seen(digest=digest, side=len(array), oblong=image.width != image.height, notes=notes)


def _array(path: Path) -> NDArray[np.uint8]:
    try:
        return np.asarray(pictures.middle(pictures.whole(path)[0]))
    except PictureError as error:
        raise UserError(f"{path} can't be read any more: {error}") from error


def _listed(found: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"{reason} ({len(names)}, first {names[0]})" for reason, names in found.items())
