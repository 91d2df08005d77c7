"""A mixed sequence as a whole, by loops over its tokens: what the approaches, which read it in parts, are held to.

The rule (Transfusion, arXiv 2408.11039, section 3): token q sees token k if k is no padding and stands no later than q,
or both belong to the same image. An image of n tokens takes n + 2 places: its frame's two are the image's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from approaches.shared.kernels.attention import AttentionMask

FRAME = 2


@dataclass(frozen=True)
class Whole:
    """B rows of L text tokens, of which text_mask (B L, bool) leaves some as padding, and an image of n tokens."""

    text_mask: Tensor
    image: int
    text_first: bool

    @property
    def text_places(self) -> slice:
        """Where the text stands."""
        start = 0 if self.text_first else self.image + FRAME
        return slice(start, start + self.text_mask.shape[1])

    @property
    def image_places(self) -> slice:
        """Where the image stands, frame included."""
        start = self.text_mask.shape[1] if self.text_first else 0
        return slice(start, start + self.image + FRAME)

    @property
    def length(self) -> int:
        """T."""
        return self.text_mask.shape[1] + self.image + FRAME

    @property
    def valid(self) -> Tensor:
        """B T bool: no padding."""
        valid = torch.ones(len(self.text_mask), self.length, dtype=torch.bool)
        valid[:, self.text_places] = self.text_mask
        return valid

    @property
    def positions(self) -> Tensor:
        """B T long: the tokens before each one that are no padding."""
        return torch.tensor([[sum(row[:place]) for place in range(self.length)] for row in self.valid.tolist()])

    def attention_mask(self, *, causal_image: bool = False) -> AttentionMask:
        """The rule; with `causal_image` also inside the image."""
        image = range(*self.image_places.indices(self.length))
        allowed = torch.zeros(len(self.text_mask), self.length, self.length, dtype=torch.bool)
        for row, valid in enumerate(self.valid.tolist()):
            for q in range(self.length):
                for k in range(self.length):
                    same_image = q in image and k in image and not causal_image
                    allowed[row, q, k] = valid[k] and (k <= q or same_image)
        return AttentionMask.from_dense(allowed)
