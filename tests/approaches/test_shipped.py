"""The shipped weights: which there are, that they are what their cards say, and how good they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from approaches.shared.sources import Source, check_folder, shipped
from approaches.shared.vae import LatentCodec
from bench.config import Config
from bench.data.shapes import Shapes
from bench.files import read_json
from bench.pretrain.clip import distinct, retrieval
from bench.pretrain.clip_batches import DESCRIPTION
from bench.pretrain.vae import psnr
from metrics.alignment import Clip


def named(kind: str) -> list[str]:
    return [name for name in shipped() if name.startswith(kind)]


def test_exactly_these_are_shipped() -> None:
    assert set(shipped()) == {"vae-tiny", "lm-tiny", "clip-tiny"}


@pytest.mark.parametrize("name", shipped())
def test_weights_are_those_of_the_card(name: str) -> None:
    folder = shipped()[name]
    card = read_json(folder / "card.json")
    assert check_folder(Source(text=name, path=folder)) == card["weights"]
    assert name.startswith(card["kind"])


@pytest.mark.parametrize("name", named("vae"))
def test_a_shipped_codec_rebuilds_held_out_shapes(name: str) -> None:
    codec = LatentCodec.load(f"shipped:{name}")
    images = np.stack([sample.image for sample in Shapes.build(Config().data, "test").first(64)])
    assert psnr(codec.model, images)[0] >= 34
    latents = codec.encode_images(images)
    assert abs(float(latents.mean())) < 0.2 and abs(float(latents.std()) - 1) < 0.2  # what the scale and shift are for


@pytest.mark.parametrize("name", named("vae"))
def test_a_shipped_codec_forgives_latents_that_are_not_exact(name: str) -> None:
    codec = LatentCodec.load(f"shipped:{name}")
    images = np.stack([sample.image for sample in Shapes.build(Config().data, "test").first(64)])
    latents = codec.encode_images(images)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    rebuilt = codec.decode_images(latents + 0.2 * noise).astype(np.float64)
    error = ((rebuilt - images) ** 2).mean()
    assert 10 * np.log10(255**2 / error) >= 32


@pytest.mark.parametrize("name", named("clip"))
def test_a_shipped_clip_finds_a_picture_by_its_description(name: str) -> None:
    clip = Clip(str(shipped()[name]))
    samples = distinct(Shapes.build(Config().data, "test").first(400), 100, DESCRIPTION)
    assert len(samples) == 100
    images = clip.embed_images(np.stack([sample.image for sample in samples]))
    texts = clip.embed_texts([sample.captions[DESCRIPTION] for sample in samples])
    assert retrieval(images, texts) >= 0.9
