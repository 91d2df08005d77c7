"""The top layer: configuration, data, runs and the command line. Importing this package imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from bench.hands_on import Trained

__version__ = "0.1.0"


def load(run: str | Path, out: str | Path = "runs") -> Trained:
    """A done run, to draw, describe and continue text with: see bench.hands_on.Trained.

    run: its folder, the beginning of its name or key, or an approach's name for its latest, under `out`.
    bench.errors.UserError, which suggests the nearest, where there is none.
    """
    from bench import hands_on

    return hands_on.load(run, out)
