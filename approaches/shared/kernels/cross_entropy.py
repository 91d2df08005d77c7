"""Cross entropy of a linear head, without holding all logits where a backend can.

Shapes: N rows (tokens), D width, V vocabulary. The largest tensor of a language model's step is N x V logits in
float32: 16 x 1024 tokens of SmolLM2 are 3.2 GB, and their gradient as much again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORED = -100
"""The target of a row that does not count, as torch has it."""


def _eager(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
    """The reference: all logits, log-softmax in float32."""
    logits = F.linear(hidden, weight)
    share = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    return F.nll_loss(share, targets, ignore_index=IGNORED, reduction="sum")


class _Chunked(torch.autograd.Function):
    """The sum and, in the same pass, its gradients, `chunk` rows at a time: the gradient of a sum of losses is known up
    to one scalar before backward begins, so the logits are made once, not kept and not made again."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int, want: tuple[bool, bool]
    ) -> Tensor:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        total = torch.zeros((), dtype=exact, device=hidden.device)
        to_hidden = torch.empty_like(hidden) if want[0] else None
        to_weight = torch.zeros_like(weight, dtype=exact) if want[1] else None
        read = weight.to(hidden.dtype) if want[0] else None  # once: a large one takes as long as a chunk's products
        for start in range(0, hidden.shape[0], chunk):
            rows, names = hidden[start : start + chunk], targets[start : start + chunk]
            counted = (names != IGNORED).unsqueeze(1)
            names = names.masked_fill(names == IGNORED, 0).unsqueeze(1)
            logits = F.linear(rows, weight).to(exact)
            normaliser = logits.logsumexp(-1, keepdim=True)
            total += (normaliser - logits.gather(1, names)).mul_(counted).sum()
            if to_hidden is None and to_weight is None:
                continue
            slope = logits.sub_(normaliser).exp_()
            slope.scatter_add_(1, names, slope.new_full((), -1.0).expand_as(names)).mul_(counted)
            slope = slope.to(rows.dtype)
            if to_hidden is not None and read is not None:
                to_hidden[start : start + chunk] = slope @ read
            if to_weight is not None:
                to_weight += slope.t() @ rows  # in float32: many small chunks add up
        ctx.save_for_backward(to_hidden, None if to_weight is None else to_weight.to(weight.dtype))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        scale = upstream[0]
        to_hidden, to_weight = (None if g is None else _scaled(g, scale) for g in ctx.saved_tensors)
        return to_hidden, to_weight, None, None, None


def _scaled(gradient: Tensor, scale: Tensor) -> Tensor:
    """In half precision a rounded scale would be the same error in every row."""
    exact = torch.promote_types(gradient.dtype, torch.float32)
    return (gradient.to(exact) * scale.to(exact)).to(gradient.dtype)


def _chunked(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
    """Never more than chunk x V logits; as many FLOPs as the reference, and V x D of gradient held till backward."""
    training = torch.is_grad_enabled()
    want = (training and hidden.requires_grad, training and weight.requires_grad)
    total: Tensor = _Chunked.apply(hidden, weight, targets, chunk, want)  # type: ignore[no-untyped-call]
    return total


def _liger(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
    """Liger's fused Triton kernel (arXiv 2410.10989); it picks its own chunk."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    # Without accum_dtype the weight's gradient adds up in the weight's own type, bfloat16 included.
    fused = LigerFusedLinearCrossEntropyLoss(ignore_index=IGNORED, reduction="sum", accum_dtype=torch.float32)
    loss: Tensor = fused(weight, hidden, targets)
    return loss.float()


CROSS_ENTROPY: dict[str, Callable[[Tensor, Tensor, Tensor, int], Tensor]] = {
    "eager": _eager,
    "chunked": _chunked,
    "liger": _liger,
}


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, backend: str, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """The summed negative log-likelihood of `targets` under softmax(hidden weight^T), and how many targets it sums.

    hidden: N D. weight: V D. targets: N int64, -100 where a row does not count. Returns two scalars: the sum in
    float32 (float64 for float64 inputs; 0 where no row counts, never NaN), and the int64 count. chunk: rows at a time,
    for the chunked backend; by default 512, on CUDA as many as have 2^28 logits.
    Errors: ValueError on shapes that don't fit.
    """
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1] or targets.shape != hidden.shape[:1]:
        shapes = (tuple(hidden.shape), tuple(weight.shape), tuple(targets.shape))
        raise ValueError(f"cross entropy of hidden, weight, targets {shapes}: expected (N, D), (V, D), (N,)")
    if chunk is None:  # on CUDA few launches, and the weight's gradient is rarely added to
        chunk = max(512, 2**28 // len(weight)) if hidden.is_cuda else 512
    total = CROSS_ENTROPY[backend](hidden, weight, targets, chunk)
    return total, (targets != IGNORED).sum()
