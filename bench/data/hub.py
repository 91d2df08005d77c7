"""Hugging Face datasets: a hub id, a folder that `save_to_disk` wrote, or a folder that `load_dataset` reads.

The picture column is found by its feature type and, where there are several, its name; the caption column by its name
or, where only one can be meant, by its type. Splits that the source lacks are carved out of its training data; see
`assign`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.config import DataConfig
from bench.data.folder import File
from bench.data.hub_files import inside, load_folder, load_saved, roots
from bench.data.listed import NO_CAPTION, Candidate, Listed, Part, clean_captions
from bench.data.pictures import PictureError, read
from bench.data.sources import hub_source, saved
from bench.data.splits import named_split, rank_of
from bench.errors import UserError, first_line
from bench.files import at_home
from bench.reach import hub_or_cache

CAPTION_COLUMNS = (
    "text", "caption", "captions", "prompt", "description", "sentence", "sentences", "sentences_raw", "en_text",
    "caption_0", "title", "label_text", "txt",
)  # fmt: skip
"""In order of preference."""
PICTURE_COLUMNS = ("image", "picture", "img", "photo")
"""The same, where there are several of pictures."""
NO_CAPTIONS = re.compile(r"(?i)(^|[^a-z])(urls?|uri|link|path|id|key|file_?name|hash|md5|sha256|licen[cs]e)$")
"""How a column's name ends that holds no captions, though it holds text."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row's picture in a datasets.Dataset whose picture column is not decoded. allowed: the folders in which a file
    may lie that the row points to."""

    table: Any
    column: str
    row: int
    allowed: tuple[str, ...]

    def read(self) -> bytes:
        """See Source."""
        data, path = self._value()
        return data if data else read(path) if path else b""

    def stamp(self) -> tuple[str, int]:
        """See Source: the table's fingerprint and the row, or the file that the row points to."""
        try:
            data, path = self._value()
        except PictureError:
            return "", 0
        if data:
            return f"{self.table._fingerprint}/{self.row}", 0
        return File(path=path).stamp() if path else ("", 0)

    def _value(self) -> tuple[bytes, Path | None]:
        try:
            value = self.table[self.row][self.column]
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise PictureError("unreadable row") from error
        if not value or not (value["bytes"] or value["path"]):
            raise PictureError("missing image")
        if value["bytes"]:
            return bytes(value["bytes"]), None
        try:
            if not inside(value["path"], self.allowed):
                raise PictureError("path outside the folder")
        except ValueError as error:  # a null character in the name
            raise PictureError("unreadable image file") from error
        return b"", Path(value["path"])


class Hub(Listed):
    """See the module's text. Rows that can't be used are counted, by reason, in `exclusions`."""

    name = "hub"

    @classmethod
    def build(cls, config: DataConfig, split: str) -> Hub:
        """The split that a config asks for. UserError where the package, the hub, the columns or usable rows lack."""
        tables = _open(hub_source(config.path))
        told = {name: named_split(name) for name in tables}
        present = frozenset(each for each in told.values() if each is not None)
        part = Part(split=split, present=present, seed=config.seed)
        exclusions: Counter[str] = Counter()
        rows = [
            (rank_of(f"{name}/{row}", seed=config.seed), name, row)
            for name, table in tables.items()
            if part.may_have(told[name])
            for row in range(len(table))
        ]
        return cls(
            part=part,
            size=config.size,
            candidates=_candidates(tables, sorted(rows), told, str(config.path)),
            bound=config.bound(split),
            exclusions=exclusions,
            origin=str(config.path),
        )


def _candidates(
    tables: dict[str, Any], rows: list[tuple[int, str, int]], told: dict[str, str | None], origin: str
) -> Iterator[Candidate]:
    """The rows, in order. told: the split that a table's name speaks of."""
    import datasets

    picture, caption = _columns(next(iter(tables.values())).features, origin)
    for name, table in tables.items():
        _check_columns(name, table.features, picture, caption, origin)
    texts = {name: table.select_columns([caption]) for name, table in tables.items()}
    cells = {
        name: table.select_columns([picture]).cast_column(picture, datasets.Image(decode=False))
        for name, table in tables.items()
    }
    allowed = roots(at_home(origin))
    for _, name, row in rows:
        captions = clean_captions(texts[name][row][caption])
        source = Cell(table=cells[name], column=picture, row=row, allowed=allowed)
        lack = "" if captions else NO_CAPTION
        yield Candidate(key=f"{name}/{row}", captions=captions, source=source, told=told[name], lack=lack)


def _open(source: str) -> dict[str, Any]:
    """Split name -> datasets.Dataset."""
    try:
        import datasets  # noqa: F401
    except ImportError as error:
        raise UserError("dataset 'hub' needs the package datasets: pip install '.[data]'") from error

    folder = at_home(source)
    try:
        if saved(folder):
            opened = load_saved(folder, f"--data.path {source}")
        elif folder.is_dir():
            opened = load_folder(folder, f"--data.path {source}")
        else:
            opened = _download(source)
    except UserError:
        raise
    except Exception as error:  # whatever the loaders raise, it is about this source
        causes = [each for each in (error, error.__cause__) if each is not None]
        told = ": ".join(first_line(each).rstrip(".") for each in causes)
        raise UserError(f"--data.path {source} can't be loaded with datasets: {told}") from error
    tables = dict(opened) if isinstance(opened, dict) else {"all": opened}
    if not tables:
        raise UserError(f"--data.path {source} holds no data")
    return tables


def _download(source: str) -> Any:
    """A dataset from the hub, or from the local cache where the hub does not answer. UserError where neither has it."""
    import datasets

    name, _, configuration = source.partition(":")
    with hub_or_cache() as reachable:
        try:
            return datasets.load_dataset(name, configuration or None)
        except ConnectionError as error:
            why = "" if reachable else ": the hub does not answer, and the dataset is not in the local cache"
            raise UserError(f"--data.path {source} can't be reached on the Hugging Face hub{why}") from error


def _columns(features: Any, origin: str) -> tuple[str, str]:
    """The picture column and the caption column. UserError that lists the columns where they can't be told."""
    listing = _listing(features)
    pictures = [name for name, feature in features.items() if _kind(feature) == "Image"]
    if not pictures:
        raise UserError(f"--data.path {origin} has no image column; its columns are: {listing}")
    known = [name for name in PICTURE_COLUMNS if name in pictures]
    if not known and len(pictures) > 1:
        raise UserError(
            f"--data.path {origin} has {len(pictures)} image columns: {', '.join(pictures)}; expected one, or one that "
            f"is named {' or '.join(PICTURE_COLUMNS[:2])}: rename it with datasets and pass what save_to_disk wrote"
        )
    texts = [name for name, feature in features.items() if _kind(feature) in ("text", "texts")]
    named = [name for name in CAPTION_COLUMNS if name in texts]
    if not named and (len(texts) != 1 or NO_CAPTIONS.search(texts[0])):
        raise UserError(f"--data.path {origin} has no column named text or caption; its columns are: {listing}")
    return (known or pictures)[0], (named or texts)[0]


def _check_columns(split: str, features: Any, picture: str, caption: str, origin: str) -> None:
    """UserError where one split of several lacks a column."""
    for column, kinds in ((picture, ("Image",)), (caption, ("text", "texts"))):
        if column not in features or _kind(features[column]) not in kinds:
            wanted = "pictures" if column == picture else "text"
            raise UserError(
                f"--data.path {origin}: split {split} has no column {column} of {wanted}, as the first split has; "
                f"its columns are: {_listing(features)}"
            )


def _listing(features: Any) -> str:
    return ", ".join(f"{name} ({_kind(feature)})" for name, feature in features.items())


def _kind(feature: Any) -> str:
    """A feature in a word: "text", "texts" (a list of them), or what datasets calls it."""
    inner = getattr(feature, "feature", None)
    if getattr(inner, "dtype", None) in ("string", "large_string"):
        return "texts"
    return "text" if getattr(feature, "dtype", None) in ("string", "large_string") else type(feature).__name__
