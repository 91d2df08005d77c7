"""What the command lines of `report` and `compare` take, and the places that their words mean. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from bench import store
from bench.config import Config
from bench.errors import UserError, nearest
from bench.files import at_home, check_output
from bench.hands_on_arguments import PLACE
from reports import schema


@dataclass(frozen=True, kw_only=True)
class ReportArguments:
    """Write report.html, report.md, results.csv, results.json and samples.csv about runs: from their records alone."""

    runs: Positional[Annotated[tuple[str, ...], arg(metavar="RUN...")]] = field(default=(), metadata=PLACE)
    """Runs: folders, folders of runs, record files, or beginnings of names in --out, such as an approach's, which mean
    all that begin so. All of --out by default."""
    out: Path = Path("runs")
    """Folder of the runs."""
    to: Path | None = None
    """Folder that receives the report; by default the one that holds the runs."""
    json: bool = False
    """Print JSON: the written files, and what was refused."""

    def check(self, config: Config) -> None:
        """UserError where a place doesn't exist, or the report has none to go to."""
        report_places(self)
        if self.to is not None:
            check_output(self.to, "--to")


@dataclass(frozen=True, kw_only=True)
class CompareArguments:
    """Compare B with A, number by number: two runs, or two sets of runs: a folder, several with commas between, or the
    beginning of the names of one contender's seeds, such as an approach's. Exit code 0 where B is told to be worse in
    nothing that counts, has every number of it that A has of the same contender, none of A's runs failed or is
    unfinished in B, and B's records can be read; else 1; 2 for a mistake."""

    first: Positional[Annotated[str, arg(metavar="A")]] = field(default="", metadata=PLACE)
    """What to compare with: a run, a folder of runs, or several with commas between."""
    second: Positional[Annotated[str, arg(metavar="B")]] = field(default="", metadata=PLACE)
    """What is judged, the same way."""
    metrics: tuple[str, ...] = ()
    """Numbers to compare and to judge by, names or patterns such as fd_*; all but those of clocks and machines judge by
    default."""
    holm: bool = False
    """Of what is worse, exit with 1 only for what is so with Holm's correction for all numbers that are judged; each is
    judged on its own otherwise. What is lost, or did not end, counts all the same."""
    out: Path = Path("runs")
    """Folder of the runs."""
    json: bool = False
    """Print JSON: every number, and the outcome."""

    def check(self, config: Config) -> None:
        """UserError where one of the two is lacking, or a place doesn't exist."""
        if not self.first.strip() or not self.second.strip():
            raise UserError("'compare' needs two, A and B: runs, folders of runs, or several with commas between")
        for text in (self.first, self.second):
            set_of(text, self.out)  # to which contender their records belong is looked at when they are read


def report_places(arguments: ReportArguments) -> list[Path]:
    """What is to be reported."""
    if arguments.runs:
        return [place for text in arguments.runs for place in set_of(text, arguments.out)]
    if not arguments.out.is_dir():
        raise UserError(f"no folder {arguments.out}: python -m bench run --out {arguments.out} makes some runs")
    return [arguments.out]


def set_of(text: str, out: Path) -> list[Path]:
    """The places that one word means: paths with commas between, or beginnings of runs' names in `out`, each of which
    means all that begin so."""
    if text and os.path.exists(at_home(text)):  # a folder may have a comma in its name; a long list is none
        return [at_home(text)]
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise UserError(f"'{text}' names no run, expected a run, a folder of runs, or several with commas between")
    return [each for part in parts for each in places(part, out)]


def one_contender(text: str, out: Path) -> list[Path]:
    """The same where every beginning means runs of one contender: its seeds, whatever became of them, and records that
    can't be read. UserError that names the contenders."""
    from reports.contenders import contenders, of_one
    from reports.gather import gather

    if os.path.exists(at_home(text)):
        return set_of(text, out)
    meant: list[Path] = []
    for part in filter(None, map(str.strip, text.split(","))):
        found = places(part, out)
        if len(found) > 1:
            gathered = gather(found)
            ways = contenders(gathered.done or gathered.runs)
            if len(ways) > 1:
                named = "; ".join(f"{way.label}, such as {way.runs[0].folder.name}" for way in ways)
                raise UserError(f"'{part}' begins runs of {len(ways)} contenders, expected one's: {named}")
            others = [run for run in gathered.runs if ways and not of_one(run.record, ways[0].record)]
            found = [folder for folder in found if folder not in {run.folder for run in others}]
        meant += found
    return meant or set_of(text, out)


def places(text: str, out: Path) -> list[Path]:
    """A path that exists, or the runs whose names begin so, in its folder or in `out`. UserError that suggests the
    nearest."""
    path = at_home(text)
    if os.path.exists(path):  # unlike Path's, of a name of any length
        return [path]
    if path.parent != Path("."):
        out, text = path.parent, path.name
    marks = (schema.FILE, store.REQUEST)  # one that has only begun is a run, too
    inside = out.iterdir() if out.is_dir() else ()
    known = sorted(child.name for child in inside if any((child / mark).exists() for mark in marks))
    if fitting := [out / name for name in known if name.startswith(text)]:
        return [out / text] if text in known else fitting
    hint = nearest(text, known) if known else f"and {out} holds no runs"
    raise UserError(f"no run '{text}': {hint}")


def home(places: Sequence[Path]) -> Path:
    """The folder that a report of these places belongs into: the one that holds the runs."""
    first = places[0] if places[0].is_dir() else places[0].parent
    is_run = (first / schema.FILE).exists() or (first / store.REQUEST).exists()
    return first.resolve().parent if is_run and first.resolve().parent != first else first
