"""The GPU numbers, in one record.

    python -m tests.gpu.measure --to gpu.json               on a machine with a CUDA device
    python -m tests.gpu.measure --dry-run --to dry.json     the same code at a tiny shape on the CPU, few steps of each

Parity of every kernel path and of every approach; steps a second, model FLOP utilisation, peak memory, compile time
and sampling time of all approaches at `small` and at a 1B shape, on random weights; and transfusion-pytorch beside full
retraining, at equal parameters and tokens. What fails, or finds no time left, is recorded with its reason, and the
others still run; the record is written anew after each.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from approaches.base import Prompt
from approaches.registry import APPROACHES
from approaches.shared.kernels import REFERENCE
from approaches.shared.randomness import generator
from bench.batches import moved
from bench.environment import ROOT, provenance
from bench.files import write_json
from bench.imagined import imagining
from bench.meter import Meter, PeakMemory, flops_per_step, mfu, now, peak_flops, synchronise
from bench.sampler import Sampling
from bench.training import compile_blocks
from tests.gpu.shapes import SHAPES, Data, Shape, build, share, shipped
from tests.gpu.stepping import RIVAL_OF, Stepper, ours, theirs

KERNEL_TESTS = ("tests/approaches/test_kernels.py", "tests/approaches/test_kernels_losses_and_norms.py")
LAPS = 7  # for a median's interval, six are needed
MOVED = 0.05  # standard deviation


def counted(name: str, shape: str) -> int:
    """FLOPs of a step of an approach at a shape, on tensors without values: a device may lack the memory for eager
    attention."""
    shipped()
    with imagining():
        shared = share(SHAPES[shape], torch.device("cpu"))
        data = Data(SHAPES[shape], shared)
        return flops_per_step(build(name, SHAPES[shape], shared), data(0), data.generators(0))


class Counts:
    """`counted`, in processes of their own meanwhile."""

    def __init__(self, processes: int) -> None:
        self._pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))
        self._jobs: dict[tuple[str, str], Future[int]] = {}

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(cancel_futures=True)

    def begin(self, name: str, shape: str) -> None:
        """An approach at a shape will be asked for."""
        if (name, shape) not in self._jobs:
            self._jobs[name, shape] = self._pool.submit(counted, name, shape)

    def __call__(self, name: str, shape: str) -> int:
        """FLOPs of a step; waits for them."""
        self.begin(name, shape)
        return self._jobs[name, shape].result()


class Session:
    """What is measured on, how much, and what was found so far. seconds: in which all must end. limit: seconds that one
    measurement may take."""

    def __init__(self, device: torch.device, to: Path, *, dry: bool, seconds: float, limit: int) -> None:
        self.device, self.to, self.dry, self.limit = device, to, dry, limit
        self.laps, self.nfe, self.pictures = (4, 2, 2) if dry else (LAPS, 25, 16)
        self.shapes = (SHAPES["tiny"],) if dry else (SHAPES["small"], SHAPES["1b"])
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.peak = peak_flops(device, dtype=self.dtype)
        self.end = now() + seconds
        self.counts = Counts(1 if dry else 8)
        self.provenance = provenance()
        self.found: dict[str, Any] = {}
        self.failed: list[str] = []

    def take(self, name: str, work: Callable[[], Any]) -> Any:
        """Note what some work finds, or why it does not."""
        print(name, flush=True)
        begun = now()
        try:
            if (left := self.end - begun) <= 0:
                raise TimeoutError("no time was left")
            with _alarm(min(self.limit, math.ceil(left)) if left < math.inf else self.limit):
                self.found[name] = work()
        except Exception as error:  # whatever a device may say: the rest is still worth having
            first = (str(error).splitlines() or [""])[0]
            self.found[name] = {"failed": f"{type(error).__name__}: {first}"}
            self.failed.append(name)
        if isinstance(self.found[name], dict):
            self.found[name]["seconds"] = now() - begun
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.write()
        return self.found[name]

    def write(self) -> None:
        """The record, as far as it goes."""
        record = {
            "dry_run": self.dry,
            "peak_flops_per_second": self.peak,
            "found": self.found,
            "failed": self.failed,
            "provenance": self.provenance,
        }
        write_json(self.to, record)


@contextmanager
def _alarm(seconds: int) -> Iterator[None]:
    """TimeoutError inside after some seconds; 0 for never."""

    def ring(number: int, frame: Any) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def parity_of_kernels(dry: bool) -> dict[str, Any]:
    """The parity tests of all kernels, which run where a CUDA device is: how many passed, failed and were skipped."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        chosen = ["-k", "norm_equals_the_reference"] if dry else []
        if not dry and importlib.util.find_spec("xdist"):  # FlexAttention compiles for each test
            chosen = ["-n", str(min(8, os.cpu_count() or 1))]
        words = ["-q", "-p", "no:cacheprovider", f"--junit-xml={report}", *KERNEL_TESTS, *chosen]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *words], cwd=ROOT, capture_output=True, check=False, text=True
        )
        if not report.exists():
            raise RuntimeError(" ".join((done.stdout + done.stderr).split())[-300:])
        cases = list(ElementTree.parse(report).iter("testcase"))
    kinds: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for case in cases:
        kind = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
        kinds[kind] += 1
        if kind != "passed":
            said = str(next(child for child in case if child.tag == kind).get("message", ""))[:200]
            reasons[said if kind == "skipped" else f"{case.get('name')}: {said}"] += 1
    if kinds["failure"] or kinds["error"]:
        raise AssertionError(f"{dict(kinds)}: {dict(reasons)}")
    return {**kinds, "reasons": dict(reasons)}


def parity_of(name: str, device: torch.device) -> dict[str, float]:
    """An approach's losses, and the norm of their gradient, by the kernels of this device, against the references' in
    float32: the largest relative difference. Every trained weight is moved off its start, where much is zero."""
    shape = SHAPES["tiny"]
    found = {}
    for way in ("reference", "kernels", "autocast"):
        shared = _referred(shape, device) if way == "reference" else share(shape, device)
        approach, data = build(name, shape, shared).to(device), Data(shape, shared)
        trained = [parameter for parameter in approach.parameters() if parameter.requires_grad]
        luck = generator(0, "moved")
        with torch.no_grad():
            for parameter in trained:
                parameter.add_(torch.randn(parameter.shape, generator=luck).to(device), alpha=MOVED)
        with torch.autocast(device.type, torch.bfloat16, enabled=way == "autocast"):
            losses = approach.losses(moved(data(0), device), data.generators(0))
        found[way] = {term: float(loss.sum.detach() / loss.count) for term, loss in losses.items()}
        if way == "autocast" and device.type == "cpu":  # which takes minutes for a backward pass in bf16
            continue
        torch.stack([loss.sum.float() / loss.count for loss in losses.values()]).sum().backward()
        slopes = [parameter.grad for parameter in trained if parameter.grad is not None]
        found[way]["gradient"] = float(torch.nn.utils.get_total_norm(slopes))
    gaps = {}
    for way, bound in (("kernels", 3e-3), ("autocast", 5e-2)):
        gaps[way] = max(abs(value / found["reference"][term] - 1) for term, value in found[way].items())
        if not gaps[way] <= bound:
            raise AssertionError(f"{way}: {gaps[way]} from the reference, expected at most {bound}")
    return gaps


def _referred(shape: Shape, device: torch.device) -> Any:
    """What approaches share, with the reference of every operation."""
    eager = {operation: "eager" for operation in ("attention", "cross_entropy", "norm", "swiglu")}
    shared = share(shape, device, **eager)
    assert replace(shared.kernels, reasons=()) == REFERENCE
    return shared


def speed(session: Session, stepper: Stepper, flops: float | None) -> dict[str, Any]:
    """Steps a second of something that trains, its memory, and how much longer the first step took."""
    begun = now()
    stepper.step(0)
    synchronise(session.device)
    first, meter = now() - begun, Meter(session.device, warmup=0 if session.dry else 1)
    lap = stepper.data.shape.lap
    with PeakMemory(session.device) as memory:
        meter.start()
        for number in range(session.laps + meter.warmup):
            for step in range(lap):
                stepper.step(1 + number * lap + step)
            meter.lap(lap)
    rate = meter.rate()
    seconds = statistics.median(taken / steps for taken, steps in meter.laps)
    found = {
        "name": stepper.name,
        "parameters": stepper.parameters,
        "steps_per_second": rate.to_json(),
        "first_step_seconds_more": first - seconds,
        "peak_memory": memory.estimate().to_json(),
    }
    if flops is not None:
        found |= {"flops_per_step": flops, "mfu": mfu(rate, flops, session.peak).to_json()}
    return found


def training(session: Session, name: str, shape: Shape, **kernels: Any) -> dict[str, Any]:
    """An approach at a shape, as a run without further flags has it."""
    stepper = ours(name, shape, session.device, **kernels)
    flops = session.counts(name, shape.name)
    return {
        "flops_per_step": flops,
        "kernels": stepper.data.shared.kernels.record(),
        "plain": speed(session, stepper, flops),
        "sampling": sampling(session, stepper),
    }


def compiled(session: Session, name: str, shape: Shape) -> dict[str, Any]:
    """The same through torch.compile; its first step holds the compilation."""
    stepper = ours(name, shape, session.device)
    compile_blocks(stepper.model)  # type: ignore[arg-type]
    return speed(session, stepper, session.counts(name, shape.name))


@torch.no_grad()
def sampling(session: Session, stepper: Stepper) -> dict[str, float]:
    """Seconds a picture, guided, latents only; the second time of two."""
    approach: Any = stepper.model.eval()
    shape, shared = stepper.data.shape, stepper.data.shared
    prompts = [Prompt.text("a large red circle left of a small blue square on a dark background")] * session.pictures
    sampler = Sampling(nfe=session.nfe, guidance=3.0)

    def noise_for(indices: Any, turn: int) -> torch.Tensor:
        draw = generator(0, "noise", turn)
        every = torch.randn(session.pictures, shared.codecs["image"].channels, shape.side, shape.side, generator=draw)
        return every[list(indices)].to(session.device)

    seconds = 0.0
    for _ in range(2):
        begun = now()
        with torch.autocast(session.device.type, torch.bfloat16, enabled=session.device.type == "cuda"):
            approach.generate(prompts, noise_for, sampler)
        synchronise(session.device)
        seconds = now() - begun
    approach.train()
    return {"seconds_per_image": seconds / session.pictures, "nfe": session.nfe, "pictures": session.pictures}


def beside_the_rival(session: Session, shape: Shape) -> dict[str, Any]:
    """Full retraining and transfusion-pytorch, at equal parameters, on the same batches, with AdamW and one level of
    noise a picture, which is all that the other has. Ours by itself and, on a device, through torch.compile; theirs as
    its users have it, whose attention is compiled there."""
    steps = 1 + (session.laps + 1) * shape.lap  # each with a batch of its own, as in training
    mine = ours(RIVAL_OF, shape, session.device, levels=1, different=steps, optimizer="adamw")
    heads, depth = shape.language_model.heads, shape.language_model.layers
    rival = theirs(shape, mine.data, session.device, parameters=mine.parameters, depth=depth, heads=heads)
    for number in range(steps):
        mine.data(number)  # made, which is no part of a step
    found = {"ours": speed(session, mine, None), "theirs": speed(session, rival, None)}
    if not session.dry:
        compile_blocks(mine.model)  # type: ignore[arg-type]
        found["compiled"] = speed(session, mine, None)
    rates = {whose: told["steps_per_second"]["value"] for whose, told in found.items()}
    ratios = {f"ratio_{whose}": rate / rates["theirs"] for whose, rate in rates.items() if whose != "theirs"}
    return {**found, **ratios}


def main(words: list[str] | None = None) -> int:
    """Measure everything, what matters most first, and write the record; 0 where all of it could be had."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=Path("gpu.json"), help="the record")
    parser.add_argument("--dry-run", action="store_true", help="a tiny shape on the CPU, few steps")
    parser.add_argument("--seconds", type=float, default=math.inf, help="in which all must end")
    parser.add_argument("--limit", type=int, default=0, help="seconds that one measurement may take; 0 for any")
    parser.add_argument("--only", nargs="*", default=[], help="measurements whose names begin so, in this order")
    arguments = parser.parse_args(words)
    if not arguments.dry_run and not torch.cuda.is_available():
        print("error: no CUDA device here: --dry-run goes through everything on the CPU", file=sys.stderr)
        return 2
    dry, device = arguments.dry_run, torch.device("cpu" if arguments.dry_run else "cuda")
    session = Session(device, arguments.to, dry=dry, seconds=arguments.seconds, limit=arguments.limit)
    work: dict[str, Callable[[], Any]] = {f"parity/{name}": partial(parity_of, name, device) for name in APPROACHES}
    counted_for: dict[str, tuple[str, str]] = {}
    for shape in session.shapes:
        for name in APPROACHES:
            work[f"{shape.name}/{name}"] = partial(training, session, name, shape)
            counted_for[f"{shape.name}/{name}"] = (name, shape.name)
    shape = session.shapes[0]
    work[f"{shape.name}/rival"] = partial(beside_the_rival, session, shape)
    if not dry:  # four times the pictures: what a step's launches cost matters less
        larger = replace(shape, rows=4 * shape.rows, lap=1)
        work[f"{shape.name}/rival_at_{larger.rows}"] = partial(beside_the_rival, session, larger)
    work["parity/kernels"] = partial(parity_of_kernels, dry)
    liger = {"cross_entropy": "liger", "norm": "liger", "swiglu": "liger"}
    for shape in session.shapes if not dry else ():
        for name in APPROACHES:
            work[f"compiled/{shape.name}/{name}"] = partial(compiled, session, name, shape)
            counted_for[f"compiled/{shape.name}/{name}"] = (name, shape.name)
        work[f"flex/{shape.name}"] = partial(training, session, RIVAL_OF, shape, attention="flex")
        work[f"liger/{shape.name}"] = partial(training, session, RIVAL_OF, shape, **liger)
    chosen = dict.fromkeys(name for start in arguments.only or ("",) for name in work if name.startswith(start))
    for name in chosen:
        if name in counted_for:
            session.counts.begin(*counted_for[name])
    for name in chosen:
        session.take(name, work[name])
    session.counts.close()
    print(f"{arguments.to}: {len(session.found) - len(session.failed)} of {len(session.found)} measured")
    for name in session.failed:
        print(f"{name}: {session.found[name]['failed']}")
    return 3 if session.failed else 0


if __name__ == "__main__":
    sys.exit(main())
