"""A file of pytest-benchmark's, judged for what it must hold: every timed case, with these threads. pytest itself
ends with 0 where benchmarks were renamed, skipped, disabled, or swallowed by xdist. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.files import read_json
from bench.gates.baseline import Baseline
from bench.gates.findings import Finding
from bench.gates.judge import unseen
from bench.gates.thresholds import Thresholds


def judge(path: Path, baseline: Baseline, limits: Thresholds) -> list[Finding]:
    """A finding a name: pass where it was timed, with the threads that the baseline has. UserError where the file is
    none of pytest-benchmark's."""
    if path.exists() and not path.read_bytes().strip():
        values: Any = {"benchmarks": []}  # what pytest-benchmark leaves where it was disabled
    else:
        values = read_json(path)
    if not isinstance(values, dict) or not isinstance(values.get("benchmarks"), list):
        raise UserError(f"{path} is no file of pytest --benchmark-json: it has no benchmarks")
    timed = {str(item.get("param") or item.get("name")): item for item in values["benchmarks"]}
    ours = {name: item for name, item in timed.items() if "/" in name}
    findings = unseen("benchmark", baseline.names.get("speed", []), ours, ())
    told = {finding.name for finding in findings}
    for name, item in ours.items():
        if name in told:
            continue
        rounds, threads = item.get("stats", {}).get("rounds", 0), item.get("extra_info", {}).get("threads")
        if not rounds:
            findings.append(Finding(kind="benchmark", name=name, status="missing", said="it has no round"))
        elif threads != limits.threads:
            said = f"timed with {threads} thread(s), expected {limits.threads}: not compared"
            findings.append(Finding(kind="benchmark", name=name, status="refused", said=said))
        else:
            findings.append(Finding(kind="benchmark", name=name, status="pass", said=f"{rounds} rounds"))
    return findings
