"""`python -m bench array`: runs as jobs, on this machine or in SLURM's queue, by submitit. Imports no torch.

A job does one ordinary run (see bench.runner) in its folder, and everything is known from there: what a job returns is
not looked at. `jobs/jobs.json` says which job was asked for which run. The runs of `sweep` and `reproduce` are done
from here, too."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench import launch, runner, store
from bench.array_arguments import ArrayArguments, jobs_folder, points
from bench.config import Config
from bench.console import Console
from bench.contents import contents
from bench.errors import UserError
from bench.exits import DONE, FAILED, MISTAKE
from bench.files import read_json, write_json
from bench.hardware import VISIBLE, gpus_here
from bench.obstacles import check_here
from bench.own_settings import check_asked
from bench.run_arguments import Point
from reports.schema import Status

ASKED = "jobs.json"
TIMES = 1000  # that a job may run out of time and be put back; submitit alone gives up after 3
KEEPERS = "keepers.log"
ALL = "all"
THREADS = "OMP_NUM_THREADS"
POLL = 0.5  # seconds between looks at the jobs of this machine
QUEUED = ("PENDING", "RUNNING", "REQUEUED", "CONFIGURING", "COMPLETING", "SUSPENDED")  # SLURM's words


@dataclass(frozen=True)
class Job:
    """What a job does: one run, in its folder.

    gpus: which it may take, as VISIBLE names them; ALL for all; None for those that the queue gave it. To a job of this
    machine submitit leaves none. threads: of its arithmetic."""

    folder: str
    gpus: str | None = None
    threads: int = 1

    def take(self) -> None:
        """See to it that the job's own GPUs are seen, and no others, and that it works with as many threads as it has
        cores: two jobs with more between them than there are cores wait for each other most of the time."""
        if self.gpus == ALL:
            os.environ.pop(VISIBLE, None)
        elif self.gpus is not None:
            os.environ[VISIBLE] = self.gpus
        os.environ[THREADS] = str(self.threads)

    def __call__(self) -> int:
        """An exit code of bench.exits."""
        self.take()
        folder = Path(self.folder)
        return runner.execute(store.Request.read(folder), folder.parent, Console()).code

    def checkpoint(self) -> Any:
        """submitit's question when a job is to be moved or runs out of time: the same again, which goes on."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def main(arguments: ArrayArguments, config: Config, console: Console) -> int:
    """Ask for every run that is neither done nor asked for; where they are waited for, 0 if all are done in the end; 2
    where one is refused."""
    if arguments.executor == "local":
        check_here(config)
    ended = done(plan(arguments, config, console), arguments, console)
    if arguments.json:
        console.emit([runner.summary(end) for end in ended])
    else:
        runner.tell(ended, console)
    if arguments.executor == "slurm" and not arguments.wait:
        return MISTAKE if any(end.refused for end in ended) else DONE
    return runner.exit_code(ended)


def done(requests: Sequence[store.Request], arguments: ArrayArguments, console: Console) -> list[runner.Ended]:
    """Ask for every one of these runs that is neither done nor asked for, each written into its folder where none is
    there yet; and what became of them. Jobs of this machine are waited for, and those of a queue where that is
    asked. One of several that is refused takes no other down."""
    for request in requests:
        folder = arguments.out / request.name
        if not (folder / store.REQUEST).exists():
            runner.make(folder)
            request.write(folder)
    left, refused = list[store.Request](), dict[str, runner.Ended]()
    for request in requests:
        try:
            left += [request] if _open(request, arguments, console) else []
        except UserError as error:
            if len(requests) == 1:
                raise
            refused[request.name] = runner.refused(request, arguments.out, error, console)
    if arguments.executor == "local":
        with _interruptible():
            _here(left, arguments, console)
    elif left:
        jobs = _queued(left, arguments, console)
        if arguments.wait:
            for job in jobs:
                job.wait()
    return [refused.get(request.name) or outcome(request, arguments.out / request.name) for request in requests]


def in_turn(
    points: Sequence[Point], request: Requests, out: Path, parallel: int, told: Callable[[Point], str], what: str
) -> Iterator[list[runner.Ended]]:
    """Do these runs, one after another, or `parallel` at a time as jobs of this machine; those that have ended, each
    time that more have. what, told: such as "run", and which one, for when its turn comes."""
    console = request.console
    if parallel > 1:
        yield done(list(map(request, points)), ArrayArguments(out=out, parallel=parallel), console)
        return
    ended: list[runner.Ended] = []
    for place, point in enumerate(points):
        console.info(f"{what} {place + 1} of {len(points)}: {told(point)}")
        ended.append(runner.attempt(request(point), out, console, alone=len(points) == 1))
        yield ended


def keeps(path: Path, found: Any) -> bool:
    """Whether what lies at `path` is worth more than a record of several runs: while these are at work, one of the same
    when all were done, as where their folders have gone since."""
    try:
        before = read_json(path) if found.status == "unfinished" and path.exists() else {}
    except UserError:
        return False
    return (before.get("key"), before.get("status")) == (found.key, "done")


def so_far(count: int, ended: Sequence[runner.Ended], what: str) -> tuple[Status, str]:
    """What became of `count` runs, of which these have ended, and why they are not done. what: such as "run"."""
    if left := count - len(ended):
        return "unfinished", f"{_are(left, what)} still to do"
    bad = [end for end in ended if end.state.state != "done"]
    return ("failed", f"{_are(len(bad), what)} not done") if bad else ("done", "")


def _are(count: int, what: str) -> str:
    return f"1 {what} is" if count == 1 else f"{count} {what}s are"


class Requests:
    """Makes runs out, each from the sources as they are when it is asked for. What configs name alike is looked at
    once."""

    def __init__(self, console: Console) -> None:
        self.console, self.command = console, ("python", "-m", "bench", *sys.argv[1:])
        self._contents: dict[Any, dict[str, str]] = {}

    def __call__(self, point: Point) -> store.Request:
        """UserError where data or weights can't be had, or a setting changes nothing beside others."""
        check_asked(point.settings)
        named = (point.config.data, point.config.text, point.config.model)
        if named not in self._contents:
            self._contents[named] = contents(point.config, self.console.info)
        return store.request(point.config, point.approach, point.settings, self._contents[named], self.command)


def plan(arguments: ArrayArguments, config: Config, console: Console) -> list[store.Request]:
    """All runs asked for, from the sources as they are now."""
    return list(map(Requests(console), points(arguments, config)))


def outcome(request: store.Request, folder: Path) -> runner.Ended:
    """What a run's folder says became of it."""
    state = store.read_state(folder) or store.State(state="failed", reason="it has not begun")
    record, reason = runner.recorded(request, folder) if state.state == "done" else (None, "")
    if reason:
        state = store.State(state="failed", reason=reason, mistake=True)
    code = DONE if record is not None else MISTAKE if state.mistake else FAILED
    return runner.Ended(request=request, folder=folder, state=state, record=record, code=code)


def _open(request: store.Request, arguments: ArrayArguments, console: Console) -> bool:
    """Whether a run is to be asked for; one that is not done, nor at work, goes on as it is asked for now. UserError
    where its folder is another run's."""
    folder = arguments.out / request.name
    state = store.read_state(folder)
    if state is not None and state.state in ("done", "running"):
        reason = runner.recorded(request, folder)[1] if state.state == "done" else ""
        if not reason:
            console.info(f"{request.name}: {state.state} already")
            return False
        console.warn(f"{reason}; the run's last stage is done again")
    try:
        request.renew(folder)
    except store.BusyError as error:  # it began just now
        console.info(str(error))
        return False
    if arguments.executor == "slurm" and (place := in_queue(arguments.out, request.name)):
        console.info(f"{request.name}: {place}")
        return False
    return True


def in_queue(out: Path, name: str, unknown: str = "") -> str:
    """Where a run of these waits or works in SLURM's queue; "" where it does neither. unknown: what to say where SLURM
    does not tell."""
    if not (job := _asked(out).get(name)):
        return ""
    from submitit import SlurmJob

    word = str(SlurmJob(jobs_folder(out), job).state)
    return f"in the queue as job {job}, {word.lower()}" if word in QUEUED else unknown if word == "UNKNOWN" else ""


def _asked(out: Path) -> dict[str, str]:
    path = jobs_folder(out) / ASKED
    values: dict[str, str] = read_json(path) if path.exists() else {}
    return values


def _executor(arguments: ArrayArguments) -> Any:
    from submitit import AutoExecutor

    # The same modules as here, whatever put them on the path.
    os.environ["PYTHONPATH"] = launch.search_path()
    os.environ["PYTHONSAFEPATH"] = "1"  # and not what lies where a job is started
    place = jobs_folder(arguments.out).resolve()
    executor = AutoExecutor(folder=place, cluster=arguments.executor, slurm_max_num_timeout=TIMES)
    wishes: dict[str, Any] = {"timeout_min": arguments.minutes, "name": "draw-bench"}
    if arguments.executor == "slurm":
        wishes |= {"cpus_per_task": arguments.cores, "slurm_array_parallelism": arguments.parallel}
        wishes |= {"slurm_partition": arguments.partition} if arguments.partition else {}
        wishes |= {"mem_gb": arguments.memory} if arguments.memory else {}
        wishes |= {"gpus_per_node": arguments.gpus} if arguments.gpus else {}
    executor.update_parameters(**wishes)
    return executor


def _queued(requests: Sequence[store.Request], arguments: ArrayArguments, console: Console) -> list[Any]:
    """The runs as one array of SLURM's. UserError where it takes no such jobs."""
    from submitit.core.utils import FailedJobError

    todo = [Job(str((arguments.out / request.name).resolve()), threads=threads(arguments)) for request in requests]
    try:
        jobs: list[Any] = _executor(arguments).submit_array(todo)  # a job itself, which tells submitit how it goes on
    except FailedJobError as error:
        raise UserError(f"SLURM refuses the jobs: {error}") from error
    names = {request.name: str(job.job_id) for request, job in zip(requests, jobs, strict=True)}
    write_json(jobs_folder(arguments.out) / ASKED, {**_asked(arguments.out), **names})
    for name, job in names.items():
        console.info(f"{name}: job {job}")
    return jobs


def threads(arguments: ArrayArguments) -> int:
    """Of a job's arithmetic: as the words say, or the environment, else one a core."""
    said = os.environ.get(THREADS, "")
    return int(said) if said.isdecimal() and int(said) and not arguments.cpus else arguments.cores


def shares(arguments: ArrayArguments) -> list[str]:
    """Of this machine's GPUs, for each of the jobs that are at work at a time: its own, or what this process sees."""
    if not arguments.gpus:
        return [os.environ.get(VISIBLE, ALL)] * arguments.parallel
    names, each = gpus_here(), arguments.gpus
    return [",".join(names[place * each : (place + 1) * each]) for place in range(arguments.parallel)]


def _here(requests: Sequence[store.Request], arguments: ArrayArguments, console: Console) -> None:
    """The runs as processes of this machine, `parallel` at a time, until all have ended."""
    executor, waiting, working = _executor(arguments), list(requests), dict[str, Any]()
    free, taken = shares(arguments), dict[str, str]()
    try:
        while waiting or working:
            while waiting and len(working) < arguments.parallel:
                request = waiting.pop(0)
                taken[request.name] = free.pop(0)
                folder = str((arguments.out / request.name).resolve())
                with _errors_to(jobs_folder(arguments.out) / KEEPERS):
                    job = executor.submit(Job(folder, taken[request.name], threads=threads(arguments)))
                working[request.name] = job
                console.info(f"{request.name}: begins; its output is in {job.paths.stderr}")
            time.sleep(POLL)
            for name in [name for name, job in working.items() if job.done()]:
                del working[name]
                free.append(taken.pop(name))
                state = store.read_state(arguments.out / name)
                console.info(f"{name}: {state.state if state else 'ended before it began'}")
    finally:
        for job in working.values():  # interrupted: the runs go on when they are asked for again
            _stop(int(job.job_id))
        for job in working.values():
            job.wait()


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM interrupts what is inside as Ctrl-C does."""

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(keeper: int) -> None:
    """End the worker under a process of submitit's, which then ends by itself. By SIGTERM, for in a shell's background
    SIGINT is ignored; submitit's own processes take no notice of it."""
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(keeper).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                process.terminate()


@contextmanager
def _errors_to(path: Path) -> Iterator[None]:
    """What processes that are started inside write to standard error goes to the end of a file: to an interruption,
    submitit's, which keep watch over a job each, would answer with a traceback each beside our one word."""
    ours = os.dup(2)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("ab") as log:
            os.dup2(log.fileno(), 2)
        yield
    finally:
        os.dup2(ours, 2)
        os.close(ours)
