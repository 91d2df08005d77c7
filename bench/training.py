"""An approach's training: its loss terms, added up over parts and processes, by the loop in bench.trainer.

The whole loss of a step is sum over terms k of weight_k * S_k / N_k, where S_k and N_k are the sums and counts of all
parts of the batch on all processes. So neither accumulation nor the number of processes changes what is trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from approaches.base import Approach, Batch, Generators, Loss
from bench.batches import Batches, moved, part
from bench.config import Config
from bench.console import Console
from bench.errors import UserError, nearest
from bench.meter import Meter
from bench.trainee import Budget, Trainee, decaying
from bench.trainer import Fitted, Run

LAG = 7  # steps whose losses an accelerator may still be working on


@dataclass(frozen=True, kw_only=True)
class Trained(Fitted):
    """What an approach's training was. images: seen. digest: over everything that its steps saw. frozen_hash: of the
    weights that it left alone."""

    images: int
    digest: str
    frozen_hash: str


def train(
    approach: Approach,
    batches: Batches,
    config: Config,
    *,
    path: Path,
    key: str,
    validate: Callable[[], dict[str, float]],
    console: Console,
    meter: Meter,
    flops_per_step: float = 0.0,
    description: str = "training",
) -> Trained:
    """Train an approach to the end of config.train's budget, from the checkpoint at `path` where there is one.

    validate: numbers of the averaged weights, in evaluation mode, taken config.train.validations times. meter: its laps
    become the training's. flops_per_step: needed for a budget of FLOPs. The approach ends with its own weights, not the
    average: see `bench.trainer.install`. Raises NonFiniteLossError; UserError on a checkpoint of another training.
    """
    settings = config.train
    accelerator = accelerator_for(config, path.parent)
    approach.to(accelerator.device)
    if settings.compile:
        for block in approach.blocks():
            block.compile()
    trainee = ApproachTrainee(approach, batches, config, accelerator)
    if settings.tracker:
        accelerator.init_trackers("draw-bench", config=_flat(asdict(config)))
    run = Run(
        trainee=trainee,
        budget=Budget.of(settings, flops_per_step),
        evaluate=validate,
        evaluations=settings.validations,
        path=path,
        key=key,
        console=console,
        description=description,
        checkpoint_seconds=settings.checkpoint_seconds,
        meter=meter,
    )
    fitted = run.train()
    accelerator.wait_for_everyone()
    if settings.tracker:
        accelerator.end_training()
    if (left := approach.frozen_hash()) != trainee.frozen_hash:
        raise RuntimeError(f"{description}: frozen weights changed, {trainee.frozen_hash} to {left}")
    return Trained(
        curve=fitted.curve,
        losses=fitted.losses,
        seconds=fitted.seconds,
        average=fitted.average,
        steps=fitted.steps,
        images=fitted.steps * settings.batch,
        digest=trainee.digest,
        frozen_hash=trainee.frozen_hash,
    )


def accelerator_for(config: Config, folder: Path) -> Accelerator:
    """Device, arithmetic and trackers. UserError where the precision or the tracker can't be had here."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    settings = config.train
    if settings.tracker:
        if settings.tracker not in LOGGER_TYPE_TO_CLASS:
            raise UserError(
                f"unknown tracker '{settings.tracker}': {nearest(settings.tracker, map(str, LOGGER_TYPE_TO_CLASS))}"
            )
        if settings.tracker not in map(str, get_available_trackers()):
            raise UserError(f"train.tracker is '{settings.tracker}', and its package is missing: pip install it")
    return Accelerator(
        mixed_precision=precision(config, torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        log_with=settings.tracker or None,
        project_dir=folder,
    )


def precision(config: Config, device: torch.device) -> Literal["no", "bf16"]:
    """accelerate's name of the arithmetic that a config means on a device. UserError where the device lacks it."""
    able = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    if config.train.precision == "bf16" and not able:
        raise UserError("train.precision is bf16, which this GPU lacks: take fp32 or auto")
    wanted = device.type == "cuda" and able if config.train.precision == "auto" else config.train.precision == "bf16"
    return "bf16" if wanted else "no"


def optimizer_of(approach: Approach, config: Config) -> torch.optim.AdamW:
    """AdamW for an approach's parameter groups. ValueError where they don't hold every trained parameter once."""
    groups = approach.parameter_groups()
    named = [parameter for group in groups for parameter in group.parameters]
    trained = {id(parameter) for parameter in approach.parameters() if parameter.requires_grad}
    if len(named) != len(trained) or {id(parameter) for parameter in named} != trained:
        raise ValueError(f"{type(approach).__name__}'s parameter groups don't hold every trained parameter once")
    peak = approach.settings.learning_rate
    rated = [(list[nn.Parameter](group.parameters), group.ratio * peak) for group in groups]
    return decaying(rated, config.train.weight_decay, betas=(0.9, config.train.beta2))


class ApproachTrainee(Trainee):
    """An approach on its batches. digest: over the batches so far."""

    def __init__(self, approach: Approach, batches: Batches, config: Config, accelerator: Accelerator) -> None:
        super().__init__(
            approach,
            [optimizer_of(approach, config)],
            weights=approach.trained_state(),
            warmup=config.train.warmup,
            ema=config.train.ema,
            clip=config.train.clip,
        )
        self.approach, self.batches, self.accelerator = approach, batches, accelerator
        self.parts, self.tracked = config.train.accumulation, bool(config.train.tracker)
        self.lag = 0 if accelerator.device.type == "cpu" else LAG
        self.main = accelerator.is_main_process
        self.frozen_hash = approach.frozen_hash()
        self.digest = batches.start_digest

    def gradients(self, step: int) -> Tensor:
        """See Trainee. Numbers: the whole loss, then each term's mean, not weighted."""
        whole = self.batches(step)
        self.digest = self.batches.digest(self.digest, whole)
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        mine = [part(whole, rank * self.parts + index, ranks * self.parts) for index in range(self.parts)]
        # The counts of all parts come before the first gradient. The last part's graph is kept meanwhile, so that a
        # batch in one part costs nothing more; the others are worked through once without gradient, and then again.
        draws = self.batches.generators(step, rank)
        with torch.no_grad():
            found = [_numbers(self._losses(each, draws))[:2] for each in mine[:-1]]
        last = self._losses(mine[-1], draws)
        sums, counts, weights = _numbers(last)
        self._name(last)
        totals = torch.stack([torch.stack([sums.detach(), counts]), *map(torch.stack, found)]).sum(0)
        totals = self._added(totals)
        # a term that nothing counts for is absent, not 0/0
        shares = torch.where(totals[1] > 0, weights / totals[1].clamp(min=1e-30), 0.0)
        (shares * sums).sum().backward()
        del last, sums
        draws = self.batches.generators(step, rank)
        for each in mine[:-1]:
            (shares * _numbers(self._losses(each, draws))[0]).sum().backward()
        self._add_gradients()
        means = torch.where(totals[1] > 0, totals[0] / totals[1].clamp(min=1e-30), 0.0)
        return torch.cat([(shares * totals[0]).sum()[None], means])

    def agreed(self, seconds: float) -> float:
        """See Trainee."""
        return float(self._added(torch.tensor([seconds])) / self.accelerator.num_processes)

    def state(self) -> dict[str, Any]:
        """See Trainee."""
        return {"digest": self.digest, "names": list(self.names)}

    def restore(self, state: dict[str, Any]) -> None:
        """See Trainee."""
        self.digest, self.names = state["digest"], tuple(state["names"])

    def log(self, row: dict[str, float]) -> None:
        """See Trainee."""
        if self.tracked:
            values = {name: value for name, value in row.items() if name != "step"}
            self.accelerator.log(values, step=int(row["step"]))

    def _losses(self, batch: Batch, draws: Generators) -> dict[str, Loss]:
        with self.accelerator.autocast():
            return self.approach.losses(moved(batch, self.accelerator.device), draws)

    def _name(self, losses: dict[str, Loss]) -> None:
        names = ("loss", *losses)
        if self.names not in (("loss",), names):
            raise RuntimeError(f"the loss had the terms {self.names[1:]}, and has {names[1:]} now")
        self.names = names

    def _added(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.accelerator.num_processes == 1:
            return values
        added: Tensor = self.accelerator.reduce(values.to(self.accelerator.device), reduction="sum")
        return added

    def _add_gradients(self) -> None:
        """Every process gets the sum of all processes' gradients, in one reduction. A parameter that a process's rows
        did not reach counts as zero there, so that all of them reduce the same."""
        if self.accelerator.num_processes == 1:
            return
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in self.trained])
        pieces = self._added(flat).split([p.numel() for p in self.trained])
        for parameter, piece in zip(self.trained, pieces, strict=True):
            parameter.grad = piece.view_as(parameter)


def _numbers(losses: dict[str, Loss]) -> tuple[Tensor, Tensor, Tensor]:
    """Sums, counts and weights of all terms, each float32."""
    sums = torch.stack([loss.sum.float() for loss in losses.values()])

    def placed(value: Tensor | float) -> Tensor:
        # filled in on the device: copying a number there would wait for it
        if isinstance(value, Tensor):
            return value.detach().float().to(sums.device)
        return torch.full((), float(value), device=sums.device)

    counts, weights = ([placed(getattr(loss, name)) for loss in losses.values()] for name in ("count", "weight"))
    return sums, torch.stack(counts), torch.stack(weights)


def _flat(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Nested settings under dotted names, as trackers want them: numbers and text only."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{before}{name}.")
        else:
            found[before + name] = value if isinstance(value, int | float | str) else str(value)
    return found
