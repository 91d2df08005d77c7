"""Which files a Hugging Face dataset may read: its own and those in the libraries' caches, and no others of the machine
or the network. A folder's own description, its links and its rows name files, and all of them may come from a stranger.

Of a hub id, datasets itself holds that data files lie in its repository."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

from bench.errors import UserError
from bench.files import UnfitFileError, read_text

WITHIN = "expected files that lie in it"
MOST_TEXT = 2**24  # bytes of a description


def roots(folder: Path) -> tuple[str, ...]:
    """Where the files of a dataset may lie, without links: the folder, where there is one, and the caches."""
    own = [os.path.realpath(folder)] if folder.is_dir() else []
    return (*own, *map(os.path.realpath, _caches()))


def _caches() -> list[str]:
    """Of datasets and of the hub."""
    from datasets import config
    from huggingface_hub import constants

    named = (config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, config.EXTRACTED_DATASETS_PATH)
    return [os.path.abspath(os.path.expanduser(each)) for each in (*named, constants.HF_HUB_CACHE)]


def inside(path: str, allowed: Iterable[str]) -> bool:
    """Whether a path, all its links followed, lies in one of the folders `allowed` (see `roots`); or in a cache by its
    name, for a user may keep a part of theirs on another disk. ValueError where it can be no path."""
    real, named = os.path.realpath(path), "" if ".." in Path(path).parts else os.path.abspath(path)
    ways = (*((real, each) for each in allowed), *((named, each) for each in _caches()))
    return not _address(path) and any(way.startswith(os.path.join(each, "")) for way, each in ways)


def load_folder(folder: Path, said: str) -> Any:
    """A folder of data files as `datasets.load_dataset` reads it. said: what names it in messages. UserError where its
    description or a link in it leads to data files elsewhere; else whatever datasets raises."""
    import datasets

    for name in _described(folder):
        if _leads_out(name):
            raise UserError(f"{said} describes its data as '{name}', which leads outside the folder: {WITHIN}")
    builder = datasets.load_dataset_builder(str(folder))
    files = (file for files in (builder.config.data_files or {}).values() for file in files)
    _hold(files, roots(folder), said)
    builder.download_and_prepare()
    return builder.as_dataset()


def load_saved(folder: Path, said: str) -> Any:
    """A folder that `save_to_disk` wrote. said: what names it in messages. UserError where its description or a link in
    it leads to tables elsewhere; else whatever datasets raises."""
    import datasets

    opened = datasets.load_from_disk(str(folder), keep_in_memory=False)  # mapped: not a row is read yet
    tables = opened.values() if isinstance(opened, dict) else [opened]
    _hold((each["filename"] for table in tables for each in table.cache_files), roots(folder), said)
    return opened


def _hold(files: Iterable[str], allowed: tuple[str, ...], said: str) -> None:
    """UserError at the first file that lies elsewhere."""
    for file in files:
        if not inside(file, allowed):
            raise UserError(f"{said} reads {file}, which leads outside the folder: {WITHIN}")


def _described(folder: Path) -> Iterator[str]:
    """The paths and patterns that a folder's README.md or .huggingface.yaml gives for its data; none where these can't
    be read, which datasets will say. UnfitFileError where .huggingface.yaml is no
    regular file, or an enormous one."""
    import yaml
    from datasets import config
    from huggingface_hub import DatasetCard

    told: dict[str, Any] = {}
    card, alone = folder / config.REPOCARD_FILENAME, folder / config.REPOYAML_FILENAME
    try:
        if card.is_file():
            told |= DatasetCard.load(card).data.to_dict()
        if alone.exists():
            told |= yaml.safe_load(read_text(alone, MOST_TEXT)) or {}
    except UnfitFileError:
        raise
    except Exception:  # whatever the parsers raise, datasets meets it, too, before it looks for data
        return
    configurations = told.get("configs")
    for each in configurations if isinstance(configurations, list) else []:
        if isinstance(each, dict):
            yield from _texts([each.get("data_files"), each.get("data_dir")])


def _texts(value: object, depth: int = 4) -> Iterator[str]:
    """Every text in lists and dicts, down to the paths in data_files: [{split, path: [...]}]."""
    if isinstance(value, str):
        yield value
    elif depth and isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each, depth - 1)


def _leads_out(name: str) -> bool:
    """Whether a path or pattern names another place than one below its folder. Links aside."""
    path = PureWindowsPath(name)  # knows both separators
    return _address(name) or bool(path.anchor) or name.startswith("~") or ".." in path.parts


def _address(name: str) -> bool:
    """Whether fsspec takes a name for a URL, or for a chain of them, such as zip://a::b."""
    return "://" in name or "::" in name
