"""The report as Markdown fit for a pull request: the same facts, compact, with pictures as files beside it."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence

from bench.printable import clean
from reports.claims import published
from reports.document import Document
from reports.gather import Picture
from reports.glossary import ARROWS, listed
from reports.html import cut
from reports.pictures import Shown
from reports.tables import Cell, Table

FOLDER = "report-pictures"
MARKS = {"best": " **best**", "tied": " (among the best)", "": ""}
SHOWN = 6  # rows of pictures
TILE = 96  # pixels


def markdown(document: Document) -> tuple[str, dict[str, bytes]]:
    """The text, and its pictures by their paths relative to it."""
    d = document
    files: dict[str, bytes] = {}
    parts = [f"# {plain(d.title)}", plain(d.subtitle)]
    if d.unfair:
        parts.append(f"> **Not a fair comparison:** the contenders differ in {plain(listed(d.unfair))}.")
    parts += ["## The answer", *_answers(d)]
    if d.contenders:
        parts += ["## Results", _table(d.main), *_footnotes(d.main)]
        parts += _figures(d, files)
        parts += _pictures(d, files)
        parts += _claims(d)
        parts += _budgets(d)
        parts += _again(d)
    if d.notes:
        parts += ["## What the records note", "\n".join(f"- {plain(who)}: {plain(note)}" for who, note in d.notes)]
    parts += _not_done(d)
    return "\n\n".join(part for part in parts if part) + "\n", files


def plain(text: object) -> str:
    """A text as Markdown that means nothing but itself, on one line. No tag, no link, no table cell is made by it."""
    flat = " ".join(clean(text).split())
    flat = re.sub(r"([\\`*\[\]|~$]|(?<![a-zA-Z0-9])_|_(?![a-zA-Z0-9]))", r"\\\1", flat)
    flat = re.sub(r"^([#+>-]|\d+[.)])(?= )", r"\\\1", flat)
    # Nobody is called by an @, nor an issue by a #; and no address is a link, which GitHub makes of a bare one.
    return re.sub(r"[@#](?=\w)|:(?=//)|www(?=\.)", "\\g<0>\u200b", html.escape(flat, quote=False), flags=re.I)


def code(text: object) -> str:
    """A text as code on one line, whatever backticks are in it. Fit for a table cell too."""
    flat = " ".join(clean(text).split()).replace("|", "¦")
    fence = "`" * (max((len(run) for run in re.findall("`+", flat)), default=0) + 1)
    return f"{fence} {flat} {fence}" if "`" in flat else f"`{flat}`"


def _answers(d: Document) -> list[str]:
    brief = " ".join(answer.brief for answer in d.answers if answer.brief)
    told = [plain(brief) if d.answers else "There is no number to answer with: no run is done."]
    told.append("\n".join(f"- **{plain(a.question)}.** {plain(a.words)}" for a in d.answers))
    if d.honesty:
        told += ["Before you believe it:", "\n".join(f"- {plain(sentence)}" for sentence in d.honesty)]
    return told


def rows_as_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _table(table: Table) -> str:
    """Metrics as rows: a pull request is narrow."""
    head = ["", *(plain(row.contender.label) for row in table.rows)]
    body = []
    for place, column in enumerate(table.columns):
        unit = f" ({plain(column.scale.unit)})" if column.scale.unit else ""
        name = f"{plain(column.meaning.title)}{unit} {ARROWS[column.better]}".strip()
        name += f" ({plain(column.best)})" if column.best else ""
        body.append([name, *(_cell(row.cells[place]) for row in table.rows)])
    return rows_as_table(head, body)


def _cell(cell: Cell) -> str:
    notes = "".join(f"<sup>{note}</sup>" for note in cell.notes)
    interval = f" {plain(cell.interval)}" if cell.interval else ""
    beside = f" ({plain(cell.beside)})" if cell.beside else ""
    return f"{cell.text}{interval}{beside}{notes}{MARKS[cell.mark]}"


def _footnotes(table: Table) -> list[str]:
    marks = (
        "95% intervals in brackets. Best: told apart from all others that it can be compared with. Among the best: not "
        "told apart from the leader."
    )
    return [marks, "\n".join(f"{i}. {plain(note)}" for i, note in enumerate(table.footnotes, 1))]


def _figures(d: Document, files: dict[str, bytes]) -> list[str]:
    parts = ["## Plots"]
    for plot in d.plots:
        if not plot.text:
            continue
        name = f"{FOLDER}/{plot.name}.svg"
        files[name] = plot.text.encode()
        parts += [f"![{plain(plot.question)} {plain(plot.words)}]({name})", plain(plot.note)]
    undrawn = [f"- {plain(plot.question)} {plain(plot.reason)}." for plot in d.plots if not plot.text]
    return [*parts, "\n".join(["Not drawn:", "", *undrawn]) if undrawn else ""] if len(parts) > 1 or undrawn else []


def _pictures(d: Document, files: dict[str, bytes]) -> list[str]:
    shown = [*d.pictures.first[:2], *d.pictures.ranked][:SHOWN]
    parts = []
    if shown:
        name = f"{FOLDER}/pictures.png"
        labels = ["true picture", *(drawn.label for drawn in shown[0].drawn)]
        if data := grid([[one.true, *(drawn.picture for drawn in one.drawn)] for one in shown]):
            files[name] = data
            alt = f"a row a prompt; columns: {', '.join(labels)}"
            parts += ["## Pictures", f"![{plain(alt)}]({name})", f"Columns: {plain(listed(labels))}. Rows:"]
            parts.append("\n".join(f"{i}. {_caption(one)}" for i, one in enumerate(shown, 1)))
            if d.pictures.rule:
                parts.append(f"The first two as they come; the others by rule: {plain(d.pictures.rule)}.")
    for place, strip in enumerate(d.pictures.strips):
        if strip.picture.data:
            name = f"{FOLDER}/strip-{place}.{strip.picture.kind}"
            files[name] = strip.picture.data
            who = strip.label or "all"
            parts += [
                f"{plain(strip.name)}, {plain(who)}: {plain(strip.picture.words)}",
                f"![{plain(strip.name)}]({name})",
            ]
    return parts


def _caption(one: Shown) -> str:
    told = f"{plain(cut(one.prompt, 160))}" + (f" ({plain(one.rank)})" if one.rank else "")
    said = "; ".join(f"{plain(d.label)}: {plain(cut(d.caption, 120))}" for d in one.drawn if d.caption)
    return f"{told}. Described as: {said}" if said else told


def grid(rows: Sequence[Sequence[Picture]]) -> bytes:
    """Rows of pictures as one PNG, each TILE pixels; grey where there is none. Empty where there is none at all."""
    from PIL import Image

    if not any(picture.data for row in rows for picture in row):
        return b""
    columns = max(map(len, rows))
    page = Image.new("RGB", (columns * (TILE + 4) + 4, len(rows) * (TILE + 4) + 4), "white")
    for top, row in enumerate(rows):
        for left, picture in enumerate(row):
            tile = Image.new("RGB", (TILE, TILE), "#dddddd")
            if picture.data:
                with Image.open(io.BytesIO(picture.data)) as image:
                    how = Image.Resampling.NEAREST if picture.small else Image.Resampling.LANCZOS
                    tile = image.convert("RGB").resize((TILE, TILE), how)
            page.paste(tile, (4 + left * (TILE + 4), 4 + top * (TILE + 4)))
    buffer = io.BytesIO()
    page.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _claims(d: Document) -> list[str]:
    if not d.claims:
        return []
    rows = [
        [
            plain(claim.contender),
            plain(f"{claim.side}: {claim.says}"),
            f"**{claim.verdict}**",
            "; ".join(f"{plain(e.title)} {plain(e.words)} ({e.verdict})" for e in claim.evidence) or plain(claim.note),
        ]
        for claim in d.claims
    ]
    parts = ["## Claims against measurements", f"Source: {plain(published()['source'])}."]
    parts.append(rows_as_table(["", "claim", "here", "evidence"], rows))
    return parts


def _budgets(d: Document) -> list[str]:
    head = ["", *map(plain, d.budget_names), "borrowed"]
    rows = [[plain(b.label), *map(plain, b.cells), plain(b.borrowed)] for b in d.budgets]
    parts = ["## Budgets and pre-training debt", rows_as_table(head, rows), "## What was the same for all"]
    same = [row for row in d.identical if row.same and row.fatal]
    if d.unfair:
        parts.append(f"**Differs and should not: {plain(listed(d.unfair))}.**")
    parts.append("\n".join(f"- {plain(row.name)}: {code(row.value)}" for row in same))
    return parts


def _again(d: Document) -> list[str]:
    lines = [
        f"- {plain(r.label)}, seed {r.seed}: {code(r.command)}, commit {code(r.commit)}"
        f"{' **with uncommitted changes**' if r.dirty else ', clean'}"
        f"{f', of its own package {code(r.own)}' if r.own else ''}"
        for r in d.reruns
    ]
    machine = [f"- {plain(name)}: {plain(value)}" for name, value in d.surroundings]
    return ["## Run it again", "\n".join(lines), "\n".join(machine)]


def _not_done(d: Document) -> list[str]:
    lines = [f"- {code(run.name)} **{run.status}**: {plain(cut(run.reason, 400))}" for run in d.unfinished]
    lines += [f"- {code(r.place)} **refused**: {plain(cut(r.reason, 400))}" for r in d.gathered.refused]
    return ["## Failed, partial and refused", "\n".join(lines) or "None."]
