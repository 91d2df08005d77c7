"""`python -m bench run`: one process a run, one after another; what became of each, and the pictures' places.
Imports no torch: the work is done by bench.worker.

A run that fails, or dies, takes no other down. Whatever is not done at the end is said, and is no success."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import finding, launch, results_table, store
from bench.config import Config
from bench.console import Console
from bench.contents import contents
from bench.errors import UserError
from bench.exits import BUSY, DONE, FAILED, INTERRUPTED, MISTAKE, NO_MEMORY
from bench.files import read_json
from bench.obstacles import check_here
from bench.own_settings import check_asked
from bench.report import after_run
from bench.run_arguments import RunArguments, chosen
from reports import schema
from reports.schema import Record

WORKER = (sys.executable, "-P", "-m", "bench.worker")  # -P: from the path given, not from where it is started
PATIENCE = 20.0  # seconds that an interrupted worker may take to end by itself
ANEW = "to train it anew, delete {} and run it again"


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A run and what became of it. refused: there is nothing in its folder that is said to be its own, such as where
    that is another run's, or another process is at work there."""

    request: store.Request
    folder: Path
    state: store.State
    record: Record | None
    code: int
    refused: bool = False


def main(arguments: RunArguments, config: Config, console: Console) -> int:
    """Do every run asked for that is not done yet; 0 where all are done in the end."""
    if launch.ranks() > 1:
        from bench import ranks

        return ranks.main(arguments, config, console)
    check_here(config)
    ended = list[Ended]()
    alone = arguments.seeds * len(chosen(arguments.approach)) == 1
    for request in plan(arguments, config, console):
        ended.append(attempt(request, arguments.out, console, alone=alone))
    if arguments.json:
        console.emit([summary(end) for end in ended])
    else:
        tell(ended, console)
    after_run([end.folder for end in ended if not end.refused], arguments.out, console)
    return exit_code(ended)


def plan(
    arguments: RunArguments, config: Config, console: Console, command: tuple[str, ...] = ()
) -> Iterator[store.Request]:
    """The runs asked for, every approach with every seed; each is made out when its turn comes, from the sources as
    they are then. command: the words that ask for them, by default this process's. UserError where data or weights
    can't be had, or a setting changes nothing beside others."""
    command = command or ("python", "-m", "bench", *sys.argv[1:])
    found = contents(config, console.info)  # the same for every seed
    for seed in range(config.seed, config.seed + arguments.seeds):
        own = replace(config, seed=seed)
        for name in chosen(arguments.approach):
            settings = arguments.settings_for(name, own)
            check_asked(settings)
            yield store.request(own, name, settings, found, command)


def execute(request: store.Request, out: Path, console: Console) -> Ended:
    """Do one run, or say that it is done. BusyError where another process is at it."""
    launch.refuse("this command")
    folder, done = begun(request, out, console)
    if done is not None:
        return done
    before = store.read_state(folder)
    code = _work(folder, console)
    if code == BUSY:
        raise store.busy(folder)
    return judge(request, folder, code, console, before)


def attempt(request: store.Request, out: Path, console: Console, *, alone: bool) -> Ended:
    """Do one run of several: one that is refused takes no other down. UserError where it is refused and `alone`."""
    try:
        return execute(request, out, console)
    except UserError as error:
        if alone:
            raise
        return refused(request, out, error, console)


def refused(request: store.Request, out: Path, error: UserError, console: Console) -> Ended:
    """A run of which nothing came, and is said to."""
    console.warn(str(error))
    state = store.State(state="failed", reason=str(error), mistake=True)
    return Ended(request=request, folder=out / request.name, state=state, record=None, code=MISTAKE, refused=True)


def begun(request: store.Request, out: Path, console: Console) -> tuple[Path, Ended | None]:
    """A run's folder with its request in it, and what became of the run where it is done; an unfinished run's request
    becomes this one, but for the words that asked for it first. UserError where the folder is another run's; BusyError
    where another process is at it."""
    folder = out / request.name
    state = store.read_state(folder)
    if state is not None and state.state == "running":
        raise store.busy(folder)
    if state is not None and state.state == "done":
        record, reason = recorded(request, folder)
        if record is not None:
            gone = "" if (folder / store.WEIGHTS).exists() else f", but {store.WEIGHTS} is gone: {ANEW.format(folder)}"
            console.info(f"{folder.name}: done already{gone}")
            return folder, Ended(request=request, folder=folder, state=state, record=record, code=DONE)
        console.warn(f"{reason}; the run's last stage is done again")
    if (folder / store.REQUEST).exists():
        request.renew(folder)
    else:
        if near := _nearly(request, out):
            console.info(
                f"{near[0].folder.name} is done and differs in {', '.join(near[1])} alone; this is another run"
            )
        make(folder)
        request.write(folder)
    console.info(f"{folder.name}: {'begins' if state is None else f'was {state.state}, goes on'}")
    return folder, None


def recorded(request: store.Request, folder: Path) -> tuple[Record | None, str]:
    """The record in a done run's folder, or None and why it can't be read: then its last stage is still to be done.
    UserError where it is another run's: the folder's name has the key's beginning alone."""
    try:
        record = schema.load(folder)
    except UserError as error:
        return None, str(error)
    if record.key != request.key:
        raise UserError(store.ANOTHER.format(folder))
    return record, ""


def _nearly(request: store.Request, out: Path) -> tuple[finding.Found, list[str]] | None:
    """The done run under `out` that was asked for with the same config and settings, and in which of the parts of its
    key (sources, data, texts, weights) it is another; of several the latest. None where there is none."""
    found = []
    for run in finding.runs(out):
        if run.approach != request.approach or run.state is None or run.state.state != "done":
            continue
        try:
            parts = read_json(run.folder / store.REQUEST)["parts"]
        except (UserError, KeyError, TypeError):  # somebody has just cleaned it away, or it is damaged
            continue
        differing = sorted(name for name in parts if parts[name] != request.parts.get(name, parts[name]))
        if differing and not {"config", "settings"} & set(differing):
            found.append((run, differing))
    return max(found, key=lambda each: each[0].state.ended if each[0].state else 0.0, default=None)


def make(folder: Path) -> None:
    """A run's folder; UserError where it can't be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"can't write {folder}: {error.strerror or error}") from error


def _work(folder: Path, console: Console) -> int:
    """Run the worker and wait for it; its exit code, below zero the signal that ended it."""
    # The same modules as here, whatever put them on the path.
    surroundings = {**launch.for_worker(os.environ), "PYTHONPATH": launch.search_path()}
    words = [*WORKER, str(folder), *(["--json"] if console.as_json else [])]
    before = oom_kills()
    # The worker ends when its standard input does: the system closes that with this process, however it dies.
    with subprocess.Popen(words, stdin=subprocess.PIPE, env=surroundings) as worker:
        try:
            code = worker.wait()
        except KeyboardInterrupt:  # the terminal has told the worker too, but a person may have told us alone
            worker.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
                worker.wait(PATIENCE)
            _end(worker, folder, "interrupted")
            raise
        except BaseException as error:  # a job's that is moved or runs out of time: submitit leaves by SystemExit
            _end(worker, folder, f"ended with what watched it ({type(error).__name__})")
            raise
    after = oom_kills()
    if code == -getattr(signal, "SIGKILL", 9) and before is not None and after is not None and after > before:
        return NO_MEMORY
    return code


def _end(worker: subprocess.Popen[bytes], folder: Path, reason: str) -> None:
    """End the worker at once, and say in its run's status that it was killed, where it has not said what became of it:
    on another machine "running" would be believed as long as anybody holds the run's lock."""
    worker.kill()
    worker.wait()
    with suppress(UserError), store.locked(folder):  # what ends us is told, not that this can't be said
        state = store.read_state(folder)
        if state is not None and not state.ended:
            store.end(folder, "killed", reason)


def oom_kills() -> int | None:
    """How many processes the system has killed for memory, here or in this machine's group; None where it won't say."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control", "/proc/vmstat"):
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return None


def judge(
    request: store.Request, folder: Path, code: int, console: Console, before: store.State | None = None
) -> Ended:
    """What became of a run whose worker has ended. A worker that could not say it itself has it said here. before: what
    the folder said when the worker began."""
    state, record = store.read_state(folder), None
    if code == DONE:
        record = schema.load(folder)
    elif state is None or not state.ended or state == before:
        state = _said_for(folder, code)
    assert state is not None
    if code != DONE:
        console.warn(f"{folder.name}: {state.state}: {state.reason}")
    return Ended(request=request, folder=folder, state=state, record=record, code=code)


def _said_for(folder: Path, code: int) -> store.State:
    if code == NO_MEMORY:
        what: tuple[store.Unfinished, str] = ("out of memory", "the system ended it for its memory")
    elif code < 0:
        what = ("killed", f"signal {_signal(-code)}")
    else:
        what = ("failed", f"the process ended with {code} before it could say why")
    with store.locked(folder):
        store.end(folder, *what)
    state = store.read_state(folder)
    assert state is not None
    return state


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


# --------------------------------------------------------------------------------------------------------- telling


def exit_code(ended: Sequence[Ended]) -> int:
    """0 where all are done; 130 where one was interrupted; 3 where one failed or died; 2 where only mistakes stood in
    the way."""
    codes = {end.code for end in ended} - {DONE}
    if not codes:
        return DONE
    if INTERRUPTED in codes:
        return INTERRUPTED
    return MISTAKE if codes == {MISTAKE} else FAILED


def summary(end: Ended) -> dict[str, Any]:
    """A run as the plain values that --json prints."""
    record = end.record
    return {
        "name": end.folder.name,
        "folder": str(end.folder),
        "approach": end.request.approach,
        "seed": end.request.config.seed,
        "settings": end.request.settings,
        "state": end.state.state,
        "reason": end.state.reason,
        "metrics": {name: value.to_json() for name, value in record.metrics.items()} if record else {},
        "budgets": dataclasses.asdict(record.budgets) if record else {},
        "pictures": {name: str(end.folder / path) for name, path in record.sheets.items()} if record else {},
    }


def tell(ended: Sequence[Ended], console: Console) -> None:
    """Tables of the done runs, metrics by runs; where their pictures are; what became of the others."""
    done = [(end, end.record) for end in ended if end.record is not None]
    for start in range(0, len(done), results_table.COLUMNS):
        records = [record for _, record in done[start : start + results_table.COLUMNS]]
        console.info()
        console.table("results, with 95% intervals over what was measured", results_table.rows(records))
    console.info()
    for end, record in done:
        for path in record.sheets.values():
            console.info(f"{end.folder.name}: {end.folder / path}")
        console.info(f"{end.folder.name}: {end.folder / schema.FILE} (all {len(record.metrics)} metrics)")
    for end in ended:
        if end.record is None:
            console.info(f"{end.folder.name}: {end.state.state}: {end.state.reason}")
