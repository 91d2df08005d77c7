"""One lazy registry per kind: a name leads to an import path that is followed only when somebody builds it.
A leaf module: anyone may import it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from bench.errors import UserError, nearest


def at(path: str) -> Any:
    """What is at "module:attribute"."""
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a registry.

    target: "package.module:attribute", imported only by `load`.
    summary: one line for `python -m bench list`.
    obstacle: torch-free; "" where the thing can run on this machine, else a sentence that says what to do.
    """

    name: str
    target: str
    summary: str
    obstacle: Callable[[], str] = lambda: ""

    def load(self) -> Any:
        """Import the target and return it."""
        return at(self.target)


class Registry:
    """Names to entries, of one kind. Raises on a collision, suggests on a miss."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}

    def add(self, name: str, target: str, summary: str, obstacle: Callable[[], str] = lambda: "") -> None:
        """Register one name; ValueError where it is taken (a programmer's error, not a user's)."""
        if name in self._entries:
            raise ValueError(f"{self.kind} '{name}' is registered twice: {self._entries[name].target} and {target}")
        self._entries[name] = Entry(name=name, target=target, summary=summary, obstacle=obstacle)

    def __getitem__(self, name: str) -> Entry:
        if name not in self._entries:
            raise UserError(f"unknown {self.kind} '{name}': {nearest(name, self._entries)}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
