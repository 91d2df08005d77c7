"""The GPU numbers, in one record.

    python -m tests.gpu.measure --to gpu.json               on a machine with a CUDA device
    python -m tests.gpu.measure --dry-run --to dry.json     the same code at a tiny shape on the CPU, few steps of each

Parity of every kernel path and of every approach; steps a second, model FLOP utilisation, peak memory, compile time
and sampling time of all approaches at `small` and at a 1B shape, on random weights; and transfusion-pytorch beside full
retraining, at equal parameters and tokens. What fails is recorded with its reason, and the others still run.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable
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
from bench.meter import Meter, PeakMemory, flops_per_step, mfu, now, peak_flops, synchronise
from bench.sampler import Sampling
from tests.gpu.shapes import SHAPES, Data, Shape, build, share
from tests.gpu.stepping import RIVAL_OF, Stepper, ours, theirs

KERNEL_TESTS = ("tests/approaches/test_kernels.py", "tests/approaches/test_kernels_losses_and_norms.py")


class Session:
    """What is measured on, how much, and what was found so far."""

    def __init__(self, device: torch.device, *, dry: bool) -> None:
        self.device, self.dry = device, dry
        self.steps, self.nfe, self.pictures = (4, 2, 2) if dry else (30, 25, 16)
        self.shapes = (SHAPES["tiny"],) if dry else (SHAPES["small"], SHAPES["1b"])
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.peak = peak_flops(device, dtype=self.dtype)
        self.found: dict[str, Any] = {}
        self.failed: list[str] = []

    def take(self, name: str, work: Callable[[], Any]) -> Any:
        """Note what some work finds, or why it does not."""
        print(name, flush=True)
        try:
            self.found[name] = work()
        except Exception as error:  # whatever a device may say: the rest is still worth having
            first = (str(error).splitlines() or [""])[0]
            self.found[name] = {"failed": f"{type(error).__name__}: {first}"}
            self.failed.append(name)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return self.found[name]


def parity_of_kernels(dry: bool) -> dict[str, Any]:
    """The parity tests of all kernels, which run where a CUDA device is: how many passed, failed and were skipped."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        chosen = ["-k", "norm_equals_the_reference"] if dry else []
        words = ["-q", "-p", "no:cacheprovider", f"--junit-xml={report}", *KERNEL_TESTS, *chosen]
        subprocess.run([sys.executable, "-m", "pytest", *words], cwd=ROOT, capture_output=True, check=False)
        cases = list(ElementTree.parse(report).iter("testcase"))
    kinds: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for case in cases:
        kind = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
        kinds[kind] += 1
        if kind != "passed":
            reasons[str(next(child for child in case if child.tag == kind).get("message", ""))[:200]] += 1
    if kinds["failure"] or kinds["error"]:
        raise AssertionError(f"{dict(kinds)}: {dict(reasons)}")
    return {**kinds, "reasons": dict(reasons)}


def parity_of(name: str, device: torch.device) -> dict[str, float]:
    """An approach's loss by the kernels of this device, against the references' in float32: relative differences."""
    shape = SHAPES["tiny"]
    found = {}
    for way in ("reference", "kernels", "autocast"):
        shared = share(shape, device)
        if way == "reference":
            shared = _referred(shape, device)
        approach, data = build(name, shape, shared).to(device), Data(shape, shared)
        with torch.autocast(device.type, torch.bfloat16, enabled=way == "autocast"):
            losses = approach.losses(moved(data(0), device), data.generators(0))
        found[way] = {term: float(loss.sum.detach() / loss.count) for term, loss in losses.items()}
    gaps = {}
    for way, bound in (("kernels", 3e-3), ("autocast", 5e-2)):
        gaps[way] = max(abs(found[way][term] / value - 1) for term, value in found["reference"].items())
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
    first, meter = now() - begun, Meter(session.device, warmup=0 if session.dry else 3)
    with PeakMemory(session.device) as memory:
        meter.start()
        for number in range(1, session.steps + 1):
            stepper.step(number)
            meter.lap()
    rate = meter.rate()
    seconds = statistics.median(taken for taken, _ in meter.laps)
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


def training(session: Session, name: str, shape: Shape) -> dict[str, Any]:
    """An approach at a shape, as it is and, on CUDA, through torch.compile."""
    found: dict[str, Any] = {}
    for way in ("plain", "compiled") if session.device.type == "cuda" else ("plain",):
        stepper = ours(name, shape, session.device, compiled=way == "compiled")
        if way == "plain":
            batch, data = moved(stepper.data(0), session.device), stepper.data
            found["flops_per_step"] = flops_per_step(stepper.model, batch, data.generators(0))  # type: ignore[arg-type]
        found[way] = speed(session, stepper, found["flops_per_step"])
        if way == "plain":
            found["sampling"] = sampling(session, stepper)
        del stepper
    return found


@torch.no_grad()
def sampling(session: Session, stepper: Stepper) -> dict[str, float]:
    """Seconds a picture, guided, latents only; the second time of two."""
    approach: Any = stepper.model.eval()
    shape, shared = stepper.data.shape, stepper.data.shared
    prompts = [Prompt.text("a large red circle left of a small blue square on a dark background")] * session.pictures
    sampler = Sampling(diffusion=shared.diffusion, nfe=session.nfe, guidance=3.0)

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
    """Full retraining and transfusion-pytorch, at equal parameters, on the same batches."""
    mine = ours(RIVAL_OF, shape, session.device)
    heads, depth = shape.language_model.heads, shape.language_model.layers
    rival = theirs(shape, mine.data, session.device, parameters=mine.parameters, depth=depth, heads=heads)
    found = {"ours": speed(session, mine, None), "theirs": speed(session, rival, None)}
    rates = [found[whose]["steps_per_second"]["value"] for whose in ("ours", "theirs")]
    return {**found, "ratio": rates[0] / rates[1]}


def main(words: list[str] | None = None) -> int:
    """Measure everything, write the record; 0 where all of it could be had."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=Path("gpu.json"), help="the record")
    parser.add_argument("--dry-run", action="store_true", help="a tiny shape on the CPU, few steps")
    arguments = parser.parse_args(words)
    if not arguments.dry_run and not torch.cuda.is_available():
        print("error: no CUDA device here: --dry-run goes through everything on the CPU", file=sys.stderr)
        return 2
    session = Session(torch.device("cpu" if arguments.dry_run else "cuda"), dry=arguments.dry_run)
    session.take("parity/kernels", partial(parity_of_kernels, session.dry))
    for name in APPROACHES:
        session.take(f"parity/{name}", partial(parity_of, name, session.device))
        for shape in session.shapes:
            session.take(f"{shape.name}/{name}", partial(training, session, name, shape))
    for shape in session.shapes:
        session.take(f"{shape.name}/rival", partial(beside_the_rival, session, shape))
    record = {
        "dry_run": session.dry,
        "peak_flops_per_second": session.peak,
        "found": session.found,
        "failed": session.failed,
        "provenance": provenance(),
    }
    write_json(arguments.to, record)
    print(f"{arguments.to}: {len(session.found) - len(session.failed)} of {len(session.found)} measured")
    for name in session.failed:
        print(f"{name}: {session.found[name]['failed']}")
    return 3 if session.failed else 0


if __name__ == "__main__":
    sys.exit(main())
