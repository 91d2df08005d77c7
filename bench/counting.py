"""What an approach is and does at the sizes of a config, counted on imagined tensors: see `bench.imagined`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from approaches.base import Approach, Batch, Prompt
from approaches.registry import APPROACHES
from approaches.shared.randomness import generator
from approaches.shared.sources import resolve
from approaches.shared.vae import LatentCodec, pictures_at_once
from bench.budget import FP32, Counts
from bench.config import Config
from bench.data.catalogue import open_dataset
from bench.errors import UserError
from bench.imagined import Held, backward, blank_batch, imagine, imagining, tokenizer_of
from bench.meter import flops, flops_per_evaluation, flops_per_step, parameters
from bench.muon import at_a_time, orthogonalised

LOOKED_AT = 256  # captions, for the length of the longest


def count(approach: str, settings: Any, config: Config, *, ranks: int, bf16: bool) -> Counts:
    """Everything that a plan needs of one approach. ranks: GPUs that share a batch. UserError where settings and models
    don't fit each other, where a shape is not known, or where a batch can't be shared out so."""
    caption, whose = longest_caption(config)
    train = config.train
    describe = train.describe_rows
    rows = (train.batch - describe, describe, train.batch)
    parts = ranks * train.accumulation
    if parts > min(each for each in rows if each):
        raise UserError(
            f"a batch of {rows[0]} pictures to draw and {rows[1]} to describe can't be shared by {ranks} GPUs in "
            f"{train.accumulation} parts each: raise train.batch, or lower train.accumulation"
        )
    part = tuple(-(-each // parts) for each in rows)
    with imagining():
        shared = imagine(config)
        built: Approach = APPROACHES[approach].load()(shared, settings)
        sizes = {
            "levels": train.noise_levels,
            "caption": caption,
            "window": train.replay_tokens,
            "picture": config.data.size,
        }
        batch = blank_batch(shared, rows, **sizes)
        small = blank_batch(shared, (part[0], part[1], part[2]), **sizes)
        counted = parameters(built, batch.noise)
        of_evaluation: dict[str, Any] = {"condition": 0, "denoise": 0}
        if "denoise" in built.capabilities:
            of_evaluation = flops_per_evaluation(built, batch.noise)
        codec = shared.codecs["image"]
        side = config.data.size
        return Counts(
            **counted,
            hidden=sum(matrix.numel() for matrix in built.hidden_matrices()),
            together=together(built.hidden_matrices()),
            codec=sum(p.numel() for p in codec.parameters()),
            latent_values=batch.noise[0].numel(),
            **_units(built),
            rows=rows,
            part=(part[0], part[1], part[2]),
            caption_tokens=caption,
            captions_of=whose,
            image_tokens=shared.patchify.tokens,
            forward=_forward(built, batch) if train.accumulation > 1 and not built.counts(batch) else None,
            step=flops_per_step(built, batch, lambda purpose: generator(0, purpose)),
            update=flops_per_update(built, config),
            encode=flops(lambda: codec.encode(torch.zeros(1, 3, side, side))),
            activations=_activations(built, small, bf16),
            validation=_validation(built, min(config.evaluate.batch, config.evaluate.triples)),
            encoding=_encoding(codec, min(pictures_at_once(side), config.data.train_items), side),
            **of_evaluation,
        )


def longest_caption(config: Config) -> tuple[int, str]:
    """Tokens of the captions in a batch, start and end among them, and of which captions: the longest of the data's
    first where data and tokenizer are at hand, else as many as the config allows."""
    most = config.train.caption_tokens
    allowed = (most, "the most that train.caption_tokens allows")
    try:
        samples = open_dataset(replace(config.data, train_items=min(LOOKED_AT, config.data.train_items)), "train")
        captions = [caption for sample in samples.first(LOOKED_AT) for caption in sample.captions]
        tokenizer = tokenizer_of(resolve(config.model.lm, field="model.lm"))
    except UserError:
        return allowed
    if tokenizer is None or not captions:
        return allowed
    longest = max(len(tokenizer.encode(caption, add_special_tokens=False)) for caption in captions)
    return min(most, longest + 2), f"the longest of the first {len(captions)} of {config.data.name}"


def _forward(approach: Approach, batch: Batch) -> int:
    """FLOPs of a batch's losses alone. With gradients, whose graph is dropped: see `flops_per_evaluation`."""
    return flops(lambda: approach.losses(batch, lambda purpose: generator(0, purpose)))


def flops_per_update(approach: Approach, config: Config) -> int:
    """Of the optimizer's products in one step, on tensors without values: Muon's, once, however many ranks repeat them;
    AdamW makes none."""
    if config.train.optimizer != "muon":
        return 0
    alike = Counter((tuple(matrix.shape), matrix.device) for matrix in approach.hidden_matrices())
    with imagining():
        return sum(
            many * flops(partial(orthogonalised, torch.empty(1, *shape, device=device)))
            for (shape, device), many in alike.items()
        )


def together(matrices: Sequence[Tensor]) -> int:
    """Bytes of the matrices that Muon works on at a time: of one shape, and at least one."""
    alike = Counter(tuple(matrix.shape) for matrix in matrices)
    return max((FP32 * math.prod(shape) * min(n, at_a_time(shape)) for shape, n in alike.items()), default=0)


def _encoding(codec: LatentCodec, pictures: int, side: int) -> int:
    """The most bytes that encoding so many pictures at a time holds beside weights."""
    held = Held(list(codec.parameters()))
    with held:
        codec.encode(torch.zeros(pictures, 3, side, side))
    held.release()
    return held.peak


def _validation(approach: Approach, rows: int) -> int:
    """The most bytes that a look at the validation loss holds beside weights."""
    if "denoise" not in approach.capabilities:
        return 0
    shared = approach.shared
    shape = (rows, shared.codecs["image"].channels, shared.latent_size, shared.latent_size)
    held = Held(list(approach.parameters()))
    with torch.no_grad(), held:
        x_t, t = torch.zeros(shape), torch.zeros(rows)
        approach.denoise(x_t, t, approach.condition([Prompt.text("a picture")] * rows))
    held.release()
    return held.peak


def _activations(approach: Approach, batch: Batch, bf16: bool) -> int:
    """The most bytes that one step holds beside weights and gradients."""
    held = Held(list(approach.parameters()))
    with held, torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        backward(approach, batch)
    held.release()
    approach.zero_grad(set_to_none=True)
    return held.peak


def _units(approach: Approach) -> dict[str, Any]:
    """Parameters of the largest block, and of all that is in no block: what FSDP gathers at once."""

    def size(modules: list[nn.Module]) -> int:
        return sum({id(p): p.numel() for module in modules for p in module.parameters()}.values())

    blocks = approach.blocks()
    return {
        "largest_block": max((size([block]) for block in blocks), default=0),
        "outside": size([approach]) - size(blocks),
    }
