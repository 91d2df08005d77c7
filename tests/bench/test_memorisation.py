"""Memorisation: planted copies are found among pictures that were drawn anew, and prompts that training had."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from approaches.shared.vae import LatentCodec
from bench.collection import Collection, collect
from bench.config import DataConfig
from bench.console import Console
from bench.data.catalogue import open_dataset
from bench.memorisation import memorisation
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
        latents=codec.encode_images(pictures),
        pictures=pictures,
        keys=drawn.keys,
        true=np.asarray(test.pictures),
        true_latents=test.latents,
        prompts=["A red circle!", training.captions[7][0].upper(), "nothing that training said"],
    )
    distance, shares = found["nearest_training_distance"], found["training_copies"]
    assert distance.details["nearest"][:10] == list(training.keys[100:110])
    far = np.array(distance.details["per_item"])
    assert far[:10].max() < far[10:].min() and far[10:].mean() == pytest.approx(distance.details["real"], rel=0.3)
    marked = shares.details["per_item"]
    assert marked[:10] == [1] * 10 and np.mean(marked[10:]) < 0.3  # 5% is chance
    said = {text for captions in training.captions for text in captions}
    expected = (1 + ("a red circle" in said)) / 3  # whatever case and punctuation
    assert found["prompt_overlap"].value == pytest.approx(expected)


def test_no_pictures_leave_the_prompts_overlap(extractor, splits) -> None:
    training, test, _ = splits
    found = memorisation(
        extractor,
        training,
        latents=test.latents[:0],
        pictures=np.asarray(test.pictures[:0]),
        keys=[],
        true=np.asarray(test.pictures[:0]),
        true_latents=torch.zeros(0),
        prompts=[training.captions[0][0]],
    )
    assert found["training_copies"].reason == "no pictures" and found["prompt_overlap"].value == 1.0
    few = replace(training, latents=training.latents[:2], pictures=training.pictures[:2], keys=training.keys[:2])
    one = memorisation(
        extractor,
        few,
        latents=few.latents[:1],
        pictures=np.asarray(few.pictures[:1]),
        keys=["only"],
        true=np.asarray(test.pictures[:1]),
        true_latents=test.latents[:1],
        prompts=[],
    )["nearest_training_distance"]
    assert one.value == pytest.approx(0, abs=1e-3) and one.reason == "one item has no interval"
