"""Corpora of text, for replay and perplexity: one interface, the registry, and the corpora read from a path.

A corpus is split by group, never by document: the documents of one source repeat each other, and a perplexity
measured on repeats of the training text measures nothing.
"""

from __future__ import annotations

import importlib.util
import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bench.config import TextConfig
from bench.data.dataset import SPLITS
from bench.errors import UserError, nearest
from bench.files import at_home, hash_bytes, whole_characters
from bench.printable import spelled
from bench.registry import Registry
from bench.seeds import derive

CHUNK = 4096  # characters, about; the documents that one long text is cut into
HELD_OUT = 0.05  # share of the groups in validation, and in test
SUFFIXES = (".txt", ".md", ".rst", ".jsonl")

Progress = Callable[[str], None]


def silent(_: str) -> None:
    """The progress that says nothing."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """One text.

    key: names it within its corpus, the same on every machine.
    group: what it is split by: a package, a file, a chunk.
    """

    key: str
    group: str
    text: str


class TextCorpus(ABC):
    """Documents in three splits that share no group.

    exclusions: reason -> how many pieces of the source were left out for it.
    """

    name: str
    exclusions: Counter[str]

    @classmethod
    @abstractmethod
    def build(cls, config: TextConfig, progress: Progress = silent) -> TextCorpus:
        """The corpus that a config asks for; `progress` gets a line for every stage of long work. UserError where
        the source is missing or can't fill the splits."""

    @abstractmethod
    def documents(self, split: str) -> list[Document]:
        """The documents of train, validation or test, in an order fixed by their keys; never empty."""

    def some(self, split: str, count: int) -> list[Document]:
        """So many of a split's documents, or all, in their order: the first ones, where each is drawn on its own."""
        return self.documents(split)[:count]

    def content_hash(self, split: str) -> str:
        """16 hex digits that change whenever any document of this split does."""
        return hash_bytes(*(part for item in self.documents(split) for part in (item.key, item.text)))


class LoadedCorpus(TextCorpus):
    """A corpus held in memory. limit: see TextConfig. UserError where a split is empty."""

    def __init__(
        self, name: str, splits: dict[str, list[Document]], exclusions: Counter[str], *, limit: int = 0
    ) -> None:
        for split in SPLITS:
            if not splits.get(split):
                raise UserError(f"text corpus {name} has no documents for {split}{left_out(exclusions)}")
        self.name = name
        self.exclusions = exclusions
        kept = {split: bounded(splits[split], limit, exclusions) if limit else splits[split] for split in SPLITS}
        self._splits = {split: sorted(kept[split], key=lambda item: item.key) for split in SPLITS}

    def documents(self, split: str) -> list[Document]:
        """See TextCorpus; UserError on an unknown split."""
        if split not in self._splits:
            raise UserError(f"unknown split '{split}': {nearest(split, SPLITS)}")
        return self._splits[split]

    def some(self, split: str, count: int) -> list[Document]:
        """See TextCorpus: by a hash of their keys, so that they are not all of the first folder."""
        every = self.documents(split)
        chosen = {item.key for item in sorted(every, key=lambda item: hash_bytes(item.key))[:count]}
        return [item for item in every if item.key in chosen]


class TextFile(LoadedCorpus):
    """One text file, cut at blank lines into documents of about CHUNK characters; a line of .jsonl is a document."""

    @classmethod
    def build(cls, config: TextConfig, progress: Progress = silent) -> TextFile:
        """UserError where config.path is missing, or leaves fewer than three documents."""
        path = require_path(config)
        if not path.is_file():
            raise UserError(f"text.path {path} is no file: use the corpus 'folder' for a folder")
        exclusions: Counter[str] = Counter()
        progress(f"reading {path}")
        documents = list(_read_file(path, spelled(path.name), exclusions, chunked=True))
        splits = split_by_group(documents, config.seed, str(path), exclusions)
        return cls(f"file {path.name}", splits, exclusions, limit=config.limit)


class TextFolder(LoadedCorpus):
    """A folder's .txt, .md, .rst and .jsonl files, at any depth: a file is a document, a line of .jsonl is one.

    What lies under a name that begins with a dot, as in .git, is left out. A folder with a single text file is read as
    that file is by `file`.
    """

    @classmethod
    def build(cls, config: TextConfig, progress: Progress = silent) -> TextFolder:
        """UserError where config.path is no folder, or leaves fewer than three documents."""
        folder = require_path(config)
        if not folder.is_dir():
            raise UserError(f"text.path {folder} is a file: use the corpus 'file'")
        exclusions: Counter[str] = Counter()
        every = sorted(
            (spelled(path.relative_to(folder).as_posix()), path) for path in folder.rglob("*") if path.is_file()
        )
        found = [(key, path) for key, path in every if "/." not in f"/{key}"]
        if len(found) < len(every):
            exclusions["hidden (a name begins with a dot)"] += len(every) - len(found)
        texts = [(key, path) for key, path in found if path.suffix.lower() in SUFFIXES]
        if len(texts) < len(found):
            exclusions[f"not one of {' '.join(SUFFIXES)}"] += len(found) - len(texts)
        progress(f"reading {len(texts)} files of {folder}")
        documents = [item for key, path in texts for item in _read_file(path, key, exclusions, chunked=len(texts) == 1)]
        splits = split_by_group(documents, config.seed, str(folder), exclusions)
        return cls(f"folder {folder.name}", splits, exclusions, limit=config.limit)


def _datasets_obstacle() -> str:
    found = importlib.util.find_spec("datasets") is not None
    return "" if found else "the package datasets is missing: pip install 'draw-bench[data]'"


TEXTS = Registry("text corpus")
TEXTS.add(
    "pydocs",
    "bench.data.pydocs:PyDocs",
    "documentation of Python: language topics, docstrings of the standard library and of installed packages",
)
TEXTS.add("readmes", "bench.data.readmes:Readmes", "the descriptions of installed packages, as prose")
TEXTS.add(
    "world",
    "bench.data.world_text:WorldText",
    "captions, plans and descriptions of scenes of shapes, which the shipped language model learned beside pydocs",
)
TEXTS.add("file", "bench.data.text:TextFile", "any UTF-8 text file, or .jsonl with a field text (text.path)")
TEXTS.add("folder", "bench.data.text:TextFolder", "a folder of .txt, .md, .rst and .jsonl files (text.path)")
TEXTS.add(
    "hub",
    "bench.data.text_hub:HubText",
    "a Hugging Face dataset: wikitext/wikitext-2-raw-v1, or a folder that datasets saved (text.path)",
    _datasets_obstacle,
)
PATHLESS = ("pydocs", "readmes", "world")
"""Corpora that read no path."""


def check_text(config: TextConfig) -> None:
    """Judge a config's corpus before anything is read. UserError on an unknown name, a path that it does not read, or
    what it lacks on this machine."""
    _check_pathless(config)
    if obstacle := TEXTS[config.name].obstacle():
        raise UserError(f"text corpus '{config.name}' can't be read here: {obstacle}")


def check_path(config: TextConfig) -> None:
    """UserError on a path that a config's corpus does not read, or that leads nowhere."""
    _check_pathless(config)
    path = config.path or ""
    if path and (config.name in ("file", "folder") or (config.name == "hub" and path.startswith((".", "/", "~")))):
        require_path(config)


def _check_pathless(config: TextConfig) -> None:
    if config.name in PATHLESS and config.path is not None:
        there = at_home(config.path).exists()
        wanted = "--text.name file or folder reads it" if there else "a hub id goes with --text.name hub"
        missing = "" if there else "no such file or folder, and "
        raise UserError(f"--text.path {config.path}: {missing}{config.name} reads none; {wanted}")


def open_text(config: TextConfig, progress: Progress = silent) -> TextCorpus:
    """The corpus that a config names. UserError as `check_text`, or on a bad path."""
    check_text(config)
    corpus: TextCorpus = TEXTS[config.name].load().build(config, progress)
    return corpus


def split_by_group(
    documents: Iterable[Document], seed: int, source: str, exclusions: Counter[str]
) -> dict[str, list[Document]]:
    """Documents to splits, 90/5/5 by group; repeats of a document (up to case and spacing) are left out and counted.

    Groups are ranked by a hash of (seed, group), so neither the order of the documents nor the file system decides.
    Validation and test get at least one group each. UserError below three groups.
    """
    groups: dict[str, list[Document]] = {}
    seen: set[str] = set()
    for item in sorted(documents, key=lambda item: item.key):
        if (content := content_of(item)) in seen:
            exclusions["repeats another document"] += 1
            continue
        seen.add(content)
        groups.setdefault(item.group, []).append(item)
    if len(groups) < len(SPLITS):
        raise UserError(
            f"{source} has {len(groups)} separate texts and needs at least {len(SPLITS)}, one for each of "
            f"{', '.join(SPLITS)}{left_out(exclusions)}"
        )
    ranked = sorted(groups, key=lambda group: (derive(seed, f"text split/{group}"), group))
    share = max(1, round(HELD_OUT * len(ranked)))
    parts = {"test": ranked[:share], "validation": ranked[share : 2 * share], "train": ranked[2 * share :]}
    return {split: [item for group in names for item in groups[group]] for split, names in parts.items()}


def content_of(document: Document) -> str:
    """A hash of its text, up to case and spacing."""
    return hash_bytes(" ".join(document.text.lower().split()))


def chunk(text: str, size: int = CHUNK) -> Iterator[str]:
    """Consecutive paragraphs of a text (blank lines part them) in pieces of about `size` characters.

    A paragraph longer than `size` is cut at its lines, a line longer than that at `size`.
    """
    piece: list[str] = []
    length = 0
    for paragraph in re.split(r"\n[ \t]*\n", text):
        for part in _cut(paragraph.strip("\n"), size):
            if piece and length + len(part) > size:
                yield "\n\n".join(piece)
                piece, length = [], 0
            if part.strip():
                piece.append(part)
                length += len(part) + 2
    if piece:
        yield "\n\n".join(piece)


def _cut(paragraph: str, size: int) -> Iterator[str]:
    lines: list[str] = []
    length = 0
    for line in paragraph.split("\n"):
        for start in range(0, max(1, len(line)), size):
            part = line[start : start + size]
            if lines and length + len(part) > size:
                yield "\n".join(lines)
                lines, length = [], 0
            lines.append(part)
            length += len(part) + 1
    yield "\n".join(lines)


def bounded(documents: list[Document], limit: int, exclusions: Counter[str]) -> list[Document]:
    """Documents of at most `limit` characters together: those whose hashed keys come first, where none is that short
    the beginning of the shortest."""
    kept, length = [], 0
    for item in sorted(documents, key=lambda item: hash_bytes(item.key)):
        if length + len(item.text) <= limit:
            kept.append(item)
            length += len(item.text)
        else:
            exclusions["document over the size bound"] += 1
    if documents and not kept:
        shortest = min(documents, key=lambda item: (len(item.text), item.key))
        kept = [replace(shortest, text=shortest.text[:limit])]
    return kept


def require_path(config: TextConfig) -> Path:
    """config.path, which must exist; UserError otherwise."""
    if not config.path:
        raise UserError(f"text corpus '{config.name}' needs text.path")
    path = at_home(config.path)
    if not path.exists():
        raise UserError(f"text.path {path} doesn't exist")
    return path


def left_out(exclusions: Counter[str]) -> str:
    """A closing clause for a message: what was left out of a corpus and why; "" for nothing."""
    if not exclusions:
        return ""
    return " (left out: " + ", ".join(f"{count} {reason}" for reason, count in sorted(exclusions.items())) + ")"


def _read_file(path: Path, key: str, exclusions: Counter[str], *, chunked: bool) -> Iterator[Document]:
    """The documents of one file; what can't be read is counted, never raised."""
    try:
        data = path.read_bytes()
    except OSError:
        exclusions["unreadable"] += 1
        return
    if b"\0" in data:
        exclusions["binary"] += 1
        return
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        exclusions["not UTF-8"] += 1
        return
    if not text.strip():
        exclusions["empty"] += 1
    elif path.suffix.lower() == ".jsonl":
        yield from _read_lines(text, key, exclusions)
    elif chunked:
        for index, piece in enumerate(chunk(text)):
            yield Document(key=f"{key}#{index:06d}", group=f"{key}#{index:06d}", text=piece)
    else:
        yield Document(key=key, group=key, text=text)


def _read_lines(text: str, key: str, exclusions: Counter[str]) -> Iterator[Document]:
    # Only \n ends a line of JSON Lines: splitlines would also break at characters that JSON strings may hold.
    for number, line in enumerate(text.split("\n")):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            exclusions["line is not JSON"] += 1
            continue
        content = value.get("text") if isinstance(value, dict) else None
        if not isinstance(content, str):
            exclusions["line has no field text"] += 1
        elif not content.strip():
            exclusions["empty"] += 1
        else:
            yield Document(key=f"{key}#{number:06d}", group=f"{key}#{number:06d}", text=whole_characters(content))
