"""What the gates allow: `thresholds.toml`, every entry with its reason. Standard library only."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import UserError, nearest

FILE = Path(__file__).with_name("thresholds.toml")
SCHEMA = 1
WHOLE = (
    "run.threads",
    "speed.pairs",
    "speed.pairs_again",
    "speed.rounds",
    "golden.steps",
    "smoke.steps",
)
SHARES = ("speed.limit", "speed.seconds")


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """threads: of every worker. limit: a case is slower whose median ratio head / base is above it. pairs, pairs_again:
    most ratios of a first measurement and of each of the fresh ones, of which there are `rounds` at most. seconds:
    least length of one. golden_steps, smoke_steps: training steps whose losses are stored, and before the metrics.
    smoke: metric -> share by which it may stray."""

    threads: int
    limit: float
    pairs: int
    pairs_again: int
    rounds: int
    seconds: float
    golden_steps: int
    smoke_steps: int
    smoke: Mapping[str, float]


def load(path: Path = FILE) -> Thresholds:
    """The thresholds in a file. UserError on an entry without a value or a reason, of the wrong kind, or unknown."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path} is not readable as TOML: {error}") from error
    if values.pop("schema", None) != SCHEMA:
        raise UserError(f"{path} is of another schema than {SCHEMA}: take the file of this checkout")
    entries = {f"{part}.{name}": entry for part, named in values.items() for name, entry in _table(path, part, named)}
    read = {name: _value(path, name, entry) for name, entry in entries.items()}
    known = (*WHOLE, *SHARES)
    smoke = {name.removeprefix("smoke."): value for name, value in read.items() if name not in known}
    for name in entries:
        if name not in known and not name.startswith("smoke."):
            raise UserError(f"{path} has an unknown entry '{name}': {nearest(name, known)}")
    for name in known:
        if name not in read:
            raise UserError(f"{path} lacks the entry '{name}'")
        if name in WHOLE and (read[name] != int(read[name]) or read[name] < 1):
            raise UserError(f"{path}: {name} is {read[name]}, expected a whole number from 1")
    if read["speed.limit"] <= 1 or min(read["speed.pairs"], read["speed.pairs_again"]) < 6:
        raise UserError(f"{path}: speed.limit must be above 1, and an interval needs 6 pairs at least")
    return Thresholds(
        threads=int(read["run.threads"]),
        limit=read["speed.limit"],
        pairs=int(read["speed.pairs"]),
        pairs_again=int(read["speed.pairs_again"]),
        rounds=int(read["speed.rounds"]),
        seconds=read["speed.seconds"],
        golden_steps=int(read["golden.steps"]),
        smoke_steps=int(read["smoke.steps"]),
        smoke=smoke,
    )


def _table(path: Path, part: str, named: Any) -> list[tuple[str, Any]]:
    if not isinstance(named, dict):
        raise UserError(f"{path}: '{part}' is {named!r}, expected tables with a value and a reason")
    return list(named.items())


def _value(path: Path, name: str, entry: Any) -> float:
    if not isinstance(entry, dict) or set(entry) != {"value", "reason"}:
        raise UserError(f"{path}: '{name}' has not exactly a value and a reason")
    if not isinstance(entry["reason"], str) or len(entry["reason"].split()) < 3:
        raise UserError(f"{path}: '{name}' has no reason, expected a sentence that says why it is {entry['value']}")
    value = entry["value"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise UserError(f"{path}: '{name}' is {value!r}, expected a number above 0")
    return float(value)
