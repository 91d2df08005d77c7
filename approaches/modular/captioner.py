"""A small captioner of its own: a picture's patches as a soft prefix, then its caption, next token by next token.

Shapes: B rows, C H W a latent, N image tokens, T text tokens, D width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from approaches.modular.expert import expert_config
from approaches.shared.kernels import Kernels
from approaches.shared.patches import Patchify, positions_2d
from approaches.shared.prefix import Prefix
from approaches.shared.reading import read
from approaches.shared.transformer import Transformer

DEVIATION = 0.02  # of fresh embeddings


class Captioner(nn.Module):
    """width: a multiple of twice `HEADS`. vocabulary: the tokenizer's that it writes with."""

    def __init__(
        self,
        patchify: Patchify,
        *,
        width: int,
        layers: int,
        vocabulary: int,
        kernels: Kernels,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        config = expert_config(width, layers, vocabulary=vocabulary)
        self.patchify = patchify
        self.transformer = Transformer(config, kernels)
        self.transformer.initialise(generator)
        self.into = nn.Linear(patchify.width, width)
        nn.init.normal_(self.into.weight, std=DEVIATION, generator=generator)
        nn.init.zeros_(self.into.bias)
        self.place = nn.Parameter(positions_2d(width, patchify.side) * DEVIATION)

    def look(self, latents: Tensor, prefix: Prefix | None = None) -> Prefix:
        """A clean picture, B C H W, read both ways."""
        tokens = self.into(self.patchify.split(latents.to(self.into.weight.dtype))) + self.place
        return read(self.transformer, tokens, prefix, causal=False)[1]

    def loss(self, latents: Tensor, tokens: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
        """Sum of -log p in nats of `targets` (B T, -100 for none), each after the picture and `tokens` (B T)."""
        hidden, _ = read(self.transformer, tokens, self.look(latents), mask)
        return self.transformer.nats(hidden, targets)[0]
