"""What the gates compare with: `baseline.json`, made by `--update-baseline`, every change with its reason. No torch."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.files import read_json, write_text

FILE = Path(__file__).with_name("baseline.json")
SCHEMA = 1
SHOWN = 60  # changes kept with a reason


@dataclass(kw_only=True)
class Baseline:
    """names: what a gate must see, by kind. counted: name -> quantity -> whole number. smoke: name -> metric -> value,
    low, high. golden: kind of machine -> name -> term -> losses. torch, python: the versions that memory and graphs
    were counted with. history: date, reason and changes, the newest last."""

    schema: int = SCHEMA
    threads: int = 1
    torch: str = ""
    python: str = ""
    names: dict[str, list[str]] = field(default_factory=dict)
    counted: dict[str, dict[str, int]] = field(default_factory=dict)
    smoke: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    golden: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


def load(path: Path = FILE) -> Baseline:
    """The stored baseline. UserError where there is none, or it is of another schema."""
    if not path.exists():
        raise UserError(
            f"there is no baseline at {path}: make one by 'python -m bench gate --update-baseline --reason TEXT'"
        )
    values = read_json(path)
    schema = values.get("schema") if isinstance(values, dict) else None
    if schema != SCHEMA:
        raise UserError(
            f"{path} is a baseline of schema {schema}, expected {SCHEMA}: it is not compared; "
            "make one by 'python -m bench gate --update-baseline --reason TEXT'"
        )
    try:
        return Baseline(**values)
    except TypeError as error:
        raise UserError(f"{path} is no baseline of schema {SCHEMA}: {error}") from error


def save(baseline: Baseline, path: Path = FILE) -> None:
    """Write it: one quantity a line, so that a change is a line of a diff; long lists on one line."""
    write_text(path, _lines(asdict(baseline), 0) + "\n")


def _lines(value: Any, depth: int) -> str:
    if isinstance(value, dict) and value:
        pad, end = "  " * (depth + 1), "  " * depth
        items = (f"{pad}{json.dumps(name)}: {_lines(item, depth + 1)}" for name, item in sorted(value.items()))
        return "{\n" + ",\n".join(items) + f"\n{end}}}"
    if isinstance(value, list) and value and not isinstance(value[0], int | float):
        pad, end = "  " * (depth + 1), "  " * depth
        return "[\n" + ",\n".join(pad + _lines(item, depth + 1) for item in value) + f"\n{end}]"
    return json.dumps(value, allow_nan=False)


def changes(old: Baseline | None, new: Baseline) -> list[str]:
    """What differs, a line each: names that come and go, and numbers before and after."""
    before = _flat(asdict(old)) if old is not None else {}
    after = _flat(asdict(new))
    said = []
    for name in sorted(before.keys() | after.keys()):
        if name.startswith(("history", "schema")) or before.get(name) == after.get(name):
            continue
        said.append(f"{name}: {_told(before, name)} -> {_told(after, name)}")
    return said


def _told(values: Mapping[str, Any], name: str) -> str:
    return json.dumps(values[name]) if name in values else "absent"


def _flat(values: Any, path: str = "") -> dict[str, Any]:
    if isinstance(values, dict) and values:
        return dict(pair for name, item in values.items() for pair in _flat(item, f"{path}{name} ").items())
    if isinstance(values, list) and values and isinstance(values[0], str):
        return {f"{path}{item}": True for item in values}
    return {path.strip(): values}


def merged(old: Baseline | None, new: Baseline) -> Baseline:
    """The new one with the old one's other machines and history. Golden losses of other kinds of machine are kept only
    for names whose losses here are as they were, or were not known here: of the rest they tell nothing any more."""
    found = copy.deepcopy(new)
    if old is None:
        return found
    found.history = list(old.history)
    here = next(iter(new.golden), "")
    same = {name for name, losses in new.golden.get(here, {}).items() if old.golden.get(here, {}).get(name) == losses}
    for kind, named in old.golden.items():
        kept = {name: losses for name, losses in named.items() if name in same or here not in old.golden}
        if kind not in found.golden and kept:
            found.golden[kind] = kept
    return found


def renewed(old: Baseline | None, new: Baseline, reason: str) -> Baseline:
    """`merged`, with one more entry of history: what changed and why."""
    found = merged(old, new)
    lines = changes(old, found)
    shown = [*lines[:SHOWN], *([f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else [])]
    found.history.append({"date": datetime.now(UTC).date().isoformat(), "reason": reason, "changes": shown})
    return found


def announced(old: Baseline | None, new: Baseline, name: str) -> bool:
    """Whether a commit's own baseline says that the golden losses of a name have changed since another's: on a kind of
    machine that both have stored, or by dropping those of all of them."""
    if old is None:
        return False
    before = {kind: named[name] for kind, named in old.golden.items() if name in named}
    after = {kind: named[name] for kind, named in new.golden.items() if name in named}
    both = before.keys() & after.keys()
    return any(before[kind] != after[kind] for kind in both) if both else before != after
