"""The latent diffusion transformer: DiT (arXiv 2212.09748) with the cross-attention and the single adaptive norm of
PixArt-alpha (arXiv 2310.00426) and the normalised queries and keys of SD3 (arXiv 2403.03206).

Shapes: B batch, C latent channels, H = W latent side, N image tokens, E extra tokens, T = N + E, S condition tokens,
D width, A heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from approaches.shared.kernels import AttentionMask, Kernels, attention, rms_norm, swiglu
from approaches.shared.patches import PatchEmbedding, TimeEmbedding, positions_2d
from approaches.shared.prefix import padded

EPS = 1e-6


@dataclass(frozen=True)
class Prepared:
    """Everything of a condition that does not depend on x_t or t: computed once a prompt, used at every step.

    keys, values: one (B, A, S, D / A) a layer. mask: (B, S) bool, True = counts. tokens: (B, E, D) extra tokens, or
    None. tokens_mask: (B, E) bool, or None.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor
    tokens: Tensor | None = None
    tokens_mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.mask)

    def select(self, index: Tensor) -> Prepared:
        """The items at `index` (int64 or bool over B), in its order, repeated where it repeats."""
        tokens, tokens_mask = self.tokens, self.tokens_mask
        return Prepared(
            keys=tuple(k[index] for k in self.keys),
            values=tuple(v[index] for v in self.values),
            mask=self.mask[index],
            tokens=None if tokens is None else tokens[index],
            tokens_mask=None if tokens_mask is None else tokens_mask[index],
        )

    @staticmethod
    def cat(parts: Sequence[Prepared]) -> Prepared:
        """One batch of several, padded to the longest condition and to the most extra tokens; padding is masked."""
        longest = max(part.mask.shape[1] for part in parts)
        layers = range(len(parts[0].keys))
        tokens = tokens_mask = None
        given = [part.tokens for part in parts if part.tokens is not None]
        if given:
            most, like = max(extra.shape[1] for extra in given), given[0]
            empty = [like.new_zeros(part.mask.shape[0], 0, like.shape[2]) for part in parts]
            extras = [none if part.tokens is None else part.tokens for part, none in zip(parts, empty, strict=True)]
            masks = [
                extra.new_ones(extra.shape[:2], dtype=torch.bool) if part.tokens_mask is None else part.tokens_mask
                for part, extra in zip(parts, extras, strict=True)
            ]
            tokens = torch.cat([padded(extra, 1, most) for extra in extras])
            tokens_mask = torch.cat([padded(mask, 1, most) for mask in masks])
        return Prepared(
            keys=tuple(torch.cat([padded(part.keys[i], 2, longest) for part in parts]) for i in layers),
            values=tuple(torch.cat([padded(part.values[i], 2, longest) for part in parts]) for i in layers),
            mask=torch.cat([padded(part.mask, 1, longest) for part in parts]),
            tokens=tokens,
            tokens_mask=tokens_mask,
        )


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm without weights of its own, then the time's scale and shift (B 1 D)."""
    return torch.addcmul(shift, F.layer_norm(x, (x.shape[-1],), eps=EPS), 1.0 + scale)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """B T D -> B A T D/A."""
    parts: Tensor = x.unflatten(-1, (heads, -1)).transpose(1, 2)
    return parts


class DenoiserBlock(nn.Module):
    """Self-attention over all tokens, cross-attention to the condition, SwiGLU. At initialisation the identity."""

    entries = ("condition",)  # see Approach.blocks

    def __init__(self, width: int, heads: int, hidden: int, kernels: Kernels) -> None:
        super().__init__()
        self.heads = heads
        self.kernels = kernels
        self.table = nn.Parameter(torch.zeros(6, width))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.cross_q = nn.Linear(width, width, bias=False)
        self.cross_kv = nn.Linear(width, 2 * width, bias=False)
        self.cross_out = nn.Linear(width, width, bias=False)
        self.q_norm, self.k_norm, self.cross_q_norm, self.cross_k_norm = (
            nn.Parameter(torch.ones(width // heads)) for _ in range(4)
        )
        self.up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def _normal(self, x: Tensor, weight: Tensor) -> Tensor:
        return rms_norm(x, weight, EPS, backend=self.kernels.norm)

    def condition(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a condition (B S D), (B A S D/A) each."""
        k, v = (_split_heads(part, self.heads) for part in self.cross_kv(condition).chunk(2, -1))
        return self._normal(k, self.cross_k_norm), v

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        keys: Tensor,
        values: Tensor,
        cross_mask: AttentionMask | None,
        self_mask: AttentionMask | None,
    ) -> Tensor:
        """x: B T D. time: B 6 D, the modulation common to all blocks. keys, values: from `condition`. Returns B T D."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = (self.table + time).unsqueeze(2).unbind(1)
        q, k, v = (_split_heads(part, self.heads) for part in self.qkv(_modulate(x, shift, scale)).chunk(3, -1))
        q, k = self._normal(q, self.q_norm), self._normal(k, self.k_norm)
        mixed = attention(q, k, v, mask=self_mask, backend=self.kernels.over_padding)
        x = torch.addcmul(x, gate, self.out(mixed.transpose(1, 2).flatten(2)))
        q = self._normal(_split_heads(self.cross_q(x), self.heads), self.cross_q_norm)
        mixed = attention(q, keys, values, mask=cross_mask, backend=self.kernels.over_padding)
        x = x + self.cross_out(mixed.transpose(1, 2).flatten(2))
        gates, ups = self.up(_modulate(x, mlp_shift, mlp_scale)).chunk(2, -1)
        return torch.addcmul(x, mlp_gate, self.down(swiglu(gates, ups, backend=self.kernels.swiglu)))


class Denoiser(nn.Module):
    """What the scheduler asks for (flow, noise or v) from x_t, t and a condition.

    patches: tokens of latents and back, of this width. width: a multiple of 4 and of heads.
    condition_width: of the condition's vectors, say a language model's hidden states. layout_width: of the extra
    tokens; None where they come `width` wide. Weights are drawn from torch's global generator; the output and every
    residual branch start at zero, so the first prediction is exactly 0. Errors: ValueError on sizes that don't divide.
    """

    def __init__(
        self,
        patches: PatchEmbedding,
        width: int,
        layers: int,
        heads: int,
        condition_width: int,
        kernels: Kernels,
        layout_width: int | None = None,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} doesn't divide into {heads} heads")
        self.kernels = kernels
        self.positions: Tensor
        self.register_buffer("positions", positions_2d(width, patches.patchify.side), persistent=False)
        self.time = TimeEmbedding(width)
        self.modulation = nn.Linear(width, 8 * width)
        self.condition_norm = nn.Parameter(torch.ones(condition_width))
        self.condition_in = nn.Linear(condition_width, width)
        self.layout_in = None if layout_width is None else nn.Linear(layout_width, width)
        self.layers = nn.ModuleList(DenoiserBlock(width, heads, mlp_width(width), kernels) for _ in range(layers))
        initialise(self)
        for zero in (self.modulation, *(block.cross_out for block in self.blocks())):
            nn.init.zeros_(zero.weight)
        self.patches = patches  # behind `initialise`, which would draw them anew

    def blocks(self) -> list[DenoiserBlock]:
        """The layers, in order: the units for compiling and sharding."""
        return [block for block in self.layers if isinstance(block, DenoiserBlock)]

    def prepare(
        self,
        condition: Tensor,
        mask: Tensor | None = None,
        tokens: Tensor | None = None,
        tokens_mask: Tensor | None = None,
    ) -> Prepared:
        """A condition (B S condition_width) and extra tokens (B E layout_width) as every layer will want them.

        Where a mask (B S or B E, bool) is False, the vector there has no influence, whatever it holds, NaN included;
        no vector at all is a condition too. Errors: ValueError on shapes that don't fit.
        """
        if mask is None:
            mask = condition.new_ones(condition.shape[:2], dtype=torch.bool)
        if mask.shape != condition.shape[:2] or condition.shape[-1] != self.condition_norm.shape[0]:
            raise ValueError(
                f"a condition {tuple(condition.shape)} with a mask {tuple(mask.shape)}: expected"
                f" (B, S, {self.condition_norm.shape[0]}) and (B, S)"
            )
        condition = condition.to(self.condition_in.weight.dtype).masked_fill(~mask.unsqueeze(-1), 0.0)
        # Hidden states of language models have a few coordinates hundreds of times larger than the rest.
        condition = rms_norm(condition, self.condition_norm, EPS, backend=self.kernels.norm)
        condition = self.condition_in(condition)
        pairs = [block.condition(condition) for block in self.blocks()]
        if tokens is not None:
            tokens = self._layout(tokens, tokens_mask)
        keys, values = tuple(k for k, _ in pairs), tuple(v for _, v in pairs)
        return Prepared(keys=keys, values=values, mask=mask, tokens=tokens, tokens_mask=tokens_mask)

    def _layout(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Extra tokens at the width of the image's."""
        width = self.time.mix.out_features if self.layout_in is None else self.layout_in.in_features
        if tokens.shape[-1] != width or (mask is not None and mask.shape != tokens.shape[:2]):
            raise ValueError(f"extra tokens {tuple(tokens.shape)}: expected (B, E, {width}) and a mask (B, E)")
        tokens = tokens.to(self.time.mix.weight.dtype)
        if mask is not None:
            tokens = tokens.masked_fill(~mask.unsqueeze(-1), 0.0)
        return tokens if self.layout_in is None else self.layout_in(tokens)

    def forward(self, x_t: Tensor, t: Tensor, condition: Prepared) -> Tensor:
        """The prediction, B C H W, for x_t (B C H W) at t (B, in [0, 1]) under a condition that `prepare` made."""
        embedded = self.time(t)
        x, skip = self.patches.encode(x_t, embedded)
        x = x.to(self.positions.dtype) + self.positions  # autocast's half precision is too little for a residual sum
        images = x.shape[1]
        if condition.tokens is not None:
            x = torch.cat((x, condition.tokens), 1)
        backend = self.kernels.over_padding
        cross_mask = AttentionMask.over(condition.mask, x.shape[1]).build(backend)
        self_mask = None
        if condition.tokens_mask is not None:
            real = condition.tokens_mask.new_ones(x.shape[0], images)
            seen = AttentionMask.over(torch.cat((real, condition.tokens_mask), 1), x.shape[1], may_be_empty=False)
            self_mask = seen.build(backend)
        time = self.modulation(F.silu(embedded)).unflatten(-1, (8, -1))
        for block, keys, values in zip(self.blocks(), condition.keys, condition.values, strict=True):
            x = block(x, time[:, :6], keys, values, cross_mask, self_mask)
        shift, scale = time[:, 6:].unsqueeze(2).unbind(1)
        return self.patches.decode(_modulate(x[:, :images], shift, scale), skip, embedded)


def mlp_width(width: int) -> int:
    """Hidden width of the SwiGLU: 8/3 of the width, so that its three matrices hold what a plain MLP's two of 4 x width
    do (arXiv 2002.05202), rounded up to a multiple of 16."""
    return -(-8 * width // 48) * 16


def initialise(module: nn.Module) -> None:
    """Glorot's uniform weights for every projection inside, biases 0."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
