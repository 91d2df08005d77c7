"""How long the command line takes to answer, as an interpreter of its own: what a machine's slowness excuses."""

from __future__ import annotations

import resource
import subprocess
import sys
import time

WITHOUT_TORCH = (
    "import sys; from bench.cli import main; code = main(sys.argv[1:]);"
    "sys.exit(99 if {'torch', 'transformers', 'diffusers'} & set(sys.modules) else code)"
)
TIMES = 3  # tried, before a machine is called slow


def run(*argv: str) -> tuple[subprocess.CompletedProcess[str], float, float]:
    """`python -c argv`, and its seconds of the processor and of the wall's clock."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, "-c", *argv], capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def check(line: str, seconds: float) -> subprocess.CompletedProcess[str]:
    """The command line's answer to `line`, given within `seconds`; AssertionError where it takes longer.

    A machine busy with other work is slow by the wall's clock; what we answer for is our own work. A machine that is
    slow by the processor's clock, too, is slow at importing the parser: three times that is what an answer takes."""
    costs = []
    for _ in range(TIMES):
        done, cpu, wall = run(WITHOUT_TORCH, *line.split())
        costs.append((cpu, wall))
        if wall < seconds:
            return done
    parser = min(run("import tyro")[1] for _ in range(TIMES))
    assert min(cpu for cpu, _ in costs) < max(seconds, 6 * parser), (costs, parser)
    assert min(wall for _, wall in costs) < max(3 * seconds, 36 * parser), (costs, parser)
    return done
