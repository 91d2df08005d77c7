"""Patches, positions and times."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from approaches.shared.patches import Patchify, TimeEmbedding, positions_2d, sinusoids


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 4), st.integers(0, 3))
def test_splitting_and_joining_change_no_value(channels: int, side: int, patch: int, batch: int) -> None:
    cut = Patchify(channels, side * patch, patch)
    x = torch.arange(batch * channels * cut.size**2).reshape(batch, channels, cut.size, cut.size)
    tokens = cut.split(x)
    assert tokens.shape == (batch, cut.tokens, cut.width)
    assert torch.equal(cut.join(tokens), x)
    assert torch.equal(cut.split(cut.join(tokens)), tokens)


def test_a_token_is_its_patch_and_tokens_go_row_by_row() -> None:
    cut = Patchify(3, 6, 2)
    x = torch.randn(2, 3, 6, 6)
    tokens = cut.split(x)
    assert torch.equal(tokens[1, 5], x[1, :, 2:4, 4:6].flatten())  # row 1, column 2 of a 3 x 3 grid


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="don't tile"):
        Patchify(4, 8, 3)
    cut = Patchify(4, 8, 2)
    with pytest.raises(ValueError, match="expected"):
        cut.split(torch.zeros(1, 4, 8, 6))
    with pytest.raises(ValueError, match="expected"):
        cut.join(torch.zeros(1, 15, 16))
    with pytest.raises(ValueError, match="even"):
        sinusoids(torch.zeros(2), 5)
    with pytest.raises(ValueError, match="multiple of 4"):
        positions_2d(6, 2)


def test_sinusoids_have_their_closed_form() -> None:
    out = sinusoids(torch.tensor([0.0, 3.0]), 8, longest=16.0)
    assert torch.equal(out[0], torch.tensor([1.0] * 4 + [0.0] * 4))
    for i in range(4):
        angle = 3.0 / 16.0 ** (i / 4)
        assert out[1, i].item() == pytest.approx(math.cos(angle), abs=1e-6)
        assert out[1, 4 + i].item() == pytest.approx(math.sin(angle), abs=1e-6)


def test_positions_depend_on_the_offset_alone_and_are_distinct() -> None:
    side, width = 6, 32
    grid = positions_2d(width, side).unflatten(0, (side, side))
    products = torch.einsum("abd,cd->abc", grid, grid.flatten(0, 1)).unflatten(2, (side, side))
    torch.testing.assert_close(products[1, 2, 3, 5], products[2, 1, 4, 4])  # both two rows down, three columns right
    torch.testing.assert_close(products[0, 0, 1, 0], products[0, 0, 0, 1])  # rows and columns alike
    gaps = torch.cdist(grid.flatten(0, 1), grid.flatten(0, 1)) + 1e3 * torch.eye(side**2)
    assert gaps.min() > 0.5
    assert torch.equal(grid[:, 0, : width // 2], grid[:, 3, : width // 2])  # the first half knows the row alone


def test_times_are_told_apart_in_half_precision() -> None:
    embed = TimeEmbedding(32).bfloat16()
    near = embed(torch.tensor([0.500, 0.502]))
    assert near.dtype == torch.bfloat16
    assert not torch.equal(near[0], near[1])
    with pytest.raises(ValueError, match="one a picture"):
        embed(torch.zeros(2, 1))
