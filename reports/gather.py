"""Records from folders: every one that reads is kept, every other is refused by name. A record's pictures."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.errors import UserError
from bench.files import LargeFileError, UnfitFileError, read_json, read_regular
from reports import schema
from reports.schema import Record

REQUEST = "request.json"  # what a run's folder holds from its beginning on
LARGEST = 192  # pixels of a picture's longer side in a report; a larger one is made smaller
MOST_PIXELS = 2**25  # of a picture that is opened: more than a strip has at data.size 1024
MOST_BYTES = 2**26  # of its file
TOO_MANY = f"it has more than {MOST_PIXELS:,} pixels, and is not opened"
ENLARGED = 64  # up to this side a picture is shown with its pixels as squares


NO_RECORD = "the run has no record yet"
LEFT_OUT = "left out beside another record of the same run"
"""Begins the reason of a record that reads, and that another one stands for."""
INSIDE = ("trials", "runs")
"""Where a sweep's and a reproduction's folder have their runs."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A record and the folder that its paths are relative to."""

    record: Record
    folder: Path


@dataclass(frozen=True, kw_only=True)
class Refused:
    """What could not be read, by the name that it was given by, and why."""

    place: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """Every run, and what was refused. begun: approach and seed of the runs that have no record yet."""

    runs: tuple[Run, ...] = ()
    refused: tuple[Refused, ...] = ()
    begun: tuple[tuple[str, int], ...] = ()

    @property
    def done(self) -> tuple[Run, ...]:
        """Those whose numbers count."""
        return tuple(run for run in self.runs if run.record.status == "done")

    @property
    def others(self) -> tuple[Run, ...]:
        """Those that failed, or are not done."""
        return tuple(run for run in self.runs if run.record.status != "done")


def gather(places: Sequence[Path]) -> Gathered:
    """The records in files, runs' folders, and folders of runs. The same run from two places counts once: the done one,
    else the one whose path comes first; another record of it is told among the refused."""
    files: dict[str, list[Path]] = {}
    runs: dict[Path, Run] = {}
    refused: dict[str, Refused] = {}
    begun: dict[Path, tuple[str, int]] = {}
    for file in (file for place in places for file in _files(place)):
        name = _named(file)
        try:
            run = Run(record=schema.load(file), folder=file.parent)
        except UserError as error:
            refused[str(file)] = Refused(place=name, reason=_why(file, str(error).replace(str(file), name)))
            if refused[str(file)].reason == NO_RECORD and (asked := _asked(file.parent)) is not None:
                begun[file.resolve()] = asked
            continue
        same = files.setdefault(run.record.key, [])
        if file.resolve() not in {other.resolve() for other in same}:
            same.append(file)
            runs[file] = run
    kept, others = [], []
    for same in files.values():
        first, *rest = sorted(same, key=lambda file: (runs[file].record.status != "done", file.resolve()))
        kept.append(runs[first])
        others += [_left_out(file, first) for file in rest if runs[file].record != runs[first].record]
    told = (*refused.values(), *sorted(others, key=lambda each: each.place))
    return Gathered(runs=tuple(kept), refused=told, begun=tuple(begun.values()))


def _asked(folder: Path) -> tuple[str, int] | None:
    """The approach and the seed that a run was asked for with; None where that can't be read."""
    try:
        values = read_json(folder / REQUEST)
        return str(values["approach"]), int(values["config"]["seed"])
    except (UserError, KeyError, TypeError, ValueError):
        return None


def _why(file: Path, reason: str) -> str:
    """Why there is no record in a file: what it is, or where the records are, rather than that it is missing."""
    if _exists(file):
        return reason
    if _exists(file.parent / REQUEST):
        return NO_RECORD
    for name in INSIDE:
        if file.name == schema.FILE and any(file.parent.glob(f"{name}/*/{schema.FILE}")):
            return f"the folder is no run's, and holds runs in {name}: name {file.parent.name}/{name}"
    return reason


def _left_out(file: Path, kept: Path) -> Refused:
    """What is said of a record whose run another one stands for, by as much of their paths as tells them apart."""
    parts, others = file.resolve().parts, kept.resolve().parts
    count = next(n for n in range(2, 1 + max(len(parts), len(others))) if parts[-n:] != others[-n:])
    return Refused(place="/".join(parts[-count:]), reason=f"{LEFT_OUT}: {'/'.join(others[-count:])} counts")


def _files(place: Path) -> Iterator[Path]:
    """The record files that a place means; one that does not exist where it means none."""
    if not place.is_dir():
        yield place
        return
    inside = sorted(path for path in place.iterdir() if path.is_dir() and _is_run(path))
    if _is_run(place) or not inside:
        yield place / schema.FILE
        return
    for folder in inside:
        yield folder / schema.FILE


def _is_run(folder: Path) -> bool:
    return _exists(folder / schema.FILE) or _exists(folder / REQUEST)


def _exists(file: Path) -> bool:
    """Whether there is a file, or something that may not be looked at: reading it will say so."""
    try:
        return file.exists()
    except PermissionError:
        return True


def _named(file: Path) -> str:
    """A file without what its machine's folders are called."""
    return f"{file.parent.name}/{file.name}" if file.parent.name else file.name


# -------------------------------------------------------------------------------------------------------- pictures


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture as a page shows it. data: of the encoded file, `kind` its type; empty, with the reason, where there is
    none. words: what the file says of itself."""

    data: bytes = b""
    kind: str = "png"
    width: int = 0
    height: int = 0
    reason: str = ""
    words: str = ""

    @property
    def uri(self) -> str:
        """For an <img>'s src."""
        return f"data:image/{self.kind};base64,{base64.b64encode(self.data).decode()}"

    @property
    def small(self) -> bool:
        """Whether its pixels are to be shown as squares."""
        return max(self.width, self.height) <= ENLARGED


@dataclass(kw_only=True)
class Album:
    """Pictures of runs by their relative paths, each read once."""

    found: dict[tuple[Path, str, int], Picture] = field(default_factory=dict)

    def picture(self, run: Run, path: str | None, largest: int = LARGEST) -> Picture:
        """The picture at a path that a record names. A path that leads out of the run's folder is not followed."""
        if not path:
            return Picture(reason="the record names no picture")
        key = (run.folder, path, largest)
        if key not in self.found:
            self.found[key] = _read(run.folder, path, largest)
        return self.found[key]


def _read(folder: Path, path: str, largest: int) -> Picture:
    try:
        file = (folder / path).resolve()
        if not file.is_relative_to(folder.resolve()):
            return Picture(reason="the record names a picture outside of its folder")
        return _decoded(read_regular(file, MOST_BYTES), largest)
    except FileNotFoundError:
        return Picture(reason="its file is missing")
    except LargeFileError:
        return Picture(reason=f"its file has more than {MOST_BYTES:,} bytes, and is not opened")
    except (UnfitFileError, IsADirectoryError):
        return Picture(reason="its file can't be read: it is no file")
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links that lead to each other
        return Picture(reason=f"its file can't be read: {type(error).__name__}")


def _decoded(data: bytes, largest: int) -> Picture:
    """An encoded picture, made smaller where a side is longer than `largest`. One of too many pixels is not opened: a
    file of some kilobytes can hold more than fits into memory. OSError, ValueError where it is damaged."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # it is looked at below
        try:
            image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP"))
        except Image.DecompressionBombError:
            return Picture(reason=TOO_MANY)
    with image:
        if image.width * image.height > MOST_PIXELS:
            return Picture(reason=TOO_MANY)
        try:
            image.load()
        except Exception as error:  # whatever Pillow's readers say of broken chunks
            raise ValueError(str(error) or type(error).__name__) from error
        kind, words = (image.format or "png").lower(), str(image.info.get("Description", ""))
        if max(image.size) <= largest:
            return Picture(data=data, kind=kind, width=image.width, height=image.height, words=words)
        smaller = image.convert("RGB")
        smaller.thumbnail((largest, largest))
        buffer = io.BytesIO()
        smaller.save(buffer, format="WEBP", quality=88)
        return Picture(data=buffer.getvalue(), kind="webp", width=smaller.width, height=smaller.height, words=words)
