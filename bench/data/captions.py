"""English for the world of shapes: what a caption says follows the scene's demands; how it says it is drawn."""

from __future__ import annotations

import numpy as np

from bench.data.scene import Demand, Scene, Thing

NUMBERS = ("zero", "one", "two", "three", "four")

FORMS = (
    "{body}",
    "a picture of {body}",
    "there is {body}",
    "{body} on a {background} background",
    "an image with {body}",
    "{background} background with {body}",
)
HELD_OUT_FORMS = (
    "this drawing shows {body}",
    "against a {background} backdrop: {body}",
    "please paint {body}",
)
RELATION_WORDS = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses"}


def caption(scene: Scene, generator: np.random.Generator, *, held_out: bool) -> str:
    """A sentence that says the scene's demands, its relation, and sometimes its background.

    held_out: in a form of HELD_OUT_FORMS, else in one of FORMS."""
    parts = [noun_phrase(demand) for demand in scene.demands]
    if scene.relation is not None:
        words = RELATION_WORDS[scene.relation]
        body = f"{parts[0]} {words[generator.integers(len(words))]} {parts[1]}"
    else:
        order = generator.permutation(len(parts))
        body = _join([parts[i] for i in order])
    forms = HELD_OUT_FORMS if held_out else FORMS
    text = forms[generator.integers(len(forms))].format(body=body, background=scene.background)
    return (
        text.replace("there is two", "there are two")
        .replace("there is three", "there are three")
        .replace("there is four", "there are four")
    )


def description(scene: Scene) -> str:
    """Every attribute of every object, from left to right, and the background: the longest true caption."""
    ordered = sorted(scene.things, key=lambda thing: (thing.x, thing.y))
    return f"{_join([_full(thing) for thing in ordered])} on a {scene.background} background"


def noun_phrase(demand: Demand) -> str:
    """`a large red circle`, `three crosses`: the words of one demand."""
    noun = demand.shape if demand.count == 1 else PLURALS[demand.shape]
    words = " ".join(word for word in (demand.size, demand.colour, noun) if word)
    if demand.count > 1:
        return f"{NUMBERS[demand.count]} {words}"
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _full(thing: Thing) -> str:
    return noun_phrase(Demand(shape=thing.shape, colour=thing.colour, size=thing.size))


def _join(parts: list[str]) -> str:
    if len(parts) == 1:
        return parts[0]
    return f"{', '.join(parts[:-1])} and {parts[-1]}"
