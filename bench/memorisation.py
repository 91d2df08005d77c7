"""Whether pictures were drawn or remembered: the nearest training picture of each, and prompts that training had.

N drawn pictures; T training pictures; C h w a latent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.collection import Collection
from bench.measured import Names
from metrics.captioning import words_of
from metrics.fidelity import Extractor, extract, nearest
from metrics.statistics import Estimate, mean_estimate

CANDIDATES = 8  # training pictures, nearest by latent, that a picture's features are compared with
CLOSE = 0.05  # the share of real held-out pictures that counts as close to training
SEEN: Names = {
    "nearest_training_distance": ("", ""), "training_copies": ("share", "lower"), "prompt_overlap": ("share", ""),
}  # fmt: skip


def memorisation(
    extractor: Extractor,
    training: Collection,
    *,
    latents: Tensor,
    pictures: NDArray[np.uint8],
    keys: Sequence[str],
    true: NDArray[np.uint8],
    true_latents: Tensor,
    prompts: Sequence[str],
    seed: int = 0,
) -> dict[str, Estimate]:
    """`nearest_training_distance`, the mean distance in features from drawn pictures (N H W 3, with latents N C h w and
    names `keys`) to the nearest training picture; `training_copies`, the share that is nearer to one than all but CLOSE
    of real held-out pictures (`true`) are; and `prompt_overlap`, the share of prompts that are among the training's
    captions, word for word.

    The features of all training pictures would take longer than everything else, so that each picture is compared with
    the CANDIDATES nearest by latent, of all of them, and with everybody else's. Details: `nearest`, the training
    picture's key of each, `real`, the mean distance of the real ones, and `chance`, CLOSE.
    """
    captions = {words_of(text) for texts in training.captions for text in texts}
    shared = sum(words_of(text) in captions for text in prompts)
    overlap = Estimate.counted(
        shared / max(1, len(prompts)), unit="share", prompts=len(prompts), training_captions=len(captions)
    )
    if not len(pictures):
        missing = {name: Estimate.missing("no pictures", unit=u, better=b) for name, (u, b) in SEEN.items()}
        return missing | {"prompt_overlap": overlap}
    places, far = _nearest(extractor, training, latents, pictures, cached=False)
    _, real = _nearest(extractor, training, true_latents, true, cached=True)
    edge = float(np.quantile(real, CLOSE))
    told: dict[str, Any] = {
        "extractor": extractor.name,
        "weights": extractor.weights_hash,
        "resize": extractor.resize,
        "candidates": CANDIDATES,
        "training_pictures": len(training),
        "nearest": [training.keys[place] for place in places],
    }
    distance = mean_estimate(far, keys=keys, seed=seed, details={**told, "real": float(real.mean())})
    copies = mean_estimate(
        (far < edge).astype(float),
        keys=keys,
        seed=seed,
        unit="share",
        better="lower",
        details={"chance": CLOSE, "edge": edge, "real_pictures": len(real)},
    )
    return {"nearest_training_distance": distance, "training_copies": copies, "prompt_overlap": overlap}


def _nearest(
    extractor: Extractor, training: Collection, latents: Tensor, pictures: NDArray[np.uint8], *, cached: bool
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Each picture's nearest training picture by features among the candidates, and its distance, N each."""
    known = training.latents.flatten(1)
    count = min(CANDIDATES, len(known))
    near = [torch.cdist(row[None], known)[0].topk(count, largest=False).indices for row in latents.float().flatten(1)]
    union = torch.cat(near).unique().numpy()
    own = extract(extractor, pictures, cached=cached)
    theirs = extract(extractor, np.asarray(training.pictures[union]), cached=cached)
    index, distance = nearest(own, theirs)
    return union[index], distance
