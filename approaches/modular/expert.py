"""The shape of a small transformer of an expert's own."""

from __future__ import annotations

from approaches.shared.denoiser import mlp_width
from approaches.shared.transformer import TransformerConfig

HEADS = 4


def expert_config(width: int, layers: int, *, vocabulary: int = 0) -> TransformerConfig:
    """width: a multiple of HEADS heads of even width. vocabulary: of one that reads and writes words."""
    return TransformerConfig(
        vocabulary=vocabulary,
        width=width,
        layers=layers,
        heads=HEADS,
        kv_heads=HEADS,
        head_width=width // HEADS,
        hidden=mlp_width(width),
        context=0,  # whoever reads sees to it: no weight depends on it
    )
