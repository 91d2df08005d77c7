"""Projection: connectors around a frozen language model, BLIP-2 (arXiv 2301.12597) one way and MetaQuery
(arXiv 2504.06256) the other.

    text to image   prompt, queries -> [ language model, frozen ] -> states at the queries
                        -> connector -> condition of the denoiser: noise -> picture
    image to text   clean latent -> latent encoder -> connector -> soft prompts
                        soft prompts, "picture:", caption -> [ language model, frozen ] -> next token
    text to text    the language model, as it came

Frozen: the whole language model; gradients pass through it to what stands in its input, and reach none of its weights.
Trained: what stands there (queries, soft prompts, and the words of a picture's prompt, which enter by a trained copy of
the token embeddings: settings.words), both connectors, the latent encoder, the denoiser. Text is continued from the
language model's own embeddings, so without a picture before it it gives the base model's logits, bit for bit.

What is read out of the language model, `settings.readout`:

    learned_queries  its states at trained queries after the prompt
    random_queries   the same with queries left at random: what training them is worth
    last_hidden      the prompt's own states, without queries

A picture's tokens never enter the language model on the way to a picture: it runs once a prompt, not once a step.

Shapes: B rows, L text tokens (padding on the right), D the language model's width, V vocabulary, Q queries, S vectors
of the condition, C H W a latent, t in [0, 1].
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from approaches.base import Approach, Batch, Generators, Loss, ParameterGroup, Prompt, Shared
from approaches.settings import ProjectionSettings
from approaches.shared.connectors import ConnectorShape, LatentEncoder, build_connector
from approaches.shared.denoiser import Denoiser, Prepared
from approaches.shared.prefix import Prefix
from approaches.shared.prompts import check_room, embedding_scale, last_logits, read_parts
from approaches.shared.reading import next_logits, read
from approaches.shared.transformer import RMSNorm, Transformer


class SoftPrompts(nn.Module):
    """A clean picture, B C H W, as vectors among a language model's token embeddings, B S D: Q of a Q-Former, otherwise
    one a patch. scale: root mean square of the token embeddings; the vectors start at the same."""

    def __init__(self, shared: Shared, settings: ProjectionSettings, scale: float) -> None:
        super().__init__()
        width, kernels = shared.language_model.transformer.config.width, shared.kernels
        layers = settings.encoder_layers
        self.encoder = LatentEncoder(shared.patchify, settings.width, layers, settings.heads, kernels)
        self.connector = build_connector(connector_shape(settings), settings.width, width, kernels)
        self.norm = RMSNorm(width, 1e-6, kernels.norm)
        nn.init.constant_(self.norm.weight, scale)

    def forward(self, latents: Tensor) -> Tensor:
        """See the class."""
        vectors, _ = self.connector(self.encoder(latents))
        placed: Tensor = self.norm(vectors)
        return placed


class Projection(Approach):
    """See the module's text."""

    settings: ProjectionSettings

    def __init__(self, shared: Shared, settings: ProjectionSettings) -> None:
        super().__init__(shared, settings)
        self.language_model.requires_grad_(False)
        config, kernels = self.transformer.config, shared.kernels
        _check(shared, settings)
        with shared.fresh("projection"):
            scale = embedding_scale(self.transformer)
            self.queries: nn.Parameter | None = None
            if settings.readout != "last_hidden":
                drawn = torch.randn(settings.queries, config.width) * scale
                self.queries = nn.Parameter(drawn, requires_grad=settings.readout == "learned_queries")
            self.words: nn.Module | None = None
            if settings.words == "own":
                self.words = copy.deepcopy(self.transformer.embed).requires_grad_(True)
            self.connector = build_connector(connector_shape(settings), config.width, settings.width, kernels)
            self.denoiser = Denoiser(
                shared.patch_embedding(settings.width),
                settings.width,
                settings.layers,
                settings.heads,
                settings.width,
                kernels,
            )
            self.soft_prompts = SoftPrompts(shared, settings, scale)

    @property
    def transformer(self) -> Transformer:
        """The frozen language model's."""
        return self.language_model.transformer

    # ------------------------------------------------------------------------------------------------ training

    def losses(self, batch: Batch, generators: Generators) -> dict[str, Loss]:
        """Diffusion on drawn rows; next token on described rows' captions, after their soft prompts."""
        error = self.diffusion_errors(batch, self._condition([("text", batch.drawn_prompt())]))
        counts = self.counts(batch)
        return {
            "diffusion": Loss(error.sum(), counts["diffusion"]),
            "caption": Loss(self._nats(batch), counts["caption"], self.settings.caption_weight),
        }

    def counts(self, batch: Batch) -> dict[str, Tensor | float]:
        """See Approach."""
        return {"diffusion": len(batch.times), "caption": batch.describe.predicted}

    def _nats(self, batch: Batch) -> Tensor:
        """Sum of -log p of the described rows' captions and end tokens."""
        tokens, mask = batch.describe.prompt
        soft = self.soft_prompts(batch.describe.latents)
        # Soft prompts have no padding, so one causal pass serves both.
        inputs = torch.cat([soft, self.transformer.embed(tokens)], 1)
        hidden, _ = read(self.transformer, inputs, mask=torch.cat([mask.new_ones(soft.shape[:2]), mask], 1))
        return self.transformer.nats(hidden[:, soft.shape[1] :], batch.describe.targets)[0]

    def parameter_groups(self) -> list[ParameterGroup]:
        """The words of a picture's prompt learn at a rate of their own."""
        return self.grouped({"words": (self.words, self.settings.words_learning_rate_ratio)})

    def blocks(self) -> list[nn.Module]:
        """The frozen language model's, the encoder's, both connectors' and the denoiser's."""
        prompts = self.soft_prompts
        connectors = [*prompts.encoder.blocks(), *prompts.connector.blocks(), *self.connector.blocks()]
        return [*self.transformer.blocks, *connectors, *self.denoiser.blocks()]

    # ------------------------------------------------------------------------------------- the frozen reader

    def _read_all(self, parts: Sequence[tuple[str, Any]], words: nn.Module | None = None) -> tuple[Tensor, Prefix]:
        """Segments as `read_parts` gives them: the hidden states of the last one, and the prefix of all. words: what
        embeds the text, where not the language model itself."""
        embed = words or self.transformer.embed
        hidden, prefix = None, None
        for modality, content in parts:
            if modality == "image":
                x = self.soft_prompts(content)
                mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
            else:
                tokens, mask = content
                x = embed(tokens)
            hidden, prefix = read(self.transformer, x, prefix, mask)
        assert hidden is not None and prefix is not None
        return hidden, prefix

    # ------------------------------------------------------------------------------------------ text to image

    def condition(self, prompts: Sequence[Prompt]) -> Prepared:
        """What the denoiser looks at: the connector's vectors as keys and values of every layer."""
        return self._condition(read_parts(self.shared, prompts))

    def _condition(self, parts: Sequence[tuple[str, Any]]) -> Prepared:
        """From segments as `read_parts` gives them."""
        hidden, prefix = self._read_all(parts, self.words)
        mask = prefix.mask[:, -hidden.shape[1] :]
        if self.queries is not None:
            x = self.queries.expand(len(prefix), -1, -1)
            mask = prefix.mask.new_ones(x.shape[:2])
            hidden, _ = read(self.transformer, x, prefix, mask)
        return self.denoiser.prepare(*self.connector(hidden, mask))

    def denoise(self, x_t: Tensor, t: Tensor, condition: Prepared) -> Tensor:
        """See Approach."""
        prediction: Tensor = self.denoiser(x_t, t, condition)
        return prediction

    # ------------------------------------------------------------------------------- image to text, text to text

    def text_start(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Prefix]:
        """See Approach. The state is what the language model keeps of all it has read."""
        parts = read_parts(self.shared, prompts, text_last=True)
        hidden, prefix = self._read_all(parts)
        return last_logits(self.transformer, hidden, prefix.mask[:, -hidden.shape[1] :]), prefix

    def text_step(self, tokens: Tensor, state: Prefix) -> tuple[Tensor, Prefix]:
        """See Approach."""
        return next_logits(self.transformer, tokens, state)

    def text_logits(self, tokens: Tensor) -> Tensor:
        """See Approach."""
        hidden, _ = read(self.transformer, tokens)
        return self.transformer.logits(hidden)


def connector_shape(settings: ProjectionSettings) -> ConnectorShape:
    """Both connectors have the same."""
    return ConnectorShape(
        kind=settings.connector,
        width=settings.width,
        depth=settings.connector_depth,
        heads=settings.heads,
        queries=settings.queries,
    )


def _check(shared: Shared, settings: ProjectionSettings) -> None:
    """UserError where queries or soft prompts, and words, don't fit into the language model's context."""
    queries = 0 if settings.readout == "last_hidden" else settings.queries
    by_patch = settings.connector != "qformer"
    soft = shared.patchify.tokens if by_patch else settings.queries  # of a picture
    beside = max(queries, soft)
    mend = "raise train.patch, or take connector qformer" if by_patch and soft >= queries else "lower settings.queries"
    check_room(shared, beside, f"{beside} queries or soft prompts", mend)
