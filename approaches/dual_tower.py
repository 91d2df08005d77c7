"""Dual tower: X-Fusion (arXiv 2504.20996). A vision tower beside the frozen text tower, layer by layer.

    text tokens  -> [ text tower, frozen ] -> next token
                          | each tower sees the other's tokens through keys and values
    image tokens -> [ vision tower, trained ] -> flow, noise or v

Frozen: the whole language model. Trained: the vision tower (to begin with a copy of the text tower), image tokens in
and out, the vision tower's embeddings of text (which the paper has not: `words`). But for `gated` and `fuse`, each
token keeps its own tower's output. Block variants, after the paper's table 1:

    dual_tower       each tower makes its own keys and values for all tokens, of both modalities
    dual_projection  a token's keys and values come from its own tower only; attention is joint (LMFusion, 2412.15188)
    gated            an image token runs through the frozen block too: H_text + gamma * H_gate, gamma from 0 (the paper
                     writes it for all tokens; of a gated text token the logits would not stay)
    crossing         dual_tower, but what text sees of images is the vision tower's too, as in dual_projection: so both
                     ways across are trained (ours: docs/published-tables.md)

Queries, output and MLP of a token are its own tower's, and no text weight has a gradient: less than full retraining
costs. Text that no image precedes never meets the vision tower: it gives the base model's logits, bit for
bit.

Shapes: B rows, L text tokens, D width, V vocabulary, C H W a latent, N image tokens, t in [0, 1].
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from approaches.base import Approach, Batch, Generators, Loss, ParameterGroup, Prompt, Shared
from approaches.settings import DualTowerSettings
from approaches.shared.interleaved import ImageTokens, Interleaved, Tap
from approaches.shared.kernels import AttentionMask
from approaches.shared.prefix import ALL, Pair, Prefix
from approaches.shared.prompts import check_picture, read_parts
from approaches.shared.randomness import generator
from approaches.shared.transformer import Block, Rope, Transformer
from bench.errors import UserError

SEEN = {
    "dual_tower": {"text": {"text": "text", "image": "text"}, "image": {"text": "vision", "image": "vision"}},
    "dual_projection": {ALL: {"text": "text", "image": "vision"}},
    "gated": {"text": {"text": "text", "image": "text"}, "image": {"text": "vision", "image": "vision"}},
    "crossing": {"text": {"text": "text", "image": "vision"}, "image": {"text": "vision", "image": "vision"}},
}
"""Variant -> who reads ("text" or "image" tokens, or ALL alike) -> tokens of which modality -> the tower that makes
the keys and values which they see of these.

So in `dual_tower`, where a picture is drawn from a caption: the text tower's layers read the caption, and make the keys
and values that text would see of it (SEEN["dual_tower"]["text"]["text"]) on the way; those that image tokens will see
(["image"]["text"]) the vision tower makes of the same states, asked by `pair`."""


class TwoTowers(Interleaved):
    """The readers are SEEN's.

    own: the vision tower's embeddings of text, a trained copy of the text tower's, which its layers make keys and
    values of, beside the text tower's states (settings.words; variant dual_projection makes none). Without them a
    picture hardly hears its caption at first. gamma: one a layer, for `gated`. alpha, beta: one a layer, for X-Fuse:
    alpha * own output + beta * the text tower's.
    """

    def __init__(
        self, text: Transformer, vision: nn.ModuleList, image: ImageTokens, settings: DualTowerSettings
    ) -> None:
        super().__init__(text, image)
        self.vision, self.variant, self.seen = vision, settings.variant, SEEN[settings.variant]
        own = settings.words == "own" and "image" in self.seen
        self.own = copy.deepcopy(text.embed).requires_grad_(True) if own else None
        layers = len(vision)
        self.gamma = nn.Parameter(torch.zeros(layers)) if self.variant == "gated" else None
        self.alpha = nn.Parameter(torch.ones(layers)) if settings.fuse else None
        self.beta = nn.Parameter(torch.zeros(layers)) if settings.fuse else None
        self.image_through_text = self.variant == "gated" or settings.fuse

    def looks_at(self, modality: str) -> str:
        """Whose keys and values tokens of a modality look at."""
        return modality if modality in self.seen else ALL

    def kept_for(self, modality: str) -> tuple[str, ...]:
        """See Interleaved."""
        through = (modality, "text") if modality == "image" and self.image_through_text else (modality,)
        return tuple(dict.fromkeys(map(self.looks_at, through)))

    def layer(
        self, index: int, modality: str, x: Tensor, rope: Rope, mask: AttentionMask | None, prefix: Prefix
    ) -> tuple[Tensor, dict[str, Pair]]:
        """See Interleaved."""
        tower = "text" if modality == "text" else "vision"
        out, pair = self.block(tower, index).read(x, rope, mask, prefix.layer(self.looks_at(modality), index))
        pairs = dict.fromkeys(self.seen_by(tower, modality), pair)
        if modality == "image" and self.image_through_text:
            earlier = prefix.layer(self.looks_at("text"), index)
            through_text, pair = self.block("text", index).read(x, rope, mask, earlier)
            pairs |= dict.fromkeys(self.seen_by("text", modality), pair)
            if self.gamma is not None:
                out = through_text + self.gamma[index] * out
            else:
                assert self.alpha is not None and self.beta is not None
                out = self.alpha[index] * out + self.beta[index] * through_text
        return out, pairs

    def pair(self, index: int, reader: str, modality: str, x: Tensor, rope: Rope) -> Pair:
        """See Interleaved."""
        return self.block(self.seen[reader][modality], index).pair(x, rope)

    def words(self, reader: str, tokens: Tensor) -> Tensor | None:
        """See Interleaved."""
        return self.own(tokens) if self.own is not None and reader == "image" else None

    def seen_by(self, tower: str, modality: str) -> list[str]:
        """Who sees the keys and values that a tower makes of tokens of a modality."""
        return [reader for reader, makers in self.seen.items() if makers[modality] == tower]

    def block(self, tower: str, index: int) -> Block:
        """A tower's layer."""
        return cast(Block, (self.text.blocks if tower == "text" else self.vision)[index])


class DualTower(Approach):
    """See the module's text."""

    settings: DualTowerSettings

    def __init__(self, shared: Shared, settings: DualTowerSettings) -> None:
        super().__init__(shared, settings)
        if settings.alignment and shared.encoder is None:
            raise UserError("settings.alignment needs a frozen encoder: name one by model.encoder")
        self.language_model.requires_grad_(False)
        text = self.language_model.transformer
        config, kernels = text.config, text.kernels
        check_picture(shared)
        with shared.fresh("dual_tower"):
            vision = vision_tower(text, settings, generator(shared.seed, "weights/dual_tower/vision"))
            patches = shared.patch_embedding(config.width)
            image = ImageTokens(patches, config.width, eps=config.norm_eps, norm=kernels.norm)
            self.towers = TwoTowers(text, vision, image, settings)
            encoder = shared.encoder if settings.alignment else None
            self.align = None if encoder is None else nn.Linear(config.width, encoder.width)

    # ------------------------------------------------------------------------------------------------ training

    def losses(self, batch: Batch, generators: Generators) -> dict[str, Loss]:
        """Diffusion on drawn rows; next token on described rows' captions, through the frozen tower to the vision
        tower's picture; and the alignment of the middle layer, where it is weighed."""
        middle = Tap(max(0, len(self.towers.vision) // 2 - 1)) if self.settings.alignment else None
        prefix = self._read_text(*batch.drawn_prompt())
        error = self.diffusion_errors(batch, prefix, partial(self.towers.denoise, tap=middle))
        counts = self.counts(batch)
        terms = {"diffusion": Loss(error.sum(), counts["diffusion"])}
        if middle is not None:
            distance = self._misaligned(middle.hidden, batch)
            terms["alignment"] = Loss(distance.sum(), counts["alignment"], self.settings.alignment)
        tokens, mask = batch.describe.prompt
        image = self.towers.read_image(batch.describe.latents, keep=self.towers.kept_for("text"))
        nats = self.towers.text_loss(tokens, batch.describe.targets, image, mask)
        terms["caption"] = Loss(nats, counts["caption"], self.settings.caption_weight)
        return terms

    def counts(self, batch: Batch) -> dict[str, Tensor | float]:
        """See Approach."""
        aligned = {"alignment": len(batch.times)} if self.settings.alignment else {}
        return {"diffusion": len(batch.times), **aligned, "caption": batch.describe.predicted}

    def _read_text(self, tokens: Tensor, mask: Tensor) -> Prefix:
        """The frozen tower's reading of a caption, for image tokens; gradients reach the vision tower's keys and values
        of it."""
        return self.towers.read_text(tokens, mask=mask, keep=self.towers.kept_for("image"), output=False)[1]

    def _misaligned(self, hidden: Tensor, batch: Batch) -> Tensor:
        """1 - cosine of the middle layer's mean image token, projected, and the encoder's features of the clean picture
        (REPA, arXiv 2410.06940, on pooled features), (B K)."""
        assert self.align is not None and self.shared.encoder is not None and batch.draw.pictures is not None
        features = (
            self.shared.encoder.features(batch.draw.pictures).to(hidden.device).repeat_interleave(batch.levels, 0)
        )
        return 1 - F.cosine_similarity(self.align(hidden[:, 1:-1].mean(1)).float(), features.float())

    def borrowed(self) -> dict[str, int]:
        """The encoder as well, where the middle layer is aligned to it."""
        encoder = self.shared.encoder if self.settings.alignment else None
        return super().borrowed() | ({} if encoder is None else {"encoder": encoder.parameter_count})

    def parameter_groups(self) -> list[ParameterGroup]:
        """The vision tower's embeddings of text learn at a rate of their own."""
        return self.grouped({"words": (self.towers.own, self.settings.words_learning_rate_ratio)})

    def blocks(self) -> list[nn.Module]:
        """Both towers', layer by layer."""
        return [block for pair in zip(self.towers.text.blocks, self.towers.vision, strict=True) for block in pair]

    # ------------------------------------------------------------------------------------------ text to image

    def condition(self, prompts: Sequence[Prompt]) -> Prefix:
        """What image tokens see of the prompts, computed once."""
        return self.towers.segments(read_parts(self.shared, prompts), then="image")

    def denoise(self, x_t: Tensor, t: Tensor, condition: Prefix) -> Tensor:
        """Image tokens alone, through the vision tower, after what was read."""
        return self.towers.denoise(x_t, t, condition)

    # ------------------------------------------------------------------------------- image to text, text to text

    def text_start(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Any]:
        """See Approach."""
        return self.towers.text_start(read_parts(self.shared, prompts, text_last=True))

    def text_step(self, tokens: Tensor, state: Prefix) -> tuple[Tensor, Any]:
        """See Approach."""
        return self.towers.text_step(tokens, state)

    def text_logits(self, tokens: Tensor) -> Tensor:
        """See Approach."""
        return self.towers.text_logits(tokens)


def vision_tower(text: Transformer, settings: DualTowerSettings, draw: torch.Generator) -> nn.ModuleList:
    """The vision tower's blocks: a trained copy of the text tower's; fresh where settings say so, or, for the MLPs,
    where their width differs. Attention has the text tower's shape, since both towers' tokens meet in it."""
    hidden = settings.hidden or text.config.hidden
    if settings.start == "language_model" and hidden == text.config.hidden:
        return copy.deepcopy(text.blocks).requires_grad_(True)
    fresh = Transformer(replace(text.config, hidden=hidden, vocabulary=1), text.kernels)
    fresh.initialise(draw)
    if settings.start == "language_model":
        attention = {name: value for name, value in text.blocks.state_dict().items() if ".gate." not in name}
        attention = {name: value for name, value in attention.items() if ".up." not in name and ".down." not in name}
        fresh.blocks.load_state_dict(attention, strict=False)
    return fresh.blocks.requires_grad_(True)
