"""Every random draw comes from a named stream: (seed, purpose, step). Standard library only; a leaf module.

Two streams with different names are independent, and a stream does not depend on what was drawn from another, so
a resumed run draws what the unbroken one drew, and every approach sees the same batches, times and noise."""

from __future__ import annotations

import hashlib


def derive(seed: int, purpose: str, *steps: int) -> int:
    """A 63-bit seed for the stream (seed, purpose, steps).

    >>> derive(0, "noise", 1) == derive(0, "noise", 1) != derive(0, "noise", 2)
    True
    """
    text = "/".join([str(seed), purpose, *map(str, steps)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
