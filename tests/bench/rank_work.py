"""What each of two processes does in tests/bench/test_ranks.py: `python -m tests.bench.rank_work FOLDER [WHAT]`.

Every registered approach trains on the same batches: whole on both ranks, sharded over them, sharded up to STOP and
left there, and on from a checkpoint that one process wrote. With WHAT, a run's stages fail so; or, by "waits", the
second rank waits longer for the first than any exchange may take."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException

from approaches.base import Approach, Prompt
from approaches.registry import APPROACHES
from approaches.settings import DualTowerSettings
from bench import launch, ranks, runner, stages, store
from bench.config import Config
from bench.console import Console
from bench.errors import UserError
from bench.meter import Meter
from bench.run_arguments import RunArguments
from bench.training import Trained, train
from tests.approaches.small import small_shared
from tests.bench.test_training import Watched, batches_of, changed

STEPS, STOP = 3, 1
CONFIG = changed(amount=STEPS, batch=6, warmup=1, validations=2, checkpoint_seconds=1e9)
TRACKED = replace(CONFIG, train=replace(CONFIG.train, tracker="tensorboard"))
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
    approach: Approach = entry.load()(small_shared(), entry.load_settings()())
    batches: Any = batches_of(CONFIG)
    if until_stop:
        batches = Watched(batches, stop)
    config = OFTEN if until_stop else TRACKED if name == NAMES[0] else CONFIG
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


def fails(folder: Path, what: str) -> int:
    """A run of which a rank fails in its stages: the exit code of this rank."""

    def act(folder: Path, console: Console) -> None:
        first = launch.rank() == 0
        match what:
            case "mistake" if not first:
                raise UserError("No space left")
            case "error" if not first:
                raise ArithmeticError("the loss is nan\nat step 7")
            case "mute" if not first:
                os._exit(9)
            case "own" if first:
                raise ArithmeticError("the first's loss is nan")
            case "shards":
                raise CheckpointException("save", {1: (OSError(28, "No space left on device"), None)})  # type: ignore
        dist.barrier()

    def alike(*_: Any) -> Any:
        return iter([store.request(Config(preset="micro"), "dual_tower", DualTowerSettings(), {}, ("bench", "run"))])

    setattr(runner, "plan", alike)  # noqa: B010  (another signature)
    setattr(store, "source_hash", lambda *_: "sources")  # noqa: B010  (somebody may be editing them)
    stages.work = act
    return ranks.main(RunArguments(out=folder), Config(), Console(interval=1e9))


def waits(folder: Path) -> None:
    """The second rank leaves in `folder` whether it waited, and what came of an exchange that took as long."""
    ranks.EXCHANGE = timedelta(seconds=3)
    for rank in (launch.rank(), 1 - launch.rank()):  # neither waits for the other's imports
        while not (folder / f"ready{rank}").exists():
            (folder / f"ready{launch.rank()}").touch()
            time.sleep(0.01)
    state = ranks.joined()
    assert state.num_processes == 2
    begun = time.monotonic()
    with launch.first_of_machine():
        time.sleep(5 if launch.rank() == 0 else 0)
    waited, said, left = time.monotonic() - begun, "", folder / "waited.json"
    if launch.rank() == 0:  # there, and silent, until the other has waited in vain
        while not left.exists() and time.monotonic() - begun < 120:
            time.sleep(0.1)
        return
    try:
        dist.barrier()
    except RuntimeError as error:
        said = str(error)
    left.write_text(json.dumps({"waited": waited, "said": said}))


if __name__ == "__main__":
    place, *more = sys.argv[1:]
    if not more:
        main(Path(place))
    elif more == ["waits"]:
        waits(Path(place))
    else:
        sys.exit(fails(Path(place), *more))
