"""Which split an item belongs to, by a hash of its name, or of its bytes where it may have several names: independent
of what else the source holds, so that adding items never moves one from training to test. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Collection

from bench.seeds import derive

ALIASES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
"""How sources call the three splits."""

SHARES = (90, 5, 5)
"""Percentages of train, validation and test where the source has no splits."""


def split_of(name: str, *, seed: int, shares: tuple[int, int, int] = SHARES) -> str:
    """The split ("train", "validation" or "test") of an item; `shares` are their percentages, in that order."""
    draw = derive(seed, f"split/{name}") % 100
    if draw < shares[0]:
        return "train"
    return "validation" if draw < shares[0] + shares[1] else "test"


def assign(name: str, told: str | None, present: Collection[str], *, seed: int) -> str:
    """The split of an item of a source that has only some of the splits itself.

    told: the split that the source puts the item in, if any. present: the splits that the source has.
    What the source calls validation or test stays so. The splits that it lacks are carved out of its training data
    (or of what it does not split at all) by the hash of the name, so that no item is in two of them.
    """
    if told is not None and told != "train":
        return told
    drawn = split_of(name, seed=seed)
    return "train" if drawn in present else drawn


def may_be(split: str, told: str | None, present: Collection[str]) -> bool:
    """Whether an item can be in a split, whatever its name: see `assign`."""
    if told is not None and told != "train":
        return told == split
    return split == "train" or split not in present


def named_split(name: str) -> str | None:
    """The split that a file's or folder's name speaks of, as a word of its own: "cc-val-003.tar" is validation."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((ALIASES[word] for word in words if word in ALIASES), None)


def rank_of(name: str, *, seed: int) -> int:
    """A sort key that puts a split's items into a fixed order that has nothing to do with their names."""
    return derive(seed, f"rank/{name}")
