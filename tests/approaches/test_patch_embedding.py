"""Latents to image tokens and back: size, the first prediction, what reaches what, and that rows don't mix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from approaches.shared.patches import PatchEmbedding, Patchify, TimeEmbedding

C, SIZE, PATCH, WIDTH, B = 4, 8, 2, 12, 3
CHANNELS = pytest.mark.parametrize("channels", [0, 8, 6])


def made(channels: int, *, alive: bool = True) -> PatchEmbedding:
    torch.manual_seed(0)
    model = PatchEmbedding(Patchify(C, SIZE, PATCH), WIDTH, channels)
    if alive:
        with torch.no_grad():
            for parameter in model.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.2)
    return model


def predict(model: PatchEmbedding, x_t: Tensor, time: Tensor) -> Tensor:
    tokens, kept = model.encode(x_t, time)
    return model.decode(torch.tanh(tokens), kept, time)


def inputs() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(B, C, SIZE, SIZE, generator=draw), torch.randn(B, WIDTH, generator=draw)


@CHANNELS
def test_the_first_prediction_is_zero_and_tokens_have_the_width(channels: int) -> None:
    model = made(channels, alive=False)
    assert model.encode(*inputs())[0].shape == (B, (SIZE // PATCH) ** 2, WIDTH)
    assert (predict(model, *inputs()) == 0).all()


@CHANNELS
def test_a_prediction_is_four_times_what_the_last_layer_gives(channels: int) -> None:
    model = made(channels, alive=False)
    last = model.conv_out if channels else model.out
    assert last.bias is not None
    with torch.no_grad():
        last.bias.fill_(0.5)
    assert (predict(model, *inputs()) == 2).all()


@torch.no_grad()
def test_a_time_is_read_in_thousandths_through_two_layers_with_silu_between() -> None:
    model = TimeEmbedding(256)
    for layer, size in ((model.rise, 1.0), (model.mix, 3.0)):
        layer.weight.copy_(size * torch.eye(256))
        layer.bias.zero_()
    found = model(torch.tensor([0.001, 0.0]))
    # the first frequency is 1: cos 1 = 0.540302 and sin 1 = 0.841471, each times its own sigmoid
    torch.testing.assert_close(found[0, [0, 128]], 3 * torch.tensor([0.341408, 0.587999]), atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1], 3 * torch.tensor([0.731059] * 128 + [0.0] * 128), atol=1e-5, rtol=0)


@CHANNELS
def test_parameter_count(channels: int) -> None:
    inner = (channels or C) * PATCH**2
    expected = inner * WIDTH + WIDTH + WIDTH * inner + inner
    if channels:
        f = channels
        ends = (9 * C * f + f) + (9 * f * C + C) + 2 * f
        down = 2 * f + 2 * f + 2 * (9 * f * f + f) + (WIDTH * 2 * f + 2 * f)
        up = 4 * f + 2 * f + (18 * f * f + f) + (9 * f * f + f) + (2 * f * f + f) + (WIDTH * 2 * f + 2 * f)
        expected += ends + down + up
    assert sum(parameter.numel() for parameter in made(channels).parameters()) == expected


@CHANNELS
def test_rows_do_not_mix(channels: int) -> None:
    model, (x_t, time) = made(channels), inputs()
    alone = torch.cat([predict(model, x_t[i : i + 1], time[i : i + 1]) for i in range(B)])
    torch.testing.assert_close(predict(model, x_t, time), alone, atol=1e-5, rtol=1e-5)


@CHANNELS
def test_three_steps_reach_every_weight(channels: int) -> None:
    model, (x_t, time) = made(channels, alive=False), inputs()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    reached: set[str] = set()
    for _ in range(4):
        optimizer.zero_grad()
        nn.functional.mse_loss(predict(model, x_t, time), x_t).backward()
        reached |= {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        optimizer.step()
    assert reached == {name for name, _ in model.named_parameters()}


def test_the_u_net_hears_the_time_and_passes_details_by_the_tokens() -> None:
    model, (x_t, time) = made(8), inputs()
    assert not torch.allclose(predict(model, x_t, time), predict(model, x_t, time + 1), atol=1e-3)
    tokens, kept = model.encode(x_t, time)
    assert kept is not None
    silent = model.decode(torch.zeros_like(tokens), kept, time)
    assert silent.std() > 0.05  # without any transformer the latent's details still arrive
    assert not torch.allclose(silent, model.decode(torch.ones_like(tokens), kept, time), atol=1e-3)
