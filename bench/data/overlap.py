"""Whether one text repeats another: the overlap rule of GPT-3's contamination study (arXiv 2005.14165, appendix C), by
paragraph. A paragraph overlaps where the words of one of SHORTEST characters or more are all the same, or where any RUN
consecutive words are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from bench.data.text import Document, Progress, TextCorpus, silent
from bench.files import atomic_path, cache_directory, hash_bytes

SHORTEST = 40  # characters
RUN = 13  # words
RULES = "1"  # part of the cache's key: raise it whenever the rules change


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a text: blank lines part them."""
    return [part for part in re.split(r"\n[ \t]*\n", text) if part.strip()]


def normalise(text: str) -> str:
    """Lower-case words parted by single spaces: case, spacing and punctuation don't make a text new."""
    return " ".join(re.findall(r"\w+", text.lower()))


def runs(paragraph: str) -> Iterator[str]:
    """Every RUN consecutive words, normalised."""
    words = normalise(paragraph).split()
    return (" ".join(words[start : start + RUN]) for start in range(len(words) - RUN + 1))


def overlaps(paragraph: str, whole: set[str], known: set[str]) -> bool:
    """Whether a paragraph is one of `whole` (normalised), or shares one of the runs that are `known`."""
    words = normalise(paragraph)
    return (len(words) >= SHORTEST and words in whole) or not known.isdisjoint(runs(paragraph))


def unread(documents: Sequence[Document], corpus: TextCorpus, progress: Progress = silent) -> list[Document]:
    """The documents without the paragraphs that overlap the corpus' training documents; those of which less than
    SHORTEST characters are left are left out. Kept in the cache under both contents."""
    told = (part for item in documents for part in (item.key, item.text))
    path = cache_directory() / "unread" / f"{hash_bytes(RULES, corpus.content_hash('train'), *told)}.json"
    with suppress(OSError, ValueError, TypeError):  # absent, or not whole: made again below
        kept = json.loads(path.read_text(encoding="utf-8"))
        return [replace(item, text=kept[item.key]) for item in documents if item.key in kept]
    progress(f"leaving out what is in {corpus.name}'s training text")
    found = list(_without(documents, corpus.documents("train")))
    with atomic_path(path) as part:
        part.write_text(json.dumps({item.key: item.text for item in found}), encoding="utf-8")
    return found


def _without(documents: Sequence[Document], training: Iterable[Document]) -> Iterator[Document]:
    parts = [part for item in documents for part in paragraphs(item.text)]
    whole, known = {normalise(part) for part in parts}, {run for part in parts for run in runs(part)}
    read_whole, read_runs = set(), set()
    for item in training:
        for part in paragraphs(item.text):
            read_whole.update(whole.intersection([normalise(part)]))
            read_runs.update(known.intersection(runs(part)))
    for item in documents:
        kept = [part for part in paragraphs(item.text) if not overlaps(part, read_whole, read_runs)]
        if len(text := "\n\n".join(kept)) >= SHORTEST:
            yield replace(item, text=text)
