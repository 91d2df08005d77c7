"""What a run leaves for its readers: one versioned record, as JSON.

A record is strict: a field that is unknown or missing is refused by name, so that a reader never takes a guess for a
number; so is a value that pages can make nothing of (`reports.open_parts`). A record of an older version is brought up
to date one version at a time, by `UPGRADES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from bench.errors import UserError
from bench.files import read_json, write_json
from bench.plain import build, plain
from metrics.statistics import Estimate
from reports.open_parts import COUNTS, check_estimate, check_leaves, check_open_parts, count

VERSION = 3
FILE = "record.json"

Status = Literal["done", "failed", "killed", "out of memory", "unfinished"]
"""unfinished: started, and either still running or ended together with what watched it."""


def _without_the_optimizers(values: dict[str, Any]) -> dict[str, Any]:
    """Version 1 counted the model's operations alone."""
    if isinstance(spent := values.get("budgets"), dict):
        return {**values, "budgets": {**spent, "optimizer_flops_per_step": None}}
    return values


def behind_the_start_token(values: dict[str, Any]) -> dict[str, Any]:
    """A record or a request with its `config.train.describe_prompt`: of before there was one (version 2 may be), what
    stood before a caption was the start token."""
    config = values.get("config")
    if isinstance(config, dict) and isinstance(train := config.get("train"), dict):
        return {**values, "config": {**config, "train": {"describe_prompt": "", **train}}}
    return values


UPGRADES = {1: _without_the_optimizers, 2: behind_the_start_token}
"""version -> what makes a record of that version one of the next."""

TIMED_UNITS = ("s", "1/s", "bytes", "J", "share of peak")
"""Units of metrics that a clock or a machine's counter gave, which no repetition gives again."""


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """What was spent. parameters: how many there are in all, how many are trained, and how many one picture and its
    caption pass through. borrowed: what came already trained, the pre-training debt. flops: of the whole training, the
    optimizer's among them where optimizer_flops_per_step is known. None where something is not known."""

    total: int | None = None
    trainable: int | None = None
    active: int | None = None
    borrowed: dict[str, int] = field(default_factory=dict)
    flops: float | None = None
    flops_per_step: float | None = None
    optimizer_flops_per_step: float | None = None
    steps: int | None = None
    images: int | None = None


@dataclass(frozen=True, kw_only=True)
class Identical:
    """What a fair comparison asks to be the same for all contenders: hashes, and the plain settings behind them.

    batches: digest over everything that the training's steps saw, noise and times among them. noise: hash of the noise
    that the pictures were drawn from.
    """

    data: str = ""
    text: str = ""
    vae: str = ""
    language_model: str = ""
    batches: str = ""
    noise: str = ""
    diffusion: dict[str, Any] = field(default_factory=dict)
    kernels: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One held-out picture and what the approach made of it. Paths are relative to the record; None where there is
    nothing.

    prompt: the true caption. true: the true picture. drawn: the picture made from the prompt. caption: what was written
    about the true picture. trace: how the picture came about, such as its plan.
    """

    key: str
    prompt: str
    true: str | None = None
    drawn: str | None = None
    caption: str | None = None
    trace: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run. curves: name -> rows, each with `step`, or with what was varied, by the curve's own name. sheets: name
    -> a picture's path, relative to the record. seconds: wall time by stage, over all the processes that it took.
    reason: why it is not done."""

    schema: int = VERSION
    key: str
    name: str
    approach: str
    settings: dict[str, Any]
    config: dict[str, Any]
    status: Status
    reason: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    budgets: Budgets = field(default_factory=Budgets)
    identical: Identical = field(default_factory=Identical)
    curves: dict[str, tuple[dict[str, float], ...]] = field(default_factory=dict)
    metrics: dict[str, Estimate] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()
    sheets: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """The config's."""
        return int(self.config["seed"])


OTHERS = {
    "a sweep, not of a run: name the folder of its runs, trials": {"ranked_by", "values", "approaches"},
    "a reproduction, not of a run: name the folder of its runs, runs": {"table", "source", "orderings"},
}
"""What other records are of, by fields that no run's has."""
NOT_DECIDING = {"": ("pretrain",), "train": ("tracker", "checkpoint_seconds")}
"""Fields of a config that change no result, by section."""


def from_json(values: Any, whose: str) -> Record:
    """The record in parsed JSON, of this version or an older one. UserError that begins with `whose`."""
    if not isinstance(values, dict) or type(values.get("schema")) is not int:
        raise UserError(f"{whose} is no record of a run: it has no schema")
    for kind, names in OTHERS.items():
        if names <= values.keys():
            raise UserError(f"{whose} is the record of {kind}")
    first: int = values["schema"]
    if not 1 <= first <= VERSION:
        raise UserError(f"{whose} is a record of a run of schema version {first}, expected 1 to {VERSION}")
    for older in range(first, VERSION):
        values = {**UPGRADES[older](dict(values)), "schema": older + 1}
    try:
        check_leaves(values)
        record: Record = build(Record, values, full=True)
        _check(record)
    except UserError as error:
        raise UserError(f"{whose}: {error}") from error
    return record


def _check(record: Record) -> None:
    """UserError where what a page reads is not what it takes it for."""
    check_open_parts(record.config, record.provenance)
    for name, estimate in record.metrics.items():
        check_estimate(f"metrics.{name}", estimate)
    for item in fields(Budgets):
        value = getattr(record.budgets, item.name)
        counts = value if isinstance(value, dict) else {"": value} if isinstance(value, int) else {}
        for name, each in counts.items():
            if not count(each):
                place = f"budgets.{item.name}.{name}".rstrip(".")
                raise UserError(f"{place} is {each!r:.60}, expected a whole number from 0 to {COUNTS:,}")


def deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config as plain values, without what changes no result (NOT_DECIDING)."""
    kept = {name: value for name, value in config.items() if name not in NOT_DECIDING[""]}
    for section, names in NOT_DECIDING.items():
        if isinstance(values := kept.get(section), dict):
            kept[section] = {name: value for name, value in values.items() if name not in names}
    return kept


def has(metrics: Mapping[str, Estimate], *names: str) -> bool:
    """Whether one of these was measured."""
    return any(name in metrics and metrics[name].value is not None for name in names)


def load(path: Path) -> Record:
    """The record in a file, or in a run's folder. UserError, naming the file, where it is missing, damaged, foreign, or
    has unknown or missing fields."""
    file = path / FILE if path.is_dir() else path
    return from_json(read_json(file), str(file))


def save(record: Any, folder: Path, name: str = FILE) -> Path:
    """Write a record, of a run or of anything else, into a folder, atomically; its path."""
    write_json(folder / name, plain(record))
    return folder / name
