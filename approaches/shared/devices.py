"""Ways to a device. A leaf module."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(value: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on a device; to a GPU without waiting for the copy, which only pinned memory allows."""
    place = torch.device(device)
    if place.type == "cuda" and value.device.type == "cpu":
        value = value.pin_memory()
    return value.to(place, non_blocking=True)
