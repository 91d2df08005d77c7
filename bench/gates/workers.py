"""The gate's side of its workers: a process a tree, asked over its standard input, and ended with it. No torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import deque
from contextlib import suppress
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Self

WORDS = 12  # last lines of a worker's own output that a broken worker is reported with


class WorkerError(RuntimeError):
    """A worker could not do what it was asked; the message says why."""


class Worker:
    """One process on one tree. Requests are answered in order; `ask` sends one, `answer` waits for it.

    tree: the checkout whose code runs. threads: of torch and whatever else looks at OMP_NUM_THREADS.
    """

    def __init__(self, tree: Path, threads: int) -> None:
        self.tree = tree.resolve()
        self._folder = tempfile.TemporaryDirectory(prefix="bench-gate-")
        folder = Path(self._folder.name)
        words = [sys.executable, "-m", "bench.gates.worker", str(folder)]
        self._said: deque[str] = deque(maxlen=WORDS)
        self._process = subprocess.Popen(
            words, cwd=self.tree, env=surroundings(self.tree, folder, threads), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._listener = Thread(target=self._listen, daemon=True)
        self._listener.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process and remove what it wrote."""
        self._process.kill()
        self._process.wait()
        self._listener.join()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
        self._folder.cleanup()

    def ask(self, do: str, **words: Any) -> None:
        """Send a request."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **words}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._broken() from error

    def answer(self) -> dict[str, Any]:
        """The answer to the oldest request that has none yet. WorkerError where the work raised, or the process
        ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._broken()
        found: dict[str, Any] = json.loads(line)
        if isinstance(found.get("error"), str):
            raise WorkerError(found["error"])
        return found

    def call(self, do: str, **words: Any) -> dict[str, Any]:
        """Ask, and wait for the answer."""
        self.ask(do, **words)
        return self.answer()

    def hello(self) -> dict[str, Any]:
        """What the worker says of itself. WorkerError where it runs another tree's code, an installed copy's say."""
        self.ask("hello")
        return self.told()

    def told(self) -> dict[str, Any]:
        """The answer to "hello", which is the oldest request without one."""
        found = self.answer()
        if Path(found["tree"]) != self.tree:
            raise WorkerError(f"the worker of {self.tree} runs the code of {found['tree']}")
        return found

    def _listen(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said.append(line.rstrip())

    def _broken(self) -> WorkerError:
        code = self._process.wait()
        self._listener.join(5)
        last = next((line for line in reversed(self._said) if line), "it said nothing")
        return WorkerError(f"the worker of {self.tree} ended with {code}: {last}")


def surroundings(tree: Path, folder: Path, threads: int) -> dict[str, str]:
    """The environment of a worker: its tree's code, a cache of its own, one number of threads, no GPU and no hub; and
    memory that glibc keeps. Left alone it gives large pieces back and asks for them anew at every call, or not, as the
    heap happens to lie: of eight pairs of like processes five timed the same features 30% apart (mallopt(3))."""
    fixed = {
        "PYTHONPATH": str(tree),
        "PYTHONHASHSEED": "0",
        "BENCH_CACHE": str(folder / "cache"),
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "MALLOC_MMAP_THRESHOLD_": str(2**31 - 1),
        "MALLOC_TRIM_THRESHOLD_": str(2**32),
    }
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    return {**os.environ, **fixed, **limits}
