"""The only clock of what is measured; memory, floating-point operations, parameters. The same for every approach."""

from __future__ import annotations

import ctypes
import gc
import math
import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import psutil
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from approaches.base import Approach, Batch, Generators, Prompt
from approaches.shared.kernels import reference_attention
from bench.environment import cpu_name
from bench.owed import check_losses
from bench.quantiles import median_interval
from metrics.statistics import Estimate

WARMUP = 3  # laps of each process that are not counted: caches, allocators and compilers are still filling
HIGH_WATER = Path("/proc/self/clear_refs")


def now() -> float:
    """Seconds of a clock that never goes back; only differences mean anything."""
    return time.perf_counter()


def synchronise(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def machine(device: torch.device | str = "cpu", processes: int = 1) -> str:
    """On what work is timed, in words: the accelerator, the processor, torch's threads, and how many processes there
    are of it where there are several. Two clocks are compared where this is the same."""
    threads, place = torch.get_num_threads(), torch.device(device)
    words = f"{cpu_name()}, {threads} thread{'s' * (threads != 1)}"
    if place.type != "cpu":
        name = torch.cuda.get_device_name(place) if place.type == "cuda" else place.type
        words = f"{name}, {words}"
    return words if processes == 1 else f"{processes} x {words}"


def taken(estimate: Estimate, place: str) -> Estimate:
    """What a clock or a counter gave, with the `machine` that it was taken on."""
    return replace(estimate, details={**estimate.details, "machine": place})


class Meter:
    """Laps of a repeated piece of work: each is (seconds, steps that it held), the device synchronised at both ends.

    laps: those that count, of this process and, after `restore`, of the ones before it at the same place; `warmup` laps
    of each process don't. seconds: of all laps, those too. place: on what the work is done, in words; places: on what
    it was done until now, in order.
    """

    def __init__(self, device: torch.device | str = "cpu", *, warmup: int = WARMUP, place: str = "") -> None:
        self.device, self.warmup, self.place, self.places = torch.device(device), warmup, place, [place]
        self.laps: list[tuple[float, int]] = []
        self.seconds = 0.0
        self._seen = 0
        self._began = now()

    def start(self) -> None:
        """A lap begins now: what came since the last one ended belongs to none."""
        synchronise(self.device)
        self._began = now()

    def lap(self, steps: int = 1) -> float:
        """A lap of `steps` steps ends, and the next one begins; its seconds."""
        synchronise(self.device)
        taken, self._began = now() - self._began, now()
        self.seconds += taken
        self._seen += 1
        if self._seen > self.warmup:
            self.laps.append((taken, steps))
        return taken

    def state(self) -> dict[str, Any]:
        """Plain JSON for a checkpoint."""
        laps = [[round(seconds, 7), steps] for seconds, steps in self.laps]
        return {"laps": laps, "seconds": self.seconds, "place": self.place, "places": self.places}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave in a process before this one. Laps of another place say nothing of this one's
        speed, and are left out."""
        same = state.get("place", self.place) == self.place
        self.laps = [(float(seconds), int(steps)) for seconds, steps in state["laps"]] if same else []
        self.seconds = float(state["seconds"])
        self.places = list(dict.fromkeys([*state.get("places", []), self.place]))

    def rate(self, per_step: float = 1.0) -> Estimate:
        """`per_step` things a step, per second: `per_step` is 1 for steps, the batch's rows for images.

        The median over laps; its interval is that of a median, from order statistics, and holds for this run on this
        machine. details: p5 and p95 of the laps, which are their spread, and the raw seconds a step."""
        if not self.laps:
            return Estimate.missing(
                f"no lap after {self.warmup} of warm-up: the training is too short", unit="1/s", better="higher"
            )
        rates = sorted(per_step * steps / seconds for seconds, steps in self.laps)
        bounds = median_interval(rates)
        return Estimate(
            value=statistics.median(rates),
            low=bounds[0] if bounds else None,
            high=bounds[1] if bounds else None,
            n=len(rates),
            unit="1/s",
            better="higher",
            reason="" if bounds else f"too few laps for an interval of their median: {len(rates)}",
            details={
                "p5": float(np.quantile(rates, 0.05)),
                "p95": float(np.quantile(rates, 0.95)),
                "warmup_laps": self.warmup,
                "seconds_per_step": [round(seconds / steps, 7) for seconds, steps in self.laps],
            },
        )


# --------------------------------------------------------------------------------------------------------- memory


class PeakMemory:
    """The most memory that the work inside a `with` took: on CUDA what was allocated there; elsewhere the resident set
    of this process above what it was at the start."""

    def __init__(self, device: torch.device | str = "cpu", *, every: float = 0.02) -> None:
        self.device, self.every = torch.device(device), every
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._start = self._peak = 0
        self._source = ""

    def __enter__(self) -> Self:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self._start, self._source = torch.cuda.memory_allocated(self.device), "CUDA's allocator"
            return self
        process = psutil.Process()
        _give_back()
        self._start = self._peak = process.memory_info().rss
        try:
            HIGH_WATER.write_text("5")  # the kernel forgets its mark, and begins a new one (proc(5))
            self._source = "the kernel's high-water mark of the resident set"
        except OSError:
            self._source = f"the resident set, looked at every {self.every} s"
            self._thread = threading.Thread(target=self._watch, args=(process,), daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._look()
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def estimate(self, *, whole: bool = True) -> Estimate:
        """Bytes so far. whole: whether the work was all done inside; a part may have taken less."""
        if not self._ended.is_set():
            self._look()
        details: dict[str, Any] = {"source": self._source, "at_start": self._start}
        details |= {} if whole else {"covers": "the last of several processes"}
        if self.device.type == "cuda":
            return Estimate.reading(
                self._peak,
                unit="bytes",
                better="lower",
                reserved=torch.cuda.max_memory_reserved(self.device),
                **details,
            )
        return Estimate.reading(max(0, self._peak - self._start), unit="bytes", better="lower", **details)

    def _look(self) -> None:
        if self.device.type == "cuda":
            self._peak = torch.cuda.max_memory_allocated(self.device)
        elif self._thread is None:
            status = Path("/proc/self/status").read_text(encoding="utf-8")
            kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
            self._peak = max(self._peak, 1024 * int(kilobytes))
        else:
            self._peak = max(self._peak, psutil.Process(os.getpid()).memory_info().rss)

    def _watch(self, process: psutil.Process) -> None:
        while not self._ended.wait(self.every):
            self._peak = max(self._peak, process.memory_info().rss)


def _give_back() -> None:
    """Return freed memory to the system where the C library can (glibc): otherwise what was freed before would hide
    what this work takes."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


# ---------------------------------------------------------------------------------------------------------- FLOPs


def flops(function: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products and convolutions in a call, two for each multiply-add; attention
    is counted as the products it stands for, whatever kernel runs it otherwise. Other operations count nothing."""
    own = sdpa_kernel(SDPBackend.MATH)  # of who calls torch's attention: its counter knows no kernel of the CPU's
    with FlopCounterMode(display=False) as counter, reference_attention(), own:
        function()
    return int(counter.get_total_flops())


def flops_per_step(approach: Approach, batch: Batch, generators: Generators) -> int:
    """Of one training step on a batch, forward and backward. Leaves no gradient behind."""
    trained = [parameter for parameter in approach.parameters() if parameter.requires_grad]

    def step() -> None:
        losses = approach.losses(batch, generators)
        check_losses(approach, losses)
        whole = torch.stack([loss.weight * loss.sum.float() for loss in losses.values()]).sum()
        torch.autograd.grad(whole, trained, allow_unused=True)

    return flops(step)


def flops_of_prompt(approach: Approach, words: str) -> int:
    """Of reading one prompt. What an approach keeps by prompt, as plans are, is there before."""
    prompts = [Prompt.text(words)]
    approach.condition(prompts)
    return flops(lambda: approach.condition(prompts))


def flops_per_evaluation(approach: Approach, latents: Tensor, words: str = "a red circle") -> dict[str, int]:
    """Of reading one prompt, and of one network evaluation of one picture, without guidance. latents: any, B C H W."""
    # With gradients, whose graph is dropped: without, torch 2.13's counter raises on a view of a trained parameter.
    x_t, t = torch.zeros_like(latents[:1]), latents.new_full((1,), 0.5)
    condition = approach.condition([Prompt.text(words)])
    return {
        "condition": flops_of_prompt(approach, words),
        "denoise": flops(lambda: approach.denoise(x_t, t, condition)),
    }


@torch.no_grad()
def peak_flops(
    device: torch.device | str = "cpu", *, dtype: torch.dtype = torch.float32, seconds: float = 0.4
) -> float:
    """The most floating-point operations a second that a large square matrix product reaches, on this machine, with
    this number of threads, now: the best of as many tries as fit into `seconds`, after one that does not count."""
    device = torch.device(device)
    side = 1024 if device.type == "cpu" else 8192
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    torch.mm(a, b, out=out)
    synchronise(device)
    best, began = math.inf, now()
    while best == math.inf or now() - began < seconds:
        start = now()
        torch.mm(a, b, out=out)
        synchronise(device)
        best = min(best, now() - start)
    return 2 * side**3 / best


def mfu(steps_per_second: Estimate, flops_a_step: float, peak: float) -> Estimate:
    """Model FLOP utilisation (arXiv 2204.02311, appendix B): the share of the machine's measured peak that a training's
    own operations reach. Missing where they outran it: other work slowed the machine while its peak was taken."""
    if steps_per_second.value is None:
        return Estimate.missing(steps_per_second.reason, unit="share of peak", better="higher")
    scale = flops_a_step / peak
    if steps_per_second.value * scale > 1:
        reason = f"training was faster than the {peak:.3g} FLOP/s that were measured as the machine's peak"
        return Estimate.missing(reason, unit="share of peak", better="higher")
    low, high = (None if v is None else v * scale for v in (steps_per_second.low, steps_per_second.high))
    return Estimate(
        value=steps_per_second.value * scale,
        low=low,
        high=high,
        n=steps_per_second.n,
        unit="share of peak",
        better="higher",
        reason=steps_per_second.reason,
        details={"peak_flops_per_second": peak, "flops_per_step": flops_a_step},
    )


# ----------------------------------------------------------------------------------------------------- parameters


def storage_of(tensor: Tensor) -> int:
    """What tells a tensor's storage from all others that are alive; tensors without values have one too."""
    return int(tensor.untyped_storage()._cdata)


class _Touched(TorchDispatchMode):
    """Notes which of some tensors any operation reads, by their storage: however a module reaches its weights."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = {storage_of(parameter) for parameter in parameters}
        self.found: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Torch's hook: one operation."""
        for value in torch.utils._pytree.tree_leaves((args, kwargs)):
            if isinstance(value, Tensor) and (storage := storage_of(value)) in self._known:
                self.found.add(storage)
        return func(*args, **(kwargs or {}))


def parameters(approach: Approach, latents: Tensor) -> dict[str, Any]:
    """How many parameters there are: `total`, `trainable`, `active` (read while one prompt is conditioned on and one
    picture denoised; None for an approach without a denoiser), and `borrowed` by name, which came already trained.
    latents: any, B C H W."""
    every = list(approach.parameters())
    active = None
    if "denoise" in approach.capabilities:
        was_training = approach.training
        with torch.no_grad(), _Touched(every) as touched:
            condition = approach.eval().condition([Prompt.text("a red circle")])
            approach.denoise(torch.zeros_like(latents[:1]), latents.new_full((1,), 0.5), condition)
        approach.train(was_training)
        active = sum(p.numel() for p in every if storage_of(p) in touched.found)
    return {
        "total": sum(p.numel() for p in every),
        "trainable": sum(p.numel() for p in every if p.requires_grad),
        "active": active,
        "borrowed": dict(approach.borrowed()),
    }
