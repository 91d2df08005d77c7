"""What the command line of `array` takes besides a config, and the runs that this means. Imports no torch."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from bench import launch
from bench.config import Config
from bench.environment import usable_cores
from bench.errors import UserError
from bench.hardware import VISIBLE, gpus_here
from bench.ranges import Range
from bench.run_arguments import Point, RunArguments, chosen
from bench.sweep_arguments import check_each, placed, values_of

QUEUED_CORES = 2


@dataclass(frozen=True, kw_only=True)
class ArrayArguments(RunArguments):
    """Many runs as jobs of a queue: every approach with every value of a field and every seed. Runs that are done, at
    work or in the queue are not asked for again, and those that were cut off go on: repeat the command."""

    executor: Literal["local", "slurm"] = "local"
    """Where jobs run: processes of this machine, or SLURM (an array of its own jobs, by submitit)."""
    field: str = ""
    """A field to vary, as in `sweep`: settings.NAME or a field of the config; none by default."""
    values: tuple[str, ...] = ()
    """The field's values, two or more."""
    parallel: Annotated[int, Range(1, 10_000)] = 1
    """Runs at a time."""
    wait: bool = False
    """With SLURM, wait until all have ended and print their table; jobs of this machine are always waited for."""
    minutes: Annotated[int, Range(1, 100_000)] = 1440
    """Longest time of a job; one that runs out of it goes back into SLURM's queue, and goes on from its checkpoint."""
    gpus: Annotated[int, Range(0, 64)] = 0
    """GPUs a job. Of this machine each job has its own then; with 0 all jobs see them all, and take the first."""
    cpus: Annotated[int, Range(0, 1024)] = 0
    """CPU cores a job, and threads of its arithmetic; 0 is 2 with SLURM, and of this machine an equal share."""
    memory: Annotated[int, Range(0, 100_000)] = 0
    """GB of memory a job; 0 leaves it to SLURM."""
    partition: str = ""
    """SLURM's partition; its default where empty."""

    @property
    def cores(self) -> int:
        """CPU cores a job."""
        here = max(1, usable_cores() // self.parallel)
        return self.cpus or (here if self.executor == "local" else QUEUED_CORES)

    def check(self, config: Config) -> None:
        """UserError where the runs can't be asked for here."""
        launch.refuse("array")
        check_submitit()
        if self.executor == "slurm" and shutil.which("sbatch") is None:
            raise UserError("SLURM's sbatch is not found on this machine: take --executor local")
        seen, asked = len(gpus_here()), self.gpus * self.parallel
        if self.executor == "local" and seen < asked:
            raise UserError(
                f"--gpus {self.gpus} for --parallel {self.parallel} jobs are {asked} GPUs, and {seen} are seen "
                f"here: lower either, or name them in {VISIBLE}"
            )
        if self.values and not self.field:
            raise UserError("--values are of no field: name it by --field, such as --field settings.learning_rate")
        super().check(config)
        check_each(self, config, (point.config for point in points(self, config)))


def check_submitit() -> None:
    """UserError where jobs can't be asked for."""
    if importlib.util.find_spec("submitit") is None:
        raise UserError("the package submitit is missing: install this project's extra 'slurm'")


def points(arguments: ArrayArguments, config: Config) -> Iterator[Point]:
    """The runs asked for: seed by seed, so that the first seed of all is done first. UserError on a value that is none
    of the field."""
    for seed in range(config.seed, config.seed + arguments.seeds):
        for approach in chosen(arguments.approach):
            settings = arguments.settings_for(approach, config)
            field, own, changed = arguments.field, config, settings
            for value in values_of(field, arguments.values, approach, settings) if field else (None,):
                if field:
                    own, changed = placed(field, value, config, settings, approach)
                yield Point(approach=approach, settings=changed, config=replace(own, seed=seed))


def jobs_folder(out: Path) -> Path:
    """Where submitit keeps what it needs of the jobs, and their output."""
    return out / "jobs"
