"""Where a dataset's files lie, judged before anything heavy is imported. Standard library only."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.data.splits import ALIASES, named_split
from bench.errors import UserError
from bench.files import at_home
from bench.printable import spelled

METADATA = ("metadata.jsonl", "metadata.csv")
PICTURES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "jp2", "avif")
"""Kinds of pictures that stand beside a NAME.txt, in folders and in tar shards, in order of preference."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar file: its name within the dataset, and the split that its path speaks of."""

    path: Path
    name: str
    told: str | None


def require_path(path: str | None, name: str, expected: str) -> str:
    """The path that the user gave; UserError where there is none."""
    if not path:
        raise UserError(f"dataset '{name}' needs --data.path: {expected}")
    return path


def metadata_files(path: str | None) -> list[tuple[Path, str | None]]:
    """The metadata files of an image folder, each with the split that its sub-folder speaks of (None at the root); none
    where captions lie beside the pictures: see `beside`. UserError where there is no folder, or neither in it."""
    given = require_path(path, "folder", "a folder of pictures with metadata.jsonl or metadata.csv, or a .txt to each")
    folder = at_home(given)
    if not folder.is_dir():
        raise UserError(f"--data.path {given}: {'not a folder' if folder.exists() else 'no such folder'}")
    with os.scandir(folder) as children:  # of many pictures: it knows folders without asking for each
        folders = sorted(Path(child) for child in children if child.is_dir())
    inside = {child: found for child in folders if (found := _metadata(child))}
    if root := _metadata(folder):
        if inside:
            raise UserError(f"{root} is not the only metadata: {next(iter(inside.values()))} is there, too; keep one")
        return [(root, None)]
    pairs: list[tuple[Path, str | None]] = []
    for child, found in inside.items():
        if child.name.lower() not in ALIASES:
            raise UserError(f"{child} is named like no split, and holds metadata: expected one of {', '.join(ALIASES)}")
        pairs.append((found, ALIASES[child.name.lower()]))
    if not pairs and not any(picture and text for picture, text in beside(folder)):
        raise UserError(
            f"{given} has no metadata: expected metadata.jsonl or metadata.csv with file_name and text in it, "
            "or in its sub-folders train, validation, test; or a caption NAME.txt beside NAME.png"
        )
    return pairs


def has_metadata(folder: Path) -> bool:
    """Whether an image folder has metadata, at its root or in a sub-folder named like a split."""
    children = (child for child in folder.iterdir() if child.name.lower() in ALIASES)
    return bool(_metadata(folder)) or any(_metadata(child) for child in children)


def beside(folder: Path) -> Iterator[tuple[str, Path | None]]:
    """Every picture at any depth of a folder, by its name within it, with the NAME.txt beside NAME.png, None where it
    has none; and "" with every such text that stands beside no picture. What is hidden is left out; of folders that
    are linked to, each is read once."""
    known: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in known:
            folders[:] = []
            continue
        known.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        parts = [name.rpartition(".")[::2] for name in sorted(files) if not name.startswith(".")]
        texts = {stem: Path(place, f"{stem}.{kind}") for stem, kind in parts if kind.lower() == "txt"}
        alone, within = dict(texts), Path(place).relative_to(folder)
        for stem, kind in parts:
            if kind.lower() in PICTURES:
                alone.pop(stem, None)
                yield (within / f"{stem}.{kind}").as_posix(), texts.get(stem)
        yield from (("", text) for text in alone.values())


def shards(path: str | None) -> list[Shard]:
    """The tar shards that a folder, a pattern with {000..003} or {a,b}, or a glob names, in the order of their names.
    UserError where it names none, or one that can't be read by position."""
    given = require_path(path, "webdataset", "a folder of .tar shards, or a pattern such as shards-{000..003}.tar")
    if "://" in given or given.startswith("pipe:"):
        raise UserError(f"--data.path {given}: shards are read from disk; download them first and pass their folder")
    root = at_home(given)
    if root.is_dir():
        files = sorted(file for file in root.rglob("*.tar") if file.is_file())
    else:
        patterns = [glob.escape(str(root))] if root.is_file() else braces(str(root))
        files = sorted({Path(file) for pattern in patterns for file in glob.glob(pattern) if Path(file).is_file()})
        missing = [pattern for pattern in patterns if not glob.has_magic(pattern) and not Path(pattern).is_file()]
        if missing:
            raise UserError(f"--data.path {given}: {len(missing)} of {len(patterns)} shards are missing: {missing[0]}")
        root = Path(os.path.commonpath([file.parent for file in files])) if files else root
    if not files:
        raise UserError(f"--data.path {given}: no .tar shards there")
    for file in files:
        if file.suffix != ".tar":
            raise UserError(f"{file} is not a plain .tar; shards are read by position, so decompress them first")
    names = [spelled(file.relative_to(root).as_posix()) for file in files]
    return [Shard(path=file, name=name, told=named_split(name)) for file, name in zip(files, names, strict=True)]


def braces(pattern: str) -> list[str]:
    """Bash's {000..003} and {a,b}, expanded.

    >>> braces("s-{08..10}.tar")
    ['s-08.tar', 's-09.tar', 's-10.tar']
    """
    match = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if not match:
        return [pattern]
    low, high, words = match.groups()
    if words is None:
        width = max(len(low), len(high)) if low.startswith("0") or high.startswith("0") else 0
        if int(high) - int(low) > 1_000_000:
            raise UserError(f"the pattern {pattern} names more than a million shards")
        choices = [f"{number:0{width}d}" for number in range(int(low), int(high) + 1)]
    else:
        choices = words.split(",")
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [head + choice + rest for choice in choices for rest in braces(tail)]


def hub_source(path: str | None) -> str:
    """A local folder, or a hub id ("owner/name", with ":configuration" behind it where it has several). UserError where
    it can be neither."""
    given = require_path(path, "hub", "a Hugging Face dataset id such as owner/name, or a dataset's folder")
    if at_home(given).exists():
        if not at_home(given).is_dir():
            raise UserError(f"--data.path {given} is a file; expected a folder or a hub id such as owner/name")
    elif given.startswith((".", "/", "~")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?", given):
        raise UserError(f"--data.path {given}: no such folder, and no hub id such as owner/name")
    return given


def dataset_of(name: str, path: str | None) -> str:
    """The dataset that reads a path, by what lies there; "" to leave it: an emoji's path is a font, and what another's
    is only that one knows."""
    if name not in ("shapes", "folder", "webdataset", "hub") or not path:
        return ""
    root = at_home(path)
    if root.is_dir():
        if has_metadata(root) or any(name and text for name, text in beside(root)):
            return "folder"
        if saved(root) or any(root.rglob("*.parquet")):
            return "hub"
        return "webdataset" if any(root.rglob("*.tar")) else "folder"
    return "webdataset" if path.endswith(".tar") else ""


def text_of(path: str | None) -> str:
    """The corpus that reads a path, by what lies there; "" where nothing does."""
    root = at_home(path or "")
    if not path or not root.exists():
        return ""
    return "file" if root.is_file() else "hub" if saved(root) or any(root.rglob("*.parquet")) else "folder"


def saved(folder: Path) -> bool:
    """Whether datasets' save_to_disk wrote a folder."""
    return any((folder / name).exists() for name in ("dataset_dict.json", "state.json"))


def _metadata(folder: Path) -> Path | None:
    found = [folder / name for name in METADATA if (folder / name).is_file()]
    if len(found) > 1:
        raise UserError(f"{folder} has both {METADATA[0]} and {METADATA[1]}: keep one")
    return found[0] if found else None
