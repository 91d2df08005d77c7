"""Whole training steps of ours and of the rival, on the same batches: gradient, clipping, AdamW, moving average."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from approaches.base import Approach
from approaches.settings import FullRetrainingSettings
from bench.batches import moved
from bench.config import Config, TrainConfig
from bench.trainee import decaying
from bench.trainer import follow
from bench.training import ApproachTrainee, accelerator_for
from tests.gpu.rival import RivalStep, rival_of
from tests.gpu.shapes import DIFFERENT, LEVELS, Data, Shape, build, numel, share

EMA = 0.995
RIVAL_OF = "full_retraining"  # what transfusion-pytorch is, too


@dataclass(frozen=True, kw_only=True)
class Stepper:
    """Something that trains: called with the number of a step."""

    name: str
    model: nn.Module
    step: Callable[[int], Any]
    parameters: int
    data: Data


def config_of(device: torch.device) -> Config:
    """The training's, as a run has it."""
    return Config(train=TrainConfig(precision="auto" if device.type == "cuda" else "fp32"))


def ours(
    name: str,
    shape: Shape,
    device: torch.device,
    *,
    levels: int = LEVELS,
    different: int = DIFFERENT,
    optimizer: Literal["muon", "adamw"] = TrainConfig().optimizer,
    **kernels: Any,
) -> Stepper:
    """An approach's step, as bench.trainer takes it. levels: of noise a picture; different: batches."""
    shared = share(shape, device, **kernels)
    approach: Approach = build(name, shape, shared).to(device)
    data: Any = Data(shape, shared, levels, different)
    config = config_of(device)
    config = replace(config, train=replace(config.train, optimizer=optimizer))
    trainee = ApproachTrainee(approach, data, config, accelerator_for(config, Path()))
    average = {key: value.clone() for key, value in trainee.weights.items()}

    def step(number: int) -> Tensor:
        numbers = trainee.step(number, 1.0)
        follow(average, trainee.weights, EMA)
        return numbers

    return Stepper(name=name, model=approach, step=step, parameters=numel(approach), data=data)


def theirs(shape: Shape, data: Data, device: torch.device, *, parameters: int, depth: int, heads: int) -> Stepper:
    """transfusion-pytorch's, at as many parameters, on the same batches."""
    patchify = data.shared.patchify
    model, width = rival_of(
        parameters,
        depth=depth,
        heads=heads,
        vocabulary=shape.language_model.vocabulary,
        latent=patchify.width,
        flex=device.type == "cuda",
    )
    loss = RivalStep(model.to(device), patchify, FullRetrainingSettings().replay_share).train()
    trained = list(model.parameters())
    optimizer = decaying([(trained, 1e-3)], TrainConfig().weight_decay)
    weights = {name: value.detach() for name, value in model.named_parameters()}
    average = {name: value.clone() for name, value in weights.items()}
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    if device.type == "cuda":

        def autocast() -> AbstractContextManager[Any]:
            return torch.autocast("cuda", torch.bfloat16)

    def step(number: int) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with autocast():
            value: Tensor = loss(moved(data(number), device))
        value.backward()
        nn.utils.clip_grad_norm_(trained, TrainConfig().clip)
        optimizer.step()
        follow(average, weights, EMA)
        return value.detach()

    name = f"transfusion-pytorch, {depth} layers of width {width}"
    return Stepper(name=name, model=model, step=step, parameters=numel(model), data=data)
