"""Where Inception-v3's TensorFlow weights are, which come with no package: at a path, in $BENCH_INCEPTION, or where
torch-fidelity keeps what it downloads. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path

from bench.errors import UserError
from metrics.registry import hub_folder

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
WEIGHTS_PREFIX = "6726825d"  # of the SHA-256, as in the name


def usual_place() -> Path:
    """Where torch-fidelity keeps the weights that it downloads."""
    return hub_folder() / "checkpoints" / WEIGHTS


def find_weights(path: Path | None = None) -> Path:
    """The file of weights. UserError that says where it was looked for and how to get it."""
    named = path or (Path(os.environ["BENCH_INCEPTION"]) if os.environ.get("BENCH_INCEPTION") else None)
    if named is not None:
        if named.is_file():
            return named
        raise UserError(f"no such file: {named}, expected Inception-v3's weights ({WEIGHTS})")
    if usual_place().is_file():
        return usual_place()
    raise UserError(
        f"fid needs Inception-v3's TensorFlow weights ({WEIGHTS}), which come with no package: put torch-fidelity's "
        "file into torch's hub checkpoints or name its path in $BENCH_INCEPTION"
    )
