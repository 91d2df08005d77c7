"""`python -m bench run` under a launcher: all ranks train one run together; the first alone writes, measures and tells.

Who reads a cache that is not there yet waits for the first rank of its machine, which fills it. The run's folder must
be one that all ranks see. What happens to a rank happens to all: a launcher ends the others when one fails.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate.state import PartialState

from bench import launch, runner, stages, store, worker
from bench.config import Config
from bench.console import Console
from bench.errors import UserError
from bench.exits import DONE, MISTAKE
from bench.run_arguments import RunArguments

PATIENCE = timedelta(hours=6)  # for the slowest thing that ranks wait for: the first fills the cache of latents


def main(arguments: RunArguments, config: Config, console: Console) -> int:
    """A rank's share of the run; the exit code of bench.exits."""
    turned = launch.take_deepspeed()
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    console = console if state.is_main_process else launch.Quiet(as_json=console.as_json)
    if turned:
        console.info(turned)
    with launch.first_of_machine():
        (request,) = runner.plan(arguments, config, console)
    _check_alike(request.key)
    folder = arguments.out / request.name
    if not state.is_main_process:
        return _follow(folder, console)
    try:
        ended = _lead(request, arguments.out, console)
    finally:
        launch.leave()
    if arguments.json:
        console.emit([runner.summary(ended)])
    else:
        runner.tell([ended], console)
    return runner.exit_code([ended])


def _lead(request: store.Request, out: Path, console: Console) -> runner.Ended:
    """The first rank's: it holds the run's lock, and says in its status what becomes of it."""
    try:
        folder, done = runner.begun(request, out, console)
        if done is not None:
            _said({"go": False, "code": DONE})
            return done
        with store.locked(folder):
            _said({"go": True, "code": DONE})
            code = worker.guarded(folder, console, stages.work)
    except UserError:
        _said({"go": False, "code": MISTAKE})
        raise
    return runner.judge(request, folder, code, console)


def _follow(folder: Path, console: Console) -> int:
    """Every other rank's."""
    told = _said(None)
    if not told["go"]:
        return int(told["code"])
    try:
        stages.work(folder, console)
    except UserError:  # the first rank says it
        return MISTAKE
    return DONE


def _said(value: dict[str, Any] | None) -> dict[str, Any]:
    """What the first rank says to all; nothing where they have parted already."""
    if not dist.is_initialized():
        return {}
    box = [value]
    dist.broadcast_object_list(box, src=0)
    assert box[0] is not None
    return box[0]


def _check_alike(key: str) -> None:
    """UserError where ranks mean different runs: machines with other sources, data or weights."""
    keys: list[Any] = [None] * launch.ranks()
    dist.all_gather_object(keys, key)
    if other := [rank for rank, each in enumerate(keys) if each != keys[0]]:
        raise UserError(
            f"ranks {', '.join(map(str, other))} have other sources, data or weights than the first: every machine "
            "needs the same"
        )
