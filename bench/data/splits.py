"""Which split an item belongs to, by a hash of its name: independent of what else the source holds, so that adding
items never moves one from training to test. Standard library only."""

from __future__ import annotations

from bench.seeds import derive


def split_of(name: str, *, seed: int, shares: tuple[int, int, int]) -> str:
    """The split ("train", "validation" or "test") of an item; `shares` are their percentages, in that order."""
    draw = derive(seed, f"split/{name}") % 100
    if draw < shares[0]:
        return "train"
    return "validation" if draw < shares[0] + shares[1] else "test"


def rank_of(name: str, *, seed: int) -> int:
    """A sort key that puts a split's items into a fixed order that has nothing to do with their names."""
    return derive(seed, f"rank/{name}")
