"""The figure of `python -m bench curve RUN --of batch`: pictures a second, and how long one waits for a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bench.printable import clean
from metrics.statistics import Estimate
from reports.contenders import Contender
from reports.curves import Series, lines, of_seeds, points_of, rows_of
from reports.figures import Plot
from reports.gather import Run
from reports.glossary import listed, written

CURVE, RATE, WAIT = "batch", "pictures_per_second", "seconds_per_batch"
UNNAMED = "a machine without a name"
HEAD: tuple[str, ...] = (
    "", "pictures a batch", "pictures a second", "seconds a batch: median", "90% within", "slowest",
    "peak memory", "J a picture",
)  # fmt: skip


def was_measured(contenders: Sequence[Contender]) -> bool:
    """Whether a run has such rows. Few ask for them, so a page does not say that they are missing."""
    return any(run.record.curves.get(CURVE) for contender in contenders for run in contender.runs)


def by_batch(contenders: Sequence[Contender]) -> Plot:
    """Pictures a second against pictures a batch, a line a contender and machine."""
    question = "What does drawing many at a time give?"
    groups = [(place, c, machine, runs) for place, c in enumerate(contenders) for machine, runs in _by_machine(c)]
    machines = list(dict.fromkeys(machine for _, _, machine, _ in groups))
    series: list[Series] = []
    told, apart = [HEAD], list[str]()
    for place, contender, machine, runs in groups:
        found, seeds = rows_of(replace(contender, runs=runs), CURVE, CURVE)
        rows = [row for row in found if CURVE in row]
        label = contender.label if len(machines) == 1 else f"{contender.label}, on {machine}"
        if not rows:
            apart.append(label)
            continue
        again = any(one.place == place for one in series)  # on another machine
        told += [_cells(label, row) for row in rows]
        series.append(
            Series(
                place=len(contenders) + len(series) if again else place,
                label=label,
                points=points_of(rows, CURVE, RATE),
                seeds=seeds,
                trainings=len(contender.runs),
            )
        )
    if not series:
        return Plot(name=CURVE, question=question, reason="no size of batch was timed with all seeds of a contender")
    figure = lines(CURVE, question, "pictures a batch", RATE, series, log=True)
    on = f"Taken on {machines[0]}."
    if len(machines) > 1:
        on = f"Taken on {listed(machines)}: compare lines of one machine alone."
    bands = "From words to pixels; bands are 95% intervals of the median in one process."
    lacking = [f"Not shown, because its seeds have no size of batch in common: {label}." for label in apart]
    return replace(figure, note=" ".join([on, bands, *of_seeds(series), *lacking]), table=tuple(told))


def _by_machine(contender: Contender) -> list[tuple[str, tuple[Run, ...]]]:
    """A contender's runs that have rows, by what these were taken on."""
    found: dict[str, list[Run]] = {}
    for run in contender.runs:
        if run.record.curves.get(CURVE):
            told = run.record.provenance.get("curves", {}).get(CURVE, {})
            found.setdefault(clean(told.get("machine", UNNAMED)), []).append(run)
    return [(machine, tuple(runs)) for machine, runs in found.items()]


def _cells(label: str, row: Mapping[str, float]) -> tuple[str, ...]:
    """A row of the table."""
    p99, slowest = row.get(f"{WAIT}_p99"), row.get(f"{WAIT}_slowest")
    worst = f"{_number(p99)} (99% within)" if p99 is not None else _number(slowest)
    if slowest is not None and "repeats" in row:
        worst += f" (of {row['repeats']:g})"
    return (
        label,
        f"{row[CURVE]:g}",
        _with_bounds(row, RATE),
        _with_bounds(row, WAIT),
        _number(row.get(f"{WAIT}_p90")),
        worst,
        "–" if (memory := row.get("peak_memory_bytes")) is None else _bytes(memory),
        _number(row.get("joules_per_picture")),
    )


def _with_bounds(row: Mapping[str, float], name: str) -> str:
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    interval = "" if low is None or high is None else f" [{low:.4g}, {high:.4g}]"
    return _number(row.get(name)) + interval


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _bytes(value: float) -> str:
    return written(Estimate.counted(value, unit="bytes"), unit=True)
