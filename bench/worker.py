"""One run in a process of its own: `python -m bench.worker FOLDER`. It holds the run's lock while it works, says in
status.json what becomes of it, and ends when the process that started it does.

Imports torch only through the work itself, so that a run that another process holds is refused at once."""

from __future__ import annotations

import ctypes
import errno
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from bench import launch, store
from bench.console import Console
from bench.errors import UserError, first_line, in_a_line
from bench.exits import BUSY, DONE, FAILED, INTERRUPTED, MISTAKE, NO_MEMORY
from bench.files import write_text
from reports import schema

ERROR = "error.txt"
LEFT = (errno.EPIPE, errno.EIO, errno.EINVAL)
"""What writing meets where nobody listens: a closed pipe, a closed terminal, a closed pipe on Windows."""
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

Work = Callable[[Path, Console], None]


def main(words: Sequence[str]) -> int:
    """Work on the run in a folder; an exit code of bench.exits."""
    die_with_parent()
    unheard()
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
    except UserError:  # there is no lock to hold: who started it says so
        return MISTAKE


class Unheard(io.TextIOBase):
    """A stream whose listener may leave: a training does not end because nobody reads of it any more."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """See TextIOBase."""
        return self._try(lambda: self.stream.write(text)) or len(text)

    def flush(self) -> None:
        """See TextIOBase."""
        self._try(self.stream.flush)

    def writable(self) -> bool:
        """It is."""
        return True

    def fileno(self) -> int:
        """The stream's."""
        return self.stream.fileno()

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self.stream.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's."""
        return self.stream.encoding

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _try(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except OSError as error:
            if error.errno not in LEFT:
                raise
            # What is written from now on, and what is left in the buffer, goes nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
            return None


def unheard() -> None:
    """See to it that this process goes on when nobody reads what it says."""
    sys.stdout, sys.stderr = Unheard(sys.stdout), Unheard(sys.stderr)


def guarded(folder: Path, console: Console, work: Work) -> int:
    """Do the work, whatever becomes of it, and say so in the run's status."""
    state = store.read_state(folder)
    if state is not None and state.state == "done" and _whole(folder):  # somebody else ended it just now
        return DONE
    try:
        store.write_state(folder, "running")
        work(folder, console)
        store.write_state(folder, "done")
    except UserError as error:
        return _ended(folder, "failed", str(error), MISTAKE, console)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's comes first, the parent's while this is written
        return _ended(folder, "killed", "interrupted", INTERRUPTED, console)
    except Exception as error:
        place = _traceback(folder, console)
        if lacks_memory(error):
            return _ended(folder, "out of memory", first_line(error), NO_MEMORY, console)
        return _ended(folder, "failed", f"{in_a_line(error)}{place}", FAILED, console)
    return DONE


def _ended(folder: Path, state: store.Unfinished, reason: str, code: int, console: Console) -> int:
    """Say what became of the run: in its folder, and where that can't be (a full disk), to whoever listens."""
    try:
        store.end(folder, state, reason, mistake=code == MISTAKE)
    except UserError as error:
        console.warn(f"{folder.name}: {state}: {reason}; its folder does not say so: {error}")
    return code


def _traceback(folder: Path, console: Console) -> str:
    """Keep the traceback of the exception at hand; a clause that says where."""
    try:
        write_text(folder / ERROR, traceback.format_exc())
    except UserError:
        console.warn(traceback.format_exc())
        return ""
    return f"; the traceback is in {folder / ERROR}"


def lacks_memory(error: BaseException) -> bool:
    """Whether an exception says that there was not enough memory: Python's, torch's on a device; by its words torch's
    on the CPU, and CUDA's libraries'."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(
        word in str(error) for word in ("DefaultCPUAllocator", "ALLOC_FAILED")
    )


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
