"""Which kinds of words a picture model hears: what it costs to exchange them in a true description.

`heard_colours` is the diffusion loss of fixed triples under their whole descriptions with every colour replaced by the
next one, less the loss under the descriptions themselves, on the same noise: 0 where the model is deaf to colours. It
sees listening long before a parser can find a right object in a picture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from approaches.base import Approach, Prompt
from bench.data.captions import description
from bench.data.scene import COLOURS, SHAPES, SIZES
from bench.errors import UserError
from bench.held_out import HeldOut
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


@torch.no_grad()
def heard_metrics(approach: Approach, held: HeldOut, batch: int, *, seed: int) -> dict[str, Estimate]:
    """All of HEARD. UserError where the scenes are not known, and so no words can be exchanged for others."""
    scenes = held.validation.scenes[:TRIPLES]
    known = [index for index, scene in enumerate(scenes) if scene is not None]
    if not known:
        raise UserError(f"the scenes of {held.validation.name} are not known")
    texts = [description(scene) for scene in scenes if scene is not None]
    own = _losses(approach, held, known, texts, batch)
    found = {}
    for kind, words in KINDS.items():
        other = _losses(approach, held, known, [exchanged(text, words) for text in texts], batch)
        found[f"heard_{kind}"] = mean_estimate(
            other - own,
            keys=[held.validation.keys[index] for index in known],
            seed=seed,
            better="higher",
            details={"chance": 0.0, "wrong": f"each description with other {kind}"},
        )
    return found


def _losses(approach: Approach, held: HeldOut, rows: list[int], texts: list[str], batch: int) -> NDArray[np.float64]:
    """The diffusion loss of these triples under these texts, one each. No scene is told: it would contradict them."""
    diffusion, device = approach.shared.diffusion, next(approach.parameters()).device
    losses = []
    for start in range(0, len(rows), batch):
        some = torch.tensor(rows[start : start + batch])
        latents, noise = held.validation.latents[some].to(device), held.noise[some].to(device)
        times = held.times[some].to(device)
        condition = approach.condition([Prompt.text(text) for text in texts[start : start + batch]])
        prediction = approach.denoise(diffusion.add_noise(latents, noise, times), times, condition)
        losses.append(diffusion.loss(prediction, diffusion.target(latents, noise, times)).cpu())
    return torch.cat(losses).double().numpy()
