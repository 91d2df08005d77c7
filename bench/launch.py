"""Under a launcher (accelerate launch, torchrun) this process is one rank of a run. Imports no torch before it must.

What the launcher says is read from the environment that all of them set."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bench.console import Console, Progress
from bench.errors import UserError


def ranks() -> int:
    """How many processes the run has; 1 without a launcher."""
    return int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ and "WORLD_SIZE" in os.environ else 1


def rank() -> int:
    """The number of this process; 0 writes files and lines."""
    return int(os.environ["RANK"]) if ranks() > 1 else 0


def sharded() -> bool:
    """Whether weights, gradients and optimizer are to be spread over the ranks (accelerate launch --use_fsdp).
    UserError for FSDP's first version, and for DeepSpeed."""
    if ranks() == 1:
        return False
    if _says("ACCELERATE_USE_DEEPSPEED"):
        raise UserError(
            "DeepSpeed is not wired in: what its ZeRO stage 2 spreads, --use_fsdp --fsdp_version 2 "
            "--fsdp_reshard_after_forward false spreads too"
        )
    if _says("ACCELERATE_USE_FSDP") and os.environ.get("FSDP_VERSION", "1") != "2":
        raise UserError("the launcher asks for FSDP's first version, expected the second: --fsdp_version 2")
    return _says("ACCELERATE_USE_FSDP")


def record() -> dict[str, object]:
    """What a run's provenance says of its ranks."""
    return {"ranks": ranks(), "sharded": sharded()}


def check(approaches: Sequence[str], seeds: int) -> None:
    """UserError where ranks are asked for more than one run."""
    if ranks() > 1 and (len(approaches) != 1 or seeds != 1):
        raise UserError(
            f"under a launcher the {ranks()} ranks are one run, and {len(approaches) * seeds} are asked for: name one "
            f"--approach and one seed, or make many runs by `python -m bench array`"
        )


def refuse(what: str) -> None:
    """UserError where a command that starts runs of its own is given to a launcher."""
    if ranks() > 1:
        raise UserError(f"{what} starts runs of its own: start it without a launcher")


class Quiet(Console):
    """Of every rank but the first: says nothing."""

    def info(self, text: str = "") -> None:
        """See Console."""

    def warn(self, text: str) -> None:
        """See Console."""

    def emit(self, value: object) -> None:
        """See Console."""

    def table(self, title: str, rows: Sequence[Sequence[str]]) -> None:
        """See Console."""

    @contextmanager
    def progress(self, total: int, description: str, *, done: int = 0) -> Iterator[Progress]:
        """See Console."""
        yield Progress()


@contextmanager
def first_of_machine() -> Iterator[None]:
    """Inside, the first rank of each machine is alone, and then the others are: it fills the caches that they read."""
    if ranks() == 1:
        yield
        return
    from accelerate.state import PartialState

    with PartialState().local_main_process_first():
        yield


def leave() -> None:
    """The ranks part: what comes after is the first one's alone, and nothing more is exchanged."""
    if ranks() > 1:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()


def _says(name: str) -> bool:
    return os.environ.get(name, "false").lower() == "true"
