"""Published claims, from claims.json, beside what was measured. No claim is judged by its words: each names the metrics
that would show it, and the rule is the same for all. Published tables are left to `python -m bench reproduce`.

Against others: supported where at least half of the other approaches are told apart as claimed, and none the other way;
contradicted likewise; mixed where some go either way. An approach that was run in several settings speaks once, by
those nearest to its defaults. A claim of several parts holds where all that were measured do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from metrics.statistics import Estimate
from reports.contenders import Contender, Judge, compare
from reports.glossary import SCALES, first_of, listed, meaning, written

Verdict = Literal["supported", "partly supported", "contradicted", "mixed", "not told apart", "not measured"]
OPPOSITE = {"better": "worse", "worse": "better"}


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One metric that speaks to a claim, what it says, and in words why."""

    title: str
    verdict: Verdict
    words: str


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One pro or con of an approach. reading: what it would mean in numbers."""

    approach: str
    contender: str
    examples: tuple[str, ...]
    side: str
    says: str
    reading: str
    verdict: Verdict
    evidence: tuple[Evidence, ...]
    note: str = ""


@cache
def published() -> dict[str, Any]:
    """claims.json."""
    values: dict[str, Any] = json.loads(files("reports").joinpath("claims.json").read_text(encoding="utf-8"))
    return values


def order() -> tuple[str, ...]:
    """Approaches in the order of the published table."""
    return tuple(published()["order"])


# ----------------------------------------------------------------------------------------------------------- claims


def claims(contenders: Sequence[Contender], judge: Judge, values: Mapping[str, Any] | None = None) -> list[Claim]:
    """Every claim about an approach that was run."""
    found, contenders = [], representatives(contenders)
    for row in (published() if values is None else values)["rows"]:
        own = next((c for c in contenders if c.approach == row["approach"]), None)
        if own is None:
            continue
        others = [c for c in contenders if c.approach != own.approach]
        for claim in row["claims"]:
            evidence = tuple(_evidence(entry, own, others, judge) for entry in claim["evidence"])
            found.append(
                Claim(
                    approach=own.approach,
                    contender=own.label,
                    examples=tuple(row["examples"]),
                    side=claim["side"],
                    says=claim["says"],
                    reading=claim["reading"],
                    verdict=overall([item.verdict for item in evidence]),
                    evidence=evidence,
                    note=claim.get("unmeasured", ""),
                )
            )
    return found


def representatives(contenders: Sequence[Contender]) -> list[Contender]:
    """Of each approach the contender with the fewest settings of its own; of equals the one that was trained most, then
    that with most seeds, the first of those."""

    def rank(one: Contender) -> tuple[int, float, int]:
        spent = one.record.budgets.images or 0.0
        return len(one.record.provenance.get("settings_changed", ())), -spent, -len(one.runs)

    first: dict[str, Contender] = {}
    for contender in sorted(contenders, key=rank):
        first.setdefault(contender.approach, contender)
    return [contender for contender in contenders if first[contender.approach] is contender]


def overall(verdicts: Sequence[Verdict]) -> Verdict:
    """Of several parts of a claim: what they agree on; mixed where some go either way. It is supported in part where
    others are not told apart; one part that is contradicted, and none that is supported, contradicts it."""
    told = {verdict for verdict in verdicts if verdict not in ("not told apart", "not measured")}
    if len(told) > 1 or "mixed" in told:
        return "mixed"
    if told == {"supported"} and "not told apart" in verdicts:
        return "partly supported"
    if told:
        return told.pop()
    return "not told apart" if "not told apart" in verdicts else "not measured"


def _evidence(entry: Mapping[str, Any], own: Contender, others: Sequence[Contender], judge: Judge) -> Evidence:
    every = [own, *others] if "others" in entry["expects"] else [own]
    having = [n for n, e in own.metrics.items() if e.value is not None]
    shared = [n for n in having if len(every) == 1 or any(_value(c, n) is not None for c in others)]
    name = first_of(entry["metric"], shared)
    if name is None:
        title = " or ".join(meaning(pattern).title.strip(" ,") for pattern in entry["metric"][:2])
        return Evidence(title=title, verdict="not measured", words="there is no such number to compare")
    estimate, title = own.metrics[name], meaning(name).title
    told = written(estimate, unit=True)
    match entry["expects"].split()[0], entry["expects"].split()[-1]:
        case word, "others":
            verdict, words = against(own, others, name, word, judge)
            return Evidence(title=title, verdict=verdict, words=f"{told}: {words}")
        case "better", "own":
            return _against_itself(own, name, entry["other"], title)
    verdict = to_bound(estimate, entry["expects"], float(entry["value"]))
    return Evidence(title=title, verdict=verdict, words=f"{told}, claimed {entry['expects']} {entry['value']:g}")


def against(own: Contender, others: Sequence[Contender], name: str, word: str, judge: Judge) -> tuple[Verdict, str]:
    """Whether a contender is better (or worse) than others in one number, and the words for it."""
    told = {c.label: judge.word(own, c, name) for c in others if judge.word(own, c, name)}
    parts = [
        f"{said} {'than' if said != 'not told apart' else 'from'} "
        + listed([f"{label} ({_number(_of(others, label), name)})" for label, w in told.items() if w == said])
        for said in ("better", "worse", "not told apart")
        if said in told.values()
    ]
    fitting = sum(said == word for said in told.values())
    opposite = sum(said == OPPOSITE[word] for said in told.values())
    if not told:
        return "not measured", "no other has this number"
    if fitting and opposite:
        return "mixed", "; ".join(parts)
    if 2 * fitting >= len(told):
        return "supported", "; ".join(parts)
    if 2 * opposite >= len(told):
        return "contradicted", "; ".join(parts)
    return "not told apart", "; ".join(parts)


def _number(contender: Contender, name: str) -> str:
    """As written, with the unit where another's number may be in a larger or smaller one."""
    estimate = contender.metrics[name]
    return written(estimate, unit=estimate.unit in SCALES)


def _of(contenders: Sequence[Contender], label: str) -> Contender:
    return next(contender for contender in contenders if contender.label == label)


def _value(contender: Contender, name: str) -> float | None:
    estimate = contender.metrics.get(name)
    return None if estimate is None else estimate.value


def _against_itself(own: Contender, name: str, other: str, title: str) -> Evidence:
    """One of a contender's numbers against another: better where it is told apart."""
    title = f"{title} against {meaning(other).title}"
    found = compare(own, own, name, other)
    if found is None:
        return Evidence(title=title, verdict="not measured", words="there is no such number to compare")
    mine, rival = own.metrics[name], own.metrics[other]
    verdicts: dict[str, Verdict] = {"better": "supported", "worse": "contradicted", "not told apart": "not told apart"}
    words = f"{written(mine)} against {written(rival)}, difference {written(found.estimate)}"
    return Evidence(title=title, verdict=verdicts[found.word], words=words)


def to_bound(estimate: Estimate, expects: str, value: float) -> Verdict:
    """Whether a number is at least, or below, a value, by its interval."""
    if estimate.low is None or estimate.high is None:
        return "not told apart"
    slack = 1e-9 * max(1.0, abs(value))
    if expects == "at least":
        if estimate.low >= value - slack:
            return "supported"
        return "contradicted" if estimate.high < value - slack else "not told apart"
    if estimate.high < value - slack:
        return "supported"
    return "contradicted" if estimate.low >= value - slack else "not told apart"
