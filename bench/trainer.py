"""The training loop: one step after another until the budget is spent, resumable at any of them.

What a step sees is a function of its number alone (see bench.seeds), so a training that was killed and started again
ends with the same weights as one that was not."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench import checkpoint
from bench.config import OptimizerConfig
from bench.console import Console


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What a training was. curve: one dict an evaluation, each with `step`. seconds: of this and earlier processes.
    average: the moving average of the weights (the weights themselves where the config asks for none)."""

    curve: list[dict[str, float]]
    seconds: float
    average: dict[str, Tensor]


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient stopped being a number; the message names the step and the last good checkpoint."""


def schedule(step: int, config: OptimizerConfig) -> float:
    """Learning rate of a step as a share of the peak: linear warm-up, then half a cosine down to 1%."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def adamw(model: nn.Module, config: OptimizerConfig, *, betas: tuple[float, float] = (0.9, 0.99)) -> torch.optim.AdamW:
    """AdamW whose weight decay touches matrices only (not gains, biases or other vectors)."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=betas, fused=True)


def fit(
    model: nn.Module,
    loss: Callable[[int], Tensor],
    *,
    config: OptimizerConfig,
    optimizers: list[torch.optim.Optimizer],
    evaluate: Callable[[], dict[str, float]],
    evaluations: int,
    path: Path,
    key: str,
    console: Console,
    description: str,
    checkpoint_seconds: float = 120.0,
) -> Fitted:
    """Train `model` for config.steps steps of `loss(step)`, from the checkpoint at `path` where there is one.

    evaluate: numbers of the averaged weights, taken `evaluations` times, evenly, and at the end.
    key: of everything that decides the result; a checkpoint of another key is refused.
    Raises NonFiniteLossError. An interrupt or a kill loses what came after the last checkpoint, at most
    `checkpoint_seconds` of work, never the checkpoint.
    """
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    average = {name: value.detach().clone() for name, value in model.state_dict().items()} if config.ema else {}
    meta: dict[str, Any] = {"key": key, "step": 0, "curve": [], "seconds": 0.0}
    if path.exists():
        meta = checkpoint.load(path, model=model, average=average, optimizers=optimizers, key=key)
        console.info(f"{description}: resumed at step {meta['step']}")
    begun = time.perf_counter() - meta["seconds"]

    def save() -> None:
        meta["seconds"] = time.perf_counter() - begun
        checkpoint.save(path, model=model, average=average, optimizers=optimizers, meta=meta)

    every = max(1, config.steps // evaluations)
    saved = time.perf_counter()
    with console.progress(config.steps, description, done=meta["step"]) as progress:
        for step in range(meta["step"], config.steps):
            value = _step(model, loss, step, config, optimizers, rates)
            if not math.isfinite(value):
                good = f"last good checkpoint: {path}" if path.exists() else "there is no checkpoint yet"
                raise NonFiniteLossError(f"{description}: the loss or its gradient is {value} at step {step}; {good}")
            _follow(average, model, config, step)
            meta["step"] = step + 1
            progress.advance(1)
            if (step + 1) % every == 0 or step + 1 == config.steps:
                with averaged(model, average):
                    meta["curve"].append({"step": step + 1, "train_loss": value, **evaluate()})
                console.info(f"{description}: {_words(meta['curve'][-1])}")
            if time.perf_counter() - saved > checkpoint_seconds:
                save()
                saved = time.perf_counter()
    save()
    return Fitted(curve=meta["curve"], seconds=meta["seconds"], average=average or dict(model.state_dict()))


def told(fitted: Fitted, number: str, *, tolerance: float = 0.02) -> dict[str, Any]:
    """What a card says of a training: its curve, its seconds, and whether `number` had stopped moving: by less than
    `tolerance` of its value over the last quarter of the steps."""
    rows = fitted.curve
    before = next(row for row in rows if row["step"] >= 0.75 * rows[-1]["step"])
    moved = abs(rows[-1][number] - before[number]) / max(abs(before[number]), 1e-12)
    verdict = "flat" if moved < tolerance else "not flat: more steps would still help"
    said = f"{number.replace('_', ' ')} moved by {100 * moved:.1f}% over the last quarter of the steps: {verdict}"
    return {"converged": said, "curve": rows, "seconds": round(fitted.seconds)}


def _step(
    model: nn.Module,
    loss: Callable[[int], Tensor],
    step: int,
    config: OptimizerConfig,
    optimizers: list[torch.optim.Optimizer],
    rates: list[list[float]],
) -> float:
    """One optimiser step; the loss. Where it or its gradient's norm is not finite, that, and the weights stay."""
    model.train()
    share = schedule(step, config)
    for optimizer, peaks in zip(optimizers, rates, strict=True):
        optimizer.zero_grad(set_to_none=True)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * share
    value = loss(step)
    value.backward()
    number = float(value.detach())
    if math.isfinite(number):
        norm = float(nn.utils.clip_grad_norm_(model.parameters(), 1.0))
        if not math.isfinite(norm):  # a finite loss can have an infinite slope, and one step along it ruins the weights
            return norm
        for optimizer in optimizers:
            optimizer.step()
    return number


def _follow(average: dict[str, Tensor], model: nn.Module, config: OptimizerConfig, step: int) -> None:
    """Move the average towards the weights; its decay rises with the step, so that early steps are soon forgotten."""
    decay = min(config.ema, (1 + step) / (10 + step))
    state = model.state_dict()
    with torch.no_grad():
        for name, value in average.items():
            if value.is_floating_point():
                value.lerp_(state[name], 1 - decay)
            else:
                value.copy_(state[name])


@contextmanager
def averaged(model: nn.Module, average: dict[str, Tensor]) -> Iterator[None]:
    """The model in evaluation mode with the averaged weights in it; its own weights and modes come back afterwards."""
    modes = {module: module.training for module in model.modules()}
    own = {name: value.detach().clone() for name, value in model.state_dict().items()}
    model.eval()
    try:
        if average:
            model.load_state_dict(average)
        with torch.no_grad():
            yield
    finally:
        model.load_state_dict(own)
        for module, mode in modes.items():
            module.training = mode


def _words(row: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in row.items())
