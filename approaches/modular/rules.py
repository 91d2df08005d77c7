"""A plan by rules: what a caption's words name, each at a place that the words allow. No network, nothing random."""

from __future__ import annotations

import re
from typing import NamedTuple

from approaches.modular.layout import BACKGROUND, MOST
from bench.data.scene import COLOURS, GRID, RADII, SHAPES, SIZES, Scene, Thing, plan_text

_COUNTS = {"a": 1, "an": 1, "the": 1, "one": 1, "two": 2, "three": 3, "four": 4, "1": 1, "2": 2, "3": 3, "4": 4}
_PHRASE = re.compile(
    rf"\b(?:({'|'.join(_COUNTS)})\s+)?(?:({'|'.join(SIZES)})\s+)?(?:({'|'.join(COLOURS)})\s+)?"
    rf"({'|'.join(SHAPES)})(?:e?s)?\b"
)
_SIDES = {"left of": (0, 0), "right of": (0, 1), "above": (1, 0), "over": (1, 0), "below": (1, 1), "under": (1, 1)}
"""Words of a relation -> the axis along which it orders (0 columns, 1 rows), and whether the first stands further on.
"""
_RELATION = re.compile(rf"\b({'|'.join(_SIDES)})\b")

_NEAR, _FAR, _MIDDLE = 1, GRID - 2, (GRID - 1) // 2
_SPREADS = {1: (_MIDDLE,), 2: (_NEAR, _FAR), 3: (_NEAR, _MIDDLE + 1, _FAR)}
"""Cells along a line for one to three objects."""
_CORNERS = {
    1: ((_MIDDLE, _MIDDLE),),
    2: ((_NEAR, _MIDDLE), (_FAR, _MIDDLE)),
    3: ((_NEAR, _NEAR), (_FAR, _NEAR), (_MIDDLE, _FAR)),
    4: ((_NEAR, _NEAR), (_FAR, _NEAR), (_NEAR, _FAR), (_FAR, _FAR)),
}
"""Cells (column, row) for that many objects, as far apart as they go."""
_OPEN_COLOUR, _OPEN_BACKGROUND = "blue", "light"


class Phrase(NamedTuple):
    """What one noun phrase names; None where it leaves something open. start, end: its letters in the caption."""

    number: int
    size: str | None
    colour: str | None
    shape: str
    start: int
    end: int


def names_shapes(words: str) -> bool:
    """Whether a text speaks of anything that a plan can hold."""
    return _PHRASE.search(words.lower()) is not None


def phrases(words: str) -> list[Phrase]:
    """The noun phrases of a text, in order."""
    found = []
    for match in _PHRASE.finditer(words.lower()):
        count, size, colour, shape = match.groups()
        found.append(Phrase(_COUNTS.get(count, 1), size, colour, shape, *match.span()))
    return found


def rule_plan(words: str) -> str | None:
    """A line of plan that fulfils a caption; None where its words name no object, or more than a plan holds.

    What the words leave open is always the same: blue, light, and large where two objects or fewer leave room.
    """
    words = words.lower()
    found = phrases(words)
    total = sum(phrase.number for phrase in found)
    if not 0 < total <= MOST:
        return None
    named = BACKGROUND.search(words)
    things = []
    for phrase, (column, row) in zip(_repeated(found), _cells(found, words), strict=True):
        size = phrase.size or ("large" if total <= 2 else "small")
        x, y = (column + 0.5) / GRID, (row + 0.5) / GRID
        colour = phrase.colour or _OPEN_COLOUR
        things.append(Thing(shape=phrase.shape, colour=colour, size=size, x=x, y=y, radius=RADII[size]))
    background = named.group(1) if named else _OPEN_BACKGROUND
    return plan_text(Scene(things=tuple(things), background=background, task="", demands=()))


def _repeated(found: list[Phrase]) -> list[Phrase]:
    return [phrase for phrase in found for _ in range(phrase.number)]


def _cells(found: list[Phrase], words: str) -> tuple[tuple[int, int], ...]:
    """A cell for each object, in the phrases' order: by the relation that stands between the first two, else apart."""
    related = _RELATION.search(words, found[0].end, found[1].start) if len(found) == 2 else None
    if related is None:
        return _CORNERS[sum(phrase.number for phrase in found)]
    axis, further = _SIDES[related.group(1)]
    lines = (_FAR, _NEAR) if further else (_NEAR, _FAR)
    cells = [
        (line, across) if axis == 0 else (across, line)
        for phrase, line in zip(found, lines, strict=True)
        for across in _SPREADS[phrase.number]
    ]
    return tuple(cells)
