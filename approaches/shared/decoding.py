"""The one loop that writes text: captions, completions, plans under a grammar. Greedy or sampled, rows side by side.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.errors import UserError

Start = tuple[Tensor, Any]
"""Logits of the first token, B V, and the state to go on from: what `text_start` gives."""
Step = Callable[[Tensor, Any], tuple[Tensor, Any]]
"""`text_step`: (tokens B T, state) -> (logits B T V, state)."""
Allowed = Callable[[int, Sequence[int]], Tensor | None]
"""(row, its tokens so far) -> V bool, the tokens a grammar allows next; None for any."""


@torch.no_grad()
def decode(
    start: Start,
    step: Step,
    *,
    limit: int,
    end_id: int,
    temperature: float = 0.0,
    generators: Sequence[torch.Generator] = (),
    allowed: Allowed | None = None,
) -> list[list[int]]:
    """Each row's tokens, up to `limit` or its end token, which is left out. Greedy at temperature 0; otherwise each row
    draws from its own generator, so that a row does not depend on the rest of its batch. A row whose grammar allows
    nothing ends."""
    logits, state = _first(start)
    found: list[list[int]] = [[] for _ in range(len(logits))]
    open_rows = [True] * len(logits)
    for place in range(limit):
        logits = logits.float()
        if allowed is not None:
            logits = _held(logits, found, open_rows, allowed)
        chosen = _choose(logits, temperature, generators)
        allowed_here = torch.isfinite(logits.gather(1, chosen[:, None]))[:, 0].tolist()
        for row, (token, fits) in enumerate(zip(chosen.tolist(), allowed_here, strict=True)):
            open_rows[row] = open_rows[row] and token != end_id and fits
            if open_rows[row]:
                found[row].append(token)
        if not any(open_rows) or place + 1 == limit:
            break
        following, state = step(chosen[:, None], state)
        logits = following[:, -1]
    return found


@torch.no_grad()
def score(start: Start, step: Step, targets: Tensor) -> Tensor:
    """-log p in nats of the given next tokens, B T (-100 for padding, which gives 0), read in one step."""
    logits, state = _first(start)
    tokens = targets.clamp(min=0)
    whole = logits[:, None]
    if targets.shape[1] > 1:
        whole = torch.cat([whole, step(tokens[:, :-1], state)[0]], 1)
    nats = -whole.float().log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    return nats.masked_fill(targets == -100, 0.0)


def _first(start: Start) -> Start:
    """The same; UserError where the logits are no B V."""
    if start[0].ndim != 2:
        raise UserError(f"text_start answered logits of shape {tuple(start[0].shape)}, expected one row a prompt: B V")
    return start


def _held(logits: Tensor, found: list[list[int]], open_rows: list[bool], allowed: Allowed) -> Tensor:
    fits = torch.ones(logits.shape, dtype=torch.bool)
    for row, tokens in enumerate(found):
        told = allowed(row, tokens) if open_rows[row] else None
        if told is not None:
            fits[row] = told
    return logits.masked_fill(~fits.to(logits.device), -torch.inf)


def _choose(logits: Tensor, temperature: float, generators: Sequence[torch.Generator]) -> Tensor:
    if temperature == 0:
        return logits.argmax(-1)
    if len(generators) != len(logits):
        raise ValueError(f"{len(generators)} generators for {len(logits)} rows")
    picked = []
    for row, generator in zip((logits / temperature).softmax(-1).cpu(), generators, strict=True):
        # A row whose grammar allows nothing has no distribution; it has ended, and any token will do.
        ended = not bool(torch.isfinite(row).all())
        picked.append(
            row.new_zeros((), dtype=torch.long) if ended else torch.multinomial(row, 1, generator=generator)[0]
        )
    return torch.stack(picked).to(logits.device)
