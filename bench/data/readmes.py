"""readmes: the long descriptions of installed packages, as prose. English of another kind than `pydocs`' docstrings,
about the same packages, on every machine of this project."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections import Counter
from collections.abc import Sequence

from bench.config import TextConfig
from bench.data.overlap import paragraphs
from bench.data.pydocs import DISTRIBUTIONS, is_prose
from bench.data.text import Document, LoadedCorpus, Progress, silent, split_by_group

_MARKUP = (
    (re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.MULTILINE | re.DOTALL), ""),  # a block of code
    (re.compile(r"^(?: {4}|\t).*$", re.MULTILINE), ""),  # the same, set in
    (re.compile(r"!\[[^\]]*\]\([^)]*\)"), ""),  # a picture, such as a badge
    (re.compile(r"\[+([^\[\]]*)\]+\([^)]*\)"), r"\1"),  # a link's words stay
    (re.compile(r"\[[^\[\]]*\]:[ \t].*"), ""),  # where a link leads, told apart from it
    (re.compile(r"`([^`<]*?)\s*<[^>]*>`_+"), r"\1"),  # reStructuredText's links
    (re.compile(r"</?[a-zA-Z!][^<>]*>"), ""),
    (re.compile(r"^[ \t]*(?:\.\. .*|:\w+:.*)$", re.MULTILINE), ""),  # its directives and their options
    (re.compile(r"\|\S[^|\n]*\|_*"), ""),  # its substitutions
    (re.compile(r"https?://\S+"), ""),
)


class Readmes(LoadedCorpus):
    """A document is one package's description. The same versions give the same content hashes; a package that isn't
    installed, or describes itself in no prose, is counted in `exclusions`."""

    @classmethod
    def build(cls, config: TextConfig, progress: Progress = silent) -> Readmes:
        """UserError where fewer than three packages have one."""
        progress("reading the descriptions of installed packages")
        return cls.read([entry for entry in sys.path if entry], config)

    @classmethod
    def read(cls, paths: Sequence[str], config: TextConfig) -> Readmes:
        """From package folders, searched in order. UserError where fewer than three packages have a description."""
        exclusions: Counter[str] = Counter()
        documents = []
        for name in DISTRIBUTIONS:
            found = next(iter(importlib.metadata.distributions(name=name, path=list(paths))), None)
            if found is None:
                exclusions["package that isn't installed"] += 1
            elif text := prose(str(found.metadata.json.get("description", ""))):
                documents.append(Document(key=name, group=name, text=text))
            else:
                exclusions["package without a description"] += 1
        splits = split_by_group(documents, config.seed, "readmes", exclusions)
        return cls("readmes", splits, exclusions, limit=config.limit)


def prose(text: str) -> str:
    r"""The paragraphs of a description that are prose, without badges, links' addresses and tags.

    >>> prose("# Title\n\n[![x](y)](z)\n\nIt finds [what you look for](http://a.b) in a heap of papers.")
    'It finds what you look for in a heap of papers.'
    """
    for pattern, other in _MARKUP:
        text = pattern.sub(other, text)
    return "\n\n".join(part.strip("\n") for part in paragraphs(text) if is_prose(part))
