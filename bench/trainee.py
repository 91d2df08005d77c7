"""What the training loop works on: a budget, a schedule, an optimizer, and something that knows how to take a step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench import checkpoint
from bench.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long a training goes on: `steps`, or `seconds` of training where steps are None."""

    steps: int | None = None
    seconds: float = math.inf

    @classmethod
    def of(cls, config: TrainConfig, flops_per_step: float = 0.0) -> Budget:
        """What a config asks for: whole steps, as many as fit into it, and one at least. ValueError for a budget of
        FLOPs without those of a step."""
        if config.budget == "seconds":
            return cls(seconds=config.amount)
        if config.budget == "flops" and flops_per_step <= 0:
            raise ValueError("a budget of FLOPs needs the FLOPs of a step")
        of_step = {"steps": 1.0, "images": float(config.batch), "flops": flops_per_step}[config.budget]
        return cls(steps=max(1, int(config.amount / of_step * (1 + 1e-12))))  # a share's rounding costs no step

    def progress(self, step: int, seconds: float) -> float:
        """The share of the budget that is spent, 0 to 1."""
        return min(1.0, seconds / self.seconds if self.steps is None else step / self.steps)

    def ticks(self, step: int, seconds: float, times: int) -> int:
        """How many of `times` occasions, evenly spread and the last at the end, have come."""
        if self.steps is not None:
            return min(step, self.steps) * times // self.steps
        return int(self.progress(step, seconds) * times)


def decayed(step: int, warmup: int, progress: float) -> float:
    """Learning rate of a step as a share of the peak: linear warm-up, then half a cosine down to 1%, where `progress`
    is the spent share of what comes after the warm-up."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def decaying(
    groups: Sequence[tuple[Sequence[Tensor], float]], decay: float, *, betas: tuple[float, float] = (0.9, 0.99)
) -> torch.optim.AdamW:
    """AdamW for groups of parameters, each with its peak learning rate; weight decay touches what has two dimensions or
    more (so tables of positions and queries, too), not gains, biases or other vectors."""
    split: list[dict[str, Any]] = []
    for parameters, rate in groups:
        split.append({"params": [p for p in parameters if p.ndim >= 2], "weight_decay": decay, "lr": rate})
        split.append({"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0, "lr": rate})
    return torch.optim.AdamW(split, betas=betas, fused=True)


class Trainee:
    """What is trained, and by what step. Subclasses give `gradients`.

    model: set to training and back. weights: name -> live tensor of all that training changes. lag: how many steps may
    pass before a loss that is not finite is seen; with none, such a step changes nothing. names: of the numbers of a
    step, the whole loss first. clip: largest norm of the gradient. ema: decay of the average. main: this process
    writes files and lines. frozen_hash: of the weights that training must not change, which a checkpoint must match.
    """

    names: tuple[str, ...] = ("loss",)
    lag = 0
    main = True
    frozen_hash = ""

    def __init__(
        self,
        model: nn.Module,
        optimizers: list[torch.optim.Optimizer],
        *,
        weights: dict[str, Tensor],
        warmup: int,
        ema: float,
        clip: float = 1.0,
    ) -> None:
        self.model, self.optimizers, self.weights = model, optimizers, weights
        self.warmup, self.ema, self.clip = warmup, ema, clip
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self._peaks = [[float(group["lr"]) for group in optimizer.param_groups] for optimizer in optimizers]

    def gradients(self, step: int) -> Tensor:
        """Leave the gradients of a step in the weights; its numbers, as `names` says, without gradient."""
        raise NotImplementedError

    def step(self, step: int, share: float) -> Tensor:
        """One optimiser step at a share of the peak learning rates; its numbers, the first of them not finite where the
        loss or the gradient is not."""
        self.model.train()
        for optimizer, peaks in zip(self.optimizers, self._peaks, strict=True):
            optimizer.zero_grad(set_to_none=True)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * share
        numbers = self.gradients(step)
        # a finite loss can have an infinite slope, and one step along it ruins the weights
        norm = self.clipped()
        numbers[0] = torch.where(torch.isfinite(numbers[0]) & ~torch.isfinite(norm), norm, numbers[0])
        if self.lag or math.isfinite(numbers[0]):
            for optimizer in self.optimizers:
                optimizer.step()
        return numbers

    def clipped(self) -> Tensor:
        """The norm of the gradient before it is cut to `clip`, which this does."""
        return nn.utils.clip_grad_norm_(self.trained, self.clip)

    def save(self, path: Path, average: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Write a checkpoint."""
        if self.main:
            checkpoint.save(path, weights=self.weights, average=average, optimizers=self.optimizers, meta=meta)

    def load(self, path: Path, average: dict[str, Tensor], key: str) -> dict[str, Any] | None:
        """Go on from the checkpoint at `path`: its meta, None where there is none. See checkpoint.load."""
        if not path.exists():
            return None
        return checkpoint.load(
            path,
            weights=self.weights,
            average=average,
            optimizers=self.optimizers,
            key=key,
            frozen_hash=self.frozen_hash,
        )

    def agreed(self, seconds: float) -> float:
        """The same seconds for all processes of a training."""
        return seconds

    def state(self) -> dict[str, Any]:
        """What else a checkpoint must hold, plain JSON."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""

    def log(self, row: dict[str, float]) -> None:
        """A row of either curve is known."""
