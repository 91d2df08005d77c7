"""What kinds of GPU can do, from their makers' data sheets: dense bfloat16 with float32 sums, without sparsity; the
densest form of each that is sold. Standard library only."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Kind:
    """peak: floating-point operations a second. memory: bytes. bf16: whether its training means bfloat16."""

    peak: float
    memory: float
    bf16: bool = True


KINDS = {
    "b200": Kind(peak=2250e12, memory=180e9),
    "h200": Kind(peak=989e12, memory=141e9),
    "h100": Kind(peak=989e12, memory=80e9),
    "a100": Kind(peak=312e12, memory=80e9),
    "l40s": Kind(peak=362e12, memory=48e9),
    "rtx4090": Kind(peak=165e12, memory=24e9),
}
VISIBLE = "CUDA_VISIBLE_DEVICES"
DRIVER = Path("/proc/driver/nvidia/gpus")


def gpus_here() -> tuple[str, ...]:
    """The GPUs that this process may take, as VISIBLE names them."""
    if (named := os.environ.get(VISIBLE)) is not None:
        return tuple(name.strip() for name in named.split(",") if name.strip())
    return tuple(str(index) for index in range(len(list(DRIVER.iterdir())))) if DRIVER.exists() else ()


HERE = "here"
"""This machine: its peak is measured, or taken from the record that the MFU is taken from."""
