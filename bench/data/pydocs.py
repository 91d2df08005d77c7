"""pydocs: English about Python that every machine of this project already has.

The standard library's language topics (`pydoc_data.topics`), and the docstrings of the standard library and of the
installed packages listed here, read with `ast` and never imported. Docstrings repeat, whole and with small edits, so
the corpus is split by package, and a training paragraph that shares a run of RUN words with a held-out one is dropped
(the overlap rule of GPT-3's contamination study, arXiv 2005.14165, appendix C).
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import json
import platform
import sys
import sysconfig
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.config import TextConfig
from bench.console import INTERVAL
from bench.data.dataset import SPLITS
from bench.data.overlap import normalise, overlaps, paragraphs, runs
from bench.data.text import Document, LoadedCorpus, Progress, bounded, silent
from bench.files import atomic_path, cache_directory, hash_bytes

EXTRACTION = "1"  # part of the cache's key: raise it whenever the rules below change
SHORTEST = 40  # characters of a docstring
GROUP_LIMIT = 1_900_000  # characters of one package, so that none drowns the rest
TRAIN_LIMIT = 25_000_000  # characters in all; with the packages of today the bound above is the one that acts
TOPICS = "pydoc_topics"

# Distribution -> the folder or module it installs.
DISTRIBUTIONS = {
    "accelerate": "accelerate",
    "datasets": "datasets",
    "diffusers": "diffusers",
    "filelock": "filelock",
    "fonttools": "fontTools",
    "fsspec": "fsspec",
    "huggingface_hub": "huggingface_hub",
    "hypothesis": "hypothesis",
    "Jinja2": "jinja2",
    "matplotlib": "matplotlib",
    "mpmath": "mpmath",
    "networkx": "networkx",
    "numpy": "numpy",
    "open_clip_torch": "open_clip",
    "packaging": "packaging",
    "pandas": "pandas",
    "pillow": "PIL",
    "psutil": "psutil",
    "pyarrow": "pyarrow",
    "Pygments": "pygments",
    "pyparsing": "pyparsing",
    "requests": "requests",
    "rich": "rich",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "sympy": "sympy",
    "tensorboard": "tensorboard",
    "timm": "timm",
    "tokenizers": "tokenizers",
    "torch": "torch",
    "torchmetrics": "torchmetrics",
    "torchvision": "torchvision",
    "tqdm": "tqdm",
    "transformers": "transformers",
    "tyro": "tyro",
    "urllib3": "urllib3",
    "webdataset": "webdataset",
    "Werkzeug": "werkzeug",
}
# Packages that come with the project's core dependencies, of every style of docstring, and that vendor no others.
VALIDATION = frozenset({"PIL", "fsspec", "jinja2", "rich", "email", "ipaddress", "statistics"})
TEST = frozenset({"accelerate", "mpmath", "argparse", "fractions", "http", "pathlib"})
# Parts of the standard library that some systems leave out, or that are other projects.
STDLIB_SKIPPED = frozenset({"distutils", "ensurepip", "idlelib", "lib2to3", "test", "tkinter", "turtledemo", "this"})
FOLDERS_SKIPPED = frozenset(
    {"__pycache__", "test", "tests", "conformance_tests", "_vendor", "_vendored", "vendor", "vendored", "site-packages"}
)


class PyDocs(LoadedCorpus):
    """The corpus of this machine's Python and packages. A document is one source file's docstrings, or one topic.

    The same versions give the same content hashes. A package that isn't installed is counted in `exclusions`.
    TextConfig.seed doesn't move the split: it is fixed by package.
    """

    @classmethod
    def build(cls, config: TextConfig, progress: Progress = silent) -> PyDocs:
        """From the cache, or by reading this Python's sources (a minute, once). UserError where a split is empty."""
        paths = [Path(entry) for entry in sys.path if entry]
        return cls.read(paths, Path(sysconfig.get_paths()["stdlib"]), progress, limit=config.limit)

    @classmethod
    def read(cls, paths: Sequence[Path], stdlib: Path | None, progress: Progress = silent, *, limit: int = 0) -> PyDocs:
        """From package folders searched in order, and a standard library's folder (None: neither it nor the topics).

        limit: see TextConfig. A split that has as many characters reads no further package; train begins with the
        topics, then each split's packages follow by name."""
        splits, exclusions = _load(list(paths), stdlib, progress, limit)
        return cls("pydocs", splits, exclusions, limit=limit)


def docstrings(source: str) -> list[str]:
    """The docstrings of a module, its classes and functions, in order, cleaned as `inspect.cleandoc` does.

    SyntaxError, ValueError or RecursionError where Python can't parse the source.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(source)
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=False)
            if text:
                found.append((node.body[0].lineno, text))
    lines = (inspect.cleandoc(text).split("\n") for _, text in sorted(found))
    return ["\n".join(line.rstrip() for line in part).strip() for part in lines]


def is_prose(text: str) -> bool:
    """Whether a docstring is long enough, ASCII but for a twentieth, and letters and spaces for at least 0.6."""
    letters = sum(character.isalpha() or character.isspace() for character in text)
    ascii_count = len(text.encode("ascii", "ignore"))
    return len(text) >= SHORTEST and letters >= 0.6 * len(text) and ascii_count >= 0.95 * len(text)


def split_of(group: str) -> str:
    """The split of a package or top-level module."""
    return "test" if group in TEST else "validation" if group in VALIDATION else "train"


def separate(splits: dict[str, list[Document]], exclusions: Counter[str]) -> dict[str, list[Document]]:
    """The splits without overlap: validation loses what overlaps test, train what overlaps either.

    See bench.data.overlap.
    """
    held_whole: set[str] = set()
    held_runs: set[str] = set()
    result: dict[str, list[Document]] = {}
    for split in reversed(SPLITS):
        result[split] = []
        for item in splits[split]:
            parts = paragraphs(item.text)
            kept = [part for part in parts if not overlaps(part, held_whole, held_runs)]
            if len(kept) < len(parts):
                exclusions[f"{split} paragraph that overlaps a held-out one"] += len(parts) - len(kept)
            text = "\n\n".join(kept)
            if len(text) >= SHORTEST:
                result[split].append(Document(key=item.key, group=item.group, text=text))
        if split != "train":
            for item in result[split]:
                for part in paragraphs(item.text):
                    held_whole.add(normalise(part))
                    held_runs.update(runs(part))
    return result


def _load(
    paths: list[Path], stdlib: Path | None, progress: Progress, limit: int
) -> tuple[dict[str, list[Document]], Counter[str]]:
    packages, missing = _find(paths)
    versions = sorted(f"{name} {version}" for name, version, _ in packages)
    python = platform.python_version() if stdlib else "none"
    rules = repr((EXTRACTION, DISTRIBUTIONS, sorted(VALIDATION), sorted(TEST), GROUP_LIMIT, TRAIN_LIMIT))
    bound = [f"limit {limit}"] if limit else []
    cache = cache_directory() / "pydocs" / f"{hash_bytes(rules, python, *versions, *bound)}.jsonl"
    try:
        return _read_cache(cache)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # absent, or not whole: made again below
    splits, exclusions = _extract(packages, stdlib, progress, limit)
    exclusions.update({f"package {name} isn't installed": 1 for name in missing})
    with atomic_path(cache) as part, part.open("w", encoding="utf-8") as file:
        count = sum(map(len, splits.values()))
        file.write(json.dumps({"exclusions": exclusions, "documents": count}) + "\n")
        for split, items in splits.items():
            for item in items:
                file.write(json.dumps([split, item.key, item.group, item.text]) + "\n")
    return splits, exclusions


def _read_cache(cache: Path) -> tuple[dict[str, list[Document]], Counter[str]]:
    splits: dict[str, list[Document]] = {split: [] for split in SPLITS}
    with cache.open(encoding="utf-8") as file:
        head = json.loads(next(file, ""))
        for line in file:
            split, key, group, text = json.loads(line)
            splits[split].append(Document(key=key, group=group, text=text))
    if sum(map(len, splits.values())) != head["documents"]:
        raise ValueError(f"{cache} is cut short")
    return splits, Counter(head["exclusions"])


def _find(paths: list[Path]) -> tuple[list[tuple[str, str, Path]], list[str]]:
    """(distribution, version, its folder or module) of those installed, and the names of the others."""
    found, missing = [], []
    for name, target in DISTRIBUTIONS.items():
        # Looked for beside its metadata, never along the path: a folder 'datasets' in the working directory is
        # not the package.
        places = [
            (installed.version, place)
            for installed in importlib.metadata.distributions(name=name, path=[str(path) for path in paths])
            for place in (Path(str(installed.locate_file(target))), Path(str(installed.locate_file(f"{target}.py"))))
            if place.exists()
        ]
        if places:
            found.append((name, *places[0]))
        else:
            missing.append(name)
    return found, missing


def _extract(
    packages: list[tuple[str, str, Path]], stdlib: Path | None, progress: Progress, limit: int
) -> tuple[dict[str, list[Document]], Counter[str]]:
    exclusions: Counter[str] = Counter()
    sources = [(place.stem, place) for _, _, place in packages]
    if stdlib:
        for name in sorted(sys.stdlib_module_names - STDLIB_SKIPPED):
            sources += [(name, place) for place in (stdlib / name, stdlib / f"{name}.py") if place.exists()]
    # The held-out come first, so that a docstring found again elsewhere is kept where it is measured.
    sources.sort(key=lambda source: (SPLITS[::-1].index(split_of(source[0])), source[0]))
    splits: dict[str, list[Document]] = {split: [] for split in SPLITS}
    seen: set[str] = set()
    topics = _topics(exclusions) if stdlib else []
    left = dict.fromkeys(SPLITS, limit or sys.maxsize)
    left["train"] -= _length(topics) if limit else 0
    said = -INTERVAL
    for number, (group, place) in enumerate(sources):
        split = split_of(group)
        if left[split] <= 0:
            exclusions["package beyond the size bound"] += 1
            continue
        if (now := time.monotonic()) - said >= INTERVAL:
            progress(f"reading the docstrings of {group} ({number + 1} of {len(sources)})")
            said = now
        found = list(_until(_documents(group, place, seen, exclusions), left[split]))
        splits[split] += bounded(found, GROUP_LIMIT, exclusions)
        left[split] -= _length(found)
    splits["train"] += topics
    progress("separating the splits")
    splits = separate(splits, exclusions)
    splits["train"] = bounded(splits["train"], min(TRAIN_LIMIT, limit or TRAIN_LIMIT), exclusions)
    return splits, exclusions


def _until(documents: Iterator[Document], limit: int) -> Iterator[Document]:
    """Documents up to and with the one that reaches `limit` characters."""
    for item in documents:
        yield item
        limit -= len(item.text)
        if limit <= 0:
            return


def _length(documents: list[Document]) -> int:
    return sum(len(item.text) for item in documents)


def _documents(group: str, place: Path, seen: set[str], exclusions: Counter[str]) -> Iterator[Document]:
    files = [place] if place.is_file() else place.rglob("*.py")
    keyed = sorted((path.relative_to(place.parent).as_posix(), path) for path in files)
    for key, path in keyed:
        parts = set(key.split("/")[:-1])
        if parts & FOLDERS_SKIPPED or path.name.startswith("test_") or path.name == "conftest.py":
            continue
        try:
            found = docstrings(path.read_text(encoding="utf-8-sig"))
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            exclusions["file that Python can't parse"] += 1
            continue
        kept = []
        for text in found:
            content = normalise(text)
            if not is_prose(text):
                exclusions["docstring too short or not prose"] += 1
            elif content in seen:
                exclusions["docstring that repeats another"] += 1
            else:
                seen.add(content)
                kept.append(text)
        if kept:
            yield Document(key=key, group=group, text="\n\n".join(kept))


def _topics(exclusions: Counter[str]) -> list[Document]:
    try:
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    except ImportError:  # some systems split the documentation from Python
        exclusions["pydoc_data.topics isn't installed"] += 1
        return []
    return [
        Document(key=f"{TOPICS}/{name}", group=TOPICS, text=text.strip())
        for name, text in sorted(topics.items())
        if is_prose(text)
    ]
