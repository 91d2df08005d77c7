"""Text and pictures in one sequence, read segment after segment: causal over text, bidirectional inside an image (or
causal there, too, where that is asked for).

Shapes: B rows, T new tokens, D width, N image tokens, C H W a latent; a framed image takes N + 2 places.

A segment sees all that was read before it and, of itself, what its modality allows. Whatever was read is never read
again: its keys and values stay in a `Prefix`. So text before an image is computed once a prompt, a training step costs
each token once, and training, sampling, captioning and completion are one code path.

Who makes the keys and values differs between approaches. A *reader* is whoever will see them in a way of its own: a
modality ("text", "image"), or all alike (ALL). `layer` gives a segment's output and the keys and values that it made
on the way, by reader; `pair` makes those of the readers that are left.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from approaches.shared.kernels import AttentionMask
from approaches.shared.patches import PatchEmbedding, TimeEmbedding, positions_2d
from approaches.shared.prefix import ALL, Pair, Prefix, reading_mask
from approaches.shared.prompts import last_logits
from approaches.shared.transformer import RMSNorm, Rope, Transformer

Entered = tuple[Tensor | None, Tensor]
"""What the way out wants of the way in: the U-Net block's skip connection, and the embedded time."""


@dataclass
class Tap:
    """Asks for what a layer gives, besides the last one's output; reading fills in `hidden`, B T D."""

    layer: int
    hidden: Tensor = field(default_factory=lambda: torch.empty(0))


class ImageTokens(nn.Module):
    """Latents at time t to framed tokens of about unit size, and a transformer's output on them to the scheduler's
    prediction."""

    def __init__(self, patches: PatchEmbedding, width: int, *, eps: float, norm: str) -> None:
        super().__init__()
        self.patches = patches
        self.time = TimeEmbedding(width)
        self.place = nn.Parameter(positions_2d(width, patches.patchify.side))
        self.begin, self.end = nn.Parameter(torch.randn(width)), nn.Parameter(torch.randn(width))
        self.norm = RMSNorm(width, eps, norm)
        self.modulate = nn.Linear(width, 2 * width)
        for zero in (self.modulate.weight, self.modulate.bias):
            nn.init.zeros_(zero)

    def forward(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Entered]:
        """B C H W, B -> B N+2 D: begin of image, the picture, end of image; time enters these tokens only. And what
        `predict` wants back."""
        time = self.time(t)
        patches, skip = self.patches.encode(x_t, time)
        frame = [edge.expand(len(patches), 1, -1) for edge in (self.begin, self.end)]
        tokens = torch.cat([frame[0], patches + self.place, frame[1]], 1) + time[:, None]
        return tokens, (skip, time)

    def predict(self, hidden: Tensor, entered: Entered) -> Tensor:
        """B N+2 D -> B C H W; exactly 0 before training."""
        skip, time = entered
        shift, scale = self.modulate(F.silu(time))[:, None].chunk(2, -1)
        normed = torch.addcmul(shift, self.norm(hidden[:, 1:-1]), 1 + scale)
        return self.patches.decode(normed, skip, time)


class Interleaved(nn.Module, ABC):
    """A text transformer and image tokens, read in one sequence. Subclasses say what a layer does to a segment.

    causal: the modalities whose tokens see none of their own segment that comes after them."""

    def __init__(self, text: Transformer, image: ImageTokens, *, causal: Sequence[str] = ("text",)) -> None:
        super().__init__()
        self.text, self.image, self.causal = text, image, tuple(causal)

    @abstractmethod
    def layer(
        self, index: int, modality: str, x: Tensor, rope: Rope, mask: AttentionMask | None, prefix: Prefix
    ) -> tuple[Tensor, dict[str, Pair]]:
        """One layer over a segment, B T D -> B T D; and the keys and values that it computed anyway, by reader. The
        others are asked for by `pair`."""

    @abstractmethod
    def pair(self, index: int, reader: str, modality: str, x: Tensor, rope: Rope) -> Pair:
        """Keys and values, B G T K each, that `reader` sees of a segment that enters a layer."""

    def kept_for(self, modality: str) -> tuple[str, ...]:
        """The readers that must be kept of whatever tokens of a modality will read on from."""
        return (ALL,)

    def words(self, reader: str, tokens: Tensor) -> Tensor | None:
        """A reader's own embeddings of text tokens, B T D, or None. Its keys and values come from these alone in its
        first layer, and later from their sum with what enters the layer, each at unit root mean square."""
        return None

    def read(
        self,
        x: Tensor,
        modality: str,
        prefix: Prefix | None,
        mask: Tensor | None = None,
        *,
        keep: Sequence[str] = (),
        words: Mapping[str, Tensor | None] | None = None,
        output: bool = True,
        tap: Tap | None = None,
    ) -> tuple[Tensor, Prefix]:
        """A segment's tokens, B T D, after `prefix`: their hidden states before any final norm, and the longer prefix
        for the readers in `keep`.

        mask: B T, False for padding on the right. words: by reader, see `words`. output: False where only the
        prefix is wanted; then the last layer computes keys and values only.
        """
        prefix = Prefix.nothing(len(x), x.device) if prefix is None else prefix
        new = x.new_ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
        rope = self.text.rotary(prefix.positions(new), x.dtype)
        seen = reading_mask(prefix, new, self.text.kernels.attention, causal=modality in self.causal)
        kept: dict[str, list[Pair]] = {reader: [] for reader in keep}
        last = len(self.text.blocks) - 1
        for index in range(last + 1):
            entering = x
            pairs: dict[str, Pair] = {}
            if output or index < last:
                x, pairs = self.layer(index, modality, x, rope, seen, prefix)
            for reader, layers in kept.items():
                if reader in pairs:  # the layer made them anyway
                    layers.append(pairs[reader])
                    continue
                made_from, own = entering, words.get(reader) if words else None
                if own is not None:
                    made_from = own if index == 0 else unit(entering) + unit(own)
                layers.append(self.pair(index, reader, modality, made_from, rope))
            if tap is not None and index == tap.layer:
                tap.hidden = x
        return x, prefix.extended(kept, new) if keep else prefix

    def read_text(
        self,
        tokens: Tensor,
        prefix: Prefix | None = None,
        mask: Tensor | None = None,
        *,
        keep: Sequence[str] = (),
        output: bool = True,
    ) -> tuple[Tensor, Prefix]:
        """B T ids -> hidden states after the final norm, B T D (of no use with output False), and the longer prefix."""
        words = {reader: self.words(reader, tokens) for reader in keep}
        x, prefix = self.read(self.text.embed(tokens), "text", prefix, mask, keep=keep, words=words, output=output)
        return self.text.norm(x), prefix

    def read_image(self, latents: Tensor, prefix: Prefix | None = None, *, keep: Sequence[str] = ()) -> Prefix:
        """A clean picture, B C H W, as something to be read on from."""
        t = torch.zeros(len(latents), device=latents.device)
        tokens, _ = self.image(latents, t)
        return self.read(tokens, "image", prefix, keep=keep, output=False)[1]

    def denoise(self, x_t: Tensor, t: Tensor, prefix: Prefix, tap: Tap | None = None) -> Tensor:
        """The scheduler's prediction, B C H W."""
        tokens, entered = self.image(x_t, t)
        hidden, _ = self.read(tokens, "image", prefix, tap=tap)
        return self.image.predict(hidden, entered)

    def text_loss(
        self, tokens: Tensor, targets: Tensor, prefix: Prefix | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Sum of -log p in nats of `targets` (B T, -100 for none) after `tokens` (B T)."""
        hidden, _ = self.read_text(tokens, prefix, mask)
        return self.text.nats(hidden, targets)[0]

    # ------------------------------------------------------------------------------------------------ prompts

    def segments(self, parts: Sequence[tuple[str, Any]], then: str) -> Prefix:
        """Segments as `read_parts` gives them, read in order, for tokens of the modality `then` to read on from."""
        later = [modality for modality, _ in parts[1:]] + [then]
        keep = tuple(dict.fromkeys(reader for modality in later for reader in self.kept_for(modality)))
        prefix: Prefix | None = None
        for modality, content in parts:
            if modality == "image":
                prefix = self.read_image(content, prefix, keep=keep)
            else:
                tokens, mask = content
                prefix = self.read_text(tokens, prefix, mask, keep=keep, output=False)[1]
        if prefix is None:
            raise ValueError("a prompt without a segment")
        return prefix

    def text_start(self, parts: Sequence[tuple[str, Any]]) -> tuple[Tensor, Prefix]:
        """Logits after segments of which the last is text, B V, and what text reads on from."""
        *before, (_, (tokens, mask)) = parts
        prefix = self.segments(before, "text") if before else None
        hidden, prefix = self.read_text(tokens, prefix, mask, keep=self.kept_for("text"))
        return last_logits(self.text, hidden, mask), prefix

    def text_step(self, tokens: Tensor, prefix: Prefix) -> tuple[Tensor, Prefix]:
        """Logits after each of further tokens (B T), B T V, and the longer prefix."""
        hidden, prefix = self.read_text(tokens, prefix, keep=self.kept_for("text"))
        return self.text.logits(hidden), prefix

    def text_logits(self, tokens: Tensor) -> Tensor:
        """Logits after each token of rows of text alone: B T -> B T V."""
        hidden, _ = self.read_text(tokens)
        return self.text.logits(hidden)


def unit(x: Tensor) -> Tensor:
    """Vectors, ... D, with root mean square 1."""
    return F.rms_norm(x, x.shape[-1:])
