"""Datasets whose pictures come from files that may be damaged: judged once, up front, so that no run meets a surprise
at step 40,000; and where one does (a file vanishes), another sample takes its place and is counted."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import PIL

from bench.data.dataset import Dataset, Sample
from bench.data.pictures import RESIZE, PictureError, decode, inspect
from bench.errors import UserError
from bench.files import cache_directory, hash_bytes, whole_characters, write_json

LONG_CAPTION = 1000  # characters
CHUNK = 256  # pictures judged at a time
FRESH_NS = 2_000_000_000
"""A file changed this recently may change again within its time stamp's resolution: its verdict is not kept."""

log = logging.getLogger(__name__)


class Source(Protocol):
    """Where one picture's bytes lie."""

    def read(self) -> bytes:
        """The bytes; PictureError where they can't be had."""
        ...

    def stamp(self) -> tuple[str, int]:
        """A text that changes when the bytes do, "" where there is none; and when they last did, in ns."""
        ...


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A captioned picture that has not been looked at yet."""

    key: str
    captions: tuple[str, ...]
    source: Source


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """reason: why the picture can't be used, "" where it can. notes: what is mended when it is decoded. digest: of its
    bytes, "" where they could not be read."""

    reason: str
    notes: tuple[str, ...]
    digest: str


TOO_FEW = "none falls into it: there are too few, or no folder or shard of them is named like it"


class Listed(Dataset):
    """A split as a list of pictures that have been decoded once, in a fixed order."""

    def __init__(
        self,
        *,
        split: str,
        size: int,
        candidates: Iterable[Candidate],
        bound: int,
        exclusions: Counter[str],
        origin: str,
    ) -> None:
        """Judge candidates in order until `bound` are accepted; UserError where none is.

        exclusions: what has been left out so far. origin: names the source in messages and in the cache.
        """
        self.split, self.size, self.exclusions, self.origin = split, size, exclusions, origin
        cache = VerdictCache(f"{self.name}/{origin}/{split}")
        self.items: list[Candidate] = []
        digests = []
        for candidate, verdict in _judged(candidates, cache):
            if verdict.reason:
                exclusions[verdict.reason] += 1
                continue
            exclusions.update(verdict.notes)
            if any(len(caption) > LONG_CAPTION for caption in candidate.captions):
                exclusions[f"caption over {LONG_CAPTION} characters (kept)"] += 1
            self.items.append(candidate)
            digests.append(verdict.digest)
            if len(self.items) == bound:
                break
        cache.save()
        if not self.items:
            found = "; ".join(f"{reason}: {count}" for reason, count in exclusions.most_common()) or TOO_FEW
            raise UserError(f"dataset '{self.name}': no usable picture for split '{split}' in {origin} ({found})")
        content = (part for item, digest in zip(self.items, digests, strict=True)
                   for part in (item.key, *item.captions, digest))  # fmt: skip
        self._hash = hash_bytes(self.name, split, RESIZE, str(size), *content)
        self._lost: set[int] = set()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self.items):
            raise IndexError(f"{self.name}/{self.split} has {len(self.items)} samples, asked for number {index}")
        for step in range(len(self.items)):
            place = (index + step) % len(self.items)
            item = self.items[place]
            try:
                image, _ = decode(item.source.read(), self.size)
            except PictureError as error:
                self._lose(place, str(error))
                continue
            return Sample(key=item.key, image=image, captions=item.captions)
        raise UserError(f"dataset '{self.name}': every picture of {self.origin} has become unreadable during the run")

    def _lose(self, place: int, reason: str) -> None:
        """Count a picture that broke after it was judged; once, however often it is asked for."""
        if place not in self._lost:
            self._lost.add(place)
            self.exclusions[f"broke during the run, replaced by the next sample: {reason}"] += 1
            log.warning("%s: %s: %s; the next sample takes its place", self.name, self.items[place].key, reason)

    def content_hash(self) -> str:
        """See Dataset: the files' contents as they were judged, the captions, the size and the resize protocol."""
        return self._hash


class VerdictCache:
    """Verdicts of earlier runs, by the pictures' stamps; one small file a source and split."""

    def __init__(self, origin: str) -> None:
        key = hash_bytes("verdicts-v2", RESIZE, PIL.__version__, origin)
        self._target = cache_directory() / "verdicts" / f"{key}.json"
        self._before: dict[str, Any] = {}
        self._now: dict[str, list[Any]] = {}
        with contextlib.suppress(OSError, ValueError, TypeError):  # absent, or damaged from outside: judge again
            self._before = dict(json.loads(self._target.read_text(encoding="utf-8")))

    def judge(self, source: Source) -> Verdict:
        """The verdict on one picture; thread-safe."""
        stamp, changed = source.stamp()
        try:
            reason, notes, digest = self._before[stamp]
            verdict = Verdict(reason=str(reason), notes=tuple(notes), digest=str(digest))
        except (KeyError, ValueError, TypeError):
            verdict = _look(source)
        # What could not be read may be readable the next time.
        if stamp and verdict.digest and time.time_ns() - changed > FRESH_NS:
            self._now[stamp] = [verdict.reason, list(verdict.notes), verdict.digest]
        return verdict

    def save(self) -> None:
        """Write what was judged this time, where it differs from what was known."""
        if self._now != self._before and self._now:
            write_json(self._target, self._now)


def clean_captions(values: object) -> tuple[str, ...]:
    """A caption, or a list of them, as the non-empty texts in it, each on one line and of characters that UTF-8 has. A
    number is the text of it."""
    texts = values if isinstance(values, list | tuple) else [values]
    words = (str(text) for text in texts if isinstance(text, str | int | float) and not isinstance(text, bool))
    lines = (" ".join(whole_characters(text).split()) for text in words)
    return tuple(dict.fromkeys(line for line in lines if line))


def _look(source: Source) -> Verdict:
    try:
        data = source.read()
    except PictureError as error:
        return Verdict(reason=str(error), notes=(), digest="")
    try:
        return Verdict(reason="", notes=inspect(data), digest=hash_bytes(data))
    except PictureError as error:
        return Verdict(reason=str(error), notes=(), digest=hash_bytes(data))


def _judged(candidates: Iterable[Candidate], cache: VerdictCache) -> Iterator[tuple[Candidate, Verdict]]:
    """Every candidate with its verdict, in order; Pillow decodes outside of Python's lock, so threads help."""
    with ThreadPoolExecutor() as pool:
        remaining = iter(candidates)
        while chunk := list(islice(remaining, CHUNK)):
            yield from zip(chunk, pool.map(lambda each: cache.judge(each.source), chunk), strict=True)
