"""Prompts as what a sequence model reads: segments stacked into batches. Duck-typed over approaches.base's Prompt and
Shared, which stand above this module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from approaches.shared.language_model import LanguageModel
from approaches.shared.transformer import Transformer
from bench.errors import UserError


def read_parts(shared: Any, prompts: Sequence[Any], *, text_last: bool = False) -> list[tuple[str, Any]]:
    """Prompts with the same modalities as ("text", (tokens B L, mask B L)) and ("image", latents B C H W), in order.

    Each text begins with the start token. text_last: `lead` follows where the last segment is an image.
    Everything lands on the codec's device: the language model that all share may wait elsewhere while its trained copy
    works. ValueError where prompts' modalities differ or a prompt is empty.
    """
    device = shared.codecs["image"].device
    orders = {tuple(modality for modality, _ in prompt.segments) for prompt in prompts}
    if len(orders) != 1 or not (order := orders.pop()):
        raise ValueError(f"prompts of one batch need the same segments, at least one; got {sorted(orders)}")
    parts: list[tuple[str, Any]] = []
    for place, modality in enumerate(order):
        contents = [prompt.segments[place][1] for prompt in prompts]
        if modality == "image":
            parts.append((modality, torch.stack(contents).to(device)))
        else:
            tokens, mask = shared.tokenise(contents)
            parts.append((modality, (tokens.to(device), mask.to(device))))
    if text_last and order[-1] == "image":
        tokens = torch.tensor([lead(shared.language_model, shared.describe_prompt)] * len(prompts), device=device)
        parts.append(("text", (tokens, torch.ones_like(tokens, dtype=torch.bool))))
    return parts


def lead(model: LanguageModel, describe_prompt: str) -> list[int]:
    """The tokens between a picture and its caption: of these words, without white space at their end, or the start
    token where there are none."""
    return model.encode(describe_prompt.rstrip()) or [model.start_id]


def check_room(shared: Any, picture: int = 0, what: str = "a picture", mend: str = "") -> None:
    """UserError where a picture of so many places, the words behind it and its caption don't fit into the language
    model's context. what: the places in words; mend: what to do about them."""
    words = len(lead(shared.language_model, shared.describe_prompt))
    context, caption = shared.language_model.transformer.config.context, shared.caption_tokens
    if picture + words + caption > context:
        if words + caption > context:
            mend = "shorten it, or lower train.caption_tokens"
        raise UserError(
            f"{what}, the {words} tokens of train.describe_prompt and a caption of {caption} don't fit into the "
            f"model's context of {context} tokens: {mend}"
        )


def check_picture(shared: Any) -> None:
    """UserError where a picture that is read as its tokens, between a begin and an end, leaves no room for that."""
    tokens = shared.patchify.tokens
    check_room(shared, tokens + 2, f"a picture of {tokens} tokens", "raise train.patch, or lower data.size")


def gap(model: LanguageModel, describe_prompt: str) -> str:
    """The white space at the words' end: a caption's first token is another behind it. Without a last space where the
    tokenizer puts one before every text by itself (SentencePiece)."""
    own = str(model.tokenizer.convert_ids_to_tokens(model.encode("a"))[0]).startswith("\u2581")
    white = describe_prompt[len(describe_prompt.rstrip()) :]
    return white.removesuffix(" ") if own else white


def last_logits(transformer: Transformer, hidden: Tensor, mask: Tensor) -> Tensor:
    """Logits, B V, after each row's last token that counts. hidden: B T D, mask: B T, padding on the right."""
    place = mask.sum(1) - 1
    return transformer.logits(hidden[torch.arange(len(hidden), device=hidden.device), place])


def embedding_scale(transformer: Transformer) -> float:
    """Root mean square of the token embeddings."""
    return float(transformer.embed.weight.detach().float().square().mean().sqrt())
