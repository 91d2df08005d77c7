"""What has been read of a sequence: keys and values of every layer, for whoever reads on.

Shapes: B rows, S tokens read so far (padding anywhere), G key/value heads, K head width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from approaches.shared.kernels import AttentionMask

Pair = tuple[Tensor, Tensor]
Layers = tuple[Pair, ...]
ALL = "all"
"""A reader: everybody alike, by the same keys and values (see approaches.shared.interleaved)."""


@dataclass(frozen=True)
class Prefix:
    """readers: by reader (see approaches.shared.interleaved), the keys (rotated) and values of each layer, B G S K.

    mask: B S bool, True for the tokens that count.
    """

    readers: Mapping[str, Layers]
    mask: Tensor

    @classmethod
    def nothing(cls, rows: int, device: torch.device | str = "cpu") -> Prefix:
        """Before anything was read."""
        return cls(readers={}, mask=torch.zeros(rows, 0, dtype=torch.bool, device=device))

    def __len__(self) -> int:
        return self.mask.shape[0]

    @property
    def tokens(self) -> int:
        """S."""
        return self.mask.shape[1]

    def layer(self, reader: str, index: int) -> Pair | None:
        """Keys and values of a layer for a reader; None before anything was read."""
        if not self.tokens:
            return None
        return self.readers[reader][index]

    def positions(self, new: Tensor) -> Tensor:
        """Rotary positions of further tokens with the mask `new` (B T): how many that count came before each."""
        before = self.mask.sum(1, keepdim=True)
        return (before + new.long().cumsum(1) - 1).clamp(min=0)

    def extended(self, readers: Mapping[str, Sequence[Pair]], mask: Tensor) -> Prefix:
        """With further tokens' keys and values for these readers; other readers can't read on from it."""
        joined: dict[str, Layers] = {}
        for reader, layers in readers.items():
            if not self.tokens:
                joined[reader] = tuple(layers)
                continue
            pairs = zip(self.readers[reader], layers, strict=True)
            joined[reader] = tuple(
                (torch.cat([k, more_k], 2), torch.cat([v, more_v], 2)) for (k, v), (more_k, more_v) in pairs
            )
        return Prefix(readers=joined, mask=torch.cat([self.mask, mask], 1))

    def select(self, index: Tensor) -> Prefix:
        """The rows at `index`, repeated where it repeats."""
        readers = {reader: tuple((k[index], v[index]) for k, v in layers) for reader, layers in self.readers.items()}
        return Prefix(readers=readers, mask=self.mask[index])

    @staticmethod
    def cat(parts: Sequence[Prefix]) -> Prefix:
        """One batch of several, padded on the right to the longest; padding is masked."""
        longest = max(part.tokens for part in parts)
        readers: dict[str, Layers] = {}
        for reader, layers in parts[0].readers.items():
            readers[reader] = tuple(
                (
                    torch.cat([padded(part.readers[reader][i][0], 2, longest) for part in parts]),
                    torch.cat([padded(part.readers[reader][i][1], 2, longest) for part in parts]),
                )
                for i in range(len(layers))
            )
        return Prefix(readers=readers, mask=torch.cat([padded(part.mask, 1, longest) for part in parts]))


def padded(x: Tensor, dim: int, size: int) -> Tensor:
    """Zeros (False) behind, up to `size` along `dim`."""
    missing = size - x.shape[dim]
    return F.pad(x, [0, 0] * (x.ndim - 1 - dim) + [0, missing]) if missing else x


def reading_mask(prefix: Prefix, new: Tensor, backend: str, *, causal: bool) -> AttentionMask | None:
    """Who of T new tokens (mask `new`, B T, padding on the right) sees what: all of the prefix that counts, and of the
    new ones those up to itself, or, inside an image, all. None where plain causal attention says the same: nothing was
    read before (padding on the right is seen by no token that counts)."""
    if causal and not prefix.tokens:
        return None
    length = new.shape[1]
    own = new[:, None, :].expand(-1, length, -1)
    if causal:
        own = own & torch.ones(length, length, dtype=torch.bool, device=new.device).tril()
    before = prefix.mask[:, None, :].expand(-1, length, -1)
    # a token that counts sees itself, and padding what came before it: the start token at least
    return AttentionMask.from_dense(torch.cat([before, own], 2), may_be_empty=False).build(backend)
