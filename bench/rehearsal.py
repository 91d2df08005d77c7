"""Everything that an approach declares, once and small, before it is trained: what its methods answer is judged at
once, and not after hours, when the pictures are drawn. Learns nothing, and leaves the approach as it was."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from approaches.base import Approach, Batch, Generators, Prompt
from bench.errors import UserError
from bench.imagined import imagining
from bench.owed import check_condition, check_losses, strays
from bench.sampler import Sampling, draw

ROWS = 2
NFE = 2  # the fewest that every solver can do
OF_LM = ": the last is the vocabulary of model.lm, whose ids batches and texts hold"


def rehearse(approach: Approach, batch: Batch, generators: Generators) -> None:
    """UserError that names the method whose answer is not what the interface says. batch: what training's first forward
    pass sees, on the approach's device."""
    was = approach.training
    captions, scenes = batch.draw.captions * ROWS, batch.draw.scenes * ROWS
    prompts = approach.prompts(captions[:ROWS], scenes[:ROWS])
    latents = batch.draw.latents[:1].expand(ROWS, -1, -1, -1)
    try:
        with torch.random.fork_rng(devices=[]):
            if latents.device.type == "cpu":
                _losses(approach, batch, generators)
            else:
                losses_without_values(approach, batch, generators)
            approach.eval()
            with torch.no_grad():
                if "denoise" in approach.capabilities:
                    _denoise(approach, prompts, latents)
                if "generate" in approach.capabilities:
                    sampling = Sampling(nfe=NFE, guidance=2.0)
                    draw(approach, prompts[:1], sampling, seed=0, batch=1)
                if "caption" in approach.capabilities:
                    _text(approach, [Prompt.image(latent) for latent in latents])
                if "complete" in approach.capabilities:
                    _text(approach, prompts)
                    tokens = batch.draw.tokens[:1]
                    logits = approach.text_logits(tokens)
                    _shape(approach, "text_logits", logits, (*tokens.shape, _vocabulary(approach)), OF_LM)
    finally:
        approach.train(was)


def losses_without_values(approach: Approach, batch: Batch, generators: Generators) -> None:
    """As `_losses`, of what takes no memory: a GPU may not hold it uncompiled and in float32. A stranger's losses may
    need values: these are judged when they are trained by."""
    mistakes: list[UserError] = []
    with suppress(Exception), imagining(), torch.enable_grad():
        approach.train()
        losses = approach.losses(batch, generators)
        try:
            _judge(approach, losses, batch, values=False)
        except UserError as error:
            mistakes.append(error)
    for mistake in mistakes:
        raise mistake


def _losses(approach: Approach, batch: Batch, generators: Generators) -> None:
    with torch.enable_grad():
        approach.train()
        losses = approach.losses(batch, generators)
        _judge(approach, losses, batch)
    if "denoise" in approach.capabilities:
        _counted(approach, float(losses["diffusion"].count), batch)


def _judge(approach: Approach, losses: Any, batch: Batch, *, values: bool = True) -> None:
    """UserError where losses are not what all owe. values: whether tensors have any; see `_counted` for a count."""
    check_losses(approach, losses, values=values)
    if found := strays(approach, losses):
        raise UserError(
            f"{type(approach).__name__}.losses would train a tensor of shape {found[0]} that is none of its "
            "parameters: a layer belongs in an attribute of its own or a torch.nn.ModuleList, not in a list, and what "
            "is not to be trained has no requires_grad"
        )
    if "denoise" in approach.capabilities and not isinstance(count := losses["diffusion"].count, Tensor):
        _counted(approach, float(count), batch)


def _counted(approach: Approach, count: float, batch: Batch) -> None:
    if count != len(batch.times):
        raise UserError(
            f"{type(approach).__name__}.losses counts {count:g} for 'diffusion', expected {len(batch.times)}, the rows "
            "that are drawn: its sum is over them, not their mean"
        )


def _denoise(approach: Approach, prompts: list[Prompt], latents: Tensor) -> None:
    condition = approach.condition(prompts)
    check_condition(approach, condition, len(prompts))
    swapped = condition.select(torch.arange(len(prompts) - 1, -1, -1, device=latents.device))
    check_condition(approach, swapped, len(prompts))
    both = type(condition).cat([condition, swapped])
    check_condition(approach, both, 2 * len(prompts))
    t = torch.full((len(latents),), 0.5, device=latents.device)
    _shape(approach, "denoise", approach.denoise(latents, t, condition), tuple(latents.shape))


def _text(approach: Approach, prompts: list[Prompt]) -> None:
    vocabulary = _vocabulary(approach)
    logits, state = _pair(approach, "text_start", approach.text_start(prompts))
    _shape(approach, "text_start", logits, (len(prompts), vocabulary), OF_LM)
    logits, _ = _pair(approach, "text_step", approach.text_step(logits.argmax(-1, keepdim=True), state))
    _shape(approach, "text_step", logits, (len(prompts), 1, vocabulary), OF_LM)


def _pair(approach: Approach, method: str, answer: Any) -> tuple[Any, Any]:
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise UserError(f"{type(approach).__name__}.{method} gives a {type(answer).__name__}, expected (logits, state)")
    return answer


def _shape(approach: Approach, method: str, answer: Any, shape: tuple[int, ...], why: str = "") -> None:
    whose = f"{type(approach).__name__}.{method}"
    if not isinstance(answer, Tensor):
        raise UserError(f"{whose} gives a {type(answer).__name__}, expected a tensor of shape {shape}")
    if tuple(answer.shape) != shape:
        raise UserError(f"{whose} gives a tensor of shape {tuple(answer.shape)}, expected {shape}{why}")


def _vocabulary(approach: Approach) -> int:
    return int(approach.shared.language_model.transformer.config.vocabulary)
