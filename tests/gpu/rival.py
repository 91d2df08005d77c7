"""transfusion-pytorch (PyPI) as a rival in speed: one transformer on the same captions, pictures and replayed text.

Its layers are wider in parameters than ours (each token has its own time-dependent modulation), so at equal parameters
it is narrower or shallower: `DEPTHS` says which is tried. Text without a picture is read by its own text-only way, so
that its batch is not padded to the replayed windows.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from approaches.base import Batch
from approaches.shared.patches import Patchify

TOLERANCE = 0.03  # of equal parameters


def layers_of(depth: int, width: int, heads: int, vocabulary: int, latent: int, *, flex: bool) -> Any:
    """The model. width: a multiple of 2 heads."""
    from transfusion_pytorch import Transfusion

    return Transfusion(
        num_text_tokens=vocabulary,
        dim_latent=latent,
        modality_num_dim=2,
        add_pos_emb=True,
        transformer={"dim": width, "depth": depth, "dim_head": width // heads, "heads": heads, "use_flex_attn": flex},
    )


def rival_of(
    parameters: int, *, depth: int, heads: int, vocabulary: int, latent: int, flex: bool = False
) -> tuple[Any, int]:
    """The model of this depth whose parameters are nearest to `parameters`, and its width. ValueError where none comes
    within TOLERANCE."""

    def count(width: int) -> int:
        return sum(p.numel() for p in layers_of(depth, width, heads, vocabulary, latent, flex=flex).parameters())

    # but for rounding, parameters are a square polynomial of the width
    points = [heads * 2 * k for k in (6, 9, 12)]
    square, slope, constant = _through(points, [count(width) for width in points])
    width = (-slope + (slope**2 + 4 * square * (parameters - constant)) ** 0.5) / (2 * square)
    width = max(1, round(width / (2 * heads))) * 2 * heads
    model = layers_of(depth, width, heads, vocabulary, latent, flex=flex)
    found = sum(p.numel() for p in model.parameters())
    if abs(found / parameters - 1) > TOLERANCE:
        raise ValueError(f"width {width} has {found:,} parameters, expected {parameters:,} to {TOLERANCE:.0%}")
    return model, width


def _through(xs: list[int], ys: list[int]) -> list[float]:
    """The coefficients of the parabola through three points, the highest power first."""
    (a, b, c), (u, v, w) = map(float, xs), map(float, ys)
    square = ((w - u) / (c - a) - (v - u) / (b - a)) / (c - b)
    slope = (v - u) / (b - a) - square * (a + b)
    return [square, slope, u - slope * a - square * a * a]


class RivalStep(nn.Module):
    """Its loss on one of our batches."""

    def __init__(self, model: Any, patchify: Patchify, replay_share: float) -> None:
        super().__init__()
        self.model, self.patchify, self.replay_share = model, patchify, replay_share

    def forward(self, batch: Batch) -> Tensor:
        """Pictures after their captions, captions after their pictures, and text alone."""
        rows: list[list[Any]] = []
        drawn, described = (self._pictures(of.latents) for of in (batch.draw, batch.describe))
        tokens, mask = batch.drawn_prompt()
        for index, length in enumerate(mask.sum(1).tolist()):  # padding is on the right; one wait, not one a row
            rows.append([tokens[index, :length], (0, drawn[index])])
        for index, length in enumerate(batch.describe.mask.sum(1).tolist()):
            rows.append([(0, described[index]), batch.describe.tokens[index, :length]])
        loss: Tensor = self.model(rows)
        if count := round(self.replay_share * len(batch.text)):
            loss = loss + 0.2 * self.model(batch.text[:count])
        return loss

    def _pictures(self, latents: Tensor) -> Tensor:
        """B C H W -> B side side P: patches where they lie, channels last."""
        side = self.patchify.side
        return self.patchify.split(latents).unflatten(1, (side, side))
