"""The page of a reproduction, as HTML and as Markdown: what became of each published ordering, and the numbers of every
run behind it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from metrics.multiplicity import by_chance, standing
from metrics.statistics import Estimate
from reports.facts import command_of, commit_of, surroundings
from reports.glossary import counted, meaning
from reports.html import rendered
from reports.markdown import code, plain, rows_as_table
from reports.reproductions import Ordering, Reproduction, Verdict

ORDER: tuple[Verdict, ...] = ("holds", "contradicted", "not told apart", "not measured")
Lines = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Page:
    """What both forms show. stands, notes, surroundings: sentences, and pairs of name and value. Of each table the
    first line is its heading; of `orderings` the last cell of a line is its verdict."""

    title: str
    lead: str
    answer: str
    unfinished: str
    stands: tuple[str, ...]
    means: Lines
    orderings: Lines
    runs: Lines
    notes: tuple[str, ...]
    command: str
    commit: str
    surroundings: tuple[tuple[str, str], ...]


def page(found: Reproduction) -> Page:
    """What there is to show of a reproduction."""
    commit, dirty = commit_of(found.provenance)
    share = f", with {found.share:g} of its budget" if found.share != 1 else ""
    tried = f"Tried at the preset {found.config.get('preset', '')}{share}, {counted(len(found.seeds), 'seed')} a row"
    return Page(
        title=f"{found.table}: do its orderings hold here?",
        lead=f"{tried}. Published: {found.source}. {found.note}",
        answer=_answer(found),
        unfinished=f"{found.status}: {found.reason}" if found.status != "done" else "",
        stands=tuple(_stands(found)),
        means=tuple(means_of(found)),
        orderings=tuple(orderings_of(found)),
        runs=tuple(_runs(found)),
        notes=found.notes,
        command=command_of(found.provenance),
        commit=f"{commit}{' with uncommitted changes' if dirty else ''}",
        surroundings=tuple(surroundings([found.provenance])),
    )


def html(shown: Page) -> str:
    """The page as one HTML file that needs nothing else."""
    return rendered("reproduction.html", d=shown)


def markdown(shown: Page) -> str:
    """The page as Markdown."""
    parts = [f"# {plain(shown.title)}", plain(shown.lead)]
    if shown.unfinished:
        parts.append(f"> **Not whole:** {plain(shown.unfinished)}.")
    parts += [plain(shown.answer), "## Published orderings", _table(shown.orderings)]
    parts += ["## Rows", "\n".join(f"- {plain(each)}" for each in shown.stands), _table(shown.means)]
    parts += ["## Runs", _table(shown.runs), "\n".join(f"- {plain(note)}" for note in shown.notes)]
    parts += ["## Run it again", f"{code(shown.command)}, commit {code(shown.commit)}"]
    parts.append("\n".join(f"- {plain(name)}: {plain(value)}" for name, value in shown.surroundings))
    return "\n\n".join(part for part in parts if part) + "\n"


def means_of(found: Reproduction) -> list[tuple[str, ...]]:
    """A heading, then a row of the published table each: the mean over seeds and, in brackets, the published number."""
    measured = [known for known in found.stands if known.metric]
    table = [("", *(f"{known.metric} ({known.measure})" for known in measured))]
    for row in found.rows:
        cells = (f"{cell(row.means.get(k.measure))} ({row.published[k.measure]:g})" for k in measured)
        table.append((row.name, *cells))
    return table


def orderings_of(found: Reproduction) -> list[tuple[str, ...]]:
    """A heading, then an ordering each."""
    table: list[tuple[str, ...]] = [("measure", "better", "worse", "published", "here, better - worse", "verdict")]
    for each in found.orderings:
        first, second = each.published
        cells = (f"{first:g} : {second:g}", cell(each.difference), each.verdict)
        table.append((_by(each), each.better, each.worse, *cells))
    return table


def cell(estimate: Estimate | None) -> str:
    """A number and its interval, where it has one that is not the number itself; a dash where there is none."""
    if estimate is None or estimate.value is None:
        return "-"
    if estimate.low is None or estimate.high is None or estimate.low == estimate.high:
        return f"{estimate.value:.4g}"
    return f"{estimate.value:.4g} [{estimate.low:.4g}, {estimate.high:.4g}]"


def _answer(found: Reproduction) -> str:
    """How many orderings have which verdict, and which are told."""
    counts = Counter(each.verdict for each in found.orderings)
    words = {verdict: verdict for verdict in ORDER} | {"holds": "hold" if counts["holds"] > 1 else "holds"}
    numbers = ", ".join(f"{counts[verdict]} {words[verdict]}" for verdict in ORDER if counts[verdict])
    said = [f"Of {counted(len(found.orderings), 'published ordering')}: {numbers}."]
    for verdict in ORDER[:2]:
        told = [f"{e.better} before {e.worse} by {_by(e)}" for e in found.orderings if e.verdict == verdict]
        if told:
            said.append(f"{verdict.capitalize()}: {'; '.join(told)}.")
    return " ".join(filter(None, [*said, _left(found)]))


def _left(found: Reproduction) -> str:
    """Which of those that were told apart are still, with a correction for how many were looked at; "" where none
    was."""
    judged = [each for each in found.orderings if each.verdict != "not measured"]
    apart = [each.verdict != "not told apart" for each in judged]
    if not any(apart):
        return ""
    left = standing([by_chance(each.difference) for each in judged], apart)
    told = [
        f"{' before '.join((e.better, e.worse) if e.verdict == 'holds' else (e.worse, e.better))} by {_by(e)}"
        for e, stands in zip(judged, left, strict=True)
        if stands
    ]
    are = f"{counted(len(told), 'pair')} {'is' if len(told) == 1 else 'are'}" if told else "nothing is"
    named = f": {'; '.join(told)}" if told else ""
    all_of = f"Each was judged at the 5% level on its own; with Holm's correction for all {len(judged)}"
    return f"{all_of}, {are} told apart{named}."


def _by(ordering: Ordering) -> str:
    """What an ordering was judged by, and the published measure that it stands for."""
    same = ordering.metric in ("", ordering.measure)
    return ordering.measure if same else f"{ordering.metric} (for {ordering.measure})"


def _stands(found: Reproduction) -> Iterator[str]:
    for known in found.stands:
        what = f"{known.metric} stands for {known.measure}" if known.metric else f"nothing stands for {known.measure}"
        yield f"{what}: {known.reason}" if known.reason else what


def _runs(found: Reproduction) -> Iterator[tuple[str, ...]]:
    """A heading, then a run each with every metric that any of them has."""
    names = sorted({name for row in found.rows for run in row.runs for name in run.metrics})
    yield ("row", "seed", "state", "steps", "minutes", *(meaning(name).title for name in names))
    for row in found.rows:
        for run in row.runs:
            minutes = "-" if run.seconds is None else f"{run.seconds / 60:.1f}"
            state = run.state + (f": {run.reason}" if run.reason else "")
            steps = "-" if run.steps is None else str(run.steps)
            yield (row.name, str(run.seed), state, steps, minutes, *(cell(run.metrics.get(name)) for name in names))


def _table(lines: Sequence[Sequence[str]]) -> str:
    head, *rows = lines
    return rows_as_table([plain(each) for each in head], [[plain(each) for each in row] for row in rows])
