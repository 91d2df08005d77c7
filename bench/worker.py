"""One run in a process of its own: `python -m bench.worker FOLDER`. It holds the run's lock while it works, says in
status.json what becomes of it, and ends when the process that started it does.

Imports torch only through the work itself, so that a run that another process holds is refused at once."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import launch, store
from bench.console import Console
from bench.errors import UserError
from bench.exits import BUSY, DONE, FAILED, INTERRUPTED, MISTAKE, NO_MEMORY
from bench.files import write_text
from reports import schema

ERROR = "error.txt"
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

Work = Callable[[Path, Console], None]


def main(words: Sequence[str]) -> int:
    """Work on the run in a folder; an exit code of bench.exits."""
    die_with_parent()
    folder, console = Path(words[0]), Console(as_json="--json" in words)

    def work(folder: Path, console: Console) -> None:
        from bench import stages

        stages.work(folder, console)

    try:
        with store.locked(folder):
            launch.forget(folder)
            return guarded(folder, console, work)
    except store.BusyError:
        return BUSY


def guarded(folder: Path, console: Console, work: Work) -> int:
    """Do the work, whatever becomes of it, and say so in the run's status."""
    state = store.read_state(folder)
    if state is not None and state.state == "done" and _whole(folder):  # somebody else ended it just now
        return DONE
    store.write_state(folder, "running")
    try:
        work(folder, console)
    except UserError as error:
        store.end(folder, "failed", str(error))
        return MISTAKE
    except KeyboardInterrupt:
        store.end(folder, "killed", "interrupted")
        return INTERRUPTED
    except Exception as error:
        write_text(folder / ERROR, traceback.format_exc())
        first = (str(error).splitlines() or ["no message"])[0]
        if lacks_memory(error):
            store.end(folder, "out of memory", first)
            return NO_MEMORY
        store.end(folder, "failed", f"{type(error).__name__}: {first}; the traceback is in {folder / ERROR}")
        return FAILED
    store.write_state(folder, "done")
    return DONE


def lacks_memory(error: BaseException) -> bool:
    """Whether an exception says that there was not enough memory: Python's, torch's on a device, torch's on the CPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def die_with_parent() -> None:
    """See to it that this process does not outlive the one that started it. Linux ends it by a signal; everywhere, a
    thread waits for the end of standard input, whose other end only the parent holds."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def wait() -> None:
        while os.read(0, 1024):
            pass
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def _whole(folder: Path) -> bool:
    try:
        return schema.load(folder).status == "done"
    except UserError:
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
