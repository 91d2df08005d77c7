"""Memorisation: planted copies are found among pictures that were drawn anew, and prompts that training had."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from approaches.shared.vae import LatentCodec
from bench.collection import Collection, collect
from bench.config import DataConfig
from bench.console import Console
from bench.data.catalogue import open_dataset
from bench.memorisation import copies_among, memorisation
from metrics.features import FeatureExtractor, efficientnet_lite0

DATA = DataConfig(train_items=300, eval_items=40)


@pytest.fixture(scope="module")
def codec() -> LatentCodec:
    return LatentCodec.load("shipped:vae-tiny")


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    return efficientnet_lite0(input_size=64)  # at 32 a lone square has no feature left


@pytest.fixture(scope="module")
def splits(codec: LatentCodec) -> tuple[Collection, Collection, Collection]:
    def split(name: str, count: int) -> Collection:
        return collect(open_dataset(DATA, name), count, codec, Console(interval=1e9))

    return split("train", 300), split("test", 40), split("validation", 40)


def test_planted_copies_are_found_and_new_pictures_are_at_chance(codec, extractor, splits) -> None:
    training, test, drawn = splits
    pictures = np.concatenate([np.asarray(training.pictures[100:110]), np.asarray(drawn.pictures[:30])])
    found = memorisation(
        extractor,
        training,
        pictures,
        np.asarray(test.pictures),
        codec.encode_images(pictures),
        test.latents,
        keys=drawn.keys,
        prompts=["A red circle!", training.captions[7][0].upper(), "nothing that training said"],
    )
    for space in ("", "_latent"):
        distance = found[f"nearest_training_distance{space}"]
        assert distance.details["nearest"][:10] == list(training.keys[100:110])
        far = np.array(distance.details["per_item"])
        assert far[:10].max() < far[10:].min() and far[10:].mean() == pytest.approx(distance.details["real"], rel=0.3)
    marked = found["training_copies_latent"].details["per_item"]
    assert marked[:10] == [1] * 10 and np.mean(marked[10:]) < 0.3  # 5% is chance
    assert "training_copies" not in found
    said = {text for captions in training.captions for text in captions}
    expected = (1 + ("a red circle" in said)) / 3  # whatever case and punctuation
    assert found["prompt_overlap"].value == pytest.approx(expected)


def test_a_little_noise_hides_a_copy_from_features_and_not_from_latents(codec, extractor, splits) -> None:
    training, test, drawn = splits
    noise = np.random.default_rng(0).normal(0, 6, (20, 32, 32, 3))
    noisy = np.clip(np.asarray(training.pictures[50:70]) + noise, 0, 255).astype(np.uint8)
    found = memorisation(
        extractor,
        training,
        noisy,
        np.asarray(test.pictures),
        codec.encode_images(noisy),
        test.latents,
        keys=drawn.keys[:20],
        prompts=[],
    )
    assert found["training_copies_latent"].value == 1.0
    assert found["nearest_training_distance_latent"].details["nearest"] == list(training.keys[50:70])


def test_no_pictures_leave_the_prompts_overlap(extractor, splits) -> None:
    training, test, _ = splits
    none = np.asarray(test.pictures[:0])
    nothing = test.latents[:0]
    found = memorisation(extractor, training, none, none, nothing, nothing, keys=[], prompts=training.captions[0])
    assert found["training_copies_latent"].reason == "no pictures" and found["prompt_overlap"].value == 1.0
    few = replace(training, pictures=training.pictures[:2], keys=training.keys[:2])
    first = np.asarray(few.pictures[:1])
    others, known = test.latents[:1], training.latents[:1]
    one = memorisation(extractor, few, first, np.asarray(test.pictures[:1]), known, others, keys=["only"], prompts=[])
    distance = one["nearest_training_distance"]
    assert distance.value == pytest.approx(0, abs=1e-3) and distance.reason == "one item has no interval"
    assert distance.details["searched"] == 2


def test_an_honest_generator_is_seldom_called_a_copier() -> None:
    draws, trials = np.random.default_rng(0), 400
    above = covered = 0
    for trial in range(trials):
        far, real = draws.gamma(4, size=128), draws.gamma(4, size=512)
        copies = copies_among(far, real, keys=[str(i) for i in range(128)], seed=trial)
        assert copies.low is not None and copies.high is not None
        above, covered = above + (copies.low > 0.05), covered + (copies.low <= 0.05 <= copies.high)
    assert above / trials <= 0.05 and covered / trials >= 0.92


def test_all_or_no_copies_have_an_interval_that_ends_there() -> None:
    real, keys = np.linspace(1, 2, 200), [str(i) for i in range(40)]
    every, none = (copies_among(np.full(40, far), real, keys=keys, seed=0) for far in (0.5, 3.0))
    assert every.value == every.high == 1.0 and every.low is not None and every.low > 0.9
    assert none.value == none.low == 0.0 and none.high is not None and none.high < 0.1
    assert copies_among(np.ones(40), np.ones(200), keys=keys, seed=0).value == 0.0  # as near as real ones is not nearer
