"""Published tables as data: each JSON file here is one, with its source, its numbers, and which approach and settings
stand for each of its rows. Imports no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from bench.config import Config
from bench.errors import UserError, nearest
from bench.files import read_json
from bench.presets import changed

FOLDER = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A column. stands_in: metrics of our records that may stand for it, the best first; why_not: where none does."""

    better: Literal["higher", "lower"]
    stands_in: tuple[str, ...] = ()
    why_not: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row: its numbers by measure, and the approach with the settings of its own that stands for it."""

    name: str
    approach: str
    settings: dict[str, Any] = field(default_factory=dict)
    published: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Table:
    """One published table. config: fields of the config that its comparison is of, nested; they hold whatever else is
    asked for."""

    name: str
    source: str
    note: str
    measures: dict[str, Measure]
    rows: tuple[Row, ...]
    config: dict[str, Any] = field(default_factory=dict)

    def orderings(self) -> list[tuple[str, Row, Row]]:
        """(measure, better row, worse row) of every two rows whose numbers differ."""
        found = []
        for name, measure in self.measures.items():
            sign = 1 if measure.better == "higher" else -1
            for pair in combinations(self.rows, 2):
                worse, better = sorted(pair, key=lambda row: sign * row.published[name])
                if worse.published[name] != better.published[name]:
                    found.append((name, better, worse))
        return found


def names() -> tuple[str, ...]:
    """Of all tables."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


def table(name: str) -> Table:
    """A table by name; UserError that suggests the nearest."""
    if name not in names():
        raise UserError(f"unknown table '{name}': {nearest(name, names())}")
    values = read_json(FOLDER / f"{name}.json")
    measures = {
        key: Measure(**{**each, "stands_in": tuple(each["stands_in"])}) for key, each in values["measures"].items()
    }
    return Table(**{**values, "measures": measures, "rows": tuple(Row(**row) for row in values["rows"])})


def config_for(table: Table, config: Config) -> Config:
    """A config with what the table's comparison is of."""
    return changed(config, table.config)


def settings_for(row: Row, defaults: Any) -> Any:
    """A row's settings: the approach's defaults with the row's own in them."""
    return dataclasses.replace(defaults, **row.settings)
