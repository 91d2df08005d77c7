"""`python -m bench array`: runs as jobs, on this machine or in SLURM's queue, by submitit. Imports no torch.

A job does one ordinary run (see bench.runner) in its folder, and everything is known from there: what a job returns is
not looked at. `jobs/jobs.json` says which job was asked for which run."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import runner, store
from bench.array_arguments import ArrayArguments, jobs_folder, points
from bench.config import Config, to_json
from bench.console import Console
from bench.exits import DONE, FAILED
from bench.files import read_json, write_json
from reports import schema

ASKED = "jobs.json"
POLL = 0.5  # seconds between looks at the jobs of this machine
QUEUED = ("PENDING", "RUNNING", "REQUEUED", "CONFIGURING", "COMPLETING", "SUSPENDED")  # SLURM's words


@dataclass(frozen=True)
class Job:
    """What a job does: one run, in its folder."""

    folder: str

    def __call__(self) -> int:
        """An exit code of bench.exits."""
        folder = Path(self.folder)
        return runner.execute(store.Request.read(folder), folder.parent, Console()).code

    def checkpoint(self) -> Any:
        """submitit's question when a job is to be moved or runs out of time: the same again, which goes on."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def work(job: Job) -> int:
    """What an array's job calls."""
    return job()


def main(arguments: ArrayArguments, config: Config, console: Console) -> int:
    """Ask for every run that is neither done nor asked for; where they are waited for, 0 if all are done in the end."""
    requests = plan(arguments, config, console)
    left = [request for request in requests if _open(request, arguments, console)]
    if arguments.executor == "local":
        _here(left, arguments, console)
    elif left:
        jobs = _queued(left, arguments, console)
        if arguments.wait:
            for job in jobs:
                job.wait()
    ended = [outcome(request, arguments.out / request.name) for request in requests]
    if arguments.json:
        console.emit([runner.summary(end) for end in ended])
    else:
        runner.tell(ended, console)
    if arguments.executor == "slurm" and not arguments.wait:
        return DONE
    return runner.exit_code(ended)


def plan(arguments: ArrayArguments, config: Config, console: Console) -> list[store.Request]:
    """All runs asked for, from the sources as they are now, each written into its folder where none is there yet."""
    contents: dict[str, dict[str, str]] = {}
    found = []
    for point in points(arguments, config):
        named = json.dumps([to_json(part) for part in (point.config.data, point.config.text, point.config.model)])
        if named not in contents:
            contents[named] = store.contents(point.config, console.info)
        command = ("python", "-m", "bench", *sys.argv[1:])
        request = store.request(point.config, point.approach, point.settings, contents[named], command)
        folder = arguments.out / request.name
        if not (folder / store.REQUEST).exists():
            runner.make(folder)
            request.write(folder)
        found.append(request)
    return found


def outcome(request: store.Request, folder: Path) -> runner.Ended:
    """What a run's folder says became of it."""
    state = store.read_state(folder) or store.State(state="failed", reason="it has not begun")
    record = schema.load(folder) if state.state == "done" else None
    code = DONE if record is not None else FAILED
    return runner.Ended(request=request, folder=folder, state=state, record=record, code=code)


def _open(request: store.Request, arguments: ArrayArguments, console: Console) -> bool:
    """Whether a run is to be asked for."""
    folder = arguments.out / request.name
    state = store.read_state(folder)
    if state is not None and state.state in ("done", "running"):
        console.info(f"{request.name}: {state.state} already")
        return False
    if arguments.executor == "slurm" and (job := _asked(arguments.out).get(request.name)):
        from submitit import SlurmJob

        if (word := str(SlurmJob(jobs_folder(arguments.out), job).state)) in QUEUED:
            console.info(f"{request.name}: in the queue as job {job}, {word.lower()}")
            return False
    return True


def _asked(out: Path) -> dict[str, str]:
    path = jobs_folder(out) / ASKED
    values: dict[str, str] = read_json(path) if path.exists() else {}
    return values


def _executor(arguments: ArrayArguments) -> Any:
    from submitit import AutoExecutor

    # The same modules as here, whatever put them on the path.
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    executor = AutoExecutor(folder=jobs_folder(arguments.out).resolve(), cluster=arguments.executor)
    wishes: dict[str, Any] = {"timeout_min": arguments.minutes, "name": "draw-bench"}
    if arguments.executor == "slurm":
        wishes |= {"cpus_per_task": arguments.cpus, "slurm_array_parallelism": arguments.parallel}
        wishes |= {"slurm_partition": arguments.partition} if arguments.partition else {}
        wishes |= {"mem_gb": arguments.memory} if arguments.memory else {}
        wishes |= {"gpus_per_node": arguments.gpus} if arguments.gpus else {}
    executor.update_parameters(**wishes)
    return executor


def _queued(requests: Sequence[store.Request], arguments: ArrayArguments, console: Console) -> list[Any]:
    """The runs as one array of SLURM's."""
    todo = [Job(str((arguments.out / request.name).resolve())) for request in requests]
    jobs: list[Any] = _executor(arguments).map_array(work, todo)
    names = {request.name: str(job.job_id) for request, job in zip(requests, jobs, strict=True)}
    write_json(jobs_folder(arguments.out) / ASKED, {**_asked(arguments.out), **names})
    for name, job in names.items():
        console.info(f"{name}: job {job}")
    return jobs


def _here(requests: Sequence[store.Request], arguments: ArrayArguments, console: Console) -> None:
    """The runs as processes of this machine, `parallel` at a time, until all have ended."""
    executor, waiting, working = _executor(arguments), list(requests), dict[str, Any]()
    try:
        while waiting or working:
            while waiting and len(working) < arguments.parallel:
                request = waiting.pop(0)
                job = executor.submit(Job(str((arguments.out / request.name).resolve())))
                working[request.name] = job
                console.info(f"{request.name}: begins; its output is in {job.paths.stderr}")
            time.sleep(POLL)
            for name in [name for name, job in working.items() if job.done()]:
                del working[name]
                state = store.read_state(arguments.out / name)
                console.info(f"{name}: {state.state if state else 'ended before it began'}")
    finally:
        for job in working.values():  # interrupted: the runs go on when they are asked for again
            job.cancel()
