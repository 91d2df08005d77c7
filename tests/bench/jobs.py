"""Jobs of `array` that act or tell what they see. Each is unpickled in a process of its own, which imports this module:
no torch here, and no test."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from bench import array, runner
from bench.hardware import VISIBLE
from tests.bench import ways


@dataclass(frozen=True)
class ActedJob(array.Job):
    """A job whose worker acts."""

    def __call__(self) -> int:
        """See Job."""
        setattr(runner, "WORKER", (sys.executable, ways.__file__))  # noqa: B010  (another length of tuple)
        return super().__call__()


@dataclass(frozen=True)
class SeeingJob(array.Job):
    """A job that leaves what it sees of GPUs in its folder."""

    def __call__(self) -> int:
        """See Job."""
        before = os.environ.get(VISIBLE, "unset")
        self.take()
        (Path(self.folder) / "seen").write_text(f"{before}|{os.environ.get(VISIBLE, 'unset')}")
        return 0


@dataclass(frozen=True)
class CountingJob(array.Job):
    """A job that leaves the threads that its run would have in its folder."""

    def __call__(self) -> int:
        """See Job."""
        self.take()
        (Path(self.folder) / "threads").write_text(os.environ.get(array.THREADS, "unset"))
        return 0
