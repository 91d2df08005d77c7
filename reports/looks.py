"""How many pairs of numbers a reader looks at, and what is left of them when that is taken into account."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from metrics.multiplicity import by_chance, standing
from metrics.statistics import COUNTED
from reports.contenders import Contender, Judge
from reports.glossary import RETENTION, counted, listed, meaning, of_the_truth
from reports.schema import has

SKILL = "plans_right"
NAMED = 20  # pairs that are named one by one


@dataclass(frozen=True, kw_only=True)
class Looks:
    """pairs: of two contenders in one number, those that chance has a part in. apart: told apart, each on its own.
    left: told apart with Holm's correction for all pairs: label of the better, of the worse, and the number. None where
    some pair rests on one training: no p-value knows what another would give."""

    pairs: int
    apart: int
    left: tuple[tuple[str, str, str], ...] | None


def looks(contenders: Sequence[Contender], judge: Judge, names: Sequence[str]) -> Looks:
    """Every pair of contenders in every one of these numbers."""
    pairs = [(a, b, name) for name in names for a, b in combinations(contenders, 2) if has_a_part(a, b, name)]
    judged = [(a, b, name, word) for a, b, name in pairs if (word := judge.word(a, b, name))]
    apart = [word != "not told apart" for *_, word in judged]
    if not all(_over_seeds(a, b, name, judge) for a, b, name, _ in judged):
        return Looks(pairs=len(judged), apart=sum(apart), left=None)
    stands = standing([_chance(a, b, name, judge) for a, b, name, _ in judged], apart)
    left = [
        (a.label, b.label, name) if word == "better" else (b.label, a.label, name)
        for (a, b, name, word), stays in zip(judged, stands, strict=True)
        if stays
    ]
    return Looks(pairs=len(judged), apart=sum(apart), left=tuple(left))


def said_of(seen: Looks) -> str:
    """In words."""
    chance = f"about {round(seen.pairs * 0.05)}" if seen.pairs >= 20 else f"{seen.pairs * 0.05:.1g}"
    told = (
        f"Of {counted(seen.pairs, 'comparison')} of two contenders by a main number that chance has a part in, "
        f"{seen.apart} are told apart. "
        f"Each is judged at the 5% level on its own: by chance alone {chance} would be."
    )
    if seen.left is None:
        return f"{told} No correction for so many is told: of one training, chance is that of other items alone."
    left = len(seen.left)
    told += f" With Holm's correction for all {seen.pairs}, {left or 'none'} {'is' if left == 1 else 'are'} left"
    if not 0 < left <= NAMED:
        return f"{told}."
    return f"{told}: {', '.join(named(seen.left))}."


def named(left: Sequence[tuple[str, str, str]]) -> list[str]:
    """A number each, with who is before whom: "scene accuracy (a and b before c)"."""
    told = []
    for name in dict.fromkeys(name for *_, name in left):
        before: dict[str, list[str]] = {}
        for better, worse, of in left:
            if of == name:
                before.setdefault(better, []).append(worse)
        alike: dict[tuple[str, ...], list[str]] = {}
        for better, worse_ones in before.items():
            alike.setdefault(tuple(worse_ones), []).append(better)
        pairs = [f"{listed(better)} before {listed(worse)}" for worse, better in alike.items()]
        told.append(f"{meaning(name).title} ({'; '.join(pairs)})")
    return told


def has_a_part(a: Contender, b: Contender, name: str) -> bool:
    """Whether both have a number that another sample or seed would give otherwise: no count, no text kept exactly, nor
    what two who keep it write, nor what is of true pictures alone."""
    both = [c.metrics[name] for c in (a, b) if has(c.metrics, name)]
    kept = [e for c in (a, b) if (e := c.metrics.get(RETENTION)) is not None and e.low == e.high == 1.0]
    if len(both) < 2 or (name == SKILL and len(kept) == 2) or of_the_truth(name):
        return False
    return all(e.reason != COUNTED and (e.low is None or e.low != e.high) for e in both)


def _chance(a: Contender, b: Contender, name: str, judge: Judge) -> float | None:
    found = judge.difference(a, b, name)
    return by_chance(found.estimate) if found is not None else None


def _over_seeds(a: Contender, b: Contender, name: str, judge: Judge) -> bool:
    """Whether two numbers were compared over several trainings: of seeds in common, or of each its own."""
    found, both = judge.difference(a, b, name), (a.metrics[name], b.metrics[name])
    paired = found is not None and "per_seed" in found.estimate.details
    common = [seed for seed in a.seeds if seed in b.seeds]
    return paired or (not common and all(len(e.details.get("per_seed", ())) > 1 for e in both))
