"""What each of two processes does in tests/bench/test_ranks.py: `python -m tests.bench.rank_work FOLDER`.

Every registered approach trains on the same batches: whole on both ranks, sharded over them, sharded up to STOP and
left there, and on from a checkpoint that one process wrote."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from approaches.base import Approach, Prompt
from approaches.registry import APPROACHES
from bench import launch
from bench.console import Console
from bench.meter import Meter
from bench.training import Trained, train
from tests.approaches.small import small_shared
from tests.bench.test_training import Watched, batches_of, changed

STEPS, STOP = 3, 1
CONFIG = changed(amount=STEPS, batch=6, warmup=1, validations=2, checkpoint_seconds=1e9)
OFTEN = replace(CONFIG, train=replace(CONFIG.train, checkpoint_seconds=0.0))
NAMES = tuple(APPROACHES)


class Stopped(Exception):
    """A training is left where it is."""


def stop(step: int) -> None:
    """Before a batch."""
    if step == STOP:
        raise Stopped


def drawn(approach: Approach) -> dict[str, float]:
    """A number of the weights at hand, through the methods that validation uses."""
    condition = approach.condition([Prompt.text("a red circle")])
    x_t = torch.linspace(-1, 1, 4 * 8 * 8).view(1, 4, 8, 8)
    prediction = approach.denoise(x_t, torch.tensor([0.5]), condition)
    return {"drawn": float(prediction.double().square().mean())}


def training(name: str, path: Path, *, until_stop: bool = False) -> Trained | None:
    """One training of an approach; None where it is left at STOP."""
    entry = APPROACHES[name]
    approach: Approach = entry.load().build(small_shared(), entry.load_settings()())
    batches: Any = batches_of(CONFIG)
    if until_stop:
        batches = Watched(batches, stop)
    config = OFTEN if until_stop else CONFIG
    console = Console(interval=1e9) if launch.rank() == 0 else launch.Quiet()
    try:
        return train(
            approach, batches, config, path=path, key=name, validate=lambda: drawn(approach), console=console,
            meter=Meter(),
        )  # fmt: skip
    except Stopped:
        return None


def told(trained: Trained | None) -> dict[str, Any]:
    """Its curves, and its weights in a number."""
    assert trained is not None
    weights = sum(float(value.double().abs().sum()) for value in trained.average.values())
    return {"losses": trained.losses, "curve": trained.curve, "weights": weights, "digest": trained.digest}


def main(folder: Path) -> None:
    """All that this rank does."""
    found: dict[str, dict[str, Any]] = {}
    for name in NAMES:
        os.environ["ACCELERATE_USE_FSDP"] = "false"
        found[name] = {"whole": told(training(name, folder / f"whole-{name}.safetensors"))}
        os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
        found[name]["sharded"] = told(training(name, folder / f"sharded-{name}.safetensors"))
        assert training(name, folder / f"left-{name}.safetensors", until_stop=True) is None
        found[name]["taken over"] = told(training(name, folder / f"one-{name}.safetensors"))
    (folder / f"rank{launch.rank()}.json").write_text(json.dumps(found))
    launch.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
