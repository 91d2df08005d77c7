"""Tar shards by the WebDataset convention: consecutive files with one base name make a sample (000.jpg, 000.txt).

Read with the standard library's tarfile, not the webdataset package, whose reader stops at the first damage, can't
resume within a shard, and imports torch. Shards are indexed once; after that a picture is read by its position."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.config import DataConfig
from bench.data.listed import Candidate, Listed, clean_captions
from bench.data.pictures import PictureError
from bench.data.sources import Shard, shards
from bench.data.splits import assign

PICTURES = ("jpg", "jpeg", "png", "webp")
TEXTS = ("txt", "json")
CAPTION_FIELDS = ("caption", "text", "captions")
BLOCK = 512  # bytes of a tar record


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Bytes within a shard."""

    path: Path
    offset: int
    length: int

    def read(self) -> bytes:
        """See Source."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                data = file.read(self.length)
        except OSError as error:
            raise PictureError("unreadable shard") from error
        if len(data) < self.length:
            raise PictureError("truncated shard")
        return data

    def stamp(self) -> tuple[str, int]:
        """See Source: the shard's path, size and time of the last change, and the place in it."""
        try:
            status = self.path.stat()
        except OSError:
            return "", 0
        place = f"{status.st_size}/{status.st_mtime_ns}/{self.offset}/{self.length}"
        return f"{self.path.absolute()}/{place}", status.st_mtime_ns


class WebDataset(Listed):
    """See the module's text. Samples that can't be used are counted, by reason, in `exclusions`."""

    name = "webdataset"

    @classmethod
    def build(cls, config: DataConfig, split: str) -> WebDataset:
        """The split that a config asks for: shards whose name or sub-folder speaks of it, or samples by the hash of
        their key. UserError where there are no shards, or no usable picture in them."""
        found = shards(config.path)
        present = {shard.told for shard in found if shard.told is not None}
        exclusions: Counter[str] = Counter()
        return cls(
            split=split,
            size=config.size,
            candidates=_candidates(found, present, split, config.seed, exclusions),
            bound=config.train_items if split == "train" else config.eval_items,
            exclusions=exclusions,
            origin=str(config.path),
        )


def _candidates(
    found: list[Shard], present: set[str], split: str, seed: int, exclusions: Counter[str]
) -> Iterator[Candidate]:
    """The whole samples of a split, shard by shard."""
    for shard in found:
        if shard.told not in (None, "train", split):
            continue
        for base, members in _samples(shard, exclusions):
            if assign(base, shard.told, present, seed=seed) != split:
                continue
            picture = next((members[kind] for kind in PICTURES if kind in members), None)
            captions = _captions(members)
            if picture is None:
                exclusions["sample without a picture"] += 1
            elif captions is None:
                exclusions["sample without a caption file"] += 1
            elif not captions:
                exclusions["empty caption"] += 1
            else:
                yield Candidate(key=f"{shard.name}/{base}", captions=captions, source=picture)


def _samples(shard: Shard, exclusions: Counter[str]) -> Iterator[tuple[str, dict[str, Slice]]]:
    """A shard's samples: base name, and extension -> where its bytes are. Damage ends the shard, and is counted."""
    samples: dict[str, dict[str, Slice]] = {}
    try:
        with tarfile.open(shard.path, "r:") as tar, shard.path.open("rb") as file:
            size = shard.path.stat().st_size
            for member in tar:
                folder, _, name = member.name.removeprefix("./").rpartition("/")
                stem, _, kind = name.partition(".")
                kind = kind.lower()
                if not member.isfile() or not stem or kind not in PICTURES + TEXTS:
                    continue
                if member.offset_data + member.size > size:
                    break  # the check below counts it
                place = Slice(path=shard.path, offset=member.offset_data, length=member.size)
                samples.setdefault(f"{folder}/{stem}" if folder else stem, {}).setdefault(kind, place)
            file.seek(tar.offset)
            if file.read(BLOCK) != bytes(BLOCK):  # a whole tar ends with zeros
                exclusions["truncated or damaged tar"] += 1
    except (tarfile.TarError, OSError, ValueError, EOFError):
        exclusions["truncated or damaged tar"] += 1
    yield from samples.items()


def _captions(members: dict[str, Slice]) -> tuple[str, ...] | None:
    """A sample's captions; None where it has no file of them, () where they are empty or no text."""
    if not any(kind in members for kind in TEXTS):
        return None
    try:
        if "txt" in members:
            return clean_captions(members["txt"].read().decode("utf-8-sig"))
        values = json.loads(members["json"].read())
    except (ValueError, RecursionError, PictureError):
        return ()
    if not isinstance(values, dict):
        return ()
    return next((texts for name in CAPTION_FIELDS if (texts := clean_captions(values.get(name)))), ())
