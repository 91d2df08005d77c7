"""The types of a known picture: what is in it, what a caption asks for, and the plan that describes it as text.
Standard library only; a leaf module: anyone may import it.

Coordinates are fractions of the picture's width and height, origin at the top left; a radius is one of the width.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SIZES = ("small", "large")
BACKGROUNDS = ("light", "dark")
RELATIONS = ("left of", "right of", "above", "below")
TASKS = ("one object", "two objects", "counting", "colours", "position", "colour binding")  # GenEval, arXiv 2310.11513
PLAN_PROMPT = "picture: {caption}\n"
"""What a language model reads before it writes a plan; the line that follows starts with `plan:`."""
GRID = 8  # a plan names places on a GRID x GRID raster


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One object: its attributes, its centre (x, y) and its radius."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True, kw_only=True)
class Demand:
    """`count` objects that a caption asks for; None is an attribute it leaves open."""

    shape: str
    colour: str | None = None
    size: str | None = None
    count: int = 1

    def met_by(self, thing: Thing) -> bool:
        """Whether one object has every attribute named here."""
        return thing.shape == self.shape and self.colour in (None, thing.colour) and self.size in (None, thing.size)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture's whole content, and what its caption demands of it.

    relation: how the first demand's object stands to the second's, or None.
    task: one of TASKS.
    """

    things: tuple[Thing, ...]
    background: str
    task: str
    demands: tuple[Demand, ...]
    relation: str | None = None

    def pairs(self) -> frozenset[tuple[str, str]]:
        """The (shape, colour) pairs in the picture."""
        return frozenset((thing.shape, thing.colour) for thing in self.things)


def stands(first: Thing, second: Thing, relation: str) -> bool:
    """Whether `first` is `relation` (one of RELATIONS) `second`, judged by their centres along the relation's axis."""
    gap = {
        "left of": second.x - first.x,
        "right of": first.x - second.x,
        "above": second.y - first.y,
        "below": first.y - second.y,
    }[relation]
    return gap > 0


def satisfied(things: tuple[Thing, ...], demands: tuple[Demand, ...], relation: str | None) -> bool:
    """Whether objects fulfil a caption: the demanded number of each kind (exactly, when a number above one or a single
    kind is asked for), and the relation for at least one pair of the two kinds. GenEval's tasks; but any gap in the
    direction is the relation, where GenEval asks for one larger than the objects', and one object means no second."""
    for demand in demands:
        found = sum(demand.met_by(thing) for thing in things)
        exact = len(demands) == 1 and len(things) != demand.count
        if found != demand.count if (demand.count > 1 or exact) else found < 1:
            return False
    if relation is None:
        return True
    firsts = [thing for thing in things if demands[0].met_by(thing)]
    seconds = [thing for thing in things if demands[1].met_by(thing)]
    return any(a is not b and stands(a, b, relation) for a in firsts for b in seconds)


def plan_text(scene: Scene) -> str:
    """The scene as one line of plan, objects from left to right, then top to bottom:
    `plan: large red circle 2 4; small blue square 6 1; dark`."""
    ordered = sorted(scene.things, key=lambda thing: (thing.x, thing.y))
    parts = [f"{thing.size} {thing.colour} {thing.shape} {_cell(thing.x)} {_cell(thing.y)}" for thing in ordered]
    return "plan: " + "; ".join([*parts, scene.background])


_PLANNED = re.compile(
    rf"({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)}) ([0-{GRID - 1}]) ([0-{GRID - 1}])"
)
RADII = {"small": 0.115, "large": 0.19}


def parse_plan(text: str) -> tuple[tuple[Thing, ...], str] | None:
    """The objects and background that a line of plan names, places at the centres of their cells; None where the
    line is no plan."""
    body = text.strip().removeprefix("plan:").strip()
    *parts, background = [part.strip() for part in body.split(";")]
    matches = [_PLANNED.fullmatch(part) for part in parts]
    if background not in BACKGROUNDS or not matches:
        return None
    things = []
    for match in matches:
        if match is None:
            return None
        size, colour, shape, column, row = match.groups()
        things.append(
            Thing(
                shape=shape,
                colour=colour,
                size=size,
                x=(int(column) + 0.5) / GRID,
                y=(int(row) + 0.5) / GRID,
                radius=RADII[size],
            )
        )
    return tuple(things), background


def _cell(position: float) -> int:
    return min(GRID - 1, max(0, int(position * GRID)))
