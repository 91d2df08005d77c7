"""Tables of results: contenders by metrics, with what may be marked as best, and every reason for what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bench.plain import flat
from metrics.statistics import COUNTED, Estimate
from reports.contenders import NO_ITEMS, Contender, Judge, items_each
from reports.glossary import (
    ARROWS,
    BESIDE_DISTANCES,
    Meaning,
    Scale,
    common_digits,
    first_of,
    groups,
    main_metrics,
    meaning,
    number,
    ordered,
    scale_of,
    written,
)
from reports.schema import TIMED_UNITS, has

Mark = Literal["best", "tied", ""]
DISTANCES = ("fid", "fd_dinov2", "fd_*", "kid_*")
RANK_DEFICIENT = (
    "n is no larger than the number of features: the distance is far above its limit, by an amount that n sets"
)


@dataclass(frozen=True, kw_only=True)
class Column:
    """One metric: its meaning, the unit that its cells are written in, and the direction. uneven: whether the
    contenders' numbers rest on different counts of items. best: what the truth gets, "" where it isn't known."""

    meaning: Meaning
    scale: Scale
    better: str
    decimals: int
    uneven: bool = False
    best: str = ""

    @property
    def arrow(self) -> str:
        """Up where higher is better, down where lower is."""
        return ARROWS[self.better]

    @property
    def direction(self) -> str:
        """The arrow in words."""
        return f"{self.better} is better" if self.better else "no direction"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number as a table shows it. value: to sort by. notes: numbers of the table's footnotes."""

    text: str
    interval: str = ""
    value: float | None = None
    mark: Mark = ""
    hint: str = ""
    beside: str = ""
    notes: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Row:
    """One contender's numbers."""

    contender: Contender
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Contenders by metrics."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    footnotes: tuple[str, ...]


@dataclass(kw_only=True)
class Footnotes:
    """Reasons, each once, numbered from 1."""

    texts: list[str] = field(default_factory=list)

    def add(self, text: str) -> int:
        """The number of a reason."""
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1


def names_of(contenders: Sequence[Contender]) -> list[str]:
    """Every metric that one of them has, in order."""
    return ordered(name for contender in contenders for name in contender.metrics)


def main_names(contenders: Sequence[Contender]) -> list[str]:
    """The headline metrics."""
    return main_metrics(names_of(contenders), measured(contenders))


def measured(contenders: Sequence[Contender]) -> set[str]:
    """Metrics that one of them has a number of."""
    return {name for c in contenders for name, estimate in c.metrics.items() if estimate.value is not None}


def main_table(contenders: Sequence[Contender], judge: Judge) -> Table:
    """The headline numbers."""
    return table("results", "The main results", main_names(contenders), contenders, judge)


def group_tables(contenders: Sequence[Contender], judge: Judge) -> list[Table]:
    """Every number, a table a question."""
    every = [name for name in names_of(contenders) if not name.startswith(BESIDE_DISTANCES)]
    made = []
    for group, title in groups().items():
        if names := [name for name in every if meaning(name).group == group]:
            made.append(table(f"all-{group}", title, names, contenders, judge))
    return made


def table(name: str, title: str, names: Sequence[str], contenders: Sequence[Contender], judge: Judge) -> Table:
    """A table of some metrics."""
    notes = Footnotes()
    columns = tuple(_column(metric, contenders) for metric in names)
    marks = {metric: marks_of(contenders, metric, judge) for metric in names}
    rows = [
        Row(
            contender=contender,
            cells=tuple(
                _cell(contender, metric, column, marks[metric].get(contender.label, ""), notes)
                for metric, column in zip(names, columns, strict=True)
            ),
        )
        for contender in contenders
    ]
    return Table(name=name, title=title, columns=columns, rows=tuple(rows), footnotes=tuple(notes.texts))


def _column(name: str, contenders: Sequence[Contender]) -> Column:
    estimates = [c.metrics[name] for c in contenders if name in c.metrics]
    unit = next((e.unit for e in estimates if e.unit), "")
    better = next((e.better for e in estimates if e.better), "")
    scale = scale_of(unit, [e.value for e in estimates if e.value is not None])
    counts = {items_each(e) for e in estimates if e.value is not None and e.unit not in TIMED_UNITS}
    decimals, told = common_digits(estimates, scale), meaning(name)
    truths = [best for e in estimates if told.best and isinstance(best := e.details.get("reference"), float)]
    ends = dict.fromkeys(number(each / scale.factor, decimals) for each in (min(truths), max(truths))) if truths else {}
    return Column(
        meaning=told,
        scale=scale,
        better=better,
        decimals=decimals,
        uneven=len(counts) > 1,
        best=f"{told.best} {' to '.join(ends)}" if ends else "",
    )


def _cell(contender: Contender, name: str, column: Column, mark: Mark, notes: Footnotes) -> Cell:
    estimate = contender.metrics.get(name) or Estimate.missing("the record holds no such number")
    if estimate.value is None:
        return Cell(text="–", hint=estimate.reason, notes=(notes.add(estimate.reason),))
    text, _, interval = written(estimate, column.scale, decimals=column.decimals).partition(" ")
    told: tuple[int, ...] = ()
    if not interval and estimate.reason and estimate.reason != COUNTED:
        told = (notes.add(f"no interval: {estimate.reason}"),)
    for seed, reason in contender.lacking(name):
        told = (*told, notes.add(f"seed {seed} is left out of this mean: {reason}"))
    beside, more = _beside_distance(contender, name, column.scale, column.decimals) if is_distance(name) else ("", "")
    for named in ("chance", "base"):
        if not beside and isinstance(known := estimate.details.get(named), float):
            beside = f"{named} {number(known / column.scale.factor, column.decimals)}"
    if column.uneven and estimate.reason != COUNTED:
        if not is_distance(name):
            beside = ", ".join(part for part in (f"n {items_each(estimate):,}", beside) if part)
        told = (*told, notes.add("the contenders differ in n: a number on other items is another number"))
    if more:
        told = (*told, notes.add(more))
    return Cell(
        text=text,
        interval=interval,
        value=estimate.value,
        mark=mark,
        hint=f"n = {estimate.n}" if estimate.reason != COUNTED else COUNTED,
        beside=beside,
        notes=told,
    )


# ------------------------------------------------------------------------------------------------------- distances


def is_distance(name: str) -> bool:
    """Whether a metric is a distance between sets of pictures."""
    return first_of(DISTANCES, [name]) is not None


def distance_name(contenders: Sequence[Contender]) -> str | None:
    """The distance to be shown first: of those that some contender has a number of."""
    return first_of(DISTANCES, measured(contenders))


def null_distance(contender: Contender, name: str, kind: str = "null") -> float | None:
    """Real against other real pictures at the same n, or these through the VAE (kind vae); None where it was not
    measured."""
    beside = contender.metrics.get(f"{kind}_{name}")
    found = contender.metrics[name].details.get(kind) if beside is None else beside.value
    return float(found) if isinstance(found, int | float) else None


def _beside_distance(contender: Contender, name: str, scale: Scale, digits: int) -> tuple[str, str]:
    """n, the null distance and the VAE's, and a footnote where there are too few pictures for the features."""
    estimate = contender.metrics[name]
    count = items_each(estimate)
    null, vae = (null_distance(contender, name, kind) for kind in ("null", "vae"))
    told = f"n {count:,}, null {number(null / scale.factor, digits)}" if null is not None else f"n {count:,}"
    told += f", VAE {number(vae / scale.factor, digits)}" if vae is not None else ""
    if estimate.details.get("rank_deficient"):
        return told, RANK_DEFICIENT
    return told, "" if null is not None else "the null distance was not measured"


# ------------------------------------------------------------------------------------------------------------ marks


def marks_of(contenders: Sequence[Contender], name: str, judge: Judge) -> dict[str, Mark]:
    """label -> best, where the leader is told apart from all others that can be compared with it; tied, where it is
    told apart from some: it and those that it is not told apart from. Nothing where nobody is told apart from it."""
    having = [c for c in contenders if has(c.metrics, name) and c.metrics[name].better]
    if len(having) < 2:
        return {}
    leader = leader_of(having, name, judge)
    words = {c.label: judge.word(leader, c, name) for c in having if c is not leader}
    if "better" not in words.values():
        return {}
    level = [c for c in having if c is leader or words[c.label] == "not told apart"]
    if len(level) == 1:
        return {leader.label: "best"}
    return {c.label: "tied" for c in level}


def leader_of(having: Sequence[Contender], name: str, judge: Judge) -> Contender:
    """The one with the best number; the first of equals. Means may be over other seeds than those that two have in
    common, by which they are compared: who is beaten leads nobody, as long as somebody is not."""
    sign = 1 if having[0].metrics[name].better == "lower" else -1
    ranked = sorted(having, key=lambda contender: sign * (contender.metrics[name].value or 0.0))
    unbeaten = (a for a in ranked if not any(judge.word(b, a, name) == "better" for b in ranked if b is not a))
    return next(unbeaten, ranked[0])


# ------------------------------------------------------------------------------------------------------- provenance


@dataclass(frozen=True, kw_only=True)
class Made:
    """How a metric's number was made. details: what its estimate says, as words, where all contenders agree."""

    meaning: Meaning
    n: str
    details: tuple[tuple[str, str], ...]


def made(contenders: Sequence[Contender]) -> list[Made]:
    """For every metric: its meaning, n, and provenance."""
    return [_made(name, [c.metrics[name] for c in contenders if name in c.metrics]) for name in names_of(contenders)]


def _made(name: str, estimates: Sequence[Estimate]) -> Made:
    counts = sorted({items_each(e) for e in estimates if e.value is not None})
    exact = all(e.reason == COUNTED for e in estimates)
    told: dict[str, set[str]] = {}
    for estimate in estimates:
        for key, value in flat({k: v for k, v in estimate.details.items() if k not in NO_ITEMS}):
            if isinstance(value, str | int | float | bool) or value is None:
                told.setdefault(key, set()).add(_word(value))
    details = [(key, " / ".join(sorted(values))) for key, values in sorted(told.items()) if len(values) <= 4]
    n = "exact" if exact else " to ".join(f"{count:,}" for count in dict.fromkeys([*counts[:1], *counts[-1:]]))
    return Made(meaning=meaning(name), n=n or "–", details=tuple(details[:14]))


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)[:120]
