"""Published tables as data: each JSON file here is one, with its source, its numbers, and which approach and settings
stand for each of its rows. A file of yours in the same form is one, too. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from approaches.registry import APPROACHES
from bench.config import Config, from_values
from bench.errors import UserError, nearest
from bench.files import at_home, read_json
from bench.plain import build
from bench.presets import changed
from bench.validation import check_bounds, validate

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
    published: dict[str, float]
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Table:
    """One published table. config: fields of the config that its comparison is of, nested; they hold whatever else is
    asked for. equal_rates: whether all rows learn at the highest of their rates, in place of each at its own."""

    name: str
    source: str
    note: str = "Orderings are compared, never values."
    measures: dict[str, Measure]
    rows: tuple[Row, ...]
    config: dict[str, Any] = field(default_factory=dict)
    equal_rates: bool = False

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
    """A table by name, or the one in a JSON file. UserError that suggests the nearest name, or says what is wrong with
    the file."""
    if name in names():
        return _of_file(FOLDER / f"{name}.json")
    if name.endswith(".json"):
        return _of_file(at_home(name))
    raise UserError(f"unknown table '{name}': {nearest(name, names())}, or give a path to a .json file")


def _of_file(path: Path) -> Table:
    """The table in a file. UserError, naming the file."""
    try:
        found: Table = build(Table, read_json(path))
        _check(found)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return found


def _check(table: Table) -> None:
    """UserError where a table can't be tried."""
    if not re.fullmatch(r"[a-z0-9_]+", table.name):
        raise UserError(f"name is '{table.name}', expected small letters, digits and _ only: files are named by it")
    named = [row.name for row in table.rows]
    if len(set(named)) < max(2, len(named)):
        raise UserError("rows must be two or more, with different names")
    for row in table.rows:
        try:
            settings_for(row, APPROACHES[row.approach].load_settings()())
        except UserError as error:
            raise UserError(f"row '{row.name}': {error}") from error
        if row.published.keys() != table.measures.keys():
            told = f"{', '.join(row.published) or 'none'}, expected of each measure: {', '.join(table.measures)}"
            raise UserError(f"row '{row.name}' has published numbers of {told}")
    for name, measure in table.measures.items():
        if not measure.stands_in and not measure.why_not:
            raise UserError(f"measure '{name}' has nothing in stands_in and no reason in why_not, expected one of them")
    config_for(table, Config())


def config_for(table: Table, config: Config) -> Config:
    """A config with what the table's comparison is of. UserError on what is no field, or out of bounds, and on a preset
    or a seed, which whoever tries the table chooses."""
    for name in ("preset", "seed"):
        if name in table.config:
            raise UserError(f"config holds {name}, which --{name} chooses: expected fields such as train or data")
    found = changed(config, table.config)
    validate(found)
    return found


def settings_of_rows(table: Table, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by row, from each approach's defaults. UserError as `settings_for`."""
    found = {row.name: settings_for(row, defaults[row.approach]) for row in table.rows}
    if not table.equal_rates:
        return found
    rate = max(settings.learning_rate for settings in found.values())
    return {name: replace(settings, learning_rate=rate) for name, settings in found.items()}


def settings_for(row: Row, defaults: Any) -> Any:
    """A row's settings: the approach's defaults with the row's own in them. UserError on what is no setting of that
    approach, or out of its bounds."""
    own = from_values(type(defaults), {**asdict(defaults), **row.settings})
    found = replace(defaults, **{name: getattr(own, name) for name in row.settings})
    check_bounds(found)
    return found
