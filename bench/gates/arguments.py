"""What the command line of `gate` takes. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from bench.config import Config
from bench.errors import UserError

Kind = Literal["speed", "counted", "quality"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, kw_only=True)
class GateArguments:
    """Judge this checkout: its speed against a base, what can be counted, and the quality of a fixed small run.

    Ends with 0 where nothing is worse, 1 for a regression or a name that was not seen, 2 where it can't judge."""

    against: str = ""
    """Base of the speed gate: a commit, branch or tag; by default the first parent of the commit checked out."""
    only: tuple[Kind, ...] = ()
    """Some of speed, counted, quality; by default all."""
    group: tuple[str, ...] = ()
    """Some groups, the first part of a name, such as training_step or parameters, or whole names; by default all."""
    unknown_machine: Literal["refuse", "skip"] = "refuse"
    """What to make of numbers that are stored for other kinds of machine only, or versions of torch or Python, and that
    no base can be measured for: refuse to judge, or leave them out and say so."""
    markdown: Path | None = None
    """Write the table as markdown, for a pull request."""
    junit: Path | None = None
    """Write JUnit XML."""
    benchmarks: Path | None = None
    """Judge only whether a file of pytest --benchmark-json holds every benchmark, measured with these threads."""
    update_baseline: bool = False
    """Show how what is counted and measured differs from the stored baseline, and store it; needs --reason."""
    reason: str = ""
    """Why the baseline changes; stored with it."""
    json: bool = False
    """Print the verdicts as JSON."""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What is to be judged, in the order in which it is."""
        return tuple(kind for kind in KINDS if not self.only or kind in self.only)

    def check(self, config: Config) -> None:
        """UserError where the words don't fit each other."""
        if self.reason and not self.update_baseline:
            raise UserError("--reason says why the baseline changes, expected --update-baseline beside it")
        told = self.json or self.markdown or self.junit
        if self.update_baseline and (self.against or self.only or self.group or self.benchmarks or told):
            raise UserError(
                "--update-baseline stores all that is counted and measured, expected only --reason beside it"
            )
        if self.benchmarks and (self.against or self.only or self.group):
            raise UserError("--benchmarks judges a file alone, expected no --against, --only or --group beside it")
        if self.against and "speed" not in self.kinds:
            raise UserError("--against names the base of the speed gate, which --only leaves out")
        if self.against.startswith("-"):
            raise UserError(f"--against is '{self.against}', expected a commit, branch or tag")
        for flag, path in (("--markdown", self.markdown), ("--junit", self.junit)):
            if path is not None and path.is_dir():
                raise UserError(f"{flag} {path} is a folder, expected a file")
