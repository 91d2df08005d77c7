"""A Llama-family decoder, open for surgery: RMSNorm, rotary positions, grouped queries, SwiGLU (arXiv 2302.13971).

Shapes: B batch, T tokens, D width, H query heads, G key/value heads, K head width, V vocabulary. What reads on from
earlier keys and values is `approaches.shared.reading`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from approaches.shared.kernels import AttentionMask, Kernels, attention, linear_cross_entropy, rms_norm, swiglu
from approaches.shared.prefix import Pair

Rope = tuple[Tensor, Tensor]
"""The cosines and sines that turn queries and keys by their positions."""


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Llama 3's stretching of the slow rotary frequencies (arXiv 2407.21783)."""

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_context: int


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """A decoder's shape. The biases are Qwen 2's (query, key, value) and Llama's optional ones.

    qk_norm: Qwen 3's, of each head's queries and keys. unrotated: SmolLM3's layers without positions (arXiv
    2501.18795)."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    hidden: int
    context: int
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5
    tied: bool = True
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    unrotated: tuple[int, ...] = ()


class RMSNorm(nn.Module):
    """x / rms(x) * weight, over the last dimension (arXiv 1910.07467)."""

    def __init__(self, width: int, eps: float, backend: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps, self.backend = eps, backend

    def forward(self, x: Tensor) -> Tensor:
        """... D -> ... D."""
        return rms_norm(x, self.weight, self.eps, backend=self.backend)


class Rotary(nn.Module):
    """Rotary positions (arXiv 2104.09864), the halves layout of Hugging Face's checkpoints; angles in float32."""

    frequencies: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        exponents = torch.arange(0, config.head_width, 2, dtype=torch.int64).float() / config.head_width
        frequencies = 1.0 / config.rope_theta**exponents
        if config.rope_scaling is not None:
            frequencies = _stretched(frequencies, config.rope_scaling)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, positions: Tensor, dtype: torch.dtype) -> Rope:
        """positions (T or B T) -> cos, sin, each 1 or B, 1, T, K."""
        angles = positions.float()[..., None] * self.frequencies
        angles = torch.cat([angles, angles], dim=-1)
        angles = angles[None, None] if angles.ndim == 2 else angles[:, None]
        return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, rope: Rope) -> Tensor:
    """Turn each pair (x_i, x_{i + K/2}) of queries or keys, B H T K, by its position's angle; in the type of x, which
    is half precision under autocast, where the angles are not."""
    cos, sin = rope
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)


class Block(nn.Module):
    """One layer. The parts are separate methods, because integrating a second modality is surgery on them."""

    entries = ("read", "pair")  # see Approach.blocks

    def __init__(self, config: TransformerConfig, kernels: Kernels, *, rotates: bool = True) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width = config.heads, config.kv_heads, config.head_width
        self.kernels, self.rotates = kernels, rotates
        queries, keys = config.heads * config.head_width, config.kv_heads * config.head_width
        self.attention_norm = RMSNorm(config.width, config.norm_eps, kernels.norm)
        self.q = nn.Linear(config.width, queries, bias=config.qkv_bias)
        self.k = nn.Linear(config.width, keys, bias=config.qkv_bias)
        self.v = nn.Linear(config.width, keys, bias=config.qkv_bias)
        self.q_norm, self.k_norm = (
            RMSNorm(config.head_width, config.norm_eps, kernels.norm) if config.qk_norm else nn.Identity()
            for _ in range(2)
        )
        self.o = nn.Linear(queries, config.width, bias=config.output_bias)
        self.mlp_norm = RMSNorm(config.width, config.norm_eps, kernels.norm)
        self.gate = nn.Linear(config.width, config.hidden, bias=config.mlp_bias)
        self.up = nn.Linear(config.width, config.hidden, bias=config.mlp_bias)
        self.down = nn.Linear(config.hidden, config.width, bias=config.mlp_bias)

    def queries(self, normed: Tensor, rope: Rope) -> Tensor:
        """B T D -> B H T K, rotated."""
        return self._placed(self.q_norm(self._split(self.q(normed), self.heads)), rope)

    def keys_values(self, normed: Tensor, rope: Rope) -> Pair:
        """B T D -> keys (rotated) and values, each B G T K."""
        k, v = (self._split(project(normed), self.kv_heads) for project in (self.k, self.v))
        return self._placed(self.k_norm(k), rope), v

    def output(self, mixed: Tensor) -> Tensor:
        """Attention's result, B H T K -> B T D."""
        projected: Tensor = self.o(mixed.transpose(1, 2).flatten(2))
        return projected

    def mlp(self, x: Tensor) -> Tensor:
        """B T D -> B T D: the norm and the feed-forward part, without the residual."""
        normed = self.mlp_norm(x)
        lowered: Tensor = self.down(swiglu(self.gate(normed), self.up(normed), backend=self.kernels.swiglu))
        return lowered

    def forward(self, x: Tensor, rope: Rope, mask: AttentionMask | None = None) -> Tensor:
        """B T D -> B T D. Without a mask attention is causal."""
        return self._read(x, rope, mask, None)[0]

    def read(self, x: Tensor, rope: Rope, mask: AttentionMask | None, earlier: Pair | None) -> tuple[Tensor, Pair]:
        """New tokens, B T D, that also see earlier keys and values: the block's output, B T D, and the new tokens' own
        keys and values. Without a mask attention is causal."""
        return self._read(x, rope, mask, earlier)

    def _read(self, x: Tensor, rope: Rope, mask: AttentionMask | None, earlier: Pair | None) -> tuple[Tensor, Pair]:
        """What `forward` and `read` do: sharding and compiling wrap these two, and neither may call the other."""
        normed = self.attention_norm(x)
        q = self.queries(normed, rope)
        k, v = own = self.keys_values(normed, rope)
        if earlier is not None:
            k, v = torch.cat([earlier[0], k], 2), torch.cat([earlier[1], v], 2)
        x = x + self.output(attention(q, k, v, mask=mask, causal=mask is None, backend=self.kernels.attention))
        return x + self.mlp(x), own

    def pair(self, x: Tensor, rope: Rope) -> Pair:
        """The keys and values that the block makes of tokens."""
        return self.keys_values(self.attention_norm(x), rope)

    def _placed(self, x: Tensor, rope: Rope) -> Tensor:
        return rotate(x, rope) if self.rotates else x

    def _split(self, x: Tensor, heads: int) -> Tensor:
        split: Tensor = x.unflatten(-1, (heads, self.head_width))
        return split.transpose(1, 2)


class Transformer(nn.Module):
    """Embedding, blocks, final norm, output head (the embedding itself where the weights are tied)."""

    def __init__(self, config: TransformerConfig, kernels: Kernels) -> None:
        super().__init__()
        self.config, self.kernels = config, kernels
        self.embed = nn.Embedding(config.vocabulary, config.width)
        layers = range(config.layers)
        self.blocks = nn.ModuleList(Block(config, kernels, rotates=i not in config.unrotated) for i in layers)
        self.norm = RMSNorm(config.width, config.norm_eps, kernels.norm)
        self.rotary = Rotary(config)
        self.head = None if config.tied else nn.Linear(config.width, config.vocabulary, bias=False)

    @property
    def head_weight(self) -> Tensor:
        """V D."""
        weight: Tensor = self.embed.weight if self.head is None else self.head.weight
        return weight

    def initialise(self, generator: torch.Generator) -> None:
        """Fresh weights: normal with standard deviation 0.02, the projections that add to the residual stream divided
        by sqrt(2 layers) (GPT-2); gains 1, biases 0."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                nn.init.constant_(parameter, 1.0 if "norm" in name else 0.0)
                continue
            residual = name.endswith(("o.weight", "down.weight"))
            deviation = 0.02 / math.sqrt(2 * self.config.layers) if residual else 0.02
            nn.init.normal_(parameter, std=deviation, generator=generator)

    def forward(self, inputs: Tensor) -> Tensor:
        """Token ids (B T, integer) or embeddings (B T D) -> hidden states after the final norm, B T D; causal."""
        x = inputs if inputs.is_floating_point() else self.embed(inputs)
        rope = self.rotary(torch.arange(x.shape[1], device=x.device), x.dtype)
        for block in self.blocks:
            x = block(x, rope)
        hidden: Tensor = self.norm(x)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """B T D -> B T V."""
        return nn.functional.linear(hidden, self.head_weight)

    def loss(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Next-token cross entropy of B T ids: (sum in nats, number of predicted tokens). Targets of -100 don't
        count."""
        return self.nats(self(tokens[:, :-1].clamp(min=0)), tokens[:, 1:])

    def nats(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """-log p of `targets` (B T) after hidden states (B T D): its sum in nats, and how many targets count."""
        backend = self.kernels.cross_entropy
        return linear_cross_entropy(hidden.flatten(0, 1), self.head_weight, targets.flatten(), backend=backend)


def _stretched(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    wavelengths = 2 * math.pi / frequencies
    low = scaling.original_context / scaling.low_frequency_factor
    high = scaling.original_context / scaling.high_frequency_factor
    share = (scaling.original_context / wavelengths - scaling.low_frequency_factor) / (
        scaling.high_frequency_factor - scaling.low_frequency_factor
    )
    blended = (1 - share) * frequencies / scaling.factor + share * frequencies
    slow = torch.where(wavelengths > low, frequencies / scaling.factor, frequencies)
    return torch.where((wavelengths <= low) & (wavelengths >= high), blended, slow)
