"""Whether pictures were drawn or remembered: the nearest training picture of each, and prompts that training had.

N drawn pictures; H W their sides, C h w a latent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bench.collection import Collection
from bench.measured import Names
from bench.seeds import derive
from metrics.captioning import words_of
from metrics.fidelity import Extractor, Features, Floats, extract, nearest
from metrics.statistics import TAILS, Estimate, mean_estimate

CLOSE = 0.05  # the share of real held-out pictures that counts as close to training
RESAMPLED = 1000  # times, real pictures for that share's edge
SEARCHED = 100_000  # training pictures at most: their features are kept on the disk, 5 KB each
SEEN: Names = {
    "nearest_training_distance": ("", ""), "training_copies": ("share", "lower"),
    "nearest_training_distance_latent": ("", ""), "training_copies_latent": ("share", "lower"),
    "prompt_overlap": ("share", ""),
}  # fmt: skip


def memorisation(
    extractor: Extractor,
    training: Collection,
    pictures: NDArray[np.uint8],
    true: NDArray[np.uint8],
    latents: Tensor,
    true_latents: Tensor,
    *,
    keys: Sequence[str],
    prompts: Sequence[str],
    seed: int = 0,
) -> dict[str, Estimate]:
    """`nearest_training_distance`, the mean distance from drawn pictures (N H W 3, named `keys`) to the nearest
    training picture; `training_copies`, the share that is nearer to one than all but CLOSE of real held-out pictures
    (`true`, as many as there are) are; both in features and, as `..._latent`, in the VAE's latents (N C h w); and
    `prompt_overlap`, the share of prompts that are among the training's captions, word for word.

    Features forgive a shift and not a little noise, latents the other way round. Those of the first SEARCHED training
    pictures are extracted once a machine. Details: `nearest`, the training picture's key of each, `per_item`, its
    distance, `real`, the mean distance of the real ones, and `chance`, CLOSE.
    """
    captions = {words_of(text) for texts in training.captions for text in texts}
    shared = sum(words_of(text) in captions for text in prompts)
    found = {
        "prompt_overlap": Estimate.counted(
            shared / max(1, len(prompts)), unit="share", prompts=len(prompts), training_captions=len(captions)
        )
    }
    if not len(pictures):
        return {name: Estimate.missing("no pictures", unit=u, better=b) for name, (u, b) in SEEN.items()} | found
    known = extract(extractor, np.asarray(training.pictures[:SEARCHED]), cached=True)
    spaces = {
        "": (extract(extractor, pictures), extract(extractor, true, cached=True), known),
        "_latent": tuple(_as_features(part) for part in (latents, true_latents, training.latents[:SEARCHED])),
    }
    for suffix, (drawn, real, trained) in spaces.items():
        places, far = nearest(drawn, trained)
        told = {
            **trained.provenance,
            "searched": len(trained),
            "training_pictures": len(training),
            "nearest": [training.keys[place] for place in places],
        }
        found |= _judged(far, nearest(real, trained)[1], told, suffix, keys, seed)
    return found


def _judged(
    far: Floats, real: Floats, told: dict[str, Any], suffix: str, keys: Sequence[str], seed: int
) -> dict[str, Estimate]:
    """The two numbers of distances to the nearest training picture, of drawn pictures and of real ones."""
    edge = float(np.quantile(real, CLOSE))
    details = {"chance": CLOSE, "edge": edge, "real_pictures": len(real)}
    copies = mean_estimate(
        (far < edge).astype(float), keys=keys, seed=seed, unit="share", better="lower", details=details
    )
    return {
        f"nearest_training_distance{suffix}": mean_estimate(
            far, keys=keys, seed=seed, details={**told, "real": float(real.mean())}
        ),
        f"training_copies{suffix}": _of_an_estimated_edge(copies, far, real, seed),
    }


def _of_an_estimated_edge(copies: Estimate, far: Floats, real: Floats, seed: int) -> Estimate:
    """The share with an interval that counts the edge's own error too: Jeffreys' posteriors of the drawn pictures'
    share, each at the edge of a resample of the real ones."""
    if copies.value is None or copies.low is None:
        return copies
    draws = np.random.default_rng(derive(seed, "training copies"))
    edges = np.quantile(draws.choice(real, (RESAMPLED, len(real))), CLOSE, axis=1)
    nearer = np.searchsorted(np.sort(far), edges)
    low, high = np.quantile(draws.beta(nearer + 0.5, len(far) - nearer + 0.5), TAILS)
    details = {**copies.details, "interval": "Jeffreys, over resampled edges"}
    bounds = min(float(low), copies.value), max(float(high), copies.value)
    return replace(copies, low=bounds[0], high=bounds[1], details=details)


def _as_features(latents: Tensor) -> Features:
    values = latents.float().flatten(1).numpy()
    return Features(values=values, content="", provenance={"extractor": "the VAE's latents"})
