"""What a gate found: one verdict a name, and the exit code of all together. Standard library only."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from bench.exits import DONE, MISTAKE, REGRESSION

Status = Literal["pass", "regression", "missing", "refused", "not judged"]
"""missing: a name that the gate must see and has not seen. refused: there is nothing to compare with that would be
fair, or the timings were too noisy to tell. not judged: nothing was asked, and nothing is claimed."""
FAILS: tuple[Status, ...] = ("regression", "missing")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One verdict. said: what was compared with what, in a sentence or less. ratio: head / base with its interval,
    where something was timed."""

    kind: str
    name: str
    status: Status
    said: str
    ratio: tuple[float, float, float] | None = None
    seconds: float = 0.0

    @property
    def group(self) -> str:
        """The first part of the name."""
        return self.name.split("/")[0]


def wanted(name: str, groups: Collection[str]) -> bool:
    """Whether a name is one of these groups', or is itself among them; every name is where there are none."""
    return not groups or name in groups or name.split("/")[0] in groups


def exit_code(findings: Sequence[Finding]) -> int:
    """1 where something is worse or was not seen; 2 where something can't be judged, or nothing was; else 0."""
    statuses = {finding.status for finding in findings}
    if statuses & set(FAILS):
        return REGRESSION
    return MISTAKE if "refused" in statuses or "pass" not in statuses else DONE


def verdict(findings: Sequence[Finding]) -> str:
    """All of it in a line."""
    counts = {status: sum(f.status == status for f in findings) for status in ("pass", *FAILS, "refused", "not judged")}
    words = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    said = {DONE: "no regression", REGRESSION: "regression", MISTAKE: "can't judge"}[exit_code(findings)]
    return f"{said}: {words or 'nothing was looked at'}"
