"""Captions that are almost right: what a model that only counts words can't tell from the true one."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from bench.data.captions import caption
from bench.data.scene import COLOURS, SHAPES, Demand, Scene, Thing, satisfied
from bench.data.shapes import GAP, HELD_OUT_PAIRS

KINDS = ("colours swapped", "sides swapped", "count off by one", "colour changed", "shape changed")
HARD = KINDS[:3]
"""The kinds whose words are, number words apart, those of the true caption."""

_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def hard_negative(scene: Scene, kind: str, generator: np.random.Generator) -> Scene | None:
    """The scene with demands of which the picture fulfils no longer all; None where the kind does not apply."""
    altered = _altered(scene, kind, generator)
    if altered is None or satisfied(scene.things, altered.demands, altered.relation):
        return None
    return altered


def false_caption(
    scene: Scene, kind: str, seed: int, *, held_out: bool = False, unseen_pairs: bool = True
) -> tuple[str, str] | None:
    """A true caption and its almost right twin, in the same sentence form; None where the kind does not apply.

    unseen_pairs: whether the twin may name a pair of HELD_OUT_PAIRS."""
    altered = hard_negative(scene, kind, np.random.default_rng(seed))
    if altered is None:
        return None
    if not unseen_pairs and {(demand.shape, demand.colour) for demand in altered.demands} & HELD_OUT_PAIRS:
        return None
    return twin_captions(scene, altered, seed, held_out=held_out)


def twin_captions(scene: Scene, twin: Scene, seed: int, *, held_out: bool = False) -> tuple[str, str] | None:
    """The captions of two scenes in the same sentence form; None where they are the same."""
    first = caption(scene, np.random.default_rng(seed), held_out=held_out)
    second = caption(twin, np.random.default_rng(seed), held_out=held_out)
    return (first, second) if first != second else None


def twin_scene(scene: Scene, kind: str, generator: np.random.Generator) -> Scene | None:
    """The scene's hard negative of a kind in HARD with the objects changed so that it is true of them, and the scene's
    own demands are not; None where the kind does not apply, or the objects leave no room.

    Sides are swapped by mirroring every place along the relation's axis, colours by exchanging them, a count changes by
    an object that goes or comes."""
    altered = hard_negative(scene, kind, generator)
    if altered is None:
        return None
    things: tuple[Thing, ...] | None
    if kind == "sides swapped":
        across = scene.relation in ("left of", "right of")
        things = tuple(replace(t, x=1 - t.x) if across else replace(t, y=1 - t.y) for t in scene.things)
    elif kind == "colours swapped":
        things = _recoloured_things(scene)
    else:
        things = _recounted_things(scene, altered, generator)
    if things is None or not satisfied(things, altered.demands, altered.relation):
        return None
    return None if satisfied(things, scene.demands, scene.relation) else replace(altered, things=things)


def _recoloured_things(scene: Scene) -> tuple[Thing, ...] | None:
    """The objects with the colours of the first two demands exchanged."""
    first, second = scene.demands[:2]
    if first.colour is None or second.colour is None:
        return None
    new = {True: second.colour, False: first.colour}
    return tuple(
        replace(t, colour=new[first.met_by(t)]) if first.met_by(t) or second.met_by(t) else t for t in scene.things
    )


def _recounted_things(scene: Scene, altered: Scene, generator: np.random.Generator) -> tuple[Thing, ...] | None:
    """The objects with one fewer or one more of the kind whose number differs; None where there is no room for it."""
    old, new = next((a, b) for a, b in zip(scene.demands, altered.demands, strict=True) if a.count != b.count)
    found = [thing for thing in scene.things if old.met_by(thing)]
    chosen = found[int(generator.integers(len(found)))]
    if new.count < old.count:
        return tuple(thing for thing in scene.things if thing is not chosen)
    edge = chosen.radius + GAP
    for _ in range(60):
        x, y = (float(value) for value in generator.uniform(edge, 1 - edge, size=2))
        if all(math.dist((x, y), (t.x, t.y)) >= edge + t.radius for t in scene.things):
            return (*scene.things, replace(chosen, x=x, y=y))
    return None


def _altered(scene: Scene, kind: str, generator: np.random.Generator) -> Scene | None:
    demands = list(scene.demands)
    if kind == "sides swapped":
        return replace(scene, relation=_OPPOSITE[scene.relation]) if scene.relation else None
    if kind == "count off by one":
        return _recounted(scene, generator)
    if kind == "colours swapped":
        if len(demands) < 2 or demands[0].colour == demands[1].colour:
            return None
        first, second = demands[0].colour, demands[1].colour
        demands[:2] = [replace(demands[0], colour=second), replace(demands[1], colour=first)]
        return replace(scene, demands=tuple(demands))
    place = int(generator.integers(len(demands)))
    demand = demands[place]
    if kind == "colour changed":
        if demand.colour is None:
            return None
        demands[place] = replace(demand, colour=_other(COLOURS, demand.colour, generator))
    else:
        demands[place] = replace(demand, shape=_other(SHAPES, demand.shape, generator))
    return replace(scene, demands=tuple(demands))


def _recounted(scene: Scene, generator: np.random.Generator) -> Scene | None:
    counted = [i for i, demand in enumerate(scene.demands) if demand.count > 1]
    if not counted:
        return None
    demands: list[Demand] = list(scene.demands)
    place = counted[int(generator.integers(len(counted)))]
    step = 1 if demands[place].count == 2 else -1 if demands[place].count == 4 else int(generator.choice([-1, 1]))
    demands[place] = replace(demands[place], count=demands[place].count + step)
    return replace(scene, demands=tuple(demands))


def _other(choices: tuple[str, ...], known: str, generator: np.random.Generator) -> str:
    rest = [choice for choice in choices if choice != known]
    return rest[int(generator.integers(len(rest)))]
