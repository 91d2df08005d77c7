"""Verdicts: what was counted and measured against what is stored. No torch."""

from __future__ import annotations

import platform
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from approaches.registry import package_of
from bench.gates.baseline import Baseline
from bench.gates.findings import Finding, Status, wanted
from bench.gates.thresholds import Thresholds

RENEW = "python -m bench gate --update-baseline --reason TEXT"
TRACED = "graphs"
TORCH_DECIDES = ("memory", TRACED)


def unseen(kind: str, expected: Iterable[str], seen: Collection[str], groups: Collection[str]) -> list[Finding]:
    """A finding for every name that the gate must see and has not, and for every one that it does not know: refused,
    but for an installed package's approach, which this checkout need not know."""
    found = []
    known = [name for name in expected if wanted(name, groups)]
    for name in known:
        if name not in seen:
            said = "expected, and not seen: removed, renamed, or it can't run here"
            found.append(Finding(kind=kind, name=name, status="missing", said=said))
    for name in seen:
        if name not in known:
            if package := _package(name):
                said = f"of the package {package}: this checkout stores nothing to compare it with"
                found.append(Finding(kind=kind, name=name, status="not judged", said=said))
                continue
            said = f"new: nothing is stored to compare it with; {RENEW}"
            found.append(Finding(kind=kind, name=name, status="refused", said=said))
    return found


def _package(name: str) -> str:
    """The installed package whose approach a name is about; "" for ours."""
    return "".join(package_of(name.rpartition("/")[2]))


def of_this_checkout(names: Iterable[str]) -> list[str]:
    """Without what an installed package's approach brings, which others may not have."""
    return [name for name in names if not _package(name)]


def counted(
    found: Mapping[str, Mapping[str, Any]],
    baseline: Baseline,
    torch: str,
    groups: Collection[str],
    *,
    skip: bool = False,
) -> list[Finding]:
    """Exact, on any machine. torch: the version here: memory and graphs counted under another are not compared, nor are
    graphs traced by another Python. skip: leave these out in place of a refusal."""
    findings = unseen("counted", baseline.names.get("counted", []), found, groups)
    for name, now in found.items():
        stored = baseline.counted.get(name)
        if stored is None or any(finding.name == name for finding in findings):
            continue
        if "error" in now:
            findings.append(
                Finding(kind="counted", name=name, status="missing", said=f"can't be counted: {now['error']}")
            )
            continue
        if other := _otherwise(name.split("/")[0], torch, baseline):
            unfit: Status = "not judged" if skip else "refused"
            findings.append(Finding(kind="counted", name=name, status=unfit, said=f"{other}: not compared; {RENEW}"))
            continue
        told = [_change(key, stored.get(key), now.get(key)) for key in sorted(stored.keys() | now.keys())]
        changed = [line for line in told if line]
        status: Status = "regression" if changed else "pass"
        said = "; ".join(changed) if changed else f"{len(stored)} as stored"
        findings.append(Finding(kind="counted", name=name, status=status, said=said))
    return findings


def _otherwise(group: str, torch: str, baseline: Baseline) -> str:
    """Why a group's stored numbers can't be compared with those here; "" where they can."""
    if group in TORCH_DECIDES and not same_version(torch, baseline.torch):
        return f"stored under torch {baseline.torch}, this is torch {torch}"
    here = platform.python_version()
    if group == TRACED and not same_version(here, baseline.python):
        return f"stored under Python {baseline.python}, this is Python {here}"
    return ""


def _change(key: str, before: Any, now: Any) -> str:
    if before == now:
        return ""
    if before is None or now is None:
        return f"{key} was {_number(before)}, is {_number(now)}"
    return f"{key} was {before:,}, is {now:,} ({now - before:+,})"


def _number(value: Any) -> str:
    return "absent" if value is None else f"{value:,}"


def same_version(one: str, other: str) -> bool:
    """Whether two versions agree but for the patch."""
    return one.split(".")[:2] == other.split(".")[:2]


def quality(
    found: Mapping[str, Mapping[str, Any]],
    baseline: Baseline,
    thresholds: Thresholds,
    machine: str,
    groups: Collection[str],
    base: Mapping[str, Mapping[str, Any]] | None = None,
    announced: Collection[str] = (),
    skip: bool = False,
) -> list[Finding]:
    """Retention exactly, metrics within stored intervals, golden losses bit for bit.

    base: the golden losses of the base, measured on this machine, for a machine of whose kind none are stored.
    announced: names whose stored golden losses the commit itself has changed since the base. skip: leave out what has
    nothing to be compared with, in place of a refusal.
    """
    findings = unseen("quality", baseline.names.get("quality", []), found, groups)
    known = {finding.name for finding in findings}
    for name, now in found.items():
        if name in known:
            continue
        if "error" in now:
            findings.append(Finding(kind="quality", name=name, status="missing", said=f"can't be run: {now['error']}"))
            continue
        match name.split("/")[0]:
            case "retention":
                findings.append(_retention(name, now))
            case "smoke":
                findings.append(_smoke(name, now, baseline, thresholds))
            case _:
                findings.append(_golden(name, now, baseline, machine, base, announced, skip))
    return findings


def _retention(name: str, now: Mapping[str, Any]) -> Finding:
    kept, difference = now["perplexity_retention"], now["largest_difference"]
    if kept == 1.0 and difference == 0.0:
        return Finding(kind="quality", name=name, status="pass", said="1.0, every logit the base model's")
    said = f"retention is {kept!r}, and a logit differs from the base model's by {difference}; expected 1.0 and 0"
    return Finding(kind="quality", name=name, status="regression", said=said)


def _smoke(name: str, now: Mapping[str, Any], baseline: Baseline, thresholds: Thresholds) -> Finding:
    faults, inside = [], 0
    stored = baseline.smoke.get(name, {})
    for metric in thresholds.smoke:
        bounds, value = stored.get(metric), now.get(metric)
        if bounds is None and value is None:
            continue  # the approach has it neither then nor now
        if bounds is None or not isinstance(value, int | float):
            faults.append(f"{metric} was {_value(bounds)}, is {'missing' if value is None else value}")
        elif not bounds["low"] <= value <= bounds["high"]:
            faults.append(f"{metric} is {value:.5g}, outside {bounds['low']:.5g} to {bounds['high']:.5g}")
        else:
            inside += 1
    if faults or not inside:
        return Finding(kind="quality", name=name, status="regression", said="; ".join(faults) or "nothing was measured")
    return Finding(kind="quality", name=name, status="pass", said=f"{inside} metrics within their intervals")


def _value(bounds: Mapping[str, float] | None) -> str:
    return "missing" if bounds is None else f"{bounds['value']:.5g}"


def _golden(
    name: str,
    now: Mapping[str, Any],
    baseline: Baseline,
    machine: str,
    base: Mapping[str, Mapping[str, Any]] | None,
    announced: Collection[str],
    skip: bool,
) -> Finding:
    stored: Mapping[str, Any] | None = baseline.golden.get(machine, {}).get(name)
    whose = "stored for this kind of machine"
    if stored is None:
        kinds = "; ".join(sorted(kind for kind, named in baseline.golden.items() if name in named)) or "no machine"
        refused = f"stored for {kinds}; this is {machine}: not compared"
        if base is None or name not in base:
            status: Status = "not judged" if skip else "refused"
            return Finding(kind="quality", name=name, status=status, said=f"{refused}; {RENEW}")
        if name in announced and base[name] != now:
            said = f"{refused}; the base's differ, and so do the stored ones since the base"
            return Finding(kind="quality", name=name, status="pass", said=said)
        stored, whose = base[name], "the base's, measured here beside"
    if stored == now:
        steps = len(now.get("loss", []))
        return Finding(kind="quality", name=name, status="pass", said=f"{steps} steps, bit for bit {whose}")
    said = _first_difference(stored, now)
    return Finding(kind="quality", name=name, status="regression", said=f"{said} ({whose})")


def _first_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if before.keys() != now.keys():
        return f"the loss had the terms {', '.join(sorted(before))}, and has {', '.join(sorted(now))}"
    for step in range(max(map(len, before.values()))):
        for term, values in before.items():
            if values[step : step + 1] != now[term][step : step + 1]:
                return f"{term} of step {step} was {values[step : step + 1]}, is {now[term][step : step + 1]}"
    return "the losses differ"
