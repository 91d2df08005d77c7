"""Tar shards by the WebDataset convention: consecutive files with one base name make a sample (000.jpg, 000.txt).
A base name ends at its first dot, as in the webdataset package, so v1.5_000.png is no picture of v1.5_000.

Read with the standard library's tarfile, not the webdataset package, whose reader stops at the first damage, can't
resume within a shard, and imports torch. Shards are indexed once; after that a picture is read by its position."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from bench.config import DataConfig
from bench.data.listed import MAX_CAPTIONS, NO_CAPTION, NOT_UTF8, Candidate, Listed, Part, clean_captions
from bench.data.pictures import MAX_BYTES, TOO_LARGE, PictureError
from bench.data.sources import PICTURES, Shard, shards
from bench.data.splits import rank_of
from bench.files import regular
from bench.printable import spelled

TEXTS = ("txt", "json")
CAPTION_FIELDS = ("caption", "text", "captions")
BLOCK = 512  # bytes of a tar record
HEADERS = 2**20  # bytes of a member's header: a long name, attributes; tarfile would read as many as it says
DOTTED = "picture whose base name holds a dot (a base name ends at its first dot: rename it)"
OPEN = 32  # shards that samples are taken from in turn


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Bytes within a shard."""

    path: Path
    offset: int
    length: int

    def read(self) -> bytes:
        """See Source."""
        if self.length > MAX_BYTES:
            raise PictureError(TOO_LARGE)
        try:
            with open(self.path, "rb", opener=regular) as file:
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


class _Index(io.BufferedReader):
    """A shard whose headers alone are read. OSError where one is no header by its size."""

    def read(self, size: int | None = -1, /) -> bytes:
        """See BufferedReader."""
        if size is None or not 0 <= size <= HEADERS:
            raise OSError(f"a header of {size} bytes, expected {HEADERS} at most")
        return super().read(size)


class WebDataset(Listed):
    """See the module's text. Samples that can't be used are counted, by reason, in `exclusions`."""

    name = "webdataset"

    @classmethod
    def build(cls, config: DataConfig, split: str) -> WebDataset:
        """The split that a config asks for: shards whose name or sub-folder speaks of it, or samples by the hash of
        their pictures. UserError where there are no shards, or no usable picture in them."""
        found = shards(config.path)
        present = frozenset(shard.told for shard in found if shard.told is not None)
        part = Part(split=split, present=present, seed=config.seed)
        exclusions: Counter[str] = Counter()
        return cls(
            part=part,
            size=config.size,
            candidates=_candidates(found, part, exclusions),
            bound=config.bound(split),
            exclusions=exclusions,
            origin=str(config.path),
        )


def _candidates(found: list[Shard], part: Part, exclusions: Counter[str]) -> Iterator[Candidate]:
    """The whole samples of shards that may have some of the split, in an order that has nothing to do with names: OPEN
    shards at a time, one sample of each in turn. Shards are often sorted, by source or subject."""
    some = sorted(
        (shard for shard in found if part.may_have(shard.told)), key=lambda each: rank_of(each.name, seed=part.seed)
    )
    for start in range(0, len(some), OPEN):
        for turn in zip_longest(*(_of_shard(shard, part, exclusions) for shard in some[start : start + OPEN])):
            yield from (candidate for candidate in turn if candidate is not None)


def _of_shard(shard: Shard, part: Part, exclusions: Counter[str]) -> Iterator[Candidate]:
    """A shard's whole samples, in an order of their own."""
    samples = sorted(_samples(shard, exclusions), key=lambda each: rank_of(each[0], seed=part.seed))
    for base, members in samples:
        picture = next((members[kind] for kind in PICTURES if kind in members), None)
        if picture is None:
            exclusions["sample without a picture"] += 1
            continue
        captions, lack = _captions(members)
        key = f"{shard.name}/{base}"
        yield Candidate(key=key, captions=captions, source=picture, told=shard.told, lack=lack)


def _samples(shard: Shard, exclusions: Counter[str]) -> Iterator[tuple[str, dict[str, Slice]]]:
    """A shard's samples: base name, and extension -> where its bytes are. Damage ends the shard, and is counted."""
    samples: dict[str, dict[str, Slice]] = {}
    dotted: list[str] = []
    try:
        with _Index(io.FileIO(shard.path, opener=regular)) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            size = shard.path.stat().st_size
            for member in tar:
                folder, _, name = member.name.removeprefix("./").rpartition("/")
                stem, _, kind = name.partition(".")
                kind = kind.lower()
                base = spelled(f"{folder}/{stem}" if folder else stem)
                if not member.isfile() or not stem or kind not in PICTURES + TEXTS:
                    dotted += [base] if member.isfile() and stem and kind.rpartition(".")[2] in PICTURES else []
                    continue
                if member.offset_data + member.size > size:
                    break  # the check below counts it
                place = Slice(path=shard.path, offset=member.offset_data, length=member.size)
                kinds = samples.setdefault(base, {})
                if kind in kinds and kind in PICTURES:
                    exclusions["a base name's second picture"] += 1
                kinds.setdefault(kind, place)
            file.seek(tar.offset)
            if file.read(BLOCK) != bytes(BLOCK):  # a whole tar ends with zeros
                exclusions["truncated or damaged tar"] += 1
    except (tarfile.TarError, OSError, ValueError, EOFError):
        exclusions["truncated or damaged tar"] += 1
    # Beside 000.png, 000.mask.png is one more part of the sample 000, which nobody misses.
    if lost := sum(not any(kind in samples.get(base, {}) for kind in PICTURES) for base in dotted):
        exclusions[DOTTED] += lost
    yield from samples.items()


def _captions(members: dict[str, Slice]) -> tuple[tuple[str, ...], str]:
    """A sample's captions, and what it lacks where it has none: a file of them, or words in it."""
    told = [members[kind] for kind in TEXTS if kind in members]
    if not told:
        return (), "sample without a caption file"
    if told[0].length > MAX_CAPTIONS:
        return (), NO_CAPTION
    captions: tuple[str, ...] = ()
    try:
        if "txt" in members:
            captions = clean_captions(members["txt"].read().decode("utf-8-sig"))
        elif isinstance(values := json.loads(members["json"].read()), dict):
            captions = next((texts for name in CAPTION_FIELDS if (texts := clean_captions(values.get(name)))), ())
    except UnicodeDecodeError:
        return (), NOT_UTF8
    except (ValueError, RecursionError, PictureError):
        return (), NO_CAPTION
    return captions, "" if captions else NO_CAPTION
