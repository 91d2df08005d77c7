"""Text from Hugging Face datasets: by hub id, from a folder that `save_to_disk` wrote, or from one of data files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from bench.config import TextConfig
from bench.data.dataset import SPLITS
from bench.data.hub_files import load_folder, load_saved
from bench.data.sources import saved
from bench.data.splits import ALIASES
from bench.data.text import Document, LoadedCorpus, Progress, chunk, content_of, silent, split_by_group
from bench.errors import UserError, in_a_line
from bench.files import at_home
from bench.reach import hub_or_cache

LIMIT = 200_000_000  # characters of one split, since a corpus is held in memory
_STRINGS = ("string", "large_string")


class HubText(LoadedCorpus):
    """A dataset with a column of text, in its own splits as far as it has them; the others are cut from its training
    split, and a dataset without a training split is split as a whole.

    Rows are documents. Where more than a tenth of a split's rows are blank, as in WikiText, they are the lines of
    running text instead, and are joined and cut into documents of about CHUNK characters.
    """

    @classmethod
    def build(cls, config: TextConfig, progress: Progress = silent) -> HubText:
        """UserError where the dataset can't be found or reached, or has no one column of text."""
        if not config.path:
            raise UserError("text corpus 'hub' needs text.path, for example Salesforce/wikitext/wikitext-2-raw-v1")
        progress(f"loading {config.path}")
        loaded = _load(config.path)
        exclusions: Counter[str] = Counter()
        column = _text_column(config.path, next(iter(loaded.values())))
        # A dataset's further splits (unsupervised, extra) are used only where it has no training split.
        splits = {name: ALIASES.get(name.lower()) for name in sorted(loaded)}
        used = [name for name, split in splits.items() if split or "train" not in splits.values()]
        for name in used:
            _check_column(config.path, name, loaded[name], column)
        own = {name: list(_documents(name, loaded[name], column, exclusions)) for name in used}
        return cls(f"hub {config.path}", _arrange(own, config, exclusions), exclusions, limit=config.limit)


def _load(path: str) -> dict[str, Any]:
    """Split name -> datasets.Dataset."""
    try:
        import datasets
    except ImportError as error:
        raise UserError(f"text corpus 'hub' needs the package datasets, which can't be imported: {error}") from error
    local = at_home(path)
    attempts = [(str(local), None)] if local.exists() else _readings(path)
    failures = []
    with hub_or_cache(needed=not local.exists()):
        for name, configuration in attempts:
            try:
                if saved(local):
                    loaded = load_saved(local, f"text.path {path}")
                elif local.is_dir():
                    loaded = load_folder(local, f"text.path {path}")
                else:
                    loaded = datasets.load_dataset(name, configuration)
            except UserError:
                raise
            except Exception as error:  # the loader's failures (network, hub, parsing, arrow) have no base in common
                failures.append(in_a_line(error).rstrip(" .:"))
                continue
            return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
    raise UserError(
        f"text.path {path} is neither a local dataset nor one that the hub gives us now ({'; '.join(failures)}); "
        "check the name and the network, or pass a folder that datasets saved with save_to_disk"
    )


def _readings(path: str) -> list[tuple[str, str | None]]:
    """What a hub path can mean, as (name, configuration): only the hub can tell owner/name from name/configuration."""
    name, _, configuration = path.rpartition("/")
    if not name:
        return [(path, None)]
    return [(name, configuration)] if "/" in name else [(path, None), (name, configuration)]


def _text_column(path: str, rows: Any) -> str:
    columns: list[str] = [name for name, kind in rows.features.items() if getattr(kind, "dtype", "") in _STRINGS]
    if "text" in columns:
        return "text"
    if len(columns) != 1:
        found = ", ".join(columns) or "none"
        raise UserError(f"dataset {path} needs a column text, or a single column of strings (it has: {found})")
    return columns[0]


def _check_column(path: str, split: str, rows: Any, column: str) -> None:
    """UserError where one split of several lacks the column of text."""
    if getattr(rows.features.get(column), "dtype", "") not in _STRINGS:
        found = ", ".join(rows.features) or "none"
        raise UserError(
            f"dataset {path}: split {split} has no column {column} of text, as the first split has; it has: {found}"
        )


def _documents(split: str, rows: Any, column: str, exclusions: Counter[str]) -> Iterator[Document]:
    texts: list[str] = []
    length = 0
    for value in rows[column]:
        if length > LIMIT:
            exclusions["row over the size bound"] += len(rows) - len(texts)
            break
        texts.append(value or "")
        length += len(texts[-1])
    blank = sum(not text.strip() for text in texts)
    if blank * 10 > len(texts):
        pieces = list(chunk("\n".join(text.rstrip("\n") for text in texts)))
    else:
        pieces = [text for text in texts if text.strip()]
        if blank:
            exclusions["empty"] += blank
    for index, text in enumerate(pieces):
        yield Document(key=f"{split}/{index:09d}", group=f"{split}/{index:09d}", text=text)


def _arrange(own: dict[str, list[Document]], config: TextConfig, exclusions: Counter[str]) -> dict[str, list[Document]]:
    named: dict[str, list[Document]] = {}
    for name, items in own.items():
        if items and (split := ALIASES.get(name.lower())):
            named.setdefault(split, []).extend(items)
    absent = [split for split in SPLITS if split not in named]
    if "train" in absent:
        everything = [item for items in own.values() for item in items]
        return split_by_group(everything, config.seed, str(config.path), exclusions)
    if absent:
        parts = split_by_group(named["train"], config.seed, str(config.path), exclusions)
        named |= {split: parts.pop(split) for split in absent}
        named["train"] = [item for items in parts.values() for item in items]
    return _apart(named, str(config.path), exclusions)


def _apart(named: dict[str, list[Document]], source: str, exclusions: Counter[str]) -> dict[str, list[Document]]:
    """The splits without what a split that is held out longer has, too. UserError where nothing else is in one."""
    held: set[str] = set()
    for split in reversed(SPLITS):
        contents = [content_of(item) for item in named[split]]
        kept = [item for item, content in zip(named[split], contents, strict=True) if content not in held]
        if not kept:
            raise UserError(f"dataset {source}: every document of split {split} is in another one, too")
        if repeated := len(contents) - len(kept):
            exclusions["document that is held out in another split"] += repeated
        held |= set(contents)
        named[split] = kept
    return named
