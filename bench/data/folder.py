"""An image folder by the Hugging Face convention: pictures, and metadata.jsonl or metadata.csv that names them.

Columns: file_name, and text or caption (one text, or in JSON a list). Splits: sub-folders train, validation and test,
either with a metadata file each, or as the first part of file_name. Where the source lacks splits, see `assign`.

Where no metadata is, a picture's caption is the text of the file beside it, NAME.txt beside NAME.png."""

from __future__ import annotations

import csv
import io
import json
import os
import posixpath
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from bench.config import DataConfig
from bench.data.listed import MAX_CAPTIONS, NO_CAPTION, NOT_UTF8, Candidate, Listed, Part, clean_captions
from bench.data.pictures import read
from bench.data.sources import beside, metadata_files
from bench.data.splits import ALIASES, rank_of
from bench.errors import UserError
from bench.files import UnfitFileError, at_home, read_text
from bench.printable import spelled

CAPTION_COLUMNS = ("text", "caption", "captions")
MAX_METADATA = 2**31  # bytes of a metadata file, which is held as a whole: some ten million rows


@dataclass(frozen=True, kw_only=True)
class File:
    """A picture in a file of its own."""

    path: Path

    def read(self) -> bytes:
        """See Source."""
        return read(self.path)

    def stamp(self) -> tuple[str, int]:
        """See Source: path, size and time of the last change."""
        try:
            status = self.path.stat()
        except (OSError, ValueError):
            return "", 0
        return f"{self.path.absolute()}/{status.st_size}/{status.st_mtime_ns}", status.st_mtime_ns


@dataclass(frozen=True, kw_only=True)
class Row:
    """One picture: its path, its name within the dataset, the split it is told to be in, and its captions, or the file
    beside it that has them. lack: why it has neither."""

    path: Path
    name: str
    told: str | None
    captions: tuple[str, ...] = ()
    text: Path | None = None
    lack: str = ""

    def candidate(self) -> Candidate:
        """To be judged."""
        captions, lack = caption_beside(self.text) if self.text else (self.captions, "")
        lack = self.lack or lack or ("" if captions else NO_CAPTION)
        return Candidate(key=self.name, captions=captions, source=File(path=self.path), told=self.told, lack=lack)


class Folder(Listed):
    """See the module's text. Rows that can't be used are counted, by reason, in `exclusions`."""

    name = "folder"

    @classmethod
    def build(cls, config: DataConfig, split: str) -> Folder:
        """The split that a config asks for. UserError where there is no metadata, or no usable picture."""
        exclusions: Counter[str] = Counter()
        rows = rows_of(config.path, exclusions)
        present = frozenset(row.told for row in rows if row.told is not None)
        part = Part(split=split, present=present, seed=config.seed)
        chosen = [row for row in rows if part.may_have(row.told)]
        chosen.sort(key=lambda row: rank_of(row.name, seed=config.seed))
        return cls(
            part=part,
            size=config.size,
            candidates=(row.candidate() for row in chosen),
            bound=config.bound(split),
            exclusions=exclusions,
            origin=str(config.path),
        )


def rows_of(path: str | None, exclusions: Counter[str]) -> list[Row]:
    """Every row that names a file within the folder; rows that name the same file are one row with more captions.
    Without metadata, every picture that is there."""
    rows: dict[str, Row] = {}
    files = metadata_files(path)
    if not files:
        return list(_pictures(at_home(str(path)), exclusions))
    for metadata, told in files:
        prefix = "" if told is None else metadata.parent.name
        for values in _read(metadata, exclusions):
            name = _inside(values.get("file_name"), metadata.parent)
            if not name:
                exclusions["path outside the folder" if name is None else "no file_name"] += 1
                continue
            full = spelled(posixpath.join(prefix, name))
            texts = next((found for each in CAPTION_COLUMNS if (found := clean_captions(values.get(each)))), ())
            if full in rows:
                exclusions["file_name repeated: captions joined"] += 1
                texts = tuple(dict.fromkeys((*rows[full].captions, *texts)))
            rows[full] = Row(path=metadata.parent / name, name=full, told=told or _told(full), captions=texts)
    return list(rows.values())


def _pictures(folder: Path, exclusions: Counter[str]) -> Iterator[Row]:
    """Every picture of a folder without metadata."""
    for name, text in beside(folder):
        if name:
            lack = "" if text else "picture without a caption file"
            yield Row(path=folder / name, name=spelled(name), told=_told(name), text=text, lack=lack)
        else:
            exclusions["caption file without a picture"] += 1


def caption_beside(text: Path) -> tuple[tuple[str, ...], str]:
    """What a NAME.txt says, on one line, as in tar shards, and what it lacks where that is nothing."""
    try:
        captions = clean_captions(read_text(text, MAX_CAPTIONS, "utf-8-sig"))
    except UnicodeDecodeError:
        return (), NOT_UTF8
    except OSError:  # such as one that is no regular file
        return (), NO_CAPTION
    return captions, "" if captions else NO_CAPTION


def _told(name: str) -> str | None:
    """The split that the outermost sub-folder of a picture's name speaks of."""
    return ALIASES.get(PurePosixPath(name).parts[0].lower()) if "/" in name else None


def _inside(value: object, folder: Path) -> str | None:
    """A file name made plain; "" where there is none, None where it leads out of the folder. Where there is no file
    of that name, backslashes part folders, as Windows writes them."""
    if not isinstance(value, str) or not value.strip():
        return ""
    if "\\" in value and not os.path.isfile(folder / value):
        value = value.replace("\\", "/")
    plain = posixpath.normpath(value)
    steps = PureWindowsPath(plain).parts  # knows both separators
    return None if not steps or ".." in steps or plain.startswith("/") or Path(plain).is_absolute() else plain


def _read(metadata: Path, exclusions: Counter[str]) -> Iterator[dict[str, Any]]:
    """The rows of a metadata file. UserError where it is no text, or lacks the columns."""
    try:
        text = read_text(metadata, MAX_METADATA, "utf-8-sig")
        rows = list(_csv(text) if metadata.suffix == ".csv" else _jsonl(text, exclusions))
    except UnfitFileError:
        raise
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{metadata} can't be read: {error}") from error
    if metadata.suffix == ".jsonl" and (shape := _no_lines(text, rows)):
        raise UserError(f"{metadata} {shape}: expected one JSON object a line")
    columns = {name for row in rows for name in row}
    if "file_name" not in columns or not columns.intersection(CAPTION_COLUMNS):
        listing = ", ".join(sorted(columns)) or "none"
        raise UserError(f"{metadata} needs the columns file_name and text, and has: {listing}")
    yield from rows


def _csv(text: str) -> Iterator[dict[str, Any]]:
    """The rows of a table; a short one lacks its last columns. csv.Error that names the line where a table is torn."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)  # splitlines would cut at more than ends of lines
    columns: list[str] = []
    line = 1
    try:
        for fields in reader:
            if not columns:
                columns = fields
                if twice := [name for name, count in Counter(fields).items() if name and count > 1]:
                    raise csv.Error(f"it has two columns named {twice[0]}, expected one of each name")
            elif any(fields[len(columns) :]):  # a comma at a line's end is no harm
                problem = f"it has {len(fields)} fields, expected {len(columns)}"
                raise csv.Error(f"{problem}: put quotes around text that holds a comma")
            elif fields:
                yield dict(zip(columns, fields, strict=False))
            line = reader.line_num + 1
    except csv.Error as error:
        unclosed = ": is a quote unclosed?" if "unexpected end" in str(error) else ""
        raise csv.Error(f"line {line}: {error}{unclosed}") from error


def _jsonl(text: str, exclusions: Counter[str]) -> Iterator[dict[str, Any]]:
    for line in text.split("\n"):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            yield row
        else:
            exclusions["malformed metadata line"] += 1


def _no_lines(text: str, rows: list[dict[str, Any]]) -> str:
    """How a text is JSON of another shape than one object a line; "" where it may be that."""
    if text.lstrip().startswith("["):
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            pass
        else:
            return "is one JSON array"
    return "has no line that is a JSON object" if text.strip() and not rows else ""
