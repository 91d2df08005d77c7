"""`python -m bench run` under a launcher: all ranks train one run together; the first alone writes, measures and tells.

Who reads a cache that is not there yet waits for the first rank of its machine, which fills it. The run's folder must
be one that all ranks see. What happens to a rank happens to all: a launcher ends the others when one fails, and the
first says for which rank's sake. A rank other than the first leaves that in the folder, and says it on stderr.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch.distributed as dist
from accelerate.state import PartialState
from torch.distributed.checkpoint.api import CheckpointException

from bench import launch, runner, stages, store, worker
from bench.assembly import device_here
from bench.config import Config
from bench.console import Console
from bench.errors import UserError, first_line, in_a_line
from bench.exits import DONE, FAILED, MISTAKE
from bench.printable import printable
from bench.report import after_run
from bench.run_arguments import RunArguments

EXCHANGE = timedelta(minutes=30)
"""How long a rank waits for the others in an exchange of training: no step, validation or checkpoint of one rank takes
so much longer than another's. For caches there is launch.WAITING."""
MOMENT = 5.0  # seconds until what a rank on another machine wrote is seen here
CUT_OFF = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
"""Words of RuntimeErrors that tell of an exchange: gloo's have no type of their own."""


class OtherRankError(RuntimeError):
    """Another rank failed, and this one is cut off from it."""


def main(arguments: RunArguments, config: Config, console: Console) -> int:
    """A rank's share of the run; the exit code of bench.exits."""
    turned = launch.take_deepspeed()
    state = joined()
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
    after_run([ended.folder], arguments.out, console)
    return runner.exit_code([ended])


def joined() -> PartialState:
    """Join the other ranks: an exchange that takes longer than EXCHANGE raises RuntimeError.

    accelerate's launcher says by default that one rank alone reads the weights; some versions of transformers then give
    the others zeros, to be overwritten by accelerate's own wrapper, which is not at work here (see bench.shards)."""
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    return PartialState(cpu=device_here().type == "cpu", timeout=EXCHANGE)


def _lead(request: store.Request, out: Path, console: Console) -> runner.Ended:
    """The first rank's: it holds the run's lock, and says in its status what becomes of it."""
    try:
        folder, done = runner.begun(request, out, console)
        if done is not None:
            _said({"go": False, "code": DONE})
            return done
        with store.locked(folder):
            launch.forget(folder)
            _said({"go": True, "code": DONE})
            worker.unheard()
            code = worker.guarded(folder, console, _work)
    except UserError:
        _said({"go": False, "code": MISTAKE})
        raise
    return runner.judge(request, folder, code, console)


def _follow(folder: Path, console: Console) -> int:
    """Every other rank's: it says on stderr, and leaves in the folder, why it fails."""
    told = _said(None)
    if not told["go"]:
        return int(told["code"])
    try:
        _work(folder, console)
    except Exception as error:
        failure = _failure(launch.rank(), error)
        print(*map(printable, (failure, *failure.traceback)), sep="\n", file=sys.stderr, flush=True)
        with suppress(UserError, OSError):  # the disk may be what fails
            failure.write(folder)
        return MISTAKE if failure.kind == "mistake" else FAILED
    return DONE


def _work(folder: Path, console: Console) -> None:
    """The stages. Where the first rank is cut off from the others because one has failed, that one's error is raised;
    where shards can't be written or read, that of a rank that could not."""
    try:
        stages.work(folder, console)
    except CheckpointException as error:  # no Exception, and it would pass whoever says what became of a run
        rank, (cause, _) = min(error.failures.items())
        if rank == launch.rank() and isinstance(cause, Exception):
            raise cause from error
        raise _raised(_failure(rank, cause)) from error
    except Exception as error:
        if launch.rank() or not _cut_off(error) or (found := _other(folder)) is None:
            raise
        raise _raised(found) from error


def _other(folder: Path) -> launch.Failure | None:
    """Of a rank that failed; None where none says so in a moment."""
    end = time.monotonic() + MOMENT
    while not (found := launch.failures(folder)) and time.monotonic() < end:
        time.sleep(MOMENT / 20)
    return found[0] if found else None


def _cut_off(error: BaseException) -> bool:
    """Whether an error is of an exchange with other ranks."""
    words = any(word in str(error) for word in CUT_OFF)
    return isinstance(error, (dist.DistError, OtherRankError)) or (isinstance(error, RuntimeError) and words)


def _failure(rank: int, error: BaseException) -> launch.Failure:
    """What a rank's error is for the others; with its traceback, where no person can mend it."""
    if isinstance(error, UserError):
        return launch.Failure(rank=rank, kind="mistake", said=str(error))
    kind: Literal["out of memory", "cut off", "error"] = "cut off" if _cut_off(error) else "error"
    said = in_a_line(error)
    if worker.lacks_memory(error):
        kind, said = "out of memory", first_line(error)
    lines = "".join(traceback.format_exception(error)).splitlines()
    return launch.Failure(rank=rank, kind=kind, said=said, traceback=tuple(lines))


def _raised(failure: launch.Failure) -> Exception:
    """What to raise for another rank's failure, so that worker.guarded tells it for what it is."""
    if failure.kind == "mistake":
        return UserError(str(failure))
    if failure.kind == "out of memory":
        return MemoryError(str(failure))
    return OtherRankError("\n".join([str(failure), *failure.traceback]))


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
