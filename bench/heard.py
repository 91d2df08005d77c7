"""Which kinds of words a picture model hears: what it costs to exchange them in a true description.

`heard_colours` is the diffusion loss of fixed triples under their whole descriptions with every colour replaced by the
next one, less the loss under the descriptions themselves, on the same noise: 0 where the model is deaf to colours. It
sees listening long before a parser can find a right object in a picture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from approaches.base import Approach, Prompt
from bench.data.captions import description
from bench.data.scene import COLOURS, SHAPES, SIZES
from bench.errors import UserError
from bench.held_out import HeldOut, triple_losses
from bench.measured import Names
from metrics.statistics import Estimate, mean_estimate

KINDS: Mapping[str, tuple[str, ...]] = {"colours": COLOURS, "shapes": SHAPES, "sizes": SIZES}
HEARD: Names = {f"heard_{kind}": ("", "higher") for kind in KINDS}
TRIPLES = 256  # at most: an approach may plan every description


def exchanged(text: str, words: Sequence[str]) -> str:
    """The text with each of these words replaced by the one after it, the last by the first, and its article with it.

    >>> exchanged("a small red circle and an orange cross", COLOURS)
    'a small green circle and a red cross'
    """
    following = dict(zip(words, (*words[1:], words[0]), strict=True))
    swapped = re.sub(rf"\b({'|'.join(words)})\b", lambda found: following[found[1]], text)
    return re.sub(r"\b(an?) (?=(\w))", lambda found: "an " if found[2] in "aeiou" else "a ", swapped)


def heard_metrics(approach: Approach, held: HeldOut, batch: int, *, seed: int) -> dict[str, Estimate]:
    """All of HEARD. UserError where the scenes are not known, and so no words can be exchanged for others."""
    scenes = held.validation.scenes[:TRIPLES]
    known = [index for index, scene in enumerate(scenes) if scene is not None]
    if not known:
        raise UserError(f"the scenes of {held.validation.name} are not known")
    texts = [description(scene) for scene in scenes if scene is not None]

    def losses(said: Sequence[str]) -> NDArray[np.float64]:
        """Without scenes: they would contradict what is said."""
        return triple_losses(approach, held, known, [Prompt.text(text) for text in said], batch)

    own, found = losses(texts), {}
    for kind, words in KINDS.items():
        other = losses([exchanged(text, words) for text in texts])
        found[f"heard_{kind}"] = mean_estimate(
            other - own,
            keys=[held.validation.keys[index] for index in known],
            seed=seed,
            better="higher",
            details={"chance": 0.0, "wrong": f"each description with other {kind}"},
        )
    return found
