"""RMS norm and SwiGLU: the pointwise half of a Llama block. Shapes: any leading ones, D last."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


def _rms_eager(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The reference, as Llama does: statistics in float32, rounded to x's type before the weight."""
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    scaled = exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + eps)
    return weight * scaled.to(x.dtype)


def _rms_fused(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """PyTorch's own rms_norm."""
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


def _rms_liger(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Liger's Triton kernel, in its Llama rounding. Not in place: the incoming gradient may be a residual's too."""
    from liger_kernel.transformers.functional import liger_rms_norm

    out: Tensor = liger_rms_norm(x, weight, eps, 0.0, "llama", False)
    return out


def _swiglu_eager(gate: Tensor, up: Tensor) -> Tensor:
    """The reference."""
    return F.silu(gate) * up


@lru_cache(maxsize=1)
def _compiled() -> Callable[[Tensor, Tensor], Tensor]:
    return torch.compile(_swiglu_eager, dynamic=True)


def _swiglu_compiled(gate: Tensor, up: Tensor) -> Tensor:
    """The reference through torch.compile: one pass over memory; the first call takes the compiler's seconds."""
    return _compiled()(gate, up)


def _swiglu_liger(gate: Tensor, up: Tensor) -> Tensor:
    """Liger's Triton kernel, which recomputes silu in backward instead of keeping it."""
    from liger_kernel.transformers.functional import liger_swiglu

    out: Tensor = liger_swiglu(gate, up)
    return out


NORM: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "eager": _rms_eager,
    "fused": _rms_fused,
    "liger": _rms_liger,
}
SWIGLU: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "eager": _swiglu_eager,
    "compiled": _swiglu_compiled,
    "liger": _swiglu_liger,
}


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, backend: str) -> Tensor:
    """The last dimension of x over its root mean square, times weight (D): x / sqrt(mean(x^2) + eps) * weight, in x's
    type (arXiv 1910.07467)."""
    return NORM[backend](x, weight, eps)


def swiglu(gate: Tensor, up: Tensor, *, backend: str) -> Tensor:
    """silu(gate) * up (arXiv 2002.05202); two tensors of one shape."""
    return SWIGLU[backend](gate, up)
