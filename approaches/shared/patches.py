"""Pictures as tokens: patches, what makes tokens of them and back, 2-D positions, and the embedding of the diffusion
time.

Shapes: B batch, C latent channels, H = W = size, p patch, N = (size / p)^2 tokens in row order, D width, F channels of
the U-Net's blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Patchify:
    """Square latents to tokens and back, exactly: every value is moved, none is changed.

    channels: C. size: side of the latent. patch: side of a patch; ValueError where it doesn't divide the size.
    """

    channels: int
    size: int
    patch: int

    def __post_init__(self) -> None:
        if min(self.channels, self.size, self.patch) < 1 or self.size % self.patch:
            raise ValueError(f"patches of side {self.patch} don't tile a latent of side {self.size}")

    @property
    def side(self) -> int:
        """Patches along one side."""
        return self.size // self.patch

    @property
    def tokens(self) -> int:
        """N, tokens a picture."""
        return self.side**2

    @property
    def width(self) -> int:
        """Values a token: C p p."""
        return self.channels * self.patch**2

    def split(self, x: Tensor) -> Tensor:
        """B C H W -> B N C*p*p, tokens row by row, values of a token ordered (channel, row, column)."""
        if tuple(x.shape[1:]) != (self.channels, self.size, self.size):
            raise ValueError(f"latents {tuple(x.shape)}: expected (B, {self.channels}, {self.size}, {self.size})")
        tiles = x.unflatten(3, (self.side, self.patch)).unflatten(2, (self.side, self.patch))
        tokens: Tensor = tiles.permute(0, 2, 4, 1, 3, 5).reshape(x.shape[0], self.tokens, self.width)
        return tokens

    def join(self, tokens: Tensor) -> Tensor:
        """B N C*p*p -> B C H W, the inverse of `split`."""
        if tuple(tokens.shape[1:]) != (self.tokens, self.width):
            raise ValueError(f"tokens {tuple(tokens.shape)}: expected (B, {self.tokens}, {self.width})")
        tiles = tokens.unflatten(2, (self.channels, self.patch, self.patch)).unflatten(1, (self.side, self.side))
        x: Tensor = tiles.permute(0, 3, 1, 4, 2, 5).reshape(-1, self.channels, self.size, self.size)
        return x


def sinusoids(values: Tensor, width: int, *, longest: float = 10_000.0) -> Tensor:
    """cos and sin of each value at width / 2 frequencies from 1 down to 1 / longest, geometrically spaced
    (arXiv 1706.03762): (...) -> (..., width), in float32. Errors: ValueError where width is odd."""
    if width % 2:
        raise ValueError(f"sinusoids of width {width}: expected an even width")
    half = torch.arange(width // 2, device=values.device, dtype=torch.float32)
    angle = values.float().unsqueeze(-1) * torch.exp(-math.log(longest) / (width // 2) * half)
    return torch.cat((angle.cos(), angle.sin()), -1)


def positions_2d(width: int, side: int) -> Tensor:
    """Fixed sinusoids of the row (first half of the width) and the column (second half) of every patch, row by row, as
    in MAE (arXiv 2111.06377): (side^2, width), float32. Errors: ValueError where width is not a multiple of 4."""
    if width % 4:
        raise ValueError(f"2-D positions of width {width}: expected a multiple of 4")
    line = sinusoids(torch.arange(side), width // 2)
    rows = line.unsqueeze(1).expand(side, side, -1)
    return torch.cat((rows, rows.transpose(0, 1)), -1).reshape(side * side, width)


class TimeEmbedding(nn.Module):
    """The diffusion time t in [0, 1], B -> B D: sinusoids of 1000 t in float32, then a two-layer MLP (DiT,
    arXiv 2212.09748). In half precision, sinusoids of 1000 t would confuse neighbouring times."""

    frequencies = 256

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rise = nn.Linear(self.frequencies, width)
        self.mix = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        """B -> B D, in the type of the weights."""
        if t.ndim != 1:
            raise ValueError(f"times {tuple(t.shape)}: expected one a picture, (B,)")
        waves = sinusoids(1000.0 * t.float(), self.frequencies).to(self.rise.weight.dtype)
        embedded: Tensor = self.mix(F.silu(self.rise(waves)))
        return embedded


class ResidualBlock(nn.Module):
    """Group norm, SiLU, 3x3 convolution, twice, around a shortcut; before the second, scale and shift by the time
    (ADM, arXiv 2105.05233). At initialisation the shortcut alone."""

    def __init__(self, channels_in: int, channels: int, time_width: int) -> None:
        super().__init__()
        groups_in, groups = math.gcd(8, channels_in), math.gcd(8, channels)
        self.norm_in, self.norm = nn.GroupNorm(groups_in, channels_in), nn.GroupNorm(groups, channels)
        self.first = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.shortcut = nn.Conv2d(channels_in, channels, 1) if channels_in != channels else nn.Identity()
        self.modulate = nn.Linear(time_width, 2 * channels)
        for layer in (self.modulate, self.second):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(cast(Tensor, layer.bias))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x: B F_in H W. time: B D, embedded. Returns B F H W."""
        shift, scale = self.modulate(F.silu(time))[:, :, None, None].chunk(2, 1)
        hidden = self.norm(self.first(F.silu(self.norm_in(x)))) * (1 + scale) + shift
        out: Tensor = self.shortcut(x) + self.second(F.silu(hidden))
        return out


GAIN = 4.0  # of the last layer, which starts at zero and so reaches the latents' size in fewer steps


class PatchEmbedding(nn.Module):
    """Latents to image tokens, and a transformer's states at them to a prediction: one for all approaches.

    channels: F. Above 0, a residual block on either side with a connection past the transformer, at the latent's own
    size: Transfusion's U-Net blocks, which it found better than a linear layer (arXiv 2408.11039), without halving; 0
    is that linear layer. The skip connection of the way in must be handed back on the way out. At initialisation the
    prediction is exactly 0.
    """

    def __init__(self, patchify: Patchify, width: int, channels: int) -> None:
        super().__init__()
        self.patchify = patchify
        inner = Patchify(channels or patchify.channels, patchify.size, patchify.patch)
        self.inner = inner
        self.into, self.out = nn.Linear(inner.width, width), nn.Linear(width, inner.width)
        if channels:
            self.conv_in = nn.Conv2d(patchify.channels, channels, 3, padding=1)
            self.down, self.up = ResidualBlock(channels, channels, width), ResidualBlock(2 * channels, channels, width)
            self.norm = nn.GroupNorm(math.gcd(8, channels), channels)
            self.conv_out = nn.Conv2d(channels, patchify.channels, 3, padding=1)
        self.channels = channels
        last = self.conv_out if channels else self.out
        nn.init.zeros_(last.weight)
        for layer in (self.into, self.out, last):
            nn.init.zeros_(cast(Tensor, layer.bias))

    def encode(self, x_t: Tensor, time: Tensor) -> tuple[Tensor, Tensor | None]:
        """x_t: B C H W. time: B D, embedded. Returns tokens, B N D, without positions; and what `decode` wants back."""
        x = x_t.to(self.into.weight.dtype)
        if not self.channels:
            return self.into(self.patchify.split(x)), None
        skip = self.down(self.conv_in(x), time)
        return self.into(self.inner.split(skip)), skip

    def decode(self, hidden: Tensor, skip: Tensor | None, time: Tensor) -> Tensor:
        """hidden: B N D, normed. Returns the prediction, B C H W."""
        x = self.inner.join(self.out(hidden))
        if skip is None:
            return GAIN * x
        out: Tensor = self.conv_out(F.silu(self.norm(self.up(torch.cat([x, skip], 1), time))))
        return GAIN * out
