"""The hot operations, each with an eager reference and faster twins that are tested against it.

Modules take a `Kernels` (from `choose`) and name its backends in their calls, so the choice is made once a run and
stands in its record."""

from approaches.shared.kernels.attention import (
    AttentionMask,
    attention,
    causal_mask,
    compiled_by_shape,
    reference_attention,
)
from approaches.shared.kernels.choice import BACKENDS, REFERENCE, Backend, Kernels, choose, compile_obstacle
from approaches.shared.kernels.cross_entropy import linear_cross_entropy
from approaches.shared.kernels.norms import rms_norm, swiglu

__all__ = [
    "BACKENDS",
    "REFERENCE",
    "AttentionMask",
    "Backend",
    "Kernels",
    "attention",
    "causal_mask",
    "choose",
    "compile_obstacle",
    "compiled_by_shape",
    "linear_cross_entropy",
    "reference_attention",
    "rms_norm",
    "swiglu",
]
