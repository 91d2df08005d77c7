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

from approaches.base import Approach, Batch, Generators
from approaches.shared.devices import sent
from approaches.shared.kernels import compile_obstacle, compiled_by_shape
from bench import checkpoint, launch, shard_checkpoint
from bench.assembly import device_here
from bench.batches import Batches, moved, part
from bench.config import Config
from bench.console import Console
from bench.errors import UserError, nearest
from bench.meter import Meter
from bench.muon import muon_and_adamw
from bench.owed import Frozen, check_counts, check_groups, frozen_changed
from bench.plain import flat
from bench.shards import LossTerms, check_begun_alike, full, gathered, shard, whole
from bench.trainee import Budget, Trainee
from bench.trainer import Fitted, Fitting

LAG = 7  # steps whose losses an accelerator may still be working on


@dataclass(frozen=True, kw_only=True)
class Trained(Fitted):
    """What an approach's training was. average: on the first rank alone where it was sharded. images: seen. digest:
    over everything that its steps saw. frozen_hash: of the weights that it left alone. unreached: names of trained
    parameters that never had a gradient."""

    unreached: tuple[str, ...]
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
    if compiles(config, accelerator.device):
        compile_blocks(approach)
    trainee = ApproachTrainee(approach, batches, config, accelerator)
    if settings.tracker:
        told = {name: v if isinstance(v, int | float | str) else str(v) for name, v in flat(asdict(config))}
        accelerator.init_trackers("draw-bench", config=told)  # which takes numbers and text only
    run = Fitting(
        trainee=trainee,
        budget=Budget.of(settings, flops_per_step),
        evaluate=lambda: trainee.evaluated(validate),
        evaluations=settings.validations,
        path=path,
        key=key,
        console=console,
        description=description,
        checkpoint_seconds=settings.checkpoint_seconds,
        meter=meter,
    )
    fitted = run.train()
    for tracker in accelerator.trackers:  # accelerator.end_training would end the exchange between ranks as well
        tracker.finish()
    trainee.check_frozen(description)
    if (left := approach.frozen_hash()) != trainee.frozen_hash:
        raise RuntimeError(f"{description}: frozen weights changed, {trainee.frozen_hash} to {left}")
    return Trained(
        curve=fitted.curve,
        losses=fitted.losses,
        seconds=fitted.seconds,
        average=gathered(fitted.average),
        steps=fitted.steps,
        images=fitted.steps * settings.batch,
        unreached=tuple(trainee.unreached),
        digest=trainee.digest,
        frozen_hash=trainee.frozen_hash,
    )


def compiles(config: Config, device: torch.device) -> bool:
    """Whether a training compiles its approach's blocks on a device. UserError where that is asked for and can't be."""
    if config.train.compile == "off" or (config.train.compile == "auto" and device.type != "cuda"):
        return False
    obstacle = compile_obstacle(device)
    if obstacle and config.train.compile == "on":
        raise UserError(f"train.compile is on, which {obstacle}: take auto or off")
    return not obstacle


def compile_blocks(approach: Approach) -> None:
    """torch.compile for the blocks in training, by whatever way they are called: see Approach.blocks. A step brings the
    same few shapes every time; sampling and decoding bring ever new ones, and are left as they are."""
    for block in approach.blocks():
        for name in ("forward", *getattr(block, "entries", ())):
            setattr(block, name, _compiled_in_training(block, getattr(block, name)))


def _compiled_in_training(block: nn.Module, function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled while the block is in training mode, with gradients or, as a frozen one may be read, without."""
    compiled = compiled_by_shape(function)

    def call(*inputs: Any, **options: Any) -> Any:
        return (compiled if block.training else function)(*inputs, **options)

    return call


def accelerator_for(config: Config, folder: Path) -> Accelerator:
    """Device, arithmetic and trackers. UserError where the precision or the tracker can't be had here."""
    if config.train.tracker:
        check_tracker(config.train.tracker)
    device = device_here()
    return Accelerator(
        cpu=device.type == "cpu",  # accelerate would take a Mac's GPU, for which nothing else here was chosen
        mixed_precision=precision(config, device),
        log_with=config.train.tracker or None,
        project_dir=folder,
    )


def check_tracker(name: str) -> None:
    """UserError where accelerate knows no such tracker, or its package is missing."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    if name not in LOGGER_TYPE_TO_CLASS:
        raise UserError(f"unknown tracker '{name}': {nearest(name, map(str, LOGGER_TYPE_TO_CLASS))}")
    if name not in map(str, get_available_trackers()):
        raise UserError(f"train.tracker is '{name}', and its package is missing: pip install it")


def precision(config: Config, device: torch.device) -> Literal["no", "bf16"]:
    """accelerate's name of the arithmetic that a config means on a device. UserError where the device lacks it."""
    able = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    if config.train.precision == "bf16" and not able:
        raise UserError("train.precision is bf16, which this GPU lacks: take fp32 or auto")
    wanted = device.type == "cuda" and able if config.train.precision == "auto" else config.train.precision == "bf16"
    return "bf16" if wanted else "no"


def optimizers_of(approach: Approach, config: Config) -> list[torch.optim.Optimizer]:
    """AdamW for an approach's parameter groups, and Muon for the matrices of its blocks where the config says so.
    UserError where the groups don't hold every trained parameter once."""
    check_groups(approach)
    groups = approach.parameter_groups()
    peak = approach.settings.learning_rate
    rated = [(group.parameters, group.ratio * peak) for group in groups]
    hidden = approach.hidden_matrices() if config.train.optimizer == "muon" else []
    return muon_and_adamw(rated, hidden, config.train.weight_decay, betas=(0.9, config.train.beta2))


class ApproachTrainee(Trainee):
    """An approach on its batches, whole on every rank or sharded over them. digest: over the batches so far."""

    def __init__(self, approach: Approach, batches: Batches, config: Config, accelerator: Accelerator) -> None:
        frozen_hash = approach.frozen_hash()
        check_begun_alike(approach, frozen_hash)
        self.module, self.sharded = LossTerms(approach, accelerator), launch.sharded()
        shard(self.module)
        super().__init__(
            approach,
            optimizers_of(approach, config),
            weights=approach.trained_state(),
            warmup=config.train.warmup,
            ema=config.train.ema,
            clip=config.train.clip,
        )
        self.approach, self.batches, self.accelerator = approach, batches, accelerator
        self.parts, self.tracked = config.train.accumulation, bool(config.train.tracker)
        self.lag = 0 if accelerator.device.type == "cpu" else LAG
        self.main = accelerator.is_main_process
        self.frozen_hash = frozen_hash
        self.digest = batches.start_digest
        self.unreached: list[str] = list(self.weights)
        self.frozen, self._first = Frozen(approach), -1

    def gradients(self, step: int) -> Tensor:
        """See Trainee. Numbers: the whole loss, then each term's mean, not weighted."""
        if self._first < 0:
            self._first = step
        elif step == self._first + 1:  # one step is behind: whoever changes frozen weights has done so by now
            self.check_frozen(f"step {step}")
        batch = self.batches(step)
        self.digest = self.batches.digest(self.digest, batch)
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        mine = [part(batch, rank * self.parts + index, ranks * self.parts) for index in range(self.parts)]
        draws = self.batches.generators(step, rank)
        # The counts of all parts come before the first gradient. Where an approach can't tell them, all parts but the
        # last are worked through without gradient, for them, and then again.
        ahead, counts = [self.approach.counts(each) for each in mine], list[Tensor]()
        if not all(ahead):
            with torch.no_grad():
                counts = [self._losses(each, draws)[1] for each in mine[:-1]]
            mine.insert(0, mine.pop())  # its one pass gives both its counts and its gradient
        sums, first_counts, weights = self._losses(mine[0], draws)
        self.names = ("loss", *self.module.names)
        if all(ahead) and step == self._first:
            check_counts(self.approach, ahead[0], dict(zip(self.module.names, first_counts.tolist(), strict=True)))
        if not all(ahead):
            draws = self.batches.generators(step, rank)  # anew: the parts draw what they drew when they were counted
            total = torch.stack([first_counts, *counts]).sum(0)
        else:
            told = [[float(each[name]) for name in self.module.names] for each in ahead]
            total = sent(torch.tensor(told).sum(0), first_counts.device)
        total = self._added(total)
        # a term that nothing counts for has no part in the whole, and no value
        shares = torch.where(total > 0, weights / total.clamp(min=1e-30), 0.0)
        (shares * sums).sum().backward()
        found = sums.detach()
        for each in mine[1:]:
            sums = self._losses(each, draws)[0]
            (shares * sums).sum().backward()
            found = found + sums.detach()
        self._add_gradients()
        if self.unreached:
            named = dict(self.approach.named_parameters())
            self.unreached = [name for name in self.unreached if named[name].grad is None]
        found = self._added(found)
        means = torch.where(total > 0, found / total.clamp(min=1e-30), torch.nan)
        return torch.cat([(shares * found).sum()[None], means])

    def check_frozen(self, when: str) -> None:
        """UserError, on all ranks alike, where any weights changed that training leaves alone."""
        names = self.frozen.changed(self.approach)
        if float(self._added(torch.tensor([float(len(names))]))):
            raise frozen_changed(self.approach, names, when)

    def agreed(self, seconds: float) -> float:
        """See Trainee."""
        return float(self._added(torch.tensor([seconds])) / self.accelerator.num_processes)

    def state(self) -> dict[str, Any]:
        """See Trainee."""
        return {"digest": self.digest, "names": list(self.names), "unreached": self.unreached}

    def restore(self, state: dict[str, Any]) -> None:
        """See Trainee."""
        self.digest, self.names = state["digest"], tuple(state["names"])
        self.unreached = list(state.get("unreached", self.unreached))

    def log(self, row: dict[str, float]) -> None:
        """See Trainee."""
        if self.tracked:
            values = {name: value for name, value in row.items() if name != "step"}
            self.accelerator.log(values, step=int(row["step"]))

    def evaluated(self, validate: Callable[[], dict[str, float]]) -> dict[str, float]:
        """What validate finds, which all ranks ask for alike."""
        with whole(self.module):
            return validate()

    def clipped(self) -> Tensor:
        """See Trainee."""
        return full(super().clipped())

    def save(self, path: Path, average: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """See Trainee."""
        if self.sharded:
            weights, optimizers = self.weights, self.optimizers
            shard_checkpoint.save(path, weights=weights, average=average, optimizers=optimizers, meta=meta)
            return
        super().save(path, average, meta)
        if self.main:
            shard_checkpoint.remove(path)

    def load(self, path: Path, average: dict[str, Tensor], key: str) -> dict[str, Any] | None:
        """See Trainee. Whichever number of ranks it was written by."""
        if shard_checkpoint.step(path) < 0 or (path.exists() and checkpoint.step(path) >= shard_checkpoint.step(path)):
            return super().load(path, average, key)
        return shard_checkpoint.load(
            path,
            weights=self.weights,
            average=average,
            optimizers=self.optimizers,
            key=key,
            frozen_hash=self.frozen_hash,
        )

    def _losses(self, batch: Batch, draws: Generators) -> tuple[Tensor, Tensor, Tensor]:
        numbers: tuple[Tensor, Tensor, Tensor] = self.module(moved(batch, self.accelerator.device), draws)
        return numbers

    def _added(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.accelerator.num_processes == 1:
            return values
        added: Tensor = self.accelerator.reduce(values.to(self.accelerator.device), reduction="sum")
        return added

    def _add_gradients(self) -> None:
        """Every process gets the sum of all processes' gradients, in one reduction. A parameter that a process's rows
        did not reach counts as zero there, so that all of them reduce the same; one that nobody's reached keeps none,
        as in one process, and no optimizer touches it."""
        if self.accelerator.num_processes == 1 or self.sharded:  # fully_shard has done it
            return
        own = [p.grad is not None for p in self.trained]
        reached = sent(torch.tensor(own, dtype=torch.float32), self.accelerator.device)
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.trained]
        flat = torch.cat([reached, *(grad.flatten() for grad in grads)])
        del grads
        for parameter in self.trained:
            parameter.grad = None  # it is in `flat`, for all the time that the exchange takes
        torch.distributed.all_reduce(flat)
        counts, *pieces = flat.split([len(own), *(p.numel() for p in self.trained)])
        known = own if all(own) else (counts > 0).tolist()  # a process that reached all need not wait for the count
        for parameter, piece, anybody in zip(self.trained, pieces, known, strict=True):
            parameter.grad = _as_laid_out(piece.view_as(parameter), parameter) if anybody else None


def _as_laid_out(gradient: Tensor, parameter: Tensor) -> Tensor:
    """A gradient with its parameter's strides and type, as backward gives it: fused optimizers walk both alike."""
    if gradient.stride() == parameter.stride() and gradient.dtype == parameter.dtype:
        return gradient
    return torch.empty_like(parameter, requires_grad=False).copy_(gradient)
