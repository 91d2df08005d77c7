"""The registry of datasets, and the one way to open one. Judging a config imports no torch and no dataset."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bench.config import DataConfig
from bench.data import sources
from bench.data.fonts import NO_FONT, choose_font, find_font
from bench.errors import UserError, nearest
from bench.files import at_home
from bench.registry import Registry
from bench.validation import check_bounds

if TYPE_CHECKING:
    from bench.data.dataset import Dataset

NO_DATASETS = "the package datasets is missing: pip install 'draw-bench[data]' (in a clone: pip install '.[data]')"

UNSEEN = "pairs"  # the split whose pictures combine what training never combined, where a dataset has one
UNSEEN_LOOKED = 5  # times as many of its pictures are looked through, for captions that ask for it

DATASETS = Registry("dataset")
DATASETS.add("shapes", "bench.data.shapes:Shapes", "procedural world of up to four shapes, with captions and scenes")
DATASETS.add(
    "emoji", "bench.data.emoji:Emoji", "emoji of the machine's colour font, with their Unicode names",
    obstacle=lambda: "" if find_font() else NO_FONT,
)  # fmt: skip
DATASETS.add(
    "folder", "bench.data.folder:Folder",
    "pictures in a folder, captions in metadata.jsonl or metadata.csv, or in a .txt beside each",
)  # fmt: skip
DATASETS.add("webdataset", "bench.data.webdataset:WebDataset", "tar shards of pictures and captions")
DATASETS.add(
    "hub", "bench.data.hub:Hub", "a Hugging Face dataset, by id or from a folder",
    obstacle=lambda: "" if importlib.util.find_spec("datasets") else NO_DATASETS,
)  # fmt: skip


def _no_path(path: str | None) -> None:
    if path is not None and not at_home(path).exists():
        raise UserError(f"--data.path {path}: no such file or folder; a hub id goes with --data.name hub")
    if path is not None and at_home(path).is_file():
        raise UserError(f"--data.path {path} is a file, expected a folder of pictures, or tar shards")
    if path is not None:
        raise UserError(f"--data.path {path}: dataset 'shapes' is generated and reads no path")


PATHS: dict[str, Callable[[str | None], Any]] = {
    "shapes": _no_path,
    "emoji": choose_font,
    "folder": sources.metadata_files,
    "webdataset": sources.shards,
    "hub": sources.hub_source,
}
"""What each dataset asks of --data.path; raises UserError."""


def check_data(config: DataConfig) -> None:
    """Judge a config's dataset without torch. UserError on an unknown name, a size or count out of bounds, a missing
    path, font or package."""
    entry = DATASETS[config.name]
    check_bounds(config, "data.")
    # A font that the user names stands in for the machine's.
    if (obstacle := entry.obstacle()) and not (config.name == "emoji" and config.path):
        raise UserError(f"dataset '{config.name}' can't run here: {obstacle}")
    check_path(config)


def check_path(config: DataConfig) -> None:
    """UserError on a path that a config's dataset does not read, or that leads nowhere."""
    if judge := PATHS.get(config.name):
        judge(config.path)


def open_dataset(config: DataConfig, split: str) -> Dataset:
    """A dataset's split. UserError as `check_data`, on an unknown split, or where nothing usable is in the source."""
    check_data(config)
    dataset: Any = DATASETS[config.name].load()
    if split not in dataset.splits:
        raise UserError(f"dataset '{config.name}' has no split '{split}': {nearest(split, dataset.splits)}")
    opened: Dataset = dataset.build(config, split)
    return opened
