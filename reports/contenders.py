"""Who is compared: runs that differ in nothing but their seed are one contender, and its numbers are means over them.

What is said of two contenders' numbers comes from metrics.differences: over the same items where both rest on the same,
over the seeds where both have run with at least two of the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from statistics import mean
from typing import Any

from bench.plain import flat
from bench.printable import clean
from metrics.differences import Difference, difference
from metrics.replication import difference_over_seeds, mean_over_seeds
from metrics.statistics import COUNTED, READ_ONCE, Estimate
from reports.gather import Run
from reports.glossary import RETENTION
from reports.schema import TIMED_UNITS, Record, deciding, has

BUDGETS: tuple[tuple[str, str, str], ...] = (
    ("parameters", "total", "parameters"),
    ("parameters_trained", "trainable", "parameters"),
    ("parameters_active", "active", "parameters"),
    ("training_flops", "flops", "FLOP"),
    ("training_steps", "steps", ""),
    ("images_seen", "images", ""),
)
"""Numbers that a record holds as budgets: name here, field there, unit."""
LEVEL = 0.01  # exact counts that differ by no more than this share are called level
BIASED = ("fid", "fd_*", "null_fid", "null_fd_*", "vae_fid", "vae_fd_*", "precision", "recall", "density", "coverage")
"""Numbers whose expectation depends on n: with another n they are other numbers."""
MADE_BY = ("weights", "resize", "window", "windows", "real", "candidates", "k", "products", "latents")
"""Details that say how a number was made: made otherwise it is another number."""
TAKEN_BY = {"machine": "taken on {} and on {}", "rows": "taken with {} and with {} rows a batch"}
"""Details that say how a clock or a counter was read, and what is said of two that differ: one is no measure of the
other."""
UNSAID = {"latents": "as they were drawn"}
"""How they were made of which a record does not say it, for it was so once."""
BEYOND = ("*gap*", "density")
"""Numbers in shares that may be below 0 or above 1."""
NO_ITEMS = (
    "per_item", "own", "pseudo", "sizes", "deal", "items", "strata", "cosines", "confidence", "tasks", "batches",
    "documents", "answers",
)  # fmt: skip
LEVELS = ("chance", "reference")
"""Details that a mean over seeds has its own of, where every seed that it is of has one."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to do it, with its runs by seed. label: its approach, and what tells it from others of that approach.
    named: the facts whose values the label tells, such as settings.variant or train.amount."""

    label: str
    runs: tuple[Run, ...]
    named: frozenset[str] = frozenset()

    @property
    def record(self) -> Record:
        """Of the first seed."""
        return self.runs[0].record

    @property
    def approach(self) -> str:
        """Its name in the registry."""
        return self.record.approach

    @property
    def seeds(self) -> tuple[int, ...]:
        """In ascending order."""
        return tuple(run.record.seed for run in self.runs)

    @cached_property
    def by_seed(self) -> tuple[dict[str, Estimate], ...]:
        """Every number of every run, budgets among them; of those whose expectation depends on n only the runs' with
        the most items, for the others are another number."""
        found = [{**budget_estimates(run.record), **run.record.metrics} for run in self.runs]
        for name in {name for metrics in found for name in metrics if _biased(name)}:
            sizes = [metrics[name].n if has(metrics, name) else 0 for metrics in found]
            for metrics, size in zip(found, sizes, strict=True):
                if 0 < size < max(sizes):
                    why = f"of {size:,} pictures, other seeds' of {max(sizes):,}, and its expectation depends on n"
                    metrics[name] = Estimate.missing(why, unit=metrics[name].unit, better=metrics[name].better)
        return tuple(found)

    @cached_property
    def metrics(self) -> dict[str, Estimate]:
        """Every number of one run, or the means over the seeds."""
        if len(self.runs) == 1:
            return self.by_seed[0]
        names = dict.fromkeys(name for metrics in self.by_seed for name in metrics)
        return {name: _over_seeds(name, [m[name] for m in self.by_seed if name in m]) for name in names}

    def lacking(self, name: str) -> list[tuple[int, str]]:
        """The seeds whose number is missing from a mean over the others, and why it is."""
        missing = Estimate.missing("its record holds no such number")
        found = [(seed, metrics.get(name, missing)) for seed, metrics in zip(self.seeds, self.by_seed, strict=True)]
        gaps = [(seed, estimate.reason) for seed, estimate in found if estimate.value is None]
        return gaps if len(gaps) < len(found) else []


def _biased(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in BIASED)


def budget_estimates(record: Record) -> dict[str, Estimate]:
    """What was spent, as exact counts. What the record does not know is left out."""
    found = {}
    for name, place, unit in BUDGETS:
        if (value := getattr(record.budgets, place)) is not None:
            better: Any = "lower" if unit in ("parameters", "FLOP") else ""
            whole = record.budgets.optimizer_flops_per_step is not None
            told = {"products": "the model's and the optimizer's" if whole else "the model's"} if unit == "FLOP" else {}
            found[name] = Estimate.counted(float(value), unit=unit, better=better, **told)
    spent = record.budgets
    if spent.flops is not None and spent.steps is not None and spent.optimizer_flops_per_step is not None:
        model = spent.flops - spent.steps * spent.optimizer_flops_per_step
        found["training_flops_model"] = Estimate.counted(model, unit="FLOP", better="lower", products="the model's")
    if record.budgets.borrowed:
        borrowed = float(sum(record.budgets.borrowed.values()))
        found["parameters_borrowed"] = Estimate.counted(borrowed, unit="parameters", better="lower")
    if "train" in record.seconds:
        reason = "one run's clock: a machine's noise is no sampling error"
        found["training_seconds"] = Estimate(
            value=record.seconds["train"],
            n=1,
            unit="s",
            better="lower",
            reason=reason,
            details={"machine": on} if (on := record.provenance.get("machine")) else {},
        )
    return found


def _over_seeds(name: str, estimates: Sequence[Estimate]) -> Estimate:
    """The mean over those seeds that have the number; what is the same exact count in all stays one. Clocks that were
    read on several machines have no mean: it would tell of the machines."""
    known = [estimate for estimate in estimates if estimate.value is not None]
    if not known:
        return estimates[0]
    first, values = known[0], [float(estimate.value or 0.0) for estimate in known]
    timed = first.unit in TIMED_UNITS
    how: dict[str, Any] = {}
    for detail in TAKEN_BY if timed else ():
        if len(said := _said(known, detail)) > 1:
            why = f"its seeds were {TAKEN_BY[detail].format(*said[:2])}: such have no mean"
            return Estimate.missing(why, unit=first.unit, better=first.better)
        how.update((detail, each) for each in said)
    if all(estimate.reason == COUNTED for estimate in known) and len(set(values)) == 1:
        return first
    details = {key: value for key, value in first.details.items() if key not in (*NO_ITEMS, *LEVELS)}
    for level in LEVELS:
        each = [e.details[level] for e in known if isinstance(e.details.get(level), float)]
        if len(each) == len(known):
            details[level] = mean(each)
    return bounded(name, mean_over_seeds(known, timed=timed, details={**details, **how, "items_each": first.n}))


def bounded(name: str, found: Estimate) -> Estimate:
    """A mean over seeds with an interval of what its number can be. Student's t knows no bounds; time, memory, shares
    and what is kept of text have some."""
    share = found.unit == "share" and not any(fnmatchcase(name, pattern) for pattern in BEYOND)
    positive = found.unit in TIMED_UNITS or share or name.startswith(RETENTION)
    if found.low is None or found.high is None or not positive:
        return found
    return replace(found, low=max(found.low, 0.0), high=min(found.high, 1.0) if share else found.high)


def _said(estimates: Sequence[Estimate], detail: str) -> list[Any]:
    """What those that have a detail say in it, each once; records of before have none."""
    found: list[Any] = []
    for estimate in estimates:
        if (value := estimate.details.get(detail)) is not None and value not in found:
            found.append(value)
    return found


# --------------------------------------------------------------------------------------------------------- grouping


def contenders(runs: Iterable[Run], order: Sequence[str] = ()) -> tuple[Contender, ...]:
    """Runs by what they are, approaches in `order` first, then by name. A seed that stands twice counts once."""
    groups: dict[str, dict[int, Run]] = {}
    for run in runs:
        groups.setdefault(_identity(run.record), {}).setdefault(run.record.seed, run)
    rank = {name: place for place, name in enumerate(order)}
    told = [[group[seed] for seed in sorted(group)] for group in groups.values()]
    told.sort(key=lambda g: (rank.get(g[0].record.approach, len(rank)), g[0].record.approach, _settings(g[0].record)))
    firsts = [group[0].record for group in told]
    facts = [_facts(record) for record in firsts]
    named = []
    for record, own in zip(firsts, facts, strict=True):
        rivals = [each for each, other in zip(facts, firsts, strict=True) if other.approach == record.approach]
        named.append(_told_apart_by(own, rivals))
    labels = [_label(record.approach, own, names) for record, own, names in zip(firsts, facts, named, strict=True)]
    labels = [f"{x} ({clean(r.key[:8])})" if labels.count(x) > 1 else x for x, r in zip(labels, firsts, strict=True)]
    return tuple(
        Contender(label=label, runs=tuple(group), named=frozenset(names))
        for label, group, names in zip(labels, told, named, strict=True)
    )


def _settings(record: Record) -> str:
    return json.dumps(record.settings, sort_keys=True)


def _identity(record: Record) -> str:
    return json.dumps([record.approach, _facts(record)], sort_keys=True)


def of_one(a: Record, b: Record) -> bool:
    """Whether two runs differ in nothing but their seed."""
    return _identity(a) == _identity(b)


def asked_alike(a: Contender, b: Contender) -> bool:
    """Whether two contenders' runs were asked for alike, by whatever sources and of whatever data."""
    first, second = (
        {name: value for name, value in _facts(each.record).items() if not name.startswith("key.")} for each in (a, b)
    )
    return a.approach == b.approach and first == second


def _facts(record: Record) -> dict[str, Any]:
    """Everything that a repetition with another seed has in common, flat."""
    parts = record.provenance.get("key")
    key = {f"key.{n}": v for n, v in parts.items() if n != "config"} if isinstance(parts, dict) else {}
    config = {name: value for name, value in flat(deciding(record.config)) if name != "seed"}
    return {**dict(flat(record.settings, "settings")), **config, **key}


def _told_apart_by(facts: Mapping[str, Any], rivals: Sequence[Mapping[str, Any]]) -> list[str]:
    """The first three of the facts in which a run differs from `rivals`, all of its approach, itself among them."""
    values = {name: {json.dumps(other.get(name), sort_keys=True) for other in rivals} for name in facts}
    differing = [name for name, each in values.items() if len(each) > 1]
    differing.sort(key=lambda name: name != "preset")  # which tells most
    return ([name for name in differing if not name.startswith("key.")] or differing)[:3]


def _label(approach: str, facts: Mapping[str, Any], named: Sequence[str]) -> str:
    """The approach, and the values of the facts that tell it from others of its name; fit for a page and a figure."""
    parts = clean(", ".join(f"{name.rpartition('.')[2]} {brief(facts[name])}" for name in named))
    return f"{clean(approach)} ({parts})" if parts else clean(approach)


def brief(value: Any) -> str:
    """A setting's value, fit for a label."""
    text = value if isinstance(value, str) else json.dumps(value)
    return (text if len(text) <= 24 else f"{text[:23]}…") or "none"


# -------------------------------------------------------------------------------------------------------- comparing


@dataclass(kw_only=True)
class Judge:
    """What may be said of two contenders' numbers; each question is answered once. clocks: whether what one process's
    clock gave is judged too: its interval leaves out that another process may be slower throughout."""

    clocks: bool = False
    answers: dict[tuple[str, str, str], Difference | None] = field(default_factory=dict)

    def difference(self, a: Contender, b: Contender, name: str) -> Difference | None:
        """a minus b; None where one has no such number, or it has no direction."""
        key = (a.label, b.label, name)
        if key not in self.answers:
            self.answers[key] = compare(a, b, name)
        return self.answers[key]

    def word(self, a: Contender, b: Contender, name: str) -> str:
        """better, worse, not told apart; "" where there is nothing to compare. Exact counts within LEVEL of each other
        are told apart by nobody who has to choose."""
        found = self.difference(a, b, name)
        if found is None or found.estimate.value is None:
            return ""
        if found.estimate.unit in TIMED_UNITS and not self.clocks and len(set(a.seeds) & set(b.seeds)) < 2:
            return "not told apart"
        if found.estimate.reason == COUNTED:
            size = max(abs(c.metrics[name].value or 0.0) for c in (a, b))
            return "not told apart" if abs(found.estimate.value) <= LEVEL * size else found.word
        return found.word


def compare(a: Contender, b: Contender, name: str, rival: str = "") -> Difference | None:
    """a minus b in one number, or a's number minus b's `rival`; None where one has none, or they are `unlike`. Two or
    more seeds in common: their differences, over seeds and items. Otherwise the runs of one seed, of the first in
    common where there is one, whose intervals cover sampling only."""
    rival = rival or name
    first, second = a.metrics.get(name), b.metrics.get(rival)
    if first is None or second is None or first.value is None or second.value is None:
        return None
    if not first.better or (first.unit, first.better) != (second.unit, second.better):
        return None
    if unlike(a, b, name, rival):
        return None
    if first.reason == second.reason == COUNTED and first.unit not in TIMED_UNITS:
        return difference(first, second)
    others = dict(zip(b.seeds, b.by_seed, strict=True))
    pairs = [
        (own[name], others[seed][rival])
        for seed, own in zip(a.seeds, a.by_seed, strict=True)
        if seed in others and has(own, name) and has(others[seed], rival)
    ]
    if len(pairs) > 1:
        return difference_over_seeds(pairs, timed=first.unit in TIMED_UNITS)
    return difference(*map(_sampled, pairs[0] if pairs else (first, second)))


def unlike(a: Contender, b: Contender, name: str, rival: str = "") -> str:
    """Why two numbers of one name can't be compared, though both are there; "" where they can."""
    first, second = a.metrics[name], b.metrics[rival or name]
    if items_each(first) != items_each(second) and _biased(name):
        return f"of {items_each(first):,} and of {items_each(second):,} pictures, and its expectation depends on n"
    for detail in (*MADE_BY, *(TAKEN_BY if first.unit in TIMED_UNITS else ())):
        one, other = (each.details.get(detail, UNSAID.get(detail)) for each in (first, second))
        if one is not None and other is not None and one != other:
            words = TAKEN_BY.get(detail, f"made with other {detail}: {{}} and {{}}")
            return words.format(one, other)
    return ""


def _sampled(estimate: Estimate) -> Estimate:
    """What a machine's clock or counter gave is no exact count, though older records call it so."""
    if estimate.reason == COUNTED and estimate.unit in TIMED_UNITS:
        return replace(estimate, reason=READ_ONCE)
    return estimate


def items_each(estimate: Estimate) -> int:
    """How many items a number of one run rests on, or each of those that a mean is of."""
    return int(estimate.details.get("items_each", estimate.n))
