"""Under a launcher (accelerate launch, torchrun) this process is one rank of a run. Imports no torch before it must.

What the launcher says is read from the environment that all of them set."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from bench.console import Console, Progress
from bench.errors import UserError
from bench.files import read_json, write_json

RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
ZERO_STAGE = "BENCH_ZERO_STAGE"
"""Variable that says which of DeepSpeed's stages the launcher asked for, once `take_deepspeed` has turned it."""
WAITING = timedelta(hours=6)
"""How long ranks wait for the first of their machine: the slowest thing that it fills is the cache of latents."""
FAILURE = "error-rank{}.json"
_waiting: Any = None  # the group of all ranks for that, once there is one


def ranks() -> int:
    """How many processes the run has; 1 without a launcher. UserError on what no launcher says."""
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        return 1
    return {name: _number(name) for name in RANKS if name in os.environ}["WORLD_SIZE"]


def rank() -> int:
    """The number of this process; 0 writes files and lines."""
    return _number("RANK") if ranks() > 1 else 0


def sharded() -> bool:
    """Whether weights, gradients and optimizer are to be spread over the ranks (accelerate launch --use_fsdp).
    UserError for FSDP's first version."""
    if ranks() == 1:
        return False
    if _says("ACCELERATE_USE_FSDP") and os.environ.get("FSDP_VERSION", "1") != "2":
        raise UserError("the launcher asks for FSDP's first version, expected the second: --fsdp_version 2")
    return _says("ACCELERATE_USE_FSDP")


def on_cpu() -> bool:
    """Whether a launcher was told to leave GPUs alone (accelerate launch --cpu)."""
    return _says("ACCELERATE_USE_CPU")


def for_worker(surroundings: Mapping[str, str]) -> dict[str, str]:
    """A single process's environment for the one that does its run: without what a launcher wishes of ranks, which
    accelerate would obey there."""
    return {
        name: value
        for name, value in surroundings.items()
        if name == "ACCELERATE_USE_CPU" or not (name in RANKS or name.startswith("ACCELERATE_"))
    }


def search_path() -> str:
    """Where this process looks for modules, as PYTHONPATH says it to others."""
    paths = (path for path in sys.path if isinstance(path, str))  # Python skips others, too
    return os.pathsep.join(path or os.getcwd() for path in paths)


def record() -> dict[str, object]:
    """What a run's provenance says of its ranks."""
    asked = {"zero_stage": int(os.environ[ZERO_STAGE])} if ZERO_STAGE in os.environ else {}
    return {"ranks": ranks(), "sharded": sharded(), **asked}


def take_deepspeed() -> str:
    """Turn accelerate's wish for DeepSpeed, in this process's environment, into the same wish to torch's fully_shard,
    before anything has read it; what there is to say of that, or nothing. UserError on what can't be turned."""
    if ranks() == 1 or not _says("ACCELERATE_USE_DEEPSPEED"):
        return ""
    zero, unread = _zero()
    stage = zero.get("stage", 2)
    if stage not in (0, 1, 2, 3):
        raise UserError(f"DeepSpeed's ZeRO stage is {stage!r}, expected 0, 1, 2 or 3")
    for part in ("optimizer", "param"):
        if zero.get(f"offload_{part}", "none") != "none":
            raise UserError(
                f"DeepSpeed is asked to offload (offload_{part}), which is not turned into fully_shard's: take "
                "--use_fsdp --fsdp_version 2 --fsdp_offload_params true"
            )
    for name in [name for name in os.environ if "DEEPSPEED" in name and name.startswith("ACCELERATE_")]:
        del os.environ[name]
    os.environ[ZERO_STAGE] = str(stage)
    os.environ["ACCELERATE_USE_FSDP"] = "true" if stage else "false"
    os.environ["FSDP_VERSION"] = "2"
    os.environ["FSDP_RESHARD_AFTER_FORWARD"] = "true" if stage == 3 else "false"
    done = "torch's fully_shard, which spreads as much" if stage else "one exchange of gradients"
    skipped = f"; not read from DeepSpeed's config: {', '.join(unread)}" if unread else ""
    return f"DeepSpeed's ZeRO stage {stage} is done by {done}{skipped}"


def _zero() -> tuple[dict[str, Any], list[str]]:
    """What accelerate's launcher, or DeepSpeed's own config file, says of ZeRO: "stage", and "offload_optimizer" and
    "offload_param" with a device; and the file's other sections, of which training takes nothing."""
    file = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if file.lower() != "none":
        config = read_json(Path(file))
        section = config.get("zero_optimization", {}) if isinstance(config, dict) else None
        if not isinstance(section, dict):
            raise UserError(f"{file} is no DeepSpeed config: expected an object, with one named zero_optimization")
        found = {"stage": section.get("stage", 0)}
        for part in ("offload_optimizer", "offload_param"):
            device = section.get(part, {})
            found[part] = device.get("device", "none") if isinstance(device, dict) else str(device)
        return found, sorted(config.keys() - {"zero_optimization"})
    said = {
        part: os.environ.get(f"ACCELERATE_DEEPSPEED_{part.upper()}_DEVICE", "none")
        for part in ("offload_optimizer", "offload_param")
    }
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    return {"stage": int(stage) if stage.isdecimal() else stage, **said}, []


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


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a rank other than the first failed. kind: "cut off" where its exchange with the others did, as it does where
    another has failed. said: a sentence."""

    rank: int
    kind: Literal["mistake", "out of memory", "cut off", "error"]
    said: str
    traceback: Sequence[str] = ()

    def __str__(self) -> str:
        """In a line."""
        return f"rank {self.rank}: {self.said}"

    def write(self, folder: Path) -> None:
        """Into the run's folder, which all ranks see. UserError where it can't be written."""
        write_json(folder / FAILURE.format(self.rank), asdict(self))


def failures(folder: Path) -> list[Failure]:
    """Of the ranks other than the first, those of the run's last worker that failed; but those that were only cut off
    from the others."""
    found = []
    for path in sorted(folder.glob(FAILURE.format("*"))):
        try:
            found.append(Failure(**read_json(path)))
        except (UserError, TypeError):  # of a file that reads as none, the others are worth telling
            continue
    return [failure for failure in found if failure.kind != "cut off"]


def forget(folder: Path) -> None:
    """Remove what ranks of an earlier worker left of their failures."""
    for path in folder.glob(FAILURE.format("*")):
        path.unlink(missing_ok=True)


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
    """Inside, the first rank of each machine is alone, and then the others are: it fills the caches that they read. All
    come out together. RuntimeError where either takes longer than WAITING, or a rank that is waited for has ended."""
    global _waiting
    if ranks() == 1:
        yield
        return
    import torch.distributed as dist
    from accelerate.state import PartialState

    first = PartialState().is_local_main_process
    if _waiting is None:
        # Of its own: every other exchange may give up far sooner. By gloo, which keeps no GPU waiting, and notices at
        # once that a rank has ended.
        _waiting = dist.new_group(backend="gloo", timeout=WAITING)
    if not first:
        dist.barrier(_waiting)
    yield
    if first:
        dist.barrier(_waiting)
    dist.barrier(_waiting)  # what comes after is an exchange, for which the others' turn may be long too


def leave() -> None:
    """The ranks part: what comes after is the first one's alone, and nothing more is exchanged."""
    global _waiting
    if ranks() > 1:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()
        _waiting = None


def _number(name: str) -> int:
    """Of a variable that launchers set."""
    text = os.environ[name]
    if not re.fullmatch(r"\d{1,9}", text):
        raise UserError(f"the variable {name} is '{text}', expected a number, as launchers set it")
    return int(text)


def _says(name: str) -> bool:
    """Whether a variable says yes, in one of the words that accelerate takes for it."""
    return os.environ.get(name, "").lower() in ("y", "yes", "t", "true", "on", "1")
