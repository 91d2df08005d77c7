"""Datasets whose pictures come from files that may be damaged: judged once, up front, so that no run meets a surprise
at step 40,000; and where one does (a file vanishes), another sample takes its place and is counted. Before it
measures, a run asks once more, and ends where its pictures are others by then."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol

import PIL

from bench.data.dataset import Dataset, Sample
from bench.data.pictures import RESIZE, PictureError, decode, inspect, quiet
from bench.data.splits import assign, may_be
from bench.errors import UserError
from bench.files import cache_directory, hash_bytes, whole_characters, write_json
from bench.printable import spelled

LONG_CAPTION = 1000  # characters
MAX_CAPTIONS = 2**24  # bytes of one picture's captions, and of what may stand beside them
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
    """A captioned picture that has not been looked at yet. told: the split that its source puts it in, if any. lack:
    what it lacks that it can't be used without, such as a caption."""

    key: str
    captions: tuple[str, ...]
    source: Source
    told: str | None = None
    lack: str = ""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Which of a source's pictures a split has: see `assign`, by the bytes of a picture, so that none is in two of the
    splits that are carved here, however often the source has it, and under whatever name. present: the splits that the
    source has itself, which stay as they are."""

    split: str
    present: frozenset[str]
    seed: int

    def may_have(self, told: str | None) -> bool:
        """Whether a picture that its source puts in `told` can be in it."""
        return may_be(self.split, told, self.present)

    def has(self, candidate: Candidate, digest: str) -> bool:
        """Whether a picture of these bytes is in it; by its key where its bytes can't be had."""
        return assign(digest or candidate.key, candidate.told, self.present, seed=self.seed) == self.split


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """reason: why the picture can't be used, "" where it can. notes: what is mended when it is decoded. digest: of its
    bytes, "" where they could not be read."""

    reason: str
    notes: tuple[str, ...]
    digest: str


NO_CAPTION, NOT_UTF8 = "empty caption", "caption that is not UTF-8"
ELSEWHERE, BEYOND = "in another split", "beyond the bound"
"""Verdicts on pictures that nobody has decoded."""
AGAIN = "the same picture again: captions joined"
TOO_FEW = "none falls into it: there are too few, or no folder or shard of them is named like it"


class Listed(Dataset):
    """A split as a list of pictures that have been decoded once, in a fixed order."""

    def __init__(
        self,
        *,
        part: Part,
        size: int,
        candidates: Iterable[Candidate],
        bound: int,
        exclusions: Counter[str],
        origin: str,
    ) -> None:
        """Judge candidates in order until `bound` are accepted; UserError where none is. Those that have the same bytes
        are one, with the captions of all: where some have, of the accepted or the next CHUNK, all that are beyond the
        bound are looked through for more.

        exclusions: what has been left out so far. origin: names the source in messages and in the cache.
        """
        self.split, self.size, self.exclusions, self.origin = part.split, size, exclusions, origin
        cache = VerdictCache(f"{self.name}/{origin}", part)
        kept: dict[str, Candidate] = {}
        here, beyond = False, 0
        for candidate, verdict in _judged(candidates, cache):
            if verdict.reason == ELSEWHERE:
                continue
            if len(kept) == bound:
                if beyond == CHUNK and not exclusions[AGAIN]:
                    break
                beyond, cache.wanted = beyond + 1, kept.keys()
            if verdict.reason == BEYOND:
                continue
            here = True
            if reason := candidate.lack or verdict.reason:
                if len(kept) < bound:
                    exclusions[reason] += 1
                continue
            if first := kept.get(verdict.digest):
                exclusions[AGAIN] += 1
                captions = tuple(dict.fromkeys((*first.captions, *candidate.captions)))
                kept[verdict.digest] = replace(first, captions=captions)
                continue
            if len(kept) == bound:
                continue
            exclusions.update(verdict.notes)
            if any(len(caption) > LONG_CAPTION for caption in candidate.captions):
                exclusions[f"caption over {LONG_CAPTION} characters (kept)"] += 1
            kept[verdict.digest] = candidate
        cache.save()
        self.items = list(kept.values())
        if not self.items:
            found = [] if here else [TOO_FEW]
            found += [f"{reason}: {count}" for reason, count in exclusions.most_common()]
            raise UserError(
                f"dataset '{self.name}': no usable picture for split '{self.split}' in {origin} ({'; '.join(found)})"
            )
        content = (each for digest, item in kept.items() for each in (item.key, *item.captions, digest))
        self._hash = hash_bytes(self.name, self.split, RESIZE, str(size), *content)
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
    """Verdicts of earlier runs on a part's pictures, by their stamps; one small file a source and part. wanted: the
    digests of those that alone are to be looked at from now on; the others are BEYOND."""

    wanted: Collection[str] | None = None

    def __init__(self, origin: str, part: Part) -> None:
        self._part = part
        whose = f"{part.split}/{part.seed}/{sorted(part.present)}"
        key = hash_bytes("verdicts-v5", RESIZE, PIL.__version__, spelled(origin), whose)
        self._target = cache_directory() / "verdicts" / f"{key}.json"
        self._before: dict[str, Any] = {}
        self._now: dict[str, list[Any]] = {}
        with contextlib.suppress(OSError, ValueError, TypeError):  # absent, or damaged from outside: judge again
            self._before = dict(json.loads(self._target.read_text(encoding="utf-8")))

    def judge(self, candidate: Candidate) -> Verdict:
        """The verdict on one picture; thread-safe."""
        stamp, changed = candidate.source.stamp()
        try:
            reason, notes, digest = self._before[stamp]
            verdict = Verdict(reason=str(reason), notes=tuple(notes), digest=str(digest))
            known = verdict.reason != BEYOND or (self.wanted is not None and digest not in self.wanted)
        except (KeyError, ValueError, TypeError):
            known = False
        if not known:
            verdict = _look(candidate, self._part, self.wanted)
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
    told = (text for text in texts if isinstance(text, str | int | float) and not isinstance(text, bool))
    words = (str(text) for text in told if text == text)  # what is no number is what a table has for nothing
    lines = (" ".join(whole_characters(text).split()) for text in words)
    return tuple(dict.fromkeys(line for line in lines if line))


def _look(candidate: Candidate, part: Part, wanted: Collection[str] | None) -> Verdict:
    try:
        data = candidate.source.read()
    except PictureError as error:
        return Verdict(reason=str(error) if part.has(candidate, "") else ELSEWHERE, notes=(), digest="")
    digest = hash_bytes(data)
    if not part.has(candidate, digest):
        return Verdict(reason=ELSEWHERE, notes=(), digest=digest)
    if wanted is not None and digest not in wanted:
        return Verdict(reason=BEYOND, notes=(), digest=digest)
    try:
        return Verdict(reason="", notes=inspect(data), digest=digest)
    except PictureError as error:
        return Verdict(reason=str(error), notes=(), digest=digest)


def _judged(candidates: Iterable[Candidate], cache: VerdictCache) -> Iterator[tuple[Candidate, Verdict]]:
    """Every candidate with its verdict, in order; Pillow decodes outside of Python's lock, so threads help."""
    with ThreadPoolExecutor() as pool:
        remaining = iter(candidates)
        while chunk := list(islice(remaining, CHUNK)):
            with quiet():
                verdicts = list(pool.map(cache.judge, chunk))
            yield from zip(chunk, verdicts, strict=True)
