"""`python -m bench gate`: asks its workers, judges, tells. Imports no torch.

Counted quantities and quality are compared with the stored baseline; speed with a base commit, measured beside."""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.config import Config
from bench.console import Console
from bench.environment import ROOT
from bench.errors import UserError, nearest
from bench.exits import DONE
from bench.gates import baseline as stored
from bench.gates import benchmarks, judge, output, speed, thresholds, trees
from bench.gates.arguments import GateArguments
from bench.gates.baseline import Baseline
from bench.gates.findings import Finding, exit_code, wanted
from bench.gates.thresholds import Thresholds
from bench.gates.workers import Worker, WorkerError

COUNTED = ("parameters", "flops", "memory", "once", "graphs")
QUALITY = ("golden", "smoke", "retention")
Found = dict[str, dict[str, Any]]


def main(arguments: GateArguments, config: Config, console: Console) -> int:
    """Judge this checkout; an exit code of bench.exits."""
    limits = thresholds.load()
    if arguments.update_baseline:
        return update(arguments.reason, limits, console)
    base = stored.load()
    if base.threads != limits.threads:
        raise UserError(
            f"the baseline is of {base.threads} thread(s), and run.threads is {limits.threads}: it is not compared"
        )
    if arguments.benchmarks is not None:
        findings = benchmarks.judge(arguments.benchmarks, base, limits)
    else:
        findings = judged(arguments, base, limits, console)
    if arguments.markdown is not None:  # files first: whoever listens may leave
        output.write_markdown(findings, arguments.markdown)
    if arguments.junit is not None:
        output.write_junit(findings, arguments.junit)
    if arguments.json:
        console.emit(output.plain(findings))
    else:
        output.show(findings, console)
    return exit_code(findings)


def judged(arguments: GateArguments, base: Baseline, limits: Thresholds, console: Console) -> list[Finding]:
    """Everything asked for. UserError where a named group is in none of it."""
    groups = _groups(arguments, base)
    with ExitStack() as stack:
        tree: Path | None = None
        commit, why = ("", "")
        if "speed" in arguments.kinds or "quality" in arguments.kinds:
            commit, why = trees.base_of(ROOT, arguments.against)
        if commit:
            console.info(f"gate: base {commit[:12]}")
        if commit and "speed" in arguments.kinds:
            tree = stack.enter_context(trees.checked_out(ROOT, commit))
        findings: list[Finding] = []
        if {"counted", "quality"} & set(arguments.kinds):
            findings += _stored(arguments, groups, base, limits, commit, console)
        if "speed" in arguments.kinds:
            timed = [name for name in base.names.get("speed", []) if wanted(name, groups)]
            if timed or not groups:
                findings += speed.judged(ROOT, tree, why, timed, groups, limits, console)
        return findings


def _groups(arguments: GateArguments, base: Baseline) -> tuple[str, ...]:
    names = {name for kind in arguments.kinds for name in base.names.get(kind, [])}
    known = names | {name.split("/")[0] for name in names}
    for group in arguments.group:
        if group not in known:
            raise UserError(f"--group is '{group}': {nearest(group, known)}")
    return arguments.group


# --------------------------------------------------------------------------------------------- counted and quality


def measured(
    kinds: Collection[str], groups: Sequence[str], limits: Thresholds, console: Console
) -> tuple[Found, Found, dict[str, Any]]:
    """What is counted, what quality is, and what the workers say of the machine: two processes side by side."""
    with ExitStack() as stack:
        asked: dict[str, Worker] = {}
        for kind, known, request in (("counted", COUNTED, "count"), ("quality", QUALITY, "quality")):
            if kind in kinds and (not groups or {group.split("/")[0] for group in groups} & set(known)):
                asked[kind] = stack.enter_context(Worker(ROOT, limits.threads))
                asked[kind].ask("hello")
                asked[kind].ask(request, groups=list(groups))
        console.info(f"gate: {' and '.join(asked)}" if asked else "gate: nothing to count")
        about: dict[str, Any] = {}
        found: dict[str, Found] = {"counted": {}, "quality": {}}
        for kind, worker in asked.items():
            about = worker.told()
            found[kind] = worker.answer()["counts" if kind == "counted" else "quality"]
        return found["counted"], found["quality"], about


def _stored(
    arguments: GateArguments,
    groups: Sequence[str],
    base: Baseline,
    limits: Thresholds,
    commit: str,
    console: Console,
) -> list[Finding]:
    counted, quality, about = measured(arguments.kinds, groups, limits, console)
    findings, skip = [], arguments.unknown_machine == "skip"
    if "counted" in arguments.kinds and about:
        findings += judge.counted(counted, base, about["torch"], groups, skip=skip)
    if "quality" in arguments.kinds and about:
        here = about["machine"]
        beside: tuple[Found | None, list[str]] = (None, [])
        known = base.golden.get(here, {})
        if commit and any(name.startswith("golden/") and name not in known for name in quality):
            beside = _golden_of(commit, base, limits, console)
        findings += judge.quality(quality, base, limits, here, groups, *beside, skip=skip)
    return findings


def _golden_of(commit: str, base: Baseline, limits: Thresholds, console: Console) -> tuple[Found, list[str]]:
    """The base's golden losses, measured on this machine, of whose kind some are not stored; and of which names this
    checkout's own baseline says that they have changed since."""
    console.info("gate: golden losses are not all stored for this kind of machine: the base's are measured here")
    with trees.checked_out(ROOT, commit) as tree, Worker(tree, limits.threads) as worker:
        try:
            worker.hello()
            measured: Found = worker.call("quality", groups=["golden"])["quality"]
        except WorkerError as error:
            console.warn(f"the base's golden losses can't be measured: {error}")
            return {}, []
        found = {name: values for name, values in measured.items() if "error" not in values}
        path = trees.before(tree, stored.FILE.name)
        old = stored.load(path) if path.exists() else None
    return found, [name for name in found if stored.announced(old, base, name)]


# -------------------------------------------------------------------------------------------------------- baseline


def update(reason: str, limits: Thresholds, console: Console) -> int:
    """Measure everything that is stored, show what differs, and store it with the reason."""
    try:
        old: Baseline | None = stored.load()
    except UserError as error:
        console.warn(str(error))
        old = None
    counted, quality, about = measured(("counted", "quality"), (), limits, console)
    every = [*counted.items(), *quality.items()]
    if faults := [f"{name}: {values['error']}" for name, values in every if "error" in values]:
        raise UserError(f"the baseline can't be renewed: {faults[0]}")
    with Worker(ROOT, limits.threads) as worker:
        worker.hello()
        timed = judge.of_this_checkout(worker.call("names")["names"])
    counted, quality = ({name: found[name] for name in judge.of_this_checkout(found)} for found in (counted, quality))
    new = Baseline(
        threads=limits.threads,
        torch=about["torch"],
        python=platform.python_version(),
        names={"speed": timed, "counted": sorted(counted), "quality": sorted(quality)},
        counted=counted,
        smoke={name: intervals(values, limits) for name, values in quality.items() if name.startswith("smoke/")},
        golden={about["machine"]: {name: v for name, v in quality.items() if name.startswith("golden/")}},
    )
    lines = stored.changes(old, stored.merged(old, new))
    for line in lines:
        console.info(line)
    if not lines:
        console.info("the baseline is as it was")
        return DONE
    if len(reason.split()) < 3:
        raise UserError(
            f"{len(lines)} numbers of the baseline change, and --reason does not say why: "
            "expected a sentence, which is stored with them"
        )
    for finding in judge.quality(quality, new, limits, about["machine"], ()):
        if finding.status != "pass":  # a retention below 1 is nothing to get used to
            raise UserError(f"the baseline can't be renewed: {finding.name}: {finding.said}")
    stored.save(stored.renewed(old, new, reason))
    console.info(f"stored {len(lines)} changes in {stored.FILE}")
    return DONE


def intervals(values: Mapping[str, Any], limits: Thresholds) -> dict[str, dict[str, float]]:
    """Each metric's value with the bounds that the thresholds' shares make of it."""
    found = {}
    for metric, share in limits.smoke.items():
        value = values.get(metric)
        if isinstance(value, int | float):
            reach = abs(value) * share
            found[metric] = {"value": value, "low": value - reach, "high": value + reach}
    return found
