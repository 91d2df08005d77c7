"""The only training loop: one step after another until the budget is spent, resumable at any of them.

What a step sees is a function of its number alone (see bench.seeds), so a training that was killed and started again
ends with the same weights as one that was not (on a GPU but for the rounding of sums, whose order varies there). `fit`
trains any module on any loss; bench.training does an approach."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.config import OptimizerConfig
from bench.console import Console, Progress
from bench.meter import Meter, now
from bench.trainee import Budget, Trainee, decayed, decaying

RECORDED = 100  # rows of the loss curve


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What a training was. curve: one dict an evaluation, each with `step`. seconds: of this and earlier processes.
    average: the moving average of the weights (the weights themselves where the config asks for none).
    losses: about RECORDED rows of `step`, `loss` and its terms, each the mean since the row before."""

    curve: list[dict[str, float]]
    seconds: float
    average: dict[str, Tensor]
    losses: list[dict[str, float]] = field(default_factory=list)
    steps: int = 0


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient stopped being a number; the message names the step and the last good checkpoint."""


def adamw(model: nn.Module, config: OptimizerConfig, *, betas: tuple[float, float] = (0.9, 0.99)) -> torch.optim.AdamW:
    """AdamW whose weight decay touches no gains, biases or other vectors."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return decaying([(trained, config.lr)], config.weight_decay, betas=betas)


class _Module(Trainee):
    """Any module on any loss."""

    loss: Callable[[int], Tensor]

    def gradients(self, step: int) -> Tensor:
        """See Trainee."""
        value = self.loss(step)
        value.backward()
        return value.detach().reshape(1).clone()


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

    evaluate: numbers of the averaged weights, taken `evaluations` times, evenly, the last at the end.
    key: of everything that decides the result; a checkpoint of another key is refused.
    Raises NonFiniteLossError. An interrupt or a kill loses what came after the last checkpoint, at most
    `checkpoint_seconds` of work, never the checkpoint.
    """
    trainee = _Module(model, optimizers, weights=model.state_dict(), warmup=config.warmup, ema=config.ema)
    trainee.loss = loss
    return Fitting(
        trainee=trainee,
        budget=Budget(steps=config.steps),
        evaluate=evaluate,
        evaluations=evaluations,
        path=path,
        key=key,
        console=console,
        description=description,
        checkpoint_seconds=checkpoint_seconds,
    ).train()


@dataclass(kw_only=True)
class Fitting:
    """One training: see `fit` for the fields."""

    trainee: Trainee
    budget: Budget
    evaluate: Callable[[], dict[str, float]]
    evaluations: int
    path: Path
    key: str
    console: Console
    description: str
    checkpoint_seconds: float
    meter: Meter = field(default_factory=Meter)
    meta: dict[str, Any] = field(init=False)
    average: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        """Begin, or go on from the checkpoint."""
        weights = self.trainee.weights
        self._begun, self._pending, self._last, self._kept = now(), list[Tensor](), math.nan, -1
        self.average = {name: value.clone() for name, value in weights.items()} if self.trainee.ema else {}
        self.meta = {
            "key": self.key, "frozen_hash": self.trainee.frozen_hash, "step": 0, "seconds": 0.0, "spent": 0.0,
            "warm": 0.0, "curve": [], "evaluated": 0, "losses": [], "recorded": 0, "window": [],
        }  # fmt: skip
        if (found := self.trainee.load(self.path, self.average, self.key)) is not None:
            self.meta |= found
            if "meter" in self.meta:
                self.meter.restore(self.meta["meter"])
            self.trainee.restore(self.meta)
            self._begun, self._kept = self._begun - self.meta["seconds"], self.meta["step"]
            if self.trainee.main:
                self.console.info(f"{self.description}: resumed at step {self.meta['step']}")

    def train(self) -> Fitted:
        """Train to the budget's end. Raises NonFiniteLossError."""
        trainee, saved = self.trainee, now()
        with self._shown() as progress:
            self.meter.start()
            while not self._ended():
                step = self.meta["step"]
                self._pending.append(trainee.step(step, self._share(step)))
                follow(self.average, trainee.weights, min(trainee.ema, (1 + step) / (10 + step)))
                self.meta["step"] = step + 1
                if len(self._pending) > trainee.lag or self._due() or self._ended():
                    self._settle(progress)
                    if self._due():
                        self._evaluate()
                    if self.trainee.agreed(now() - saved) > self.checkpoint_seconds:
                        self._save()
                        saved = now()
        if self._kept != self.meta["step"]:
            self._save()
        meta = self.meta
        return Fitted(
            curve=meta["curve"],
            seconds=meta["seconds"],
            average=self.average or dict(trainee.weights),
            losses=meta["losses"],
            steps=meta["step"],
        )

    def _ended(self) -> bool:
        return self.budget.progress(self.meta["step"], self.meta["spent"]) >= 1

    def _due(self) -> bool:
        """Whether there is an evaluation to take."""
        ticks = self.budget.ticks(self.meta["step"], self.meta["spent"], self.evaluations)
        return ticks > int(self.meta["evaluated"])

    def _share(self, step: int) -> float:
        """Of the peak learning rates."""
        warmup = self.trainee.warmup
        if self.budget.steps is not None:
            return decayed(step, warmup, (step - warmup) / max(1, self.budget.steps - warmup))
        if step <= warmup:
            self.meta["warm"] = self.meta["spent"]
        left = self.budget.seconds - self.meta["warm"]
        return decayed(step, warmup, (self.meta["spent"] - self.meta["warm"]) / max(left, 1e-9))

    def _shown(self) -> AbstractContextManager[Progress]:
        if not self.trainee.main:
            return nullcontext(Progress())
        total = self.budget.steps or math.ceil(self.budget.seconds)
        done = self.meta["step"] if self.budget.steps else int(self.meta["spent"])
        return self.console.progress(total, self.description, done=done)

    def _settle(self, progress: Progress) -> None:
        """Look at the numbers of the steps since the last look: the only place that waits for a device."""
        rows = torch.stack(self._pending).tolist()
        self._pending.clear()
        self.meter.lap(len(rows))
        before, self.meta["spent"] = self.meta["spent"], self.trainee.agreed(self.meter.seconds)
        first = self.meta["step"] - len(rows)
        for step, row in enumerate(rows, first):
            if not math.isfinite(row[0]):
                good = f"last good checkpoint: {self.path}" if self._kept >= 0 else "there is no checkpoint yet"
                terms = [name for name, value in zip(self.trainee.names, row, strict=True) if not math.isfinite(value)]
                of = f" ({', '.join(terms[1:])})" if terms[1:] else ""
                said = f"{self.description}: the loss{of} or its gradient is {row[0]} at step {step}; {good}"
                raise NonFiniteLossError(said)
            self._record(step + 1, row)
        advanced = len(rows) if self.budget.steps else int(self.meta["spent"]) - int(before)
        progress.advance(advanced, f"loss {rows[-1][0]:.4g}")
        self._last = float(rows[-1][0])

    def _record(self, step: int, row: list[float]) -> None:
        """Into the loss curve: a row of it is the mean since the row before."""
        window = self.meta["window"] or [[0, 0.0]] * len(row)
        self.meta["window"] = [
            [count, total] if math.isnan(value) else [count + 1, total + value]  # nothing counted for it in this step
            for (count, total), value in zip(window, row, strict=True)
        ]
        if (ticks := self.budget.ticks(step, self.meta["spent"], RECORDED)) > self.meta["recorded"]:
            sums = dict(zip(self.trainee.names, self.meta["window"], strict=True))
            means = {name: total / count for name, (count, total) in sums.items() if count}
            self.meta["losses"].append({"step": step, **means})
            self.meta |= {"window": [], "recorded": ticks}
            self.trainee.log(self.meta["losses"][-1])

    def _evaluate(self) -> None:
        with averaged(self.trainee.model, self.average, self.trainee.weights):
            row = {"step": self.meta["step"], "train_loss": self._last, **self.evaluate()}
        self.meta["evaluated"] = self.budget.ticks(self.meta["step"], self.meta["spent"], self.evaluations)
        self.meta["curve"].append(row)
        if self.trainee.main:
            self.console.info(f"{self.description}: {_words(row)}")
        self.trainee.log(row)
        self.meter.start()

    def _save(self) -> None:
        self.meta["seconds"] = now() - self._begun
        meta = {**self.meta, **self.trainee.state(), "meter": self.meter.state()}
        self.trainee.save(self.path, self.average, meta)
        self._kept = self.meta["step"]
        self.trainee.agreed(0.0)  # the other ranks wait for the one that writes: it is nobody's training
        self.meter.start()


def convergence(fitted: Fitted, number: str) -> dict[str, Any]:
    """What a card says of a training: its curve, its seconds, and whether `number` had stopped moving: by less than
    2% of its value over the last quarter of the steps."""
    rows = fitted.curve
    before = next(row for row in rows if row["step"] >= 0.75 * rows[-1]["step"])
    moved = abs(rows[-1][number] - before[number]) / max(abs(before[number]), 1e-12)
    verdict = "flat" if moved < 0.02 else "not flat: more steps would still help"
    said = f"{number.replace('_', ' ')} moved by {100 * moved:.1f}% over the last quarter of the steps: {verdict}"
    return {"converged": said, "curve": rows, "seconds": round(fitted.seconds)}


@torch.no_grad()
def follow(average: dict[str, Tensor], weights: Mapping[str, Tensor], decay: float) -> None:
    """Move the average towards the weights. The caller lets the decay rise with the step, so that early steps are soon
    forgotten."""
    moving = [name for name, value in average.items() if value.is_floating_point()]
    if moving:
        torch._foreach_lerp_([average[name] for name in moving], [weights[name] for name in moving], 1 - decay)
    for name in average.keys() - set(moving):
        average[name].copy_(weights[name])


@torch.no_grad()
def install(values: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Write values into live weights of the same names."""
    for name, value in values.items():
        weights[name].copy_(value)


@contextmanager
def averaged(
    model: nn.Module, average: Mapping[str, Tensor], weights: Mapping[str, Tensor] | None = None
) -> Iterator[None]:
    """The model in evaluation mode with the averaged weights in it; its own weights and modes come back afterwards.

    weights: the model's live tensors that `average` names, and that the inside may change; by default its whole state.
    """
    modes = {module: module.training for module in model.modules()}
    live = model.state_dict() if weights is None else weights
    own = {name: value.detach().clone() for name, value in live.items()}
    model.eval()
    try:
        install(average, live)
        with torch.no_grad():
            yield
    finally:
        install(own, live)
        for module, mode in modes.items():
            module.training = mode


def _words(row: dict[str, float]) -> str:
    # intervals and parts are for the record
    told = {name: value for name, value in row.items() if not name.endswith(("_low", "_high")) and "_t0" not in name}
    return ", ".join(f"{name} {value:.4g}" for name, value in told.items())
