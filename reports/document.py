"""Everything that a report says, in the order of its page; html and markdown only set it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reports import claims, facts, honesty, plots, words
from reports.claims import Claim
from reports.contenders import Contender, Judge, contenders
from reports.facts import Budget, Rerun, Shared, Unfinished
from reports.figures import Plot
from reports.gather import Album, Gathered, gather
from reports.glossary import counted
from reports.pictures import Pictures, pictures
from reports.tables import Made, Table, group_tables, made, main_table
from reports.words import Answer


@dataclass(frozen=True, kw_only=True)
class Document:
    """A report's content."""

    title: str
    subtitle: str
    gathered: Gathered
    contenders: tuple[Contender, ...]
    judge: Judge
    answers: tuple[Answer, ...]
    honesty: tuple[str, ...]
    unfair: tuple[str, ...]
    main: Table
    groups: tuple[Table, ...]
    pictures: Pictures
    plots: tuple[Plot, ...]
    claims: tuple[Claim, ...]
    budget_names: tuple[str, ...]
    budgets: tuple[Budget, ...]
    identical: tuple[Shared, ...]
    reruns: tuple[Rerun, ...]
    surroundings: tuple[tuple[str, str], ...]
    unfinished: tuple[Unfinished, ...]
    notes: tuple[tuple[str, str], ...]
    made: tuple[Made, ...]


def document(places: Sequence[Path]) -> Document:
    """The report of the records in these places. It is one, and says so, even where nothing is done."""
    gathered = gather(places)
    found, judge = contenders(gathered.done, claims.order()), Judge()
    same = facts.identical(found)
    names, budgets = facts.budgets(found)
    return Document(
        title="What it costs to teach a language model to draw",
        subtitle=_subtitle(gathered, found),
        gathered=gathered,
        contenders=found,
        judge=judge,
        answers=tuple(words.answers(found, judge)),
        honesty=tuple(honesty.marks_of_honesty(found, gathered, judge)),
        unfair=tuple(facts.unfair(same)),
        main=main_table(found, judge),
        groups=tuple(group_tables(found, judge)),
        pictures=pictures(found, Album()),
        plots=tuple(plots.plots(found)),
        claims=tuple(claims.claims(found, judge)),
        budget_names=names,
        budgets=tuple(budgets),
        identical=tuple(same),
        reruns=tuple(facts.reruns(found)),
        surroundings=tuple(facts.surroundings([run.record.provenance for run in gathered.done])),
        unfinished=tuple(facts.unfinished(gathered.others)),
        notes=tuple(facts.notes(found)),
        made=tuple(made(found)),
    )


def _subtitle(gathered: Gathered, found: Sequence[Contender]) -> str:
    if not found:
        return f"No run is done, of {counted(len(gathered.runs), 'record')} read."
    approaches = len({contender.approach for contender in found})
    parts = [counted(approaches, "approach", "approaches")]
    if len(found) != approaches:
        parts.append(counted(len(found), "contender"))
    parts.append(f"{counted(len(gathered.done), 'run')} done")
    presets = sorted({str(contender.record.config.get("preset", "?")) for contender in found})
    data = sorted({str((contender.record.config.get("data") or {}).get("name", "?")) for contender in found})
    return f"{', '.join(parts)}; preset {', '.join(presets)}, data {', '.join(data)}."
