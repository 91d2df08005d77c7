"""What the tests of approaches share: the shipped tiny models as a `Shared`, and real batches of the shapes world."""

from __future__ import annotations

import copy
from functools import lru_cache

import numpy as np
import torch

from approaches.base import Batch, Captioned, Generators, Shared
from approaches.shared.diffusion import Diffusion
from approaches.shared.kernels import choose
from approaches.shared.language_model import LanguageModel
from approaches.shared.prompts import gap, lead
from approaches.shared.randomness import generator
from approaches.shared.vae import LatentCodec
from bench.batches import led
from bench.data.dataset import Sample
from bench.data.shapes import Shapes

WINDOW = 24


@lru_cache(maxsize=1)
def _models() -> tuple[LanguageModel, LatentCodec]:
    return LanguageModel.load("shipped:lm-tiny", kernels=choose("cpu")), LatentCodec.load("shipped:vae-tiny")


def small_shared(seed: int = 0) -> Shared:
    """The shipped tiny models. The language model's weights are the caller's own copy: training it hurts nobody."""
    language_model, codec = _models()
    own = LanguageModel(
        copy.deepcopy(language_model.transformer),
        language_model.tokenizer,
        weights_hash=language_model.weights_hash,
    )
    return Shared(
        language_model=own,
        codecs={"image": codec},
        diffusion=Diffusion(),
        kernels=choose("cpu"),
        latent_size=8,
        patch=2,
        patch_channels=8,
        caption_tokens=40,
        seed=seed,
    )


@lru_cache(maxsize=1)
def _world() -> Shapes:
    return Shapes(split="train", size=32, seed=0, items=100_000)


def samples(first: int, count: int) -> list[Sample]:
    """Pictures of the training split, by their number."""
    return [_world()[index] for index in range(first, first + count)]


def captioned(shared: Shared, rows: list[Sample], before: str = "") -> Captioned:
    """These pictures as rows of a batch, each caption behind what stands before it."""
    pictures = np.stack([row.image for row in rows])
    tokens, mask = shared.tokenise([before + row.caption for row in rows], end=True)
    return Captioned(
        latents=shared.codecs["image"].encode_images(pictures),
        tokens=tokens,
        mask=mask,
        captions=tuple(row.caption for row in rows),
        scenes=tuple(row.scene for row in rows),
        pictures=pictures,
    )


def small_generators(seed: int = 0, step: int = 0) -> Generators:
    """The named generators of a step."""
    return lambda purpose: generator(seed, purpose, step)


def small_batch(shared: Shared, rows: int = 6, step: int = 0, levels: int = 1) -> Batch:
    """`rows` pictures to draw, each at `levels` levels of noise, the second with its caption left out, and half as many
    others to describe and windows of text; each step has its own pictures, times and noise."""
    described = max(1, rows // 2)
    pictures = samples(step * (rows + described), rows + described)
    draw = captioned(shared, pictures[:rows])
    describe = captioned(shared, pictures[rows:], gap(shared.language_model, shared.describe_prompt))
    describe = led(describe, lead(shared.language_model, shared.describe_prompt))
    draws = small_generators(shared.seed, step)
    text = [token for row in pictures for caption in row.captions for token in shared.language_model.encode(caption)]
    return Batch(
        step=step,
        draw=draw,
        times=shared.diffusion.times(rows, draws("times"), levels=levels),
        noise=shared.diffusion.noise_like(draw.latents.repeat_interleave(levels, 0), draws("noise")),
        empty=torch.arange(rows) == 1,
        describe=describe,
        text=torch.tensor((text * (1 + described * WINDOW // len(text)))[: described * WINDOW]).view(-1, WINDOW),
    )
