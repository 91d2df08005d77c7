"""Which backend each operation takes, and why: the table of all of them, and the choice that goes into a record."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import torch

from approaches.shared.kernels.attention import ATTENTION
from approaches.shared.kernels.cross_entropy import CROSS_ENTROPY
from approaches.shared.kernels.norms import NORM, SWIGLU
from bench.errors import UserError, nearest

NEEDS_CUDA = "needs a CUDA device"
NEEDS_LIGER = "needs the package liger-kernel: install this project's extra 'gpu'"
FLEX_ON_CPU = "FlexAttention's backward raises on the CPU: training with it needs a CUDA device"
NEEDS_COMPILER = "needs a C++ compiler (g++ or clang++) for torch.compile"
NEEDS_TRITON = "needs the package triton for torch.compile on CUDA"


def _never(device: torch.device, training: bool) -> str:
    return ""


def _flex(device: torch.device, training: bool) -> str:
    if device.type == "cpu":
        return FLEX_ON_CPU if training else ""
    return _cuda(device)


def _liger(device: torch.device, training: bool) -> str:
    return _cuda(device) or ("" if importlib.util.find_spec("liger_kernel") else NEEDS_LIGER)


def compile_obstacle(device: torch.device) -> str:
    """Empty where torch.compile makes code for a device; else what it needs, in words."""
    if device.type == "cpu":
        return "" if shutil.which("g++") or shutil.which("clang++") else NEEDS_COMPILER
    return _cuda(device) or ("" if importlib.util.find_spec("triton") else NEEDS_TRITON)


def _compiled(device: torch.device, training: bool) -> str:
    return compile_obstacle(device)


def _cuda(device: torch.device) -> str:
    return "" if device.type == "cuda" and torch.cuda.is_available() else NEEDS_CUDA


@dataclass(frozen=True, kw_only=True)
class Backend:
    """One way to do one operation. operation: a field of `Kernels`; summary: one line."""

    operation: str
    name: str
    summary: str
    _obstacle: Callable[[torch.device, bool], str] = _never

    def obstacle(self, device: torch.device | str, *, training: bool = True) -> str:
        """Empty where it runs on the device, forward and, for training, backward; else what it needs, in words."""
        return self._obstacle(torch.device(device), training)


BACKENDS: tuple[Backend, ...] = (
    Backend(operation="attention", name="eager", summary="matrix products and a float32 softmax; the reference"),
    Backend(operation="attention", name="sdpa", summary="torch's scaled_dot_product_attention"),
    Backend(operation="attention", name="flex", summary="FlexAttention, skipping masked blocks", _obstacle=_flex),
    Backend(operation="cross_entropy", name="eager", summary="all logits, float32 log-softmax; the reference"),
    Backend(operation="cross_entropy", name="chunked", summary="some logits at a time, gradients in the same pass"),
    Backend(operation="cross_entropy", name="liger", summary="Liger's fused linear cross entropy", _obstacle=_liger),
    Backend(operation="norm", name="eager", summary="float32 statistics; the reference"),
    Backend(operation="norm", name="fused", summary="PyTorch's rms_norm; on the CPU a closed-form gradient"),
    Backend(operation="norm", name="liger", summary="Liger's RMS norm", _obstacle=_liger),
    Backend(operation="swiglu", name="eager", summary="silu(gate) * up; the reference"),
    Backend(operation="swiglu", name="compiled", summary="the reference through torch.compile", _obstacle=_compiled),
    Backend(operation="swiglu", name="liger", summary="Liger's SwiGLU", _obstacle=_liger),
)
"""Every backend there is. `doctor` lists it; the parity tests run over it."""

IMPLEMENTED = {
    (operation, name)
    for operation, ways in (
        ("attention", ATTENTION),
        ("cross_entropy", CROSS_ENTROPY),
        ("norm", NORM),
        ("swiglu", SWIGLU),
    )
    for name in ways
}

_CPU = {
    "attention": ("sdpa", "0.5 to 0.85 of the reference's time, and FlexAttention's backward raises here"),
    "cross_entropy": ("chunked", "less memory, in 0.75 of the reference's time at 4,000 words, as long at 49,000"),
    "norm": ("fused", "a closed-form gradient: 0.6 to 0.8 of the reference's time"),
    "swiglu": ("eager", "two passes over memory; compiling gained nothing that could be measured"),
}
# Measured on an H200 at SmolLM2-135M's shape: these took 0.34 s a step, Liger's three 0.46 s (docs/gpu.md)
_CUDA = {
    "attention": ("sdpa", "flash and memory-efficient kernels, which compile for no new shape"),
    "cross_entropy": ("chunked", "few launches, and never all logits"),
    "norm": ("fused", "one kernel forward and one backward, launched sooner than Liger's"),
    "swiglu": ("eager", "two kernels, launched sooner than one of Liger's; torch.compile fuses them"),
}


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """The backend of every operation, handed to every module that needs one, and why each was taken."""

    attention: str
    cross_entropy: str
    norm: str
    swiglu: str
    reasons: tuple[tuple[str, str], ...] = ()

    @property
    def over_padding(self) -> str:
        """Attention's, under a mask that closes padding alone: no whole block that FlexAttention could skip."""
        return "sdpa" if self.attention == "flex" else self.attention

    def record(self) -> dict[str, object]:
        """What goes into a run's record: operation -> backend, and "reasons": operation -> sentence."""
        names = {operation: getattr(self, operation) for operation in OPERATIONS}
        return {**names, "reasons": dict(self.reasons)}


OPERATIONS = ("attention", "cross_entropy", "norm", "swiglu")
REFERENCE = Kernels(attention="eager", cross_entropy="eager", norm="eager", swiglu="eager")
"""The references alone: for parity tests and for counting FLOPs."""


def find(operation: str, name: str) -> Backend:
    """A line of the table; UserError on a name that is not there."""
    ways = {backend.name: backend for backend in BACKENDS if backend.operation == operation}
    if name not in ways:
        raise UserError(f"unknown {operation} kernel '{name}': {nearest(name, ['auto', *ways])}")
    return ways[name]


def choose(
    device: torch.device | str,
    *,
    attention: str = "auto",
    cross_entropy: str = "auto",
    norm: str = "auto",
    swiglu: str = "auto",
    training: bool = True,
) -> Kernels:
    """The kernels for a device. A named one is taken as it is, or refused with UserError where it can't run.

    "auto" takes sdpa, chunked, fused and eager, on CUDA and elsewhere, each for a reason of its own.
    """
    device = torch.device(device)
    asked = {"attention": attention, "cross_entropy": cross_entropy, "norm": norm, "swiglu": swiglu}
    own = _CUDA if device.type == "cuda" else _CPU
    taken = {
        operation: own[operation] if name == "auto" else _named(operation, name, device, training)
        for operation, name in asked.items()
    }
    names = {operation: name for operation, (name, _) in taken.items()}
    return Kernels(**names, reasons=tuple((operation, reason) for operation, (_, reason) in taken.items()))


def _named(operation: str, name: str, device: torch.device, training: bool) -> tuple[str, str]:
    obstacle = find(operation, name).obstacle(device, training=training)
    if obstacle:
        raise UserError(f"the {operation} kernel '{name}' can't run on {device}: {obstacle}; 'auto' takes one that can")
    return name, "named in the config"
