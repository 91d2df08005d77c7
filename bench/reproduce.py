"""`python -m bench reproduce TABLE`: the rows of a published table as runs of ours, at equal data and steps, with the
same seeds; and of each published ordering whether it holds, is contradicted, or can't be told. Imports no torch.

Values are never compared, for data, sizes and compute are others'. A run is an ordinary one (see bench.runner): in a
process of its own, done once, resumed where it was cut off; the same command goes on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bench import array, published, runner
from bench.config import Config
from bench.console import Console
from bench.environment import provenance
from bench.files import hash_bytes, write_text
from bench.obstacles import check_here
from bench.plain import plain
from bench.presets import shortened
from bench.published import Table
from bench.report import after_run
from bench.reproduce_arguments import ReproduceArguments
from bench.run_arguments import Point, settings_of
from metrics.differences import difference
from metrics.replication import difference_over_seeds, mean_over_seeds, only_items
from metrics.statistics import COUNTED, Estimate
from reports import schema
from reports.contenders import bounded, budget_estimates
from reports.reproductions import Done, Ordering, Reproduction, Row, Stand, Verdict
from reports.schema import TIMED_UNITS

RUNS = "runs"


def main(arguments: ReproduceArguments, config: Config, console: Console) -> int:
    """Do every run that is not done yet, and record what they say; 0 where all are done."""

    def told(point: Point) -> str:
        return f"{point.value}, seed {point.config.seed}"

    check_here(config)
    work = Work(arguments, config, console)
    path, *pages = write(work.record(), arguments.out)
    for ended in array.in_turn(work.points, work.request, arguments.out / RUNS, arguments.parallel, told, "run"):
        work.ended = ended
        write(work.record(), arguments.out)
    found = work.record()
    if arguments.json:
        console.emit({"file": str(path), "pages": [str(page) for page in pages], **plain(found)})
    else:
        tell(found, console)
        for each in (path, *pages):
            console.info(f"wrote {each}")
    after_run([end.folder for end in work.ended if not end.refused], arguments.out, console)
    return runner.exit_code(work.ended)


def write(found: Reproduction, folder: Path) -> tuple[Path, ...]:
    """The record, and its page as HTML and as Markdown, into a folder."""
    from reports.verdicts import html, markdown, page

    shown = page(found)
    pages = {folder / f"{found.name}.html": html(shown), folder / f"{found.name}.md": markdown(shown)}
    path = folder / f"{found.name}.json"
    if not array.keeps(path, found):
        schema.save(found, folder, path.name)
        for to, text in pages.items():
            write_text(to, text)
    return (path, *pages)


class Work:
    """One reproduction at work. points: its runs, seed by seed, so that after each seed all rows can be compared,
    each with its row's name as value. ended: those that were done."""

    def __init__(self, arguments: ReproduceArguments, config: Config, console: Console) -> None:
        self.arguments = arguments
        self.table = published.table(arguments.table)
        whole = published.config_for(self.table, config)
        self.config = config = replace(whole, train=shortened(whole.train, arguments.share))
        self.seeds = tuple(range(config.seed, config.seed + arguments.seeds))
        self.ended: list[runner.Ended] = []
        defaults = {row.approach: settings_of(row.approach, config) for row in self.table.rows}
        self.settings = published.settings_of_rows(self.table, defaults)
        self.points = [
            Point(
                approach=row.approach,
                settings=self.settings[row.name],
                config=replace(config, seed=seed),
                value=row.name,
            )
            for seed in self.seeds
            for row in self.table.rows
        ]
        self.request = array.Requests(console)
        self.provenance = {**provenance({"seed": config.seed}), "command": list(self.request.command)}
        self.key = hash_bytes(*(self.request(point).key for point in self.points))

    def record(self) -> Reproduction:
        """The reproduction as it stands."""
        status, reason = array.so_far(len(self.points), self.ended, "run")
        rows = tuple(self._row(row) for row in self.table.rows)
        stands = tuple(stand(name, measure, rows) for name, measure in self.table.measures.items())
        rows = tuple(replace(row, means=_means(row, stands)) for row in rows)
        judged = tuple(orderings(self.table, rows, stands))
        return Reproduction(
            name=f"{self.table.name}-{self.config.preset}-{self.key[:8]}",
            key=self.key,
            table=self.table.name,
            source=self.table.source,
            note=self.table.note,
            status=status,
            reason=reason,
            share=self.arguments.share,
            seeds=self.seeds,
            config=plain(self.config),
            stands=stands,
            rows=rows,
            orderings=judged,
            notes=(*_notes(rows), *_alike(judged)),
            provenance=self.provenance,
        )

    def _row(self, row: published.Row) -> Row:
        done = [end for point, end in zip(self.points, self.ended, strict=False) if point.value == row.name]
        return Row(
            name=row.name,
            approach=row.approach,
            settings=plain(self.settings[row.name]),
            published=row.published,
            runs=tuple(self._done(end) for end in done),
        )

    def _done(self, end: runner.Ended) -> Done:
        record = end.record
        wanted = {name for measure in self.table.measures.values() for name in measure.stands_in}
        numbers = {**budget_estimates(record), **record.metrics} if record else {}
        metrics = {name: only_items(each) for name, each in numbers.items() if name in wanted}
        state = end.state.state
        return Done(
            seed=end.request.config.seed,
            folder=f"{RUNS}/{end.folder.name}",
            state="unfinished" if state == "running" else state,
            reason=end.state.reason,
            batches=record.identical.batches if record else "",
            steps=record.budgets.steps if record else None,
            images=record.budgets.images if record else None,
            seconds=math.fsum(record.seconds.values()) if record else None,
            metrics=metrics,
        )


# --------------------------------------------------------------------------------------------------------- judging


def stand(name: str, measure: published.Measure, rows: Sequence[Row]) -> Stand:
    """The first of a measure's stand-ins that every run done so far holds."""
    runs = [run for row in rows for run in row.runs if run.state == "done"]
    if not measure.stands_in:
        return Stand(measure=name, metric="", reason=measure.why_not)
    passed: list[str] = []
    for metric in measure.stands_in:
        missing = [run for run in runs if (found := run.metrics.get(metric)) is None or found.value is None]
        if runs and not missing and not runs[0].metrics[metric].better:
            passed.append(f"{metric} has no better and worse")
            continue
        if runs and not missing:
            return Stand(measure=name, metric=metric, reason="; ".join(passed))
        passed.append(f"{metric} is missing in {len(missing)} of {len(runs)} runs")
    return Stand(measure=name, metric="", reason="; ".join(passed))


def orderings(table: Table, rows: Sequence[Row], stands: Sequence[Stand]) -> Iterator[Ordering]:
    """Every published ordering with what the runs say of it."""
    by_name, metric_of = {row.name: row for row in rows}, {each.measure: each for each in stands}
    for measure, better, worse in table.orderings():
        known, numbers = metric_of[measure], (better.published[measure], worse.published[measure])
        difference = paired(by_name[better.name], by_name[worse.name], known)
        yield Ordering(
            measure=measure,
            metric=known.metric,
            better=better.name,
            worse=worse.name,
            published=numbers,
            difference=difference,
            verdict=verdict(difference),
        )


def paired(better: Row, worse: Row, known: Stand) -> Estimate:
    """The mean over seeds of the better row's metric minus the worse one's, with an interval for other seeds and other
    items. Runs of one seed saw the same batches and noise, so it is their differences whose spread counts."""
    if not known.metric:
        return Estimate.missing(known.reason)
    first, second = _by_seed(better, known.metric), _by_seed(worse, known.metric)
    both = sorted(first.keys() & second.keys())
    if not both:
        return Estimate.missing("no seed has both runs yet")
    exact = first[both[0]], second[both[0]]
    if len(both) == 1 and all(each.reason == COUNTED for each in exact):  # no sampling is in them
        told = difference(*exact).estimate
        return replace(told, low=told.value, high=told.value, details={**told.details, "seeds": both})
    timed = first[both[0]].unit in TIMED_UNITS
    told = difference_over_seeds([(first[seed], second[seed]) for seed in both], timed=timed).estimate
    return replace(told, details={**told.details, "seeds": both})


def verdict(difference: Estimate) -> Verdict:
    """What a difference, better row minus worse row, says of the published ordering."""
    if difference.value is None:
        return "not measured"
    if difference.low is None or difference.high is None or difference.low <= 0 <= difference.high:
        return "not told apart"
    return "holds" if (difference.low > 0) == (difference.better == "higher") else "contradicted"


def _by_seed(row: Row, metric: str) -> dict[int, Estimate]:
    found = {run.seed: run.metrics[metric] for run in row.runs if run.state == "done" and metric in run.metrics}
    return {seed: estimate for seed, estimate in found.items() if estimate.value is not None}


def _means(row: Row, stands: Sequence[Stand]) -> dict[str, Estimate]:
    found = {}
    for known in stands:
        if known.metric and (values := _by_seed(row, known.metric)):
            known_values = list(values.values())
            mean = mean_over_seeds(known_values, timed=known_values[0].unit in TIMED_UNITS)
            found[known.measure] = bounded(known.metric, mean)
    return found


def _notes(rows: Sequence[Row]) -> Iterator[str]:
    """What a reader should know of how far the rows are comparable."""
    done = [run for row in rows for run in row.runs if run.state == "done"]
    if len({(run.seed, run.batches) for run in done}) > len({run.seed for run in done}):
        yield "rows of one seed saw different batches"
    if len({(run.steps, run.images) for run in done}) > 1:
        yield "rows differ in steps or images seen"
    if len({run.seed for run in done}) < 3:
        yield "fewer than three seeds: hardly any ordering can be told"
    if bad := [row.name for row in rows if any(run.state != "done" for run in row.runs)]:
        yield f"not all runs are done: {', '.join(bad)}"


def _alike(judged: Sequence[Ordering]) -> Iterator[str]:
    """Orderings that are one piece of evidence: the same difference in every seed, as of rows that keep all text."""
    groups: dict[tuple[str, tuple[float, ...]], list[Ordering]] = {}
    for ordering in judged:
        if ordering.verdict != "not measured":
            seeds = tuple(ordering.difference.details.get("per_seed", ()))
            groups.setdefault((ordering.metric, seeds), []).append(ordering)
    for (metric, _), same in groups.items():
        if len(same) > 1:
            pairs = ", ".join(f"{one.better} before {one.worse}" for one in same)
            yield f"{len(same)} orderings rest on one and the same difference in {metric}, and count as one: {pairs}"


# --------------------------------------------------------------------------------------------------------- telling


def tell(found: Reproduction, console: Console) -> None:
    """What stands for what, the rows, and a verdict for every ordering."""
    from reports.verdicts import means_of, orderings_of

    console.info()
    console.info(f"{found.table}: {found.source}. {found.note}")
    for known in found.stands:
        words = f"{known.metric} stands for {known.measure}" if known.metric else f"nothing stands for {known.measure}"
        console.info(f"{words}{f': {known.reason}' if known.reason else ''}")
    console.info()
    console.table(
        f"means over seeds {', '.join(map(str, found.seeds))}, with 95% intervals; published", means_of(found)
    )
    console.info()
    console.table("published orderings", orderings_of(found))
    for note in found.notes:
        console.info(f"note: {note}")
