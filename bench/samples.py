"""What a person looks at in a run: its pictures one by one, on contact sheets, on their way from and to noise, and
beside the training pictures that are nearest to them.

C H W a latent; T the times that a strip shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from approaches.base import Approach
from approaches.shared.diffusion import Sampled, Trajectory
from bench import store
from bench.config import Config
from bench.held_out import HeldOut
from bench.measured import Measured
from bench.preview import sheet
from bench.sampler import Sampling, noise_source
from reports.schema import Sample

KEPT = 128  # pictures of a run that are kept one by one
SHOWN = 36  # pictures on a sheet
STRIPS = 3  # pictures whose way to and from noise is shown
TIMES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # of a strip; 1 is noise
GAP = 2  # pixels between the pictures of a strip
NEIGHBOURS = 4  # pictures shown beside their nearest training picture: the first, and as many that are nearest of all
NEAREST = "nearest of "


def keep(folder: Path, found: Measured, held: HeldOut) -> list[Sample]:
    """Everything made of the held-out pictures, the first KEPT of them with their files."""
    pictures: Sequence[NDArray[np.uint8]] = () if found.pictures is None else list(found.pictures)
    samples = []
    for index in range(max(len(pictures), len(found.captions))):
        name = f"{store.SAMPLES}/{index:04}"
        true = _write(folder, f"{name}-true.png", held.test.pictures[index]) if index < KEPT else None
        drawn = _write(folder, f"{name}.png", pictures[index]) if index < min(KEPT, len(pictures)) else None
        sample = Sample(
            key=held.test.keys[index],
            prompt=held.test.captions[index][0],
            true=true,
            drawn=drawn,
            caption=found.captions[index] if index < len(found.captions) else None,
            trace=found.trace[index] if index < len(found.trace) else {},
        )
        samples.append(sample)
    return samples


def sheets(folder: Path, found: Measured, held: HeldOut) -> dict[str, str]:
    """Contact sheets: each true picture beside the drawn one, under the words; each true picture with its caption."""
    made = {}
    if found.pictures is not None:
        pairs = [[np.asarray(held.test.pictures[i]), p] for i, p in enumerate(found.pictures[:SHOWN])]
        words = [captions[0] for captions in held.test.captions[: len(pairs)]]
        made["drawn"] = _write(folder, f"{store.SAMPLES}/drawn.png", sheet(pairs, words))
    if found.captions:
        texts = found.captions[:SHOWN]
        seen = [[np.asarray(held.test.pictures[i])] for i in range(len(texts))]
        made["described"] = _write(folder, f"{store.SAMPLES}/described.png", sheet(seen, texts))
    return made


@torch.no_grad()
def strips(folder: Path, approach: Approach, held: HeldOut, config: Config) -> dict[str, str]:
    """`forward`: the first held-out pictures' latents with growing noise, decoded; the same for every approach.
    `reverse`: the states that the shared sampler visits on its way from noise to a first drawing of their captions,
    decoded. An approach that doesn't draw by that sampler has no `reverse`. Each file says in its `Description` what it
    shows."""
    shared, count = approach.shared, min(STRIPS, len(held.test))
    codec, device = shared.codecs["image"], next(approach.parameters()).device
    x_0 = held.test.latents[:count].float()
    noise_for = noise_source(tuple(x_0.shape[1:]), config.seed, 0, device)
    noise = noise_for(range(count), 0).cpu()
    forward = [codec.decode_images(x_t) for x_t in shared.diffusion.forward_trajectory(x_0, noise, TIMES)]
    words = f"{count} true pictures, one a row, from clean to noise: t = {', '.join(f'{t:g}' for t in TIMES)}"
    made = {"forward": _strip(folder, "forward", forward, words)}
    if "generate" not in approach.capabilities:
        return made
    kept = _Kept(nfe=config.diffusion.nfe, guidance=config.diffusion.guidance, keep=TIMES)
    prompts = approach.prompts([texts[0] for texts in held.test.captions[:count]], held.test.scenes[:count])
    approach.generate(prompts, noise_for, kept)
    if not kept.visited:
        return made
    # whoever draws again does so after these
    states = torch.cat([trajectory.x_t for trajectory in kept.visited], 1)[:, :count]
    reverse = [codec.decode_images(x_t.cpu()) for x_t in states]
    times = ", ".join(f"{t:.2g}" for t in kept.visited[0].times)
    words = f"{states.shape[1]} prompts, one a row, from noise to picture: t = {times}"
    return {**made, "reverse": _strip(folder, "reverse", reverse, words)}


@dataclass(frozen=True)
class _Kept(Sampling):
    """The shared sampling loop, with where it has been. visited: a trajectory a call."""

    visited: list[Trajectory] = field(default_factory=list)

    def __call__(self, approach: Approach, condition: Any, noise: Tensor) -> Sampled:
        """See Sampling."""
        sampled = super().__call__(approach, condition, noise)
        assert sampled.trajectory is not None
        self.visited.append(sampled.trajectory)
        return sampled


def _strip(folder: Path, name: str, states: Sequence[NDArray[np.uint8]], words: str) -> str:
    """T states of N pictures (uint8 N H W 3 each) as a grid, N rows; its relative path."""
    count, height, width = states[0].shape[:3]
    page = Image.new("RGB", (len(states) * (width + GAP) - GAP, count * (height + GAP) - GAP), "white")
    for column, state in enumerate(states):
        for row, picture in enumerate(state):
            page.paste(Image.fromarray(picture), (column * (width + GAP), row * (height + GAP)))
    return _write(folder, f"{store.SAMPLES}/{name}.png", page, words)


def neighbours(
    folder: Path,
    found: Measured,
    held: HeldOut,
    training: Callable[[], tuple[Sequence[str], Sequence[NDArray[np.uint8]]]],
) -> dict[str, str]:
    """The training pictures nearest to the first drawn pictures, and to those that are nearest to one of all, under
    `nearest of KEY`; nothing where nobody looked for them. training: keys and pictures of what was trained on."""
    estimate = found.metrics.get("nearest_training_distance")
    keys = [] if estimate is None else list(estimate.details.get("nearest", ()))
    distances = [] if estimate is None else list(estimate.details.get("per_item", ()))
    count = min(KEPT, len(keys), len(distances))
    closest = sorted(range(count), key=lambda i: (distances[i], i))[:NEIGHBOURS]
    chosen = sorted({*range(min(NEIGHBOURS, count)), *closest})
    if estimate is None or not chosen:
        return {}
    looked_at = estimate.details.get("looked_at", range(count))
    names, pictures = training()
    places = {name: place for place, name in enumerate(names)}
    return {
        f"{NEAREST}{held.test.keys[looked_at[i]]}": _write(
            folder, f"{store.SAMPLES}/{looked_at[i]:04}-nearest.png", np.asarray(pictures[places[keys[i]]])
        )
        for i in chosen
        if keys[i] in places
    }


def _write(folder: Path, name: str, picture: NDArray[np.uint8] | Image.Image, words: str = "") -> str:
    """A PNG file in the run's folder, with what it says of itself; its relative path. The stage's own file, written
    last, says that it is whole."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    told = PngInfo()
    if words:
        told.add_text("Description", words)
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(np.asarray(picture))
    image.save(path, format="PNG", pnginfo=told)
    return name
