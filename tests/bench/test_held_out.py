"""What all approaches are measured on: of which split each part of it is, and which random streams it is drawn from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from approaches.base import Shared
from approaches.shared.randomness import generator
from bench import held_out
from bench.config import Config, DataConfig, EvaluateConfig, TextConfig
from bench.console import Console
from bench.data.text import TextFile
from bench.held_out import HeldOut
from tests.approaches.small import small_shared

QUIET = Console(interval=1e9)


@pytest.fixture(scope="module")
def shared() -> Shared:
    return small_shared()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    path = tmp_path_factory.mktemp("text") / "texts.jsonl"
    path.write_text("".join(f'{{"text": "Document {i} tells of {i * i}, and of nothing else."}}\n' for i in range(300)))
    sizes = EvaluateConfig(pictures=4, captions=6, documents=5, triples=8)
    data = DataConfig(train_items=8, eval_items=16)
    return replace(Config(), seed=3, data=data, text=TextConfig(name="file", path=str(path)), evaluate=sizes)


@pytest.fixture(scope="module")
def held(shared: Shared, config: Config) -> HeldOut:
    return held_out.hold_out(config, shared, TextFile.build(config.text), QUIET)


def test_losses_are_of_validation_pictures_and_what_is_drawn_or_told_is_of_the_test_split(
    shared: Shared, config: Config, held: HeldOut
) -> None:
    assert (held.validation.split, len(held.validation)) == ("validation", 8)
    assert (held.test.split, len(held.test)) == ("test", 6)  # as many as the most that is asked for
    documents = TextFile.build(config.text).some("test", 5)
    assert len(documents) == 5 and held.texts.keys == tuple(document.key for document in documents)
    assert [shared.language_model.decode(list(ids)) for ids in held.texts.ids] == [each.text for each in documents]


def test_other_real_pictures_are_of_neither_the_drawn_captions_nor_training(shared: Shared, config: Config) -> None:
    others, trained = held_out.others(config, shared, 2, QUIET), held_out.training(config, shared, QUIET)
    assert (others.split, len(others)) == ("validation", 2)
    assert (trained.split, len(trained)) == ("train", 8)


def test_times_and_noise_of_the_triples_are_each_a_stream_of_the_seed(
    shared: Shared, config: Config, held: HeldOut
) -> None:
    times, noise = (generator(config.seed, f"validation/{name}") for name in ("times", "noise"))
    assert torch.equal(held.times, shared.diffusion.times(8, times))
    assert torch.equal(held.noise, torch.randn(8, 4, 8, 8, generator=noise))
