"""The clock of the speed gate. Standard library only.

It tells the time that work took by itself: time on a processor and time spent asleep, but not time spent waiting for a
processor that others were using. On a busy machine that wait is most of a wall clock's noise, and says nothing about
the code; a sleep that was put into a step still counts. Linux tells the wait of a thread (proc(5), schedstat); where
nothing tells it, this is a wall clock."""

from __future__ import annotations

import time
from pathlib import Path

WAITS = Path("/proc/thread-self/schedstat")


def own() -> float:
    """Seconds of this thread, of which only differences mean anything."""
    try:
        waited = int(WAITS.read_bytes().split()[1])
    except (OSError, IndexError, ValueError):
        waited = 0
    return time.perf_counter() - waited / 1e9
