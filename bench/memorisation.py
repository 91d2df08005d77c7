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
ANEW = "of the pictures, encoded anew"
RESAMPLED = 1000  # times, real pictures for that share's edge
SEARCHED = 100_000  # training pictures at most: their features are kept on the disk, 5 KB each
MEMORISED: Names = {
    "nearest_training_distance": ("", ""),
    "nearest_training_distance_latent": ("", ""), "training_copies_latent": ("share", "lower"),
    "prompt_overlap": ("share", ""),
}  # fmt: skip


def memorisation(
    extractor: Extractor | None,
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
    training picture, in features and, as `..._latent`, in the VAE's latents (N C h w); `training_copies_latent`, the
    share that is nearer to one than all but CLOSE of real held-out ones are; and `prompt_overlap`, the share of prompts
    that are among the training's captions, word for word.

    extractor: None leaves out what is in features. true: the real ones, decoded from their latents as the drawn
    ones are. latents, true_latents: of both kinds of pictures, encoded anew: a sampler's own hold noise that the
    decoder drops, and that is longer than what tells a copy from another picture. In features what the decoder loses
    is more than that, so nothing is called a copy by them. Those of the first SEARCHED training pictures are extracted
    once a machine. Details:
    `nearest`, the training picture's key of each, `per_item`, its distance, `real`, the mean distance of the real
    ones, and `chance`, CLOSE.
    """
    captions = {words_of(text) for texts in training.captions for text in texts}
    shared = sum(words_of(text) in captions for text in prompts)
    found = {
        "prompt_overlap": Estimate.counted(
            shared / max(1, len(prompts)), unit="share", prompts=len(prompts), training_captions=len(captions)
        )
    }
    if not len(pictures):
        return {name: Estimate.missing("no pictures", unit=u, better=b) for name, (u, b) in MEMORISED.items()} | found
    spaces = {"_latent": tuple(_as_features(part) for part in (latents, true_latents, training.latents[:SEARCHED]))}
    if extractor is not None:
        known = extract(extractor, np.asarray(training.pictures[:SEARCHED]), cached=True)
        spaces[""] = (extract(extractor, pictures), extract(extractor, true, cached=True), known)
    for suffix, (drawn, real, trained) in spaces.items():
        places, far = nearest(drawn, trained)
        told = {
            **trained.provenance,
            **({"latents": ANEW} if suffix else {}),
            "searched": len(trained),
            "training_pictures": len(training),
            "nearest": [training.keys[place] for place in places],
        }
        theirs = nearest(real, trained)[1]
        found[f"nearest_training_distance{suffix}"] = mean_estimate(
            far, keys=keys, seed=seed, details={**told, "real": float(theirs.mean())}
        )
        if suffix:
            found[f"training_copies{suffix}"] = copies_among(far, theirs, keys=keys, seed=seed)
    return found


def copies_among(far: Floats, real: Floats, *, keys: Sequence[str], seed: int) -> Estimate:
    """The share of distances to the nearest training picture that are shorter than all but CLOSE of those of real
    pictures. The interval counts the edge's own error too: Jeffreys' posteriors of the share, each at the edge of a
    resample of the real ones."""
    edge = float(np.quantile(real, CLOSE))
    details: dict[str, Any] = {"chance": CLOSE, "edge": edge, "real_pictures": len(real), "latents": ANEW}
    nearer_than = (far < edge).astype(float)
    copies = mean_estimate(nearer_than, keys=keys, seed=seed, unit="share", better="lower", details=details)
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
