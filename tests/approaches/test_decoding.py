"""Sampled text: each row by its own generator, at its temperature."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from approaches.shared.decoding import decode
from approaches.shared.randomness import generator

LOGITS = torch.randn(3, 50, generator=generator(0, "logits"))


def sampled(rows: list[int], temperature: float, seeds: list[int]) -> list[list[int]]:
    def step(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        return LOGITS[rows][:, None], state

    draws = [generator(seed, "decode") for seed in seeds]
    start = LOGITS[rows], None
    return decode(start, step, limit=12, end_id=-1, temperature=temperature, generators=draws)


def test_a_row_draws_from_its_own_generator_whoever_is_beside_it() -> None:
    together = sampled([0, 1, 2], 1.0, [5, 6, 7])
    assert [sampled([row], 1.0, [5 + row])[0] for row in range(3)] == together
    assert sampled([0, 0], 1.0, [5, 6])[0] != sampled([0, 0], 1.0, [5, 6])[1]
    with pytest.raises(ValueError, match="1 generators for 2 rows"):
        sampled([0, 1], 1.0, [5])


def test_cold_is_greedy_and_hot_is_anything() -> None:
    best = LOGITS.argmax(-1).tolist()
    assert sampled([0, 1, 2], 1e-3, [5, 6, 7]) == [[token] * 12 for token in best]
    assert all(len(set(row)) > 6 for row in sampled([0, 1, 2], 100.0, [5, 6, 7]))
