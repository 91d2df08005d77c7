"""Text that is not replayed, on which retention is measured beside the held-out part of the corpus that is: what an
approach keeps of what nothing reminds it of. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path

from bench.config import Config, TextConfig
from bench.data.overlap import unread
from bench.data.text import PATHLESS, TEXTS, Document, Progress, TextCorpus, check_text, open_text
from bench.errors import UserError, nearest
from bench.files import hash_bytes

FIELD = "evaluate.other_texts"


def named(config: Config) -> dict[str, TextConfig]:
    """The corpora of evaluate.other_texts by their labels, which name their metrics. UserError on one that is unknown
    or can't be read, that training reads, or whose label another has."""
    found: dict[str, TextConfig] = {}
    for entry in config.evaluate.other_texts:
        other = _read(entry, config.text)
        label = other.name if other.path is None else _label(other.path)
        if label in found:
            raise UserError(f"{FIELD}: two are called '{label}': expected different names")
        if (other.name, other.path) == (config.text.name, config.text.path):
            raise UserError(f"{FIELD} has '{entry}', which is the text that training replays: expected another")
        check_text(other)
        found[label] = other
    return found


def _read(entry: str, text: TextConfig) -> TextConfig:
    from bench.data.sources import text_of

    name, _, path = entry.partition(":")
    if entry in PATHLESS:
        return replace(text, name=entry, path=None)
    if path and name in PATHLESS:
        raise UserError(
            f"{FIELD} has '{entry}', and {name} reads no path: expected {name}, or file:, folder: or hub:PATH"
        )
    if path and name in TEXTS:
        return replace(text, name=name, path=path)
    if found := text_of(entry):
        return replace(text, name=found, path=entry)
    raise UserError(
        f"{FIELD} has '{entry}', which is no file or folder: {nearest(entry, PATHLESS)}; a hub id is spelt hub:ID"
    )


def _label(path: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", Path(path).stem.lower()).strip("_") or "text"


def other_texts(config: Config, training: TextCorpus, progress: Progress) -> dict[str, list[Document]]:
    """At most evaluate.documents of each, without what overlaps the training documents; UserError as `named`."""
    return {label: unread(documents, training, progress) for label, documents in _documents(config, progress).items()}


def other_texts_hash(config: Config, progress: Progress) -> str:
    """Of all that could be measured. UserError as `named`."""
    parts = ((label, item.key, item.text) for label, items in _documents(config, progress).items() for item in items)
    return hash_bytes(*chain.from_iterable(parts))


def _documents(config: Config, progress: Progress) -> Mapping[str, list[Document]]:
    """The held-out ones first: nothing is trained on the others either."""
    found = {}
    for label, other in named(config).items():
        try:
            corpus = open_text(other, progress)
        except UserError as error:
            raise UserError(f"{FIELD}: {error} (name the others, or none, to go without '{label}')") from error
        kept: list[Document] = []
        for split in ("test", "validation", "train"):
            kept += corpus.some(split, config.evaluate.documents - len(kept))
        found[label] = kept
    return found
