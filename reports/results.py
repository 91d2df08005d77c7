"""The results for machines: one row a run and metric as CSV, and everything that the page says as JSON."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterator, Sequence
from typing import Any

from bench.plain import flat
from bench.printable import clean
from metrics.multiplicity import by_chance
from metrics.statistics import Estimate
from reports.contenders import NO_ITEMS, Contender, Judge
from reports.document import Document
from reports.looks import has_a_part
from reports.tables import marks_of, names_of

VERSION = 2
COLUMNS = (
    "contender", "approach", "seed", "run", "metric", "value", "low", "high", "n", "unit", "better", "reason",
)  # fmt: skip


def rows(contenders: Sequence[Contender]) -> Iterator[dict[str, Any]]:
    """A row for every number of every run; with several seeds also for their mean, whose seed and run are empty."""
    names = names_of(contenders)
    for contender in contenders:
        for run, metrics in zip(contender.runs, contender.by_seed, strict=True):
            for name in names:
                if name in metrics:
                    yield _row(contender, run.record.seed, run.record.name, name, metrics[name])
        if len(contender.runs) > 1:
            for name in names:
                if name in contender.metrics:
                    yield _row(contender, None, "", name, contender.metrics[name])


def _row(contender: Contender, seed: int | None, run: str, name: str, estimate: Estimate) -> dict[str, Any]:
    told = {item: getattr(estimate, item) for item in ("value", "low", "high", "n", "unit", "better", "reason")}
    return {
        "contender": contender.label, "approach": contender.approach, "seed": seed, "run": run, "metric": name, **told,
    }  # fmt: skip


def as_csv(contenders: Sequence[Contender]) -> str:
    """results.csv: empty fields where there is no number."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows(contenders):
        writer.writerow({name: "" if value is None else clean(value) for name, value in row.items()})
    return buffer.getvalue()


def as_json(document: Document) -> dict[str, Any]:
    """results.json: the records' numbers without their items, and what the report says of them."""
    names = names_of(document.contenders)
    return {
        "schema": VERSION,
        "contenders": [_contender(contender) for contender in document.contenders],
        "results": list(rows(document.contenders)),
        "marks": {n: marks for n in names if (marks := marks_of(document.contenders, n, document.judge))},
        "differences": list(differences(document.contenders, names, document.judge)),
        "answers": [dataclasses.asdict(answer) for answer in document.answers],
        "honesty": list(document.honesty),
        "unfair": list(document.unfair),
        "claims": [dataclasses.asdict(claim) for claim in document.claims],
        "notes": [{"who": who, "note": note} for who, note in document.notes],
        "identical": [dataclasses.asdict(row) for row in document.identical],
        "unfinished": [dataclasses.asdict(run) for run in document.unfinished],
        "refused": [dataclasses.asdict(refused) for refused in document.gathered.refused],
    }


def _contender(contender: Contender) -> dict[str, Any]:
    record = contender.record
    return {
        "label": contender.label,
        "approach": contender.approach,
        "settings": record.settings,
        "runs": [
            {
                "name": run.record.name,
                "key": run.record.key,
                "seed": run.record.seed,
                "commit": run.record.provenance.get("commit"),
                "command": run.record.provenance.get("command"),
            }
            for run in contender.runs
        ],
        "provenance": {
            name: dict(flat({k: v for k, v in e.details.items() if k not in NO_ITEMS and not isinstance(v, list)}))
            for name, e in record.metrics.items()
        },
    }


def differences(contenders: Sequence[Contender], names: Sequence[str], judge: Judge) -> Iterator[dict[str, Any]]:
    """Every pair of contenders in these numbers: the first minus the second. chance: the p-value, for corrections.
    has_a_part: whether chance has one in both numbers; the page counts those of the main numbers."""
    for name in names:
        for place, first in enumerate(contenders):
            for second in contenders[place + 1 :]:
                if (found := judge.difference(first, second, name)) is None:
                    continue
                gap = found.estimate
                yield {
                    "metric": name,
                    "first": first.label,
                    "second": second.label,
                    "difference": gap.value,
                    "low": gap.low,
                    "high": gap.high,
                    "chance": by_chance(gap),
                    "has_a_part": has_a_part(first, second, name),
                    "first_is": judge.word(first, second, name),
                    "paired": found.paired,
                    "needed": found.needed,
                    "reason": gap.reason,
                }
