"""The only sampling loop: the same prompts, noise, solver, evaluations and guidance for every approach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from approaches.base import Approach, Generation, NoiseFor, Prompt
from approaches.shared.diffusion import Sampled, guided
from approaches.shared.randomness import generator
from bench.console import Progress
from bench.errors import UserError
from bench.meter import now, synchronise
from bench.owed import check_condition


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """An approaches.base.Sampler. guidance: 1 is none; otherwise prompts and the empty prompt run as one batch of 2B.

    keep: times at which the reverse process is to be kept.
    """

    nfe: int
    guidance: float
    keep: Sequence[float] = ()

    def __call__(self, approach: Approach, condition: Any, noise: Tensor) -> Sampled:
        """Latents from noise (B C H W) under a condition of B rows."""
        check_condition(approach, condition, len(noise))
        if self.guidance != 1.0:
            empty = approach.condition([Prompt.text("")])
            rows = torch.zeros(len(noise), dtype=torch.long, device=noise.device)
            condition = type(condition).cat([condition, empty.select(rows)])
        denoise = guided(lambda x_t, t: approach.denoise(x_t, t, condition), self.guidance)
        return approach.shared.diffusion.sample(denoise, noise, nfe=self.nfe, keep=self.keep)


@dataclass(kw_only=True)
class Drawn:
    """Pictures of many prompts, in their order. latents: N C H W on the CPU; first: before any redraw, where they
    differ. seconds: wall time a batch with its number of pictures. parts: `Generation.seconds`, added up by name.
    tokens, trace: as a Generation's."""

    latents: Tensor
    first: Tensor | None
    nfe: list[int]
    tokens: int
    seconds: list[tuple[float, int]]
    parts: dict[str, float] = field(default_factory=dict)
    trace: list[dict[str, Any]] = field(default_factory=list)


def noise_source(shape: tuple[int, ...], seed: int, first: int, device: torch.device) -> NoiseFor:
    """The noise of prompt `first` + index in a round: a function of (seed, prompt, round) alone, so neither batch size
    nor approach changes it. shape: C H W."""

    def noise_for(indices: Sequence[int], round_: int) -> Tensor:
        rows = [torch.randn(shape, generator=generator(seed, "noise", first + i, round_)) for i in indices]
        return torch.stack(rows).to(device)

    return noise_for


@torch.no_grad()
def draw(
    approach: Approach,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    seed: int,
    batch: int,
    first: int = 0,
    progress: Progress | None = None,
) -> Drawn:
    """Pictures for prompts, `batch` at a time. first: whose noise the first prompt gets."""
    shared, device = approach.shared, next(approach.parameters()).device
    shape = (shared.codecs["image"].channels, shared.latent_size, shared.latent_size)
    approach.eval()
    generations: list[Generation] = []
    seconds = []
    for start in range(0, len(prompts), batch):
        chunk = prompts[start : start + batch]
        begun = now()
        generations.append(approach.generate(chunk, noise_source(shape, seed, first + start, device), sampling))
        _check(approach, generations[-1], (len(chunk), *shape))
        synchronise(device)
        seconds.append((now() - begun, len(chunk)))
        if progress is not None:
            progress.advance(len(chunk))
    return _joined(generations, seconds)


def _check(approach: Approach, made: Any, shape: tuple[int, ...]) -> None:
    """UserError where what was drawn is not a picture a prompt: the rest would be judged by others' captions."""
    whose = f"{type(approach).__name__}.generate"
    if not isinstance(made, Generation):
        raise UserError(f"{whose} gives a {type(made).__name__}, expected an approaches.base.Generation")
    for latents in (made.latents, made.first):
        if latents is not None and tuple(latents.shape) != shape:
            raise UserError(f"{whose} gives latents of shape {tuple(latents.shape)}, expected {shape}")
    if len(made.nfe) != shape[0] or len(made.trace) not in (0, shape[0]):
        raise UserError(f"{whose} gives {len(made.nfe)} nfe and {len(made.trace)} traces for {shape[0]} prompts")


def _joined(generations: Sequence[Generation], seconds: list[tuple[float, int]]) -> Drawn:
    parts: dict[str, float] = {}
    for generation in generations:
        for name, value in generation.seconds.items():
            parts[name] = parts.get(name, 0.0) + value
    firsts = [g.latents if g.first is None else g.first for g in generations]
    redrawn = any(g.first is not None for g in generations)
    return Drawn(
        latents=torch.cat([g.latents.float().cpu() for g in generations]),
        first=torch.cat([f.float().cpu() for f in firsts]) if redrawn else None,
        nfe=[n for g in generations for n in g.nfe],
        tokens=sum(g.tokens for g in generations),
        seconds=seconds,
        parts=parts,
        trace=[dict(entry) for g in generations for entry in g.trace],
    )
