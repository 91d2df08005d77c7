"""Connectors between a frozen network's states and whoever reads them, and the small encoder of latents.

    linear   one projection a state (FROMAGe, arXiv 2301.13823)
    mlp      a network of its own on each state (LLaVA-1.5, arXiv 2310.03744)
    encoder  the states look at each other, one vector a state (MetaQuery, arXiv 2504.06256)
    qformer  learned queries that look at each other and into the states (BLIP-2, arXiv 2301.12597)

Shapes: B batch, S states read, I their width, R vectors given (S, or a Q-Former's Q queries), O their width, W inner
width, A heads, C H W a latent, N image tokens. A mask is bool, B S, True for what counts: what it hides has no
influence, whatever it holds. Weights are drawn from torch's global generator.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from approaches.shared.denoiser import initialise, mlp_width
from approaches.shared.kernels import AttentionMask, Kernels, attention, swiglu
from approaches.shared.patches import Patchify, positions_2d
from approaches.shared.transformer import RMSNorm

EPS = 1e-6
Kind = Literal["qformer", "encoder", "mlp", "linear"]


@dataclass(frozen=True, kw_only=True)
class ConnectorShape:
    """Which connector and its size. depth: hidden layers of an mlp, blocks of the others. queries: a qformer's Q.

    ValueError where the width doesn't divide into the heads.
    """

    kind: Kind
    width: int
    depth: int
    heads: int
    queries: int

    def __post_init__(self) -> None:
        """Judge the fields."""
        if self.width % self.heads:
            raise ValueError(f"a width of {self.width} doesn't divide into {self.heads} heads")


class Connector(nn.Module, ABC):
    """States B S I, and their mask, to vectors B R O, and theirs; the states are normalised first."""

    def __init__(self, states: int, kernels: Kernels) -> None:
        super().__init__()
        self.kernels = kernels
        self.norm = RMSNorm(states, EPS, kernels.norm)

    def forward(self, states: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See the class. Errors: ValueError on a mask that doesn't fit."""
        if mask is None:
            mask = states.new_ones(states.shape[:2], dtype=torch.bool)
        if mask.shape != states.shape[:2]:
            raise ValueError(f"states {tuple(states.shape)} with a mask {tuple(mask.shape)}: expected (B, S)")
        return self.connect(self.norm(states.masked_fill(~mask.unsqueeze(-1), 0.0)), mask)

    @abstractmethod
    def connect(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The connector's own part, on normalised states."""

    def blocks(self) -> list[nn.Module]:
        """The repeated layers."""
        return []


class PerState(Connector):
    """Each state by itself, R = S: `depth` hidden layers with GELU, none for a linear connector."""

    def __init__(self, states: int, out: int, width: int, depth: int, kernels: Kernels) -> None:
        super().__init__(states, kernels)
        widths = [states, *[width] * depth, out]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True))
        initialise(self)

    def blocks(self) -> list[nn.Module]:
        """The layers between its first and its last."""
        return list(self.layers[1:-1])

    def connect(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See Connector."""
        for place, layer in enumerate(self.layers):
            states = layer(F.gelu(states) if place else states)
        return states, mask


class ConnectorBlock(nn.Module):
    """Self-attention, cross-attention into a context where there is one (`context`: its width), SwiGLU; norms first."""

    def __init__(self, width: int, heads: int, kernels: Kernels, context: int | None = None) -> None:
        super().__init__()
        self.heads, self.kernels = heads, kernels
        self.self_norm, self.mlp_norm = (RMSNorm(width, EPS, kernels.norm) for _ in range(2))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 2 * mlp_width(width), bias=False)
        self.down = nn.Linear(mlp_width(width), width, bias=False)
        self.cross_norm = None if context is None else RMSNorm(width, EPS, kernels.norm)
        if context is not None:
            self.cross_q = nn.Linear(width, width, bias=False)
            self.cross_kv = nn.Linear(context, 2 * width, bias=False)
            self.cross_out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: AttentionMask | None = None) -> Tensor:
        """B T W -> B T W. context: B S I, of which each token sees what the mask allows; without one the mask is of x
        itself."""
        q, k, v = self.qkv(self.self_norm(x)).chunk(3, -1)
        x = x + self.out(self._attend(q, k, v, mask if context is None else None))
        if self.cross_norm is not None and context is not None:
            keys, values = self.cross_kv(context).chunk(2, -1)
            x = x + self.cross_out(self._attend(self.cross_q(self.cross_norm(x)), keys, values, mask))
        gate, up = self.up(self.mlp_norm(x)).chunk(2, -1)
        lowered: Tensor = self.down(swiglu(gate, up, backend=self.kernels.swiglu))
        return x + lowered

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask | None) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        return attention(q, k, v, mask=mask, backend=self.kernels.over_padding).transpose(1, 2).flatten(2)


class QFormer(Connector):
    """Q learned queries through `depth` blocks, R = Q, all of which count, even where no state does."""

    def __init__(self, states: int, out: int, shape: ConnectorShape, kernels: Kernels) -> None:
        super().__init__(states, kernels)
        self.queries = nn.Parameter(torch.randn(shape.queries, shape.width))
        layers = (ConnectorBlock(shape.width, shape.heads, kernels, context=states) for _ in range(shape.depth))
        self.layers = nn.ModuleList(layers)
        self.out_norm = RMSNorm(shape.width, EPS, kernels.norm)
        self.out = nn.Linear(shape.width, out)
        initialise(self)

    def connect(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See Connector."""
        x = self.queries.expand(len(states), -1, -1)
        seen = AttentionMask.over(mask, x.shape[1]).build(self.kernels.over_padding)
        for block in self.layers:
            x = block(x, states, seen)
        return self.out(self.out_norm(x)), mask.new_ones(x.shape[:2])

    def blocks(self) -> list[nn.Module]:
        """See Connector."""
        return list(self.layers)


class StateEncoder(Connector):
    """`depth` bidirectional blocks over the states, R = S."""

    def __init__(self, states: int, out: int, shape: ConnectorShape, kernels: Kernels) -> None:
        super().__init__(states, kernels)
        self.into = nn.Linear(states, shape.width)
        self.layers = nn.ModuleList(ConnectorBlock(shape.width, shape.heads, kernels) for _ in range(shape.depth))
        self.out_norm = RMSNorm(shape.width, EPS, kernels.norm)
        self.out = nn.Linear(shape.width, out)
        initialise(self)

    def connect(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See Connector."""
        x = self.into(states).to(self.into.weight.dtype)  # autocast's half precision is too little for a residual sum
        seen = AttentionMask.over(mask, x.shape[1]).build(self.kernels.over_padding)
        for block in self.layers:
            x = block(x, None, seen)
        return self.out(self.out_norm(x)), mask

    def blocks(self) -> list[nn.Module]:
        """See Connector."""
        return list(self.layers)


class LatentEncoder(nn.Module):
    """Clean latents, B C H W -> visual features, B N W: patches with 2-D positions through bidirectional blocks."""

    positions: Tensor

    def __init__(self, patchify: Patchify, width: int, layers: int, heads: int, kernels: Kernels) -> None:
        super().__init__()
        self.patchify = patchify
        self.register_buffer("positions", positions_2d(width, patchify.side), persistent=False)
        self.patch_in = nn.Linear(patchify.width, width)
        self.layers = nn.ModuleList(ConnectorBlock(width, heads, kernels) for _ in range(layers))
        initialise(self)

    def forward(self, latents: Tensor) -> Tensor:
        """See the class."""
        patches = self.patchify.split(latents).to(self.patch_in.weight.dtype)
        x: Tensor = self.patch_in(patches) + self.positions.to(patches.dtype)
        for block in self.layers:
            x = block(x)
        return x

    def blocks(self) -> list[nn.Module]:
        """The repeated layers."""
        return list(self.layers)


def build_connector(shape: ConnectorShape, states: int, out: int, kernels: Kernels) -> Connector:
    """The connector of a shape, from states of width I to vectors of width O."""
    if shape.kind == "qformer":
        return QFormer(states, out, shape, kernels)
    if shape.kind == "encoder":
        return StateEncoder(states, out, shape, kernels)
    return PerState(states, out, shape.width, shape.depth if shape.kind == "mlp" else 0, kernels)
