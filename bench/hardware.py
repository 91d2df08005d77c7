"""What kinds of GPU can do, from their makers' data sheets, without sparsity; the densest form of each that is sold.
Standard library only."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Kind:
    """peak: floating-point operations a second in bfloat16 with float32 sums. fp32: in float32, outside tensor cores.
    memory: bytes."""

    peak: float
    fp32: float
    memory: float

    @property
    def tf32(self) -> float:
        """In TF32, which torch lets cuDNN take for float32 convolutions unless it is told otherwise, and not for
        matrix products."""
        return max(self.fp32, self.peak / 2)


KINDS = {
    "b200": Kind(peak=2250e12, fp32=75e12, memory=180e9),
    "h200": Kind(peak=989e12, fp32=67e12, memory=141e9),
    "h100": Kind(peak=989e12, fp32=67e12, memory=80e9),
    "a100": Kind(peak=312e12, fp32=19.5e12, memory=80e9),
    "l40s": Kind(peak=362e12, fp32=91.6e12, memory=48e9),
    "rtx4090": Kind(peak=165e12, fp32=82.6e12, memory=24e9),
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
