"""The proof of the gates, which anyone can run: `python tests/benchmarks/prove.py`.

No-op gates judge a commit against itself, and must pass. Injections put one fault into a copy of the commit, run the
group that it touches against the commit, and must be caught. Every trial is a line of the state file, so that a proof
may be run in parts: what is there is not done again. `--table` prints what is there as markdown.

The faults name no approach: they are put into those that the registry and the stored baseline name, by turns.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from approaches.registry import APPROACHES  # noqa: E402  (the tree that this file lies in, wherever it was started)
from bench.environment import cpu_name, usable_cores  # noqa: E402
from bench.gates import baseline  # noqa: E402

SLOWER = """

def _slower(own, share=0.2):
    import functools
    import time

    @functools.wraps(own)
    def slow(*words, **named):
        began = time.thread_time()
        found = own(*words, **named)
        end = time.thread_time() + share * (time.thread_time() - began)
        while time.thread_time() < end:
            pass
        return found

    return slow

"""
SLOWER_METHOD = SLOWER + "\n{kind}.{method} = _slower({kind}.{method})\n"
EXTRA_FORWARD = """

import torch as _torch

_own_denoise = {kind}.denoise


def _denoise(self, x_t, t, condition):
    self.language_model.transformer(_torch.zeros(1, 4, dtype=_torch.long))
    return _own_denoise(self, x_t, t, condition)


{kind}.denoise = _denoise
"""
LOST_CACHE = """

def _read_cache(path):
    return None
"""
ONE_PARAMETER = """

import torch as _torch

_own_init = {kind}.__init__


def _init(self, *words, **named):
    _own_init(self, *words, **named)
    self.one_more = _torch.nn.Parameter(_torch.zeros(1))


{kind}.__init__ = _init
"""
ONE_LOGIT = """

_own_logits = {kind}.text_logits


def _text_logits(self, tokens):
    found = _own_logits(self, tokens).clone()
    found[0, 0, 0] += 1e-5
    return found


{kind}.text_logits = _text_logits
"""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is put in. file: to which `code` is added. group: the group, or name, that is to catch it."""

    title: str
    file: str
    code: str
    group: str


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One gate that was run. right: a no-op passed, or a fault was caught by the name that should."""

    what: str
    index: int
    group: str
    right: bool
    code: int
    bad: tuple[str, ...]
    again: tuple[str, ...]
    seconds: float
    load: float
    commit: str
    worst: float | None
    cpu: float | None = None


def main() -> int:
    """Do what is left to do; 0 where every trial so far was right."""
    arguments = parser().parse_args()
    state: Path = arguments.state
    if not arguments.table:
        prove(arguments, state)
    trials = read(state)
    print(table(trials))
    return 0 if trials and all(trial.right for trial in trials) else 1


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--state", type=Path, default=ROOT / "runs" / "gate-proof.jsonl", help="a trial a line")
    made.add_argument("--no-ops", type=int, default=20, help="gates of a commit against itself")
    made.add_argument("--timed", type=int, default=20, help="gates of one step made 20%% slower")
    made.add_argument("--kinds", nargs="*", default=[], help="of no-ops: speed, counted, quality; by default all")
    made.add_argument("--counted", type=int, default=1, help="gates of each fault that is counted, an approach")
    made.add_argument("--minutes", type=float, default=1e9, help="begin no trial after so many")
    made.add_argument("--table", action="store_true", help="only print what was found so far")
    return made


def prove(arguments: argparse.Namespace, state: Path) -> None:
    """Run trials until all are done or the time is up: no-ops and timed ones by turns."""
    began, done = time.monotonic(), {(trial.what, trial.index) for trial in read(state)}
    with tempfile.TemporaryDirectory(prefix="bench-proof-") as folder:
        copy = Path(folder) / "copy"
        subprocess.run(["git", "clone", "--quiet", "--shared", str(ROOT), str(copy)], check=True)
        for what, index, fault in plan(arguments):
            if (what, index) in done:
                continue
            if time.monotonic() - began > 60 * arguments.minutes:
                print("the time is up")
                return
            trial = tried(copy, what, index, fault, arguments.kinds)
            state.parent.mkdir(parents=True, exist_ok=True)
            with state.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(trial)) + "\n")
            print(f"{trial.what} {index}: {'right' if trial.right else 'WRONG'}, {trial.seconds:.0f} s", flush=True)


def plan(arguments: argparse.Namespace) -> Iterator[tuple[str, int, Fault | None]]:
    """Every trial: what, its number, the fault. One of each kind of counted fault comes first, the others last."""
    every = [(fault, index) for index in range(arguments.counted) for fault in counted()]
    kinds = {fault.title.partition(":")[0]: (fault, index) for fault, index in reversed(every)}
    first = [each for each in every if each in kinds.values()]
    for fault, index in first:
        yield fault.title, index, fault
    slow = list(timed())
    for index in range(max(arguments.no_ops, arguments.timed)):
        if index < arguments.timed:
            yield "a step 20% slower", index, slow[index % len(slow)]
        if index < arguments.no_ops:
            yield "no-op", index, None
    for fault, index in every:
        if (fault, index) not in first:
            yield fault.title, index, fault


def counted() -> Iterator[Fault]:
    """The faults that are counted, each in every approach that it can be put into."""
    names = [name for kind in ("counted", "quality") for name in baseline.load().names[kind]]
    frozen = [name.partition("/")[2] for name in names if name.startswith("retention/")]
    for name in frozen:
        file, kind = source(name)
        yield Fault(
            title=f"one extra forward of the frozen text tower: {name}",
            file=file, code=EXTRA_FORWARD.format(kind=kind), group=f"once/{name}",
        )  # fmt: skip
        yield Fault(
            title=f"one text logit off by 1e-5: {name}",
            file=file, code=ONE_LOGIT.format(kind=kind), group=f"retention/{name}",
        )  # fmt: skip
    for name in APPROACHES:
        file, kind = source(name)
        if f"parameters/{name}" in names:
            code = ONE_PARAMETER.format(kind=kind)
            yield Fault(title=f"one parameter more: {name}", file=file, code=code, group=f"parameters/{name}")
    yield Fault(title="one lost cache", file="approaches/shared/vae.py", code=LOST_CACHE, group="once/latents")


def timed() -> Iterator[Fault]:
    """A step 20% slower: the denoising step and the training step of one approach after another."""
    names = baseline.load().names["speed"]
    for name in APPROACHES:
        if f"denoising_step/{name}" in names:
            file, kind = source(name)
            code = SLOWER_METHOD.format(kind=kind, method="denoise")
            yield Fault(title="", file=file, code=code, group=f"denoising_step/{name}")
        if f"training_step/{name}" in names:
            code = SLOWER_METHOD.format(kind="Trainee", method="step")
            yield Fault(title="", file="bench/trainee.py", code=code, group=f"training_step/{name}")


def source(name: str) -> tuple[str, str]:
    """The file and the class of an approach, as the registry has them."""
    module, _, kind = APPROACHES[name].target.partition(":")
    return f"{module.replace('.', '/')}.py", kind


def tried(copy: Path, what: str, index: int, fault: Fault | None, kinds: Sequence[str]) -> Trial:
    """One gate of the copy, with the fault in it, against the commit."""
    words = [sys.executable, "-m", "bench", "gate", "--against", "HEAD", "--json"]
    words += ["--group", fault.group] if fault is not None else ["--only", *kinds] if kinds else []
    if fault is not None and fault.group.split("/")[0] not in ("training_step", "denoising_step"):
        words = [word for word in words if word not in ("--against", "HEAD")] + ["--only", "counted", "quality"]
    subprocess.run(["git", "-C", str(copy), "checkout", "--quiet", "--", "."], check=True)
    if fault is not None:
        with (copy / fault.file).open("a", encoding="utf-8") as file:
            file.write(fault.code)
    began, spent = time.monotonic(), children()
    done = subprocess.run(
        words, cwd=copy, env={**os.environ, "PYTHONPATH": str(copy)}, capture_output=True, text=True, check=False
    )
    seconds = time.monotonic() - began
    findings: list[dict[str, Any]] = json.loads(done.stdout)["findings"] if done.stdout.strip() else []
    bad = tuple(finding["name"] for finding in findings if finding["status"] in ("regression", "missing"))
    ratios = [finding["ratio"][0] for finding in findings if finding["ratio"]]
    caught = done.returncode == 1 and fault is not None and fault.group in bad
    if not findings:
        print(done.stderr[-2000:], file=sys.stderr)
    return Trial(
        what=what,
        index=index,
        group=" ".join(kinds) or "all" if fault is None else fault.group,
        right=caught if fault is not None else done.returncode == 0,
        code=done.returncode,
        bad=bad,
        again=tuple(finding["name"] for finding in findings if "fresh pairs" in finding["said"]),
        seconds=seconds,
        load=os.getloadavg()[0],
        commit=commit(copy),
        worst=max(ratios, default=None),
        cpu=children() - spent,
    )


def children() -> float:
    """Seconds of processors that ended children took, and theirs."""
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


def commit(copy: Path) -> str:
    """The first digits of the commit that is judged."""
    done = subprocess.run(["git", "-C", str(copy), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    return done.stdout[:12]


def read(state: Path) -> list[Trial]:
    """The trials so far."""
    if not state.exists():
        return []
    found = []
    for line in state.read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        found.append(Trial(**{**values, "bad": tuple(values["bad"]), "again": tuple(values["again"])}))
    return found


def table(trials: Sequence[Trial]) -> str:
    """What was tried, how often it was right, and what it took."""
    lines = ["| | right | measured again | largest ratio | wall s | CPU s | load |", "|---|---|---|---|---|---|---|"]
    for what in dict.fromkeys(trial.what for trial in trials):
        own = [trial for trial in trials if trial.what == what]
        spent = [trial.cpu for trial in own if trial.cpu is not None]
        ratios = [trial.worst for trial in own if trial.worst is not None]
        cells = (
            what,
            f"{sum(trial.right for trial in own)} of {len(own)}",
            str(sum(len(trial.again) for trial in own)),
            f"{min(ratios):.3f} to {max(ratios):.3f}" if ratios else "",
            f"{min(t.seconds for t in own):.0f} to {max(t.seconds for t in own):.0f}",
            f"{min(spent):.0f} to {max(spent):.0f}" if spent else "",
            f"{min(t.load for t in own):.1f} to {max(t.load for t in own):.1f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    commits = ", ".join(dict.fromkeys(trial.commit for trial in trials))
    return "\n".join([*lines, "", f"{cpu_name()}, {usable_cores()} cores; commits {commits or 'none'}."])


if __name__ == "__main__":
    sys.exit(main())
