"""Run folders: what was asked, what decides it, who works on it, and what became of it. Imports no torch.

A folder is `runs/APPROACH-PRESET-KEY/` and holds request.json (what was asked, and the parts of the key), status.json,
lock (held by the one process that works there), record.json (the result, see reports.schema), weights.safetensors and
samples/.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from bench import launch
from bench.config import Config, from_values
from bench.environment import ROOT, source_hash
from bench.errors import UserError
from bench.files import UnfitFileError, hash_bytes, own, read_json, write_json
from bench.plain import build, plain
from reports import schema

REQUEST, STATUS, LOCK = "request.json", "status.json", "lock"
SAMPLES, WEIGHTS = "samples", "weights.safetensors"
DECIDING = ("bench", "approaches", "metrics")
"""Our packages whose sources are part of a run's key; reports only read what a run left."""
ANOTHER = "{} holds another run of the same name: move it away or delete it, or name another folder with --out"
PATIENCE = 0.5  # seconds to take a lock in: who only looks whether it is free holds it for an instant

Unfinished = Literal["failed", "killed", "out of memory"]
RunState = Literal["running", "done", Unfinished]


class BusyError(UserError):
    """Another process works on this run."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One run, as asked for. settings: the approach's own, as plain values. parts: what the key is a hash of, by name.
    command: the words that asked for it first. folder: where relative paths of the config lead from."""

    approach: str
    settings: dict[str, Any]
    config: Config
    key: str
    parts: dict[str, str]
    command: tuple[str, ...] = ()
    folder: str = ""

    @property
    def name(self) -> str:
        """The folder's."""
        return f"{self.approach}-{self.config.preset}-{self.key[:8]}"

    def write(self, folder: Path) -> None:
        """Into the run's folder."""
        values = {**dataclasses.asdict(self), "config": plain(self.config), "command": list(self.command)}
        write_json(folder / REQUEST, values)

    @classmethod
    def read(cls, folder: Path) -> Request:
        """From a run's folder; UserError where it holds none, or one that this version can't read."""
        values = read_json(folder / REQUEST)
        try:
            values = schema.behind_the_start_token(values)
            config = from_values(Config, values["config"])
            values.setdefault("folder", "")  # runs of before it was kept
            known = {item.name: values[item.name] for item in dataclasses.fields(cls)}
            return cls(**{**known, "config": config, "command": tuple(values["command"])})
        except UserError as error:
            raise UserError(f"{folder / REQUEST} is of another version of this program: {error}") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{folder / REQUEST} is no request of a run: {type(error).__name__} {error}") from error

    def renew(self, folder: Path) -> None:
        """See to it that a run that goes on is this one: the request in its folder becomes this one, with what changes
        no result (schema.NOT_DECIDING), and `command` stays. UserError where it is another run's by its key; BusyError
        where another process works on the run. One that can't be read is left to the worker, which says so."""
        try:
            there = Request.read(folder)
        except UserError:
            return
        if there.key != self.key:
            raise UserError(ANOTHER.format(folder))
        if (renewed := dataclasses.replace(self, command=there.command)) != there:
            with locked(folder):
                renewed.write(folder)


@dataclass(frozen=True, kw_only=True)
class State:
    """What became of a run. process, born, machine: of its last worker. ended: when, in seconds since 1970. mistake:
    whether the reason is something that its user can mend."""

    state: RunState
    reason: str = ""
    process: int = 0
    born: float = 0.0
    machine: str = ""
    ended: float = 0.0
    mistake: bool = False


# ------------------------------------------------------------------------------------------------------ the key


def request(
    config: Config, approach: str, settings: Any, found: Mapping[str, str], command: tuple[str, ...] = ()
) -> Request:
    """The run of an approach with these settings. found: what bench.contents gave for this config."""
    values = plain(settings)
    parts = {
        **found,
        "config": hash_bytes(json.dumps(schema.deciding(plain(config)), sort_keys=True)),
        "approach": approach,
        "settings": hash_bytes(json.dumps(values, sort_keys=True)),
        **sources_now(approach),
    }
    key = hash_bytes(json.dumps(parts, sort_keys=True))
    return Request(
        approach=approach, settings=values, config=config, key=key, parts=parts, command=command, folder=os.getcwd()
    )


def other_sources(request: Request) -> list[str]:
    """Which of a run's parts "sources" (ours) and "foreign sources" (of an approach's own package) are others by
    now."""
    return [part for part, value in sources_now(request.approach).items() if request.parts.get(part, value) != value]


def sources_now(approach: str) -> dict[str, str]:
    """Hashes of what decides a run's result: of our sources, and of an approach's own package."""
    from approaches.registry import APPROACHES

    return {"sources": source_hash(ROOT, DECIDING), "foreign sources": foreign_sources(APPROACHES[approach].target)}


def foreign_sources(target: str) -> str:
    """Hash of the top-level package that an approach of somebody else's comes from; "" for ours."""
    top = target.partition(":")[0].partition(".")[0]
    if top in DECIDING:
        return ""
    spec = importlib.util.find_spec(top)
    if spec is None:
        raise UserError(f"the package {top} can't be found, expected it beside its entry point")
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    files = [(file, folder) for folder in folders for file in sorted(folder.rglob("*.py"))]
    files = files or [(Path(str(spec.origin)), Path(str(spec.origin)).parent)]
    named = ((file.relative_to(folder).as_posix(), file.read_bytes()) for file, folder in files)
    return hash_bytes(*(part for pair in named for part in pair))


# ---------------------------------------------------------------------------------------------- state and lock


def write_state(folder: Path, state: RunState, reason: str = "", *, mistake: bool = False) -> None:
    """Say what became of the run; "running" is said of this process. mistake: see State."""
    value = State(state=state, reason=reason, ended=time.time(), mistake=mistake)
    if state == "running":
        me = os.getpid()
        value = dataclasses.replace(value, process=me, born=_born(me) or 0.0, machine=platform.node(), ended=0.0)
    write_json(folder / STATUS, dataclasses.asdict(value))


def end(folder: Path, state: Unfinished, reason: str, *, mistake: bool = False) -> None:
    """Say, in status and record, why a run is not done. mistake: see State."""
    write_state(folder, state, reason, mistake=mistake)
    if (folder / schema.FILE).exists():
        record = schema.load(folder)
        schema.save(dataclasses.replace(record, status=state, reason=reason), folder)


def read_state(folder: Path) -> State | None:
    """What became of the run in a folder; None where nobody has worked on it. A run whose process is gone without a
    word is killed: of this machine the process tells, of another the run's lock. UserError where the file is damaged.
    Changes nothing in the folder."""
    path = folder / STATUS
    if not path.exists():
        return None
    values = read_json(path)
    try:
        state: State = build(State, values)
    except UserError as error:
        raise UserError(f"{path} is no status of a run: {error}") from error
    if state.state != "running":
        return state
    if state.machine != platform.node():
        gone, reason = not _held(folder), f"process {state.process} of {state.machine} holds it no longer"
    else:
        born = _born(state.process)
        # A process born at another time has the number by now.
        gone, reason = born is None or abs(born - state.born) > 5, "its process is gone"
    if not gone:
        return state
    # A launcher ends the first rank as soon as another has failed, often before it can say why.
    return State(state="killed", reason="; ".join([reason, *(str(other) for other in launch.failures(folder))]))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Inside, no other process works on this run; the system ends the hold when the process dies. BusyError where
    another one does, UserError where its lock is a link or a pipe, or may not be written."""
    end = time.monotonic() + PATIENCE
    try:
        opened = open(folder / LOCK, "a+", encoding="utf-8", opener=own)  # noqa: SIM115  (closed below)
    except UnfitFileError:
        raise
    except OSError as error:
        raise UserError(f"can't write {folder / LOCK}: {error.strerror or error}") from error
    with opened as file:
        while True:
            try:
                _lock(file)
                break
            except OSError as error:
                if time.monotonic() > end:
                    raise busy(folder) from error
            time.sleep(PATIENCE / 10)
        yield


def _held(folder: Path) -> bool:
    """Whether a process, of any machine that shares the disk, holds the run's lock, or that can't be told. Takes a
    shared lock for an instant: no holder notices, nor who else looks, and `locked` waits for it."""
    try:
        with open(folder / LOCK, encoding="utf-8", opener=own) as file:
            _lock(file, shared=True)
    except (FileNotFoundError, UnfitFileError):  # whoever works makes one first
        return False
    except OSError:
        return True
    return False


def busy(folder: Path) -> BusyError:
    """What to raise where another process works on a run."""
    state = read_state(folder)
    who = f"process {state.process}" if state is not None and state.process else "another process"
    if state is not None and state.machine not in ("", platform.node()):
        who += f" of {state.machine}"
    return BusyError(f"run {folder.name} is being worked on by {who}: wait for it, or end it")


def _lock(file: IO[str], *, shared: bool = False) -> None:
    """Hold a file until it is closed; raises OSError where another process holds it. shared: others may share it."""
    if sys.platform == "win32":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def _born(process: int) -> float | None:
    """When a process of this machine started, in seconds since 1970; None where there is none, or its body is left."""
    import psutil

    try:
        found = psutil.Process(process)
        return None if found.status() == psutil.STATUS_ZOMBIE else float(found.create_time())
    except (psutil.Error, ValueError):  # ValueError: of a number below zero
        return None
