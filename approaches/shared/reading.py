"""A plain transformer that reads on from what it has read: text, or anything embedded, causal or not.

Shapes: B rows, T new tokens, D width, V vocabulary.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor

from approaches.shared.prefix import ALL, Pair, Prefix, reading_mask
from approaches.shared.transformer import Block, Transformer


def read(
    transformer: Transformer,
    inputs: Tensor,
    prefix: Prefix | None = None,
    mask: Tensor | None = None,
    *,
    causal: bool = True,
) -> tuple[Tensor, Prefix]:
    """Hidden states after the final norm, B T D, of token ids (B T) or embeddings (B T D), and the longer prefix.

    mask: B T, False for padding on the right. causal: False lets the new tokens see each other both ways. Causal and
    after nothing, the same operations as `transformer(inputs)`.
    """
    x = inputs if inputs.is_floating_point() else transformer.embed(inputs)
    prefix = Prefix.nothing(len(x), x.device) if prefix is None else prefix
    new = mask if mask is not None else x.new_ones(x.shape[:2]).bool()
    rope = transformer.rotary(prefix.positions(new), x.dtype)
    seen = reading_mask(prefix, new, transformer.kernels.attention, causal=causal)
    pairs: list[Pair] = []
    for index, block in enumerate(transformer.blocks):
        x, pair = cast(Block, block).read(x, rope, seen, prefix.layer(ALL, index))
        pairs.append(pair)
    return transformer.norm(x), prefix.extended({ALL: pairs}, new)


def next_logits(transformer: Transformer, tokens: Tensor, prefix: Prefix) -> tuple[Tensor, Prefix]:
    """Logits after each of further tokens (B T), B T V, and the longer prefix: a language model's `text_step`."""
    hidden, prefix = read(transformer, tokens, prefix)
    return transformer.logits(hidden), prefix
