"""The clock of the speed gate. Standard library only.

It tells the time that work took by itself: time on a processor and time spent asleep, but not time spent waiting for a
processor that others were using. On a busy machine that wait is most of a wall clock's noise, and says nothing about
the code; a sleep that was put into a step still counts. Linux tells the wait of a thread (proc(5), schedstat); where
nothing tells it, this is a wall clock."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WAITS = Path("/proc/thread-self/schedstat")
TRIES = 20


def own() -> float:
    """Seconds of this thread, of which only differences mean anything."""
    before = _waited()
    for _ in range(TRIES):
        now = time.perf_counter()
        waited = _waited()
        if waited == before:  # else the thread waited between the two readings, which then don't belong together
            break
        before = waited
    return now - waited / 1e9


def processor() -> int | None:
    """The last of the processors that this thread may run on; None where the system doesn't tell."""
    return max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


@contextmanager
def on(number: int | None) -> Iterator[None]:
    """Keep this thread on one processor meanwhile, where `processor` told one."""
    if number is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {number})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _waited() -> int:
    """Nanoseconds that this thread has waited for a processor; 0 where nothing tells."""
    try:
        return int(WAITS.read_bytes().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
