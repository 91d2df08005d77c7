"""The top layer: configuration, data, runs and the command line. Importing this package imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from bench.hands_on import Trained

__version__ = "0.1.0"


def run(
    approach: str,
    *,
    preset: str = "tiny",
    out: str | Path = "runs",
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Trained:
    """Train one approach, draw, describe and measure as `python -m bench run` does, in a process of its own; what is
    done already is not done again, and what was cut off goes on. The record is in the run's folder, under `out`; a
    report is not written.

    settings: the approach's own, such as {"variant": "gated"}. config: fields of the config by their dotted names, such
    as {"data.path": "mine", "train.amount": 40}. Both are judged as on the command line.
    bench.errors.UserError with the command line's sentence, or with the run's reason where it fails.
    """
    from bench.shadows import check_ours

    check_ours()
    from bench import notebook

    words = notebook.spelled(
        approach, preset=preset, out=out, seed=seed, settings=dict(settings or {}), config=dict(config or {})
    )
    return load(notebook.run(words))


def load(run: str | Path, out: str | Path = "runs") -> Trained:
    """A done run, to draw, describe and continue text with: see bench.hands_on.Trained.

    run: its folder, the beginning of its name or key, or an approach's name for its latest, under `out`.
    bench.errors.UserError, which suggests the nearest, where there is none.
    """
    from bench.shadows import check_ours

    check_ours()
    from bench import hands_on

    return hands_on.load(run, out)
