"""Whether a package of ours is the one that Python would import: `python -m` looks first where it is started, and a
metrics.py or a folder reports there takes the place of ours. Imports nothing of the packages that it judges."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from bench.errors import UserError

ROOT = Path(__file__).parents[1]
JUDGED = ("approaches", "metrics", "reports")


def check_ours() -> None:
    """UserError that names the first file or folder which takes the place of one of our packages, and what to do."""
    for name in JUDGED:
        other = _other(name)
        if other is None:
            continue
        if other.parent != Path.cwd():
            what = f"rename it, or take {other.parent} off Python's search path"
        elif os.path.realpath(sys.argv[0]) == os.path.realpath(ROOT / "bench" / "__main__.py"):  # python -m bench
            what = "start in another folder, rename it, or use the command draw-bench, which imports nothing from there"
        else:
            what = "start in another folder, or rename it"
        raise UserError(f"{other} takes the place of this program's own package '{name}': {what}")


def _other(name: str) -> Path | None:
    """What Python finds under a package's name in place of ours; None where it finds ours, or nothing."""
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # a module that somebody has put there without saying from where
        return None
    if spec is None:
        return None
    folders = [Path(os.path.realpath(folder)) for folder in spec.submodule_search_locations or ()]
    if Path(os.path.realpath(ROOT / name)) in folders[:1]:
        return None
    return folders[0] if folders else Path(os.path.realpath(spec.origin or name))
