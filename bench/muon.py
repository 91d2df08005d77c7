"""Muon (https://kellerjordan.github.io/posts/muon): momentum, turned into the nearest matrix with orthonormal rows or
columns. For the matrices of hidden layers; everything else stays with AdamW.

Steps are scaled as in Moonlight (arXiv 2502.16982, section 2.2), so that their root mean square is AdamW's usual 0.2
and one learning rate serves both. torch.optim.Muon computes in bfloat16 everywhere, which CPUs do hundreds of times
slower than float32; this one does so on accelerators only.

Shapes: M N a matrix, K how many of that shape are worked on together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.shards import full, like, working
from bench.trainee import decaying

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic; singular values end between 0.7 and 1.2
ITERATIONS = 5
ROOT_MEAN_SQUARE = 0.2
MOMENTUM = 0.95
CHUNK_BYTES = 2**28  # of matrices that are put together and worked on at a time, in single precision


def orthogonalised(matrices: Tensor) -> Tensor:
    """K M N matrices with their singular values brought to about 1, by Newton and Schulz's iteration; a matrix of zeros
    stays so. In the type of the input."""
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x  # the iteration multiplies the shorter sides
    x = _iterated(x) if matrices.is_cuda else _polynomial(x @ x.mT) @ x
    return (x.mT if tall else x).to(matrices.dtype)


def _iterated(x: Tensor) -> Tensor:
    """K M N matrices after the iteration x <- (a + b S + c S^2) x with S = x x^T, as it is written down."""
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x


def _polynomial(square: Tensor) -> Tensor:
    """K M M: what the same iteration multiplies x by in the end, from x x^T alone: products of the shorter sides only,
    half the work for a matrix of 1 to 3. Squares the singular values, which single precision bears and half does not.
    """
    a, b, c = COEFFICIENTS
    whole = torch.empty(0)
    for index in range(ITERATIONS):
        factor = torch.baddbmm(square, square, square, beta=b, alpha=c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        whole = factor @ whole if index else factor
        if index + 1 < ITERATIONS:
            square = factor @ square @ factor
    return whole


def at_a_time(shape: tuple[int, ...]) -> int:
    """How many matrices of a shape are worked on together."""
    return max(1, CHUNK_BYTES // (4 * math.prod(shape)))


def muon_and_adamw(
    groups: Sequence[tuple[Sequence[Tensor], float]],
    hidden: Iterable[Tensor],
    decay: float,
    *,
    betas: tuple[float, float],
) -> list[torch.optim.Optimizer]:
    """Optimizers for groups of parameters, each with its peak learning rate: AdamW for what is not in `hidden`, Muon
    for what is, where there is any."""
    inside = {id(matrix) for matrix in hidden}
    rest = [([p for p in parameters if id(p) not in inside], rate) for parameters, rate in groups]
    turned = [([p for p in parameters if id(p) in inside], rate) for parameters, rate in groups]
    matrices = [{"params": params, "lr": rate, "weight_decay": decay} for params, rate in turned if params]
    adamw = decaying(rest, decay, betas=betas)
    return [adamw, Muon(matrices)] if matrices else [adamw]


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; decoupled weight decay. groups: as AdamW's, of matrices alone. ValueError on
    anything that is no matrix. A sharded matrix is put together on every rank for its step."""

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 1e-3, "weight_decay": 0.0})
        if wrong := [tuple(p.shape) for group in self.param_groups for p in group["params"] if p.ndim != 2]:
            raise ValueError(f"Muon is for matrices, and was given {wrong[0]}")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step along the gradients; a matrix without one is left alone."""
        for group in self.param_groups:
            moving = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not moving:
                continue
            for parameter in moving:
                if not self.state[parameter]:
                    self.state[parameter]["momentum"] = torch.zeros_like(parameter)
            gradients = [parameter.grad for parameter in moving]
            momenta = [self.state[parameter]["momentum"] for parameter in moving]
            torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
            ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)
            torch._foreach_mul_(moving, 1 - group["lr"] * group["weight_decay"])
            alike: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
            for parameter, along in zip(moving, ahead, strict=True):
                alike.setdefault(tuple(parameter.shape), []).append((parameter, along))
            for shape, pairs in alike.items():
                rate = group["lr"] * ROOT_MEAN_SQUARE * max(shape) ** 0.5
                count = at_a_time(shape)
                for first in range(0, len(pairs), count):
                    some = pairs[first : first + count]
                    place = working(some[0][0])
                    turned = orthogonalised(torch.stack([full(along).to(place) for _, along in some]))
                    steps = [like(along, parameter) for (parameter, _), along in zip(some, turned, strict=True)]
                    torch._foreach_add_([parameter for parameter, _ in some], steps, alpha=-rate)
