"""Words are exchanged for others of their kind, and the metric rises for the kinds that a model hears and no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from approaches.base import Approach
from approaches.settings import Settings
from bench.config import Config, DataConfig, EvaluateConfig, TextConfig
from bench.console import Console
from bench.data.captions import description
from bench.data.scene import COLOURS, SHAPES, SIZES
from bench.data.text import TextFile
from bench.errors import UserError
from bench.heard import HEARD, exchanged, heard_metrics
from bench.held_out import HeldOut, hold_out
from tests.approaches.small import small_shared


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (COLOURS, "a small yellow cross and an orange circle, a large red square on a dark background"),
        (SHAPES, "a small blue circle and a purple square, a large orange triangle on a dark background"),
        (SIZES, "a large blue cross and a purple circle, a small orange square on a dark background"),
    ],
)
def test_words_of_one_kind_are_exchanged(words: tuple[str, ...], expected: str) -> None:
    text = "a small blue cross and a purple circle, a large orange square on a dark background"
    assert exchanged(text, words) == expected
    again = text
    for _ in words:
        again = exchanged(again, words)
    assert again == text  # and come round


def colours_of(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.replace(",", "").split() if word in COLOURS)


class Hears(Approach):
    """Predicts 0 where its prompt names colours as a description that it knows does, else 100."""

    def __init__(self, shared: Any, texts: list[str]) -> None:
        super().__init__(shared, Settings())
        self.known = {colours_of(text) for text in texts}

    def losses(self, batch: Any, generators: Any) -> dict[str, Any]:
        raise NotImplementedError

    def blocks(self) -> list[torch.nn.Module]:
        return []

    def condition(self, prompts: Any) -> Tensor:
        return torch.tensor([0.0 if colours_of(prompt.words) in self.known else 1.0 for prompt in prompts])

    def denoise(self, x_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        return condition[:, None, None, None] * 100 + torch.zeros_like(x_t)


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> HeldOut:
    path: Path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(f"Paragraph {i} tells of number {i * i}, and of nothing else." for i in range(300)))
    config = Config(
        data=DataConfig(train_items=8, eval_items=6),
        text=TextConfig(name="file", path=str(path)),
        evaluate=EvaluateConfig(pictures=2, captions=2, documents=1, triples=4),
    )
    return hold_out(config, small_shared(), TextFile.build(config.text), Console(as_json=True))


def test_only_what_is_heard_counts(held: HeldOut) -> None:
    texts = [description(scene) for scene in held.validation.scenes if scene is not None]
    found = heard_metrics(Hears(small_shared(), texts), held, 4, seed=0)
    assert set(found) == set(HEARD)
    assert found["heard_colours"].value is not None and found["heard_colours"].value > 1000
    assert found["heard_shapes"].value == found["heard_sizes"].value == 0


def test_pictures_of_unknown_scenes_are_left_out_by_their_own_number(held: HeldOut) -> None:
    """Times and noise are those of the triple, not of its place among the known ones."""
    some = replace(held.validation, scenes=(None, *held.validation.scenes[1:]))
    asked: list[list[int]] = []

    class Notes(Hears):
        def denoise(self, x_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
            asked.append([held.times.tolist().index(time) for time in t.tolist()])
            return super().denoise(x_t, t, condition)

    found = heard_metrics(Notes(small_shared(), []), replace(held, validation=some), 99, seed=0)
    assert asked == [list(range(1, len(some)))] * 4
    assert found["heard_colours"].n == len(some) - 1


def test_without_scenes_it_says_so(held: HeldOut) -> None:
    blind = replace(held, validation=replace(held.validation, scenes=(None,) * len(held.validation)))
    with pytest.raises(UserError, match="the scenes of shapes are not known"):
        heard_metrics(Hears(small_shared(), []), blind, 4, seed=0)
