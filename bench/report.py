"""`python -m bench report` and `compare`: from records to pages, and from two sets of records to an exit code. Imports
no torch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import finding, store
from bench.config import Config
from bench.console import Console
from bench.errors import UserError
from bench.exits import DONE, MISTAKE, REGRESSION
from bench.files import atomic_path, read_json, write_json, write_text
from bench.report_arguments import CompareArguments, ReportArguments, home, one_contender, report_places

HTML, MARKDOWN, CSV, JSON = "report.html", "report.md", "results.csv", "results.json"
SAMPLES = "samples.csv"


def main(arguments: ReportArguments, config: Config, console: Console) -> int:
    """Write the report; 0 where at least one record was read. 2, and nothing written, where none was. What was refused
    is said."""
    places = report_places(arguments)
    document, written = write(places, arguments.to or home(places), named=arguments.to is not None)
    for refused in document.gathered.refused:
        console.warn(f"refused {refused.place}: {refused.reason}")
    if not document.gathered.runs:
        console.warn("no report: no record was read")
    if arguments.json:
        console.emit(
            {
                "files": [str(path) for path in written],
                "refused": [dataclasses.asdict(refused) for refused in document.gathered.refused],
            }
        )
    for path in written:
        console.info(f"wrote {path}")
    return DONE if document.gathered.runs else MISTAKE


def write(places: Sequence[Path], to: Path, *, named: bool = False) -> tuple[Any, list[Path]]:
    """The report of some places, into a folder; its content and the files for people and machines. Where no record is
    read, nothing is written. named: whether somebody said that it goes there.

    UserError, and nothing written, where nobody did and a file that is no report's would be lost, and where the folder
    of its pictures is a link."""
    from reports import results
    from reports.document import document
    from reports.html import html
    from reports.markdown import FOLDER, markdown
    from reports.sample_rows import samples_csv

    found = document(places)
    if not found.gathered.runs:
        return found, []
    if not named:
        _check_ours(to)
    if (to / FOLDER).is_symlink():
        raise UserError(f"{to / FOLDER} is a link, expected a folder, for a report writes into it: remove it")
    text, pictures = markdown(found)
    pages = {HTML: html(found), MARKDOWN: text, CSV: results.as_csv(found.contenders)}
    if rows := samples_csv(found.contenders):
        pages[SAMPLES] = rows
    elif (to / HTML).exists() and (to / JSON).exists():  # an earlier report's, of other runs; else somebody's own
        (to / SAMPLES).unlink(missing_ok=True)
    write_json(to / JSON, results.as_json(found))  # first: by it the others are told from somebody's own
    for name, data in pictures.items():
        with atomic_path(to / name) as part:
            part.write_bytes(data)
    for name, page in pages.items():
        write_text(to / name, page)
    return found, [to / name for name in (*pages, JSON)]


def _check_ours(to: Path) -> None:
    """UserError where a folder holds a file of a report's name and no report's results: it is somebody's own."""
    there = [name for name in (HTML, MARKDOWN, CSV, JSON, SAMPLES) if os.path.lexists(to / name)]
    if not there:
        return
    try:
        values = read_json(to / JSON)
    except UserError:
        values = None
    if not (isinstance(values, dict) and {"schema", "contenders", "results"} <= values.keys()):
        raise UserError(
            f"{to / there[0]} is there, and no report's {JSON} beside it: name another folder for the report with "
            "--to, or this one to replace it"
        )


def after_run(folders: Sequence[Path], out: Path, console: Console) -> None:
    """The report of the runs that a command has just done, beside them; none where nothing was done, which would take
    the place of one of other runs. A report that can't be made is said, and changes nothing of the runs."""
    if not any((state := store.read_state(folder)) is not None and state.state == "done" for folder in folders):
        return
    try:
        _, written = write(folders, out)
    except UserError as error:
        console.warn(f"no report: {error}")
        return
    if not written:
        return
    console.info(f"report: {written[0]}")
    console.info(f"report: {written[1]}")
    mine = {folder.resolve() for folder in folders}
    if left := sum(run.folder.resolve() not in mine for run in finding.runs(out)):
        also = f"to have what else is in {out} ({left}) in it: python -m bench report {out}"
        console.info(f"it is of this command's runs; {also}")


def compare(arguments: CompareArguments, config: Config, console: Console) -> int:
    """Say how B differs from A; 1 where it is told to be worse in something that counts, lacks it, did not come to an
    end where A did, or holds a record that can't be read."""
    from reports.compare import comparison
    from reports.gather import LEFT_OUT, NO_RECORD

    first, second = (one_contender(text, arguments.out) for text in (arguments.first, arguments.second))
    found = comparison(first, second, arguments.metrics)
    for side in found.gathered:
        for refused in side.refused:
            console.warn(f"refused {refused.place}: {refused.reason}")
    if found.unfair:
        console.warn(f"no fair comparison: they differ in {', '.join(found.unfair)}")
    for told in found.unfinished:
        console.warn(f"not compared: {told}")
    for name in found.alone:
        console.warn(f"nobody to compare with: {name}")
    if arguments.json:
        console.emit(
            {
                "lines": [dataclasses.asdict(line) for line in found.lines],
                "unfair": list(found.unfair),
                "alone": list(found.alone),
                "unfinished": list(found.unfinished),
                "worse": [line.metric for line in found.worse],
                "lost": [line.metric for line in found.lost],
                "fallen": list(found.fallen),
                "better": [line.metric for line in found.better],
            }
        )
    else:
        _tell(found, console)
    worse = [line for line in found.worse if line.stands or not arguments.holm]
    damaged = [each for each in found.gathered[1].refused if not each.reason.startswith((NO_RECORD, LEFT_OUT))]
    return REGRESSION if worse or found.lost or found.fallen or damaged else DONE


def _tell(found: Any, console: Console) -> None:
    for pair in dict.fromkeys(line.pair for line in found.lines):
        rows = [("", "A", "B", "B - A", "B is", "")]
        for line in found.lines:
            if line.pair == pair:
                needed = (
                    f"{line.needed:,} items would tell them apart"
                    if line.word == "not told apart" and line.needed
                    else ""
                )
                note = ", ".join(
                    part
                    for part in ("paired" if line.paired else "", needed, "" if line.counts else "not judged")
                    if part
                )
                rows.append((line.title, line.first, line.second, line.difference, line.word, note))
        console.table(f"{pair}, with 95% intervals", rows)
        console.info()
    judged = [line for line in found.lines if line.counts and line.values[0] is not None]
    console.info(
        f"{len(judged)} numbers judged, each at the 5% level: B is better in {len(found.better)}, worse in "
        f"{len(found.worse)}{': ' if found.worse else ''}{', '.join(line.metric for line in found.worse)}."
    )
    if len(judged) > 1 and (found.worse or found.better):
        stands = {
            word: [line.metric for line in judged if line.stands and line.word == word] for word in ("better", "worse")
        }
        told = [f"{word} in {len(names)}{': ' if names else ''}{', '.join(names)}" for word, names in stands.items()]
        items = " (one training a side: the chance of other items alone)" if found.one_seed else ""
        console.info(f"With Holm's correction for all {len(judged)}{items}, B is {' and '.join(told)}.")
    strange = [f"{line.metric} ({line.reason})" for line in found.lost if line.word == "not comparable"]
    if strange:
        console.info(f"B has otherwise than A {len(strange)}: {'; '.join(strange)}.")
    if gone := [line.metric for line in found.lost if line.word != "not comparable"]:
        console.info(f"B has lost {len(gone)}: {', '.join(gone)}.")
    if found.fallen:
        console.info(f"B did not come to an end, as A did: {'; '.join(found.fallen)}.")
