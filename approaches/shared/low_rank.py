"""LoRA (arXiv 2106.09685): a frozen linear layer plus a trained update of low rank, which starts at zero."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LowRank(nn.Module):
    """y = W x + 2 B A x, W frozen, A (rank x in) random, B (out x rank) zero; 2 is alpha / rank as commonly set."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """... in -> ... out."""
        update = nn.functional.linear(nn.functional.linear(x, self.down), self.up)
        updated: Tensor = self.base(x) + 2.0 * update
        return updated


def add_low_rank(module: nn.Module, rank: int) -> None:
    """Replace every linear layer inside `module`."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, LowRank(child, rank))
        else:
            add_low_rank(child, rank)
