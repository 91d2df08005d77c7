"""Captions that are almost right: what a model that only counts words can't tell from the true one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bench.data.captions import caption
from bench.data.scene import COLOURS, SHAPES, Demand, Scene, satisfied

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


def false_caption(scene: Scene, kind: str, seed: int, *, held_out: bool = False) -> tuple[str, str] | None:
    """A true caption and its almost right twin, in the same sentence form; None where the kind does not apply."""
    altered = hard_negative(scene, kind, np.random.default_rng(seed))
    if altered is None:
        return None
    true = caption(scene, np.random.default_rng(seed), held_out=held_out)
    false = caption(altered, np.random.default_rng(seed), held_out=held_out)
    return (true, false) if true != false else None


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
