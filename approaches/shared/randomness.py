"""Named torch generators; see bench.seeds."""

from __future__ import annotations

import torch

from bench.seeds import derive


def generator(seed: int, purpose: str, *steps: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for the stream (seed, purpose, steps). Draws on "cpu" are the same on every machine."""
    return torch.Generator(device=device).manual_seed(derive(seed, purpose, *steps))
