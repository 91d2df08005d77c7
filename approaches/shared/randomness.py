"""Named torch generators; see bench.seeds."""

from __future__ import annotations

import torch

from bench.seeds import derive


def generator(seed: int, purpose: str, *steps: int) -> torch.Generator:
    """A fresh generator for the stream (seed, purpose, steps), whose draws are the same on every machine."""
    return torch.Generator().manual_seed(derive(seed, purpose, *steps))
