"""A process that does what the gate asks of one tree: `python -m bench.gates.worker FOLDER`, requests and answers as
lines of JSON. The gate's own files are the same in both trees, so that both are asked the same."""

from __future__ import annotations

import ctypes
import gc
import json
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import bench
from bench.errors import in_a_line
from bench.gates import clock, thresholds
from bench.gates.findings import wanted

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
OWN_FINDER = "__editable___draw_bench_"  # how setuptools names the module of an editable installation's finder


class Server:
    """The requests, each a method; what they need of torch is imported by the first."""

    def __init__(self, folder: Path) -> None:
        import torch

        from bench.gates.world import World

        self.thresholds = thresholds.load()
        torch.set_num_threads(self.thresholds.threads)
        self.world = World(folder)
        self.work: dict[str, Callable[[], object]] = {}

    def hello(self) -> dict[str, Any]:
        """Where this code comes from, and on what it runs."""
        import torch

        from bench.gates.quality import machine

        return {
            "tree": str(Path(bench.__file__).resolve().parents[1]),
            "machine": machine(),
            "torch": torch.__version__.partition("+")[0],
        }

    def names(self) -> dict[str, Any]:
        """The timed cases."""
        from bench.gates.cases import cases

        return {"names": list(cases())}

    def prepare(self, case: str) -> dict[str, Any]:
        """Make a case's work, warm it up, and tell the seconds of a call."""
        from bench.gates.cases import cases

        self.work = {case: cases()[case].setup(self.world)}  # one at a time: the last one's memory is given back
        self.work[case]()
        gc.collect()
        return {"seconds": min(self._seconds(case, 1) for _ in range(3))}

    def time(self, case: str, calls: int, processor: int | None = None) -> dict[str, Any]:
        """Seconds of a call, over so many, on one processor (by its number) where one is named."""
        with clock.on(processor):
            return {"seconds": self._seconds(case, calls) / calls}

    def count(self, groups: list[str]) -> dict[str, Any]:
        """What can be counted, of these groups or names; all where none is given."""
        from bench.gates.counts import counts

        found = {}
        for name, function in counts().items():
            if wanted(name, groups):
                found[name] = _tried(partial(function, self.world))
        return {"counts": found}

    def quality(self, groups: list[str]) -> dict[str, Any]:
        """What a fixed small training gives, of these groups or names; all where none is given."""
        from bench.gates.quality import quality

        return {"quality": quality(self.world, self.thresholds, groups)}

    def _seconds(self, case: str, calls: int) -> float:
        work = self.work[case]
        enabled = gc.isenabled()
        gc.disable()
        try:
            began = clock.own()
            for _ in range(calls):
                work()
            return clock.own() - began
        finally:
            if enabled:
                gc.enable()


def _tried(function: Callable[[], dict[str, int]]) -> dict[str, Any]:
    try:
        return function()
    except Exception as error:
        traceback.print_exc()
        return {"error": in_a_line(error)}


def serve(server: Callable[[], Server], requests: TextIO, answers: TextIO) -> None:
    """Answer one request after another until there are no more. An exception is an answer too."""
    made: Server | None = None
    for line in requests:
        words = json.loads(line)
        try:
            made = made or server()
            answer = getattr(made, words.pop("do"))(**words)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": in_a_line(error)}
        answers.write(json.dumps(_plain(answer)) + "\n")
        answers.flush()


def _plain(value: Any) -> Any:
    """JSON has no NaN: what is no number is told in words."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def of_this_tree(finders: Iterable[Any]) -> list[Any]:
    """Without this project's own finder: an editable installation hands out its own modules where this tree has none of
    a name, and no tree may borrow them. Other people's packages stay."""
    return [finder for finder in finders if not str(getattr(finder, "__module__", "")).startswith(OWN_FINDER)]


def main() -> int:
    """Serve until standard input ends. Whatever else prints goes to standard error."""
    if sys.platform == "linux":  # a gate that is killed leaves no worker at work
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    sys.meta_path[:] = of_this_tree(sys.meta_path)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(lambda: Server(Path(sys.argv[1])), sys.stdin, answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
