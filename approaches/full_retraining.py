"""Full retraining: Transfusion (arXiv 2408.11039). One transformer reads text and image tokens; all of it is trained.

    caption -> [ the language model's blocks ] -> next token            (cross entropy)
    noisy patches, time -> [ the same blocks ] -> flow, noise or v      (mean squared error)

Frozen: nothing but the VAE (variant `lora`: the language model too, but for low-rank updates). The weights start as the
language model's (or fresh), so what it knew can be lost; windows of plain text, replayed beside the pictures, hold it.
Costs every token three passes' worth of FLOPs: one forward, two backward (`lora`: little more than two).

Shapes: B rows, L text tokens, D width, V vocabulary, C H W a latent, t in [0, 1].
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from approaches.base import Approach, Batch, Generators, Loss, ParameterGroup, Prompt, Shared
from approaches.settings import FullRetrainingSettings
from approaches.shared.devices import sent
from approaches.shared.interleaved import ImageTokens, Interleaved
from approaches.shared.kernels import AttentionMask
from approaches.shared.low_rank import add_low_rank
from approaches.shared.prefix import ALL, Pair, Prefix
from approaches.shared.prompts import check_picture, read_parts
from approaches.shared.randomness import generator
from approaches.shared.transformer import Block, Rope
from bench.errors import UserError


class OneTower(Interleaved):
    """Every layer treats text and image tokens alike, and everybody reads the same keys and values."""

    def layer(
        self, index: int, modality: str, x: Tensor, rope: Rope, mask: AttentionMask | None, prefix: Prefix
    ) -> tuple[Tensor, dict[str, Pair]]:
        """See Interleaved."""
        x, pair = cast(Block, self.text.blocks[index]).read(x, rope, mask, prefix.layer(ALL, index))
        return x, {ALL: pair}

    def pair(self, index: int, reader: str, modality: str, x: Tensor, rope: Rope) -> Pair:
        """See Interleaved."""
        return cast(Block, self.text.blocks[index]).pair(x, rope)


class FullRetraining(Approach):
    """See the module's text."""

    settings: FullRetrainingSettings

    def __init__(self, shared: Shared, settings: FullRetrainingSettings) -> None:
        super().__init__(shared, settings)
        self.language_model = copy.deepcopy(shared.language_model).requires_grad_(True)  # the base stays as it was
        transformer = self.language_model.transformer
        config, kernels = transformer.config, transformer.kernels
        check_picture(shared)
        if settings.start == "scratch":
            transformer.initialise(generator(shared.seed, "weights/full_retraining"))
        with shared.fresh("full_retraining"):
            if settings.variant == "lora":
                transformer.requires_grad_(False)
                add_low_rank(transformer.blocks, settings.lora_rank)
            patches = shared.patch_embedding(config.width)
            image = ImageTokens(patches, config.width, eps=config.norm_eps, norm=kernels.norm)
        causal = ("text", "image") if settings.image_attention == "causal" else ("text",)
        self.tower = OneTower(transformer, image, causal=causal)

    # ------------------------------------------------------------------------------------------------ training

    def losses(self, batch: Batch, generators: Generators) -> dict[str, Loss]:
        """Diffusion on drawn rows, next token on described rows' captions, on replayed text and, where weighed, on the
        captions that pictures are drawn from."""
        tokens, mask = batch.drawn_prompt()
        weighed = self.settings.prompt_weight > 0
        hidden, prefix = self.tower.read_text(tokens, mask=mask, keep=self.tower.kept_for("image"), output=weighed)
        counts = self.counts(batch)
        terms = {"diffusion": Loss(self.diffusion_errors(batch, prefix).sum(), counts["diffusion"])}
        if weighed:
            nats, _ = self.tower.text.nats(hidden, self._prompt_targets(batch))
            terms["prompt"] = Loss(nats, counts["prompt"], self.settings.prompt_weight)
        tokens, mask = batch.describe.prompt
        image = self.tower.read_image(batch.describe.latents, keep=self.tower.kept_for("text"))
        nats = self.tower.text_loss(tokens, batch.describe.targets, image, mask)
        terms["caption"] = Loss(nats, counts["caption"], self.settings.caption_weight)
        if len(text := self._replayed(batch)):
            text = sent(text, tokens.device)
            nats = self.tower.text_loss(text[:, :-1], text[:, 1:])
            terms["replay"] = Loss(nats, counts["replay"], self.settings.replay_weight)
        return terms

    def counts(self, batch: Batch) -> dict[str, Tensor | float]:
        """See Approach."""
        counts: dict[str, Tensor | float] = {"diffusion": len(batch.times), "caption": batch.describe.predicted}
        if self.settings.prompt_weight > 0:
            counts["prompt"] = (self._prompt_targets(batch) != -100).sum()
        if len(text := self._replayed(batch)):
            counts["replay"] = len(text) * (text.shape[1] - 1)
        return counts

    def _prompt_targets(self, batch: Batch) -> Tensor:
        """The targets of the captions that pictures are drawn from."""
        return batch.draw.targets.masked_fill(batch.empty[:, None], -100)

    def _replayed(self, batch: Batch) -> Tensor:
        """Windows of plain text, of this part. UserError where there are fewer than parts, or they are longer than what
        the language model reads."""
        share, windows, context = self.settings.replay_share, batch.whole.text, self.tower.text.config.context
        replayed = round(share * len(windows))
        if replayed and windows.shape[1] - 1 > context:
            raise UserError(
                f"train.replay_tokens is {windows.shape[1] - 1}, expected at most the language model's context of "
                f"{context}"
            )
        text = windows[:replayed][batch.rows(replayed)]
        if replayed and not len(text):
            raise UserError(
                f"settings.replay_share replays {replayed} windows of text a step, fewer than the "
                f"{batch.place[1]} parts that a batch is worked through in: raise it or train.batch, or set it to 0"
            )
        return text

    def parameter_groups(self) -> list[ParameterGroup]:
        """The language model's own weights, and its embeddings among them, learn at rates of their own."""
        if self.settings.variant == "lora" or self.settings.start == "scratch":  # then all that is trained is new
            return self.grouped({})
        return self.grouped(
            {
                "words": (self.language_model.transformer.embed, self.settings.words_learning_rate_ratio),
                "language_model": (self.language_model, self.settings.lm_learning_rate_ratio),
            }
        )

    def blocks(self) -> list[nn.Module]:
        """The transformer's."""
        return list(self.tower.text.blocks)

    def borrowed(self) -> dict[str, int]:
        """From scratch, the VAE alone."""
        borrowed = super().borrowed()
        if self.settings.start == "scratch":
            del borrowed["language_model"]
        return borrowed

    # ------------------------------------------------------------------------------------------ text to image

    def condition(self, prompts: Sequence[Prompt]) -> Prefix:
        """The prompts' keys and values, read once."""
        return self.tower.segments(read_parts(self.shared, prompts), then="image")

    def denoise(self, x_t: Tensor, t: Tensor, condition: Prefix) -> Tensor:
        """Image tokens alone, after what was read."""
        return self.tower.denoise(x_t, t, condition)

    # ------------------------------------------------------------------------------- image to text, text to text

    def text_start(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Any]:
        """See Approach."""
        return self.tower.text_start(read_parts(self.shared, prompts, text_last=True))

    def text_step(self, tokens: Tensor, state: Prefix) -> tuple[Tensor, Any]:
        """See Approach."""
        return self.tower.text_step(tokens, state)

    def text_logits(self, tokens: Tensor) -> Tensor:
        """See Approach."""
        return self.tower.text_logits(tokens)
