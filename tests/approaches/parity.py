"""What the parity tests share: a backend's place, its tolerance, and repeatable inputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from approaches.shared.kernels import BACKENDS, Backend


def backends(operation: str) -> list[object]:
    # The first use of torch.compile takes the compiler's ten seconds.
    return [
        pytest.param(backend, id=backend.name, marks=[pytest.mark.slow] if backend.name == "compiled" else [])
        for backend in BACKENDS
        if backend.operation == operation
    ]


def place(backend: Backend, *, training: bool) -> tuple[torch.device, torch.dtype, float]:
    """Where to compare, in which type and how closely: CUDA where there is one, else the CPU in float64."""
    on_cuda = torch.cuda.is_available()
    device = torch.device("cuda" if on_cuda else "cpu")
    if obstacle := backend.obstacle(device, training=training):
        pytest.skip(obstacle)
    return device, torch.float32 if on_cuda else torch.float64, 3e-3 if on_cuda else 1e-12


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(got: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)
