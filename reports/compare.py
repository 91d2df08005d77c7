"""Two runs, or two sets of runs, number by number: the second against the first, with intervals and words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from bench.errors import UserError, nearest
from metrics.multiplicity import by_chance, standing
from metrics.statistics import COUNTED, Estimate
from reports import claims, facts
from reports.contenders import BUDGETS, Contender, Judge, asked_alike, contenders, unlike
from reports.gather import Gathered, gather
from reports.glossary import Scale, common_digits, meaning, of_the_truth, ordered, scale_of, written
from reports.schema import TIMED_UNITS, has

SPENT = {name for name, _, _ in BUDGETS} | {"parameters_borrowed", "training_flops_model", "training_seconds"}
"""Numbers whose absence is no loss: nothing was spent, or the record does not know."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One number of one pair. first, second, difference: as written. word: what the second is, against the first.
    counts: whether it decides the outcome. chance: the p-value of the difference, None where chance has no part in it.
    stands: told apart with Holm's correction for all that count. lost: the first has the number, the second has not,
    or not in every seed."""

    pair: str
    metric: str
    title: str
    first: str
    second: str
    difference: str
    word: str
    paired: bool
    needed: int | None
    counts: bool
    reason: str
    values: tuple[float | None, float | None, float | None]
    lost: bool = False
    chance: float | None = None
    stands: bool = False


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that two sets have in common. unfair: what should have been the same and was not. alone: contenders
    and seeds that the other set has no partner for. unfinished: runs that are not done, and why: nothing of them is
    compared. fallen: what is done in the first set, and begun but not done in the second. one_seed: whether anything
    rests on one training a side."""

    lines: tuple[Line, ...]
    unfair: tuple[str, ...]
    alone: tuple[str, ...]
    unfinished: tuple[str, ...]
    fallen: tuple[str, ...]
    one_seed: bool
    gathered: tuple[Gathered, Gathered]

    @property
    def worse(self) -> tuple[Line, ...]:
        """Numbers that count and in which the second is worse."""
        return tuple(line for line in self.lines if line.counts and line.word == "worse")

    @property
    def lost(self) -> tuple[Line, ...]:
        """Numbers that count and that the first has and the second has not."""
        return tuple(line for line in self.lines if line.counts and line.lost)

    @property
    def better(self) -> tuple[Line, ...]:
        """Numbers that count and in which the second is better."""
        return tuple(line for line in self.lines if line.counts and line.word == "better")


def comparison(first: Sequence[Path], second: Sequence[Path], metrics: Sequence[str] = ()) -> Comparison:
    """The second set against the first. metrics: names or patterns of the numbers that are to be compared and that
    count; without any, all are compared, and those that no clock or machine's counter gave count. A number that only
    the first has counts where both are of one approach, or it was named.

    UserError where a set has no done run, where nobody has a partner, or where a pattern fits no number that either
    set has measured.
    """
    gathered = gather(first), gather(second)
    sides = [_side(found, places) for found, places in zip(gathered, (first, second), strict=True)]
    pairs, alone = partners(*sides)
    names = ordered(name for a, b in pairs for name in (*a.metrics, *b.metrics))
    for pattern in metrics:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(f"no number '{pattern}' in either set: {nearest(pattern, names)}")
    wanted = [name for name in names if not metrics or any(fnmatchcase(name, pattern) for pattern in metrics)]
    judged = [_over_common(a, b) for a, b in pairs]
    for pattern in metrics:
        _check_measured(pattern, judged)
    both = [(a, b, name) for a, b in judged for name in wanted if name in a.metrics or name in b.metrics]
    lines = [line for a, b, name in both if (line := _line(a, b, name, bool(metrics))) is not None]
    lines = _corrected(lines)
    unfair = dict.fromkeys(name for a, b in pairs for name in facts.unfair(facts.identical(_named(a, b))))
    unfinished = [
        f"{run.record.name} is {run.record.status}: {run.record.reason}" for side in gathered for run in side.others
    ]
    return Comparison(
        lines=tuple(lines),
        unfair=tuple(unfair),
        alone=(*alone, *(text for a, b in pairs for text in _lone_seeds(a, b))),
        unfinished=tuple(dict.fromkeys(unfinished)),
        fallen=tuple(_fallen(*gathered)),
        one_seed=any(len(c.runs) == 1 for pair in judged for c in pair),
        gathered=gathered,
    )


def _check_measured(pattern: str, pairs: Sequence[tuple[Contender, Contender]]) -> None:
    """UserError, with the record's reason, where neither of any pair has measured a number that the pattern fits."""
    contenders = [contender for pair in pairs for contender in pair]
    fitting = [(name, e) for c in contenders for name, e in c.metrics.items() if fnmatchcase(name, pattern)]
    if any(estimate.value is not None for _, estimate in fitting):
        return
    name, reason = next(((name, e.reason) for name, e in fitting if e.reason), (pattern, "no record compared holds it"))
    raise UserError(f"--metrics has '{pattern}', expected a number that was measured: {name} is missing: {reason}")


def _corrected(lines: Sequence[Line]) -> list[Line]:
    """With what is left of those that count, where all of them are looked at."""
    judged = [line for line in lines if line.counts and line.values[0] is not None]
    left = standing([line.chance for line in judged], [line.word != "not told apart" for line in judged])
    stands = {id(line) for line, stays in zip(judged, left, strict=True) if stays}
    return [replace(line, stands=id(line) in stands) for line in lines]


def _fallen(first: Gathered, second: Gathered) -> list[str]:
    """Approaches and seeds of which the first set has more done than the second, which has begun one."""
    done = [Counter((run.record.approach, run.record.seed) for run in side.done) for side in (first, second)]
    begun = {(run.record.approach, run.record.seed) for run in second.others} | {*second.begun}
    return [f"{approach}, seed {seed}" for approach, seed in sorted((done[0] - done[1]).keys() & begun)]


def _over_common(a: Contender, b: Contender) -> tuple[Contender, Contender]:
    """The two with the seeds that both have, where there are any: what is shown is what is compared."""
    common = set(a.seeds) & set(b.seeds)
    if not common:
        return a, b
    kept = [tuple(run for run in c.runs if run.record.seed in common) for c in (a, b)]
    return replace(a, runs=kept[0]), replace(b, runs=kept[1])


def _lone_seeds(a: Contender, b: Contender) -> list[str]:
    """Seeds that only one of the two has, where they have one in common at all."""
    if not set(a.seeds) & set(b.seeds):
        return []
    sides = ((a, b, "first only"), (b, a, "second only"))
    return [f"{x.label}, seed {seed} ({side})" for x, y, side in sides for seed in x.seeds if seed not in y.seeds]


def _side(found: Gathered, places: Sequence[Path]) -> tuple[Contender, ...]:
    if not found.done:
        named = ", ".join(str(place) for place in places)
        why = found.refused[0].reason if found.refused else found.others[0].record.reason
        raise UserError(f"no done run in {named}: {why}")
    return contenders(found.done, claims.order())


def _named(a: Contender, b: Contender) -> tuple[Contender, Contender]:
    """With labels that differ, so that each keeps its own facts."""
    return replace(a, label=f"first: {a.label}"), replace(b, label=f"second: {b.label}")


def partners(
    first: Sequence[Contender], second: Sequence[Contender]
) -> tuple[list[tuple[Contender, Contender]], tuple[str, ...]]:
    """Who is compared with whom: one and one, whatever they are; otherwise those that were asked for alike, then those
    of the same approach and settings, then those left over of the same approach, where each set has one. And who is
    left alone."""
    if len(first) == len(second) == 1:
        return [(first[0], second[0])], ()
    pairs: list[tuple[Contender, Contender]] = []
    left, right = list(first), list(second)
    for same in (asked_alike, _same_settings, _same_approach):
        for a in list(left):
            fitting = [b for b in right if same(a, b)]
            rivals = [c for c in left if same(c, a)]
            if len(fitting) == len(rivals) == 1:
                pairs.append((a, fitting[0]))
                left.remove(a)
                right.remove(fitting[0])
    if not pairs:
        names = [", ".join(c.label for c in side) for side in (first, second)]
        raise UserError(f"nobody to compare: the first set has {names[0]}, the second {names[1]}")
    return pairs, tuple([f"{c.label} (first only)" for c in left] + [f"{c.label} (second only)" for c in right])


def _same_settings(a: Contender, b: Contender) -> bool:
    return a.approach == b.approach and a.record.settings == b.record.settings


def _same_approach(a: Contender, b: Contender) -> bool:
    return a.approach == b.approach


def _of(own: Contender, other: Contender, name: str) -> Estimate:
    """A contender's number; one that only the other has is missing."""
    if name in own.metrics:
        return own.metrics[name]
    there = other.metrics[name]
    return Estimate.missing("it was not measured", unit=there.unit, better=there.better)


def _line(a: Contender, b: Contender, name: str, named: bool) -> Line | None:
    first, second = _of(a, b, name), _of(b, a, name)
    title = meaning(name).title
    scale = scale_of(first.unit, [e.value for e in (first, second) if e.value is not None])
    decimals = common_digits((first, second), scale)
    if first.value != second.value and written(first, scale) == written(second, scale):
        scale, decimals = Scale(unit=first.unit), common_digits((first, second), Scale())  # counts that differ little
    told: dict[str, Any] = {
        "pair": b.label if a.label == b.label else f"{b.label} against {a.label}",
        "metric": name,
        "title": f"{title} ({scale.unit})" if scale.unit else title,
        "first": written(first, scale, decimals=decimals),
        "second": written(second, scale, decimals=decimals),
    }
    judge = Judge(clocks=True)
    found = judge.difference(b, a, name)
    own = a.approach == b.approach and bool(first.better) and first.unit not in TIMED_UNITS
    judged = named or (own and name not in SPENT)  # where it is missing
    if found is None:
        if first.value is None and second.value is None:
            return None
        strange = "" if first.value is None or second.value is None else unlike(a, b, name)
        if first.value is not None and second.value is not None and not (strange and first.better):
            return None  # no direction: nothing is better or worse
        lost, absent = bool(strange) or second.value is None, first if first.value is None else second
        return Line(
            **told, difference="–", word="not comparable" if strange else "missing", paired=False, needed=None,
            counts=lost and judged, reason=strange or absent.reason, values=(None, None, None), lost=lost,
        )  # fmt: skip
    gap = found.estimate
    exact = gap.reason == COUNTED and a.approach == b.approach  # of its own counts every change is told
    before, after = (dict(zip(each.seeds, each.by_seed, strict=True)) for each in (a, b))
    gone = [seed for seed in before if seed in after and has(before[seed], name) and not has(after[seed], name)]
    reasons = [f"missing in seed {seed} of the second" for seed in gone]
    return Line(
        **told,
        difference=written(gap, scale, decimals=decimals),
        word=found.word if exact else judge.word(b, a, name),
        paired=found.paired,
        needed=found.needed,
        counts=named or not (first.unit in TIMED_UNITS or of_the_truth(name)),
        reason="; ".join([*reasons, *([gap.reason] if gap.reason not in ("", COUNTED) else [])]),
        values=(gap.value, gap.low, gap.high),
        chance=None if of_the_truth(name) else by_chance(gap),
        lost=bool(gone) and judged,
    )
