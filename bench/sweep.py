"""`python -m bench sweep`: the same values of one field, the same seeds and the same short budget for every approach;
which value was best, what that cost, and whether a better one may lie outside. Imports no torch.

A trial is an ordinary run with a small budget (see bench.runner): in a process of its own, done once, resumed where it
was cut off. The same command goes on with a sweep; one with more values does only those that are new."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import array, runner
from bench.config import Config
from bench.console import Console, clock
from bench.environment import provenance
from bench.errors import UserError
from bench.exits import DONE, MISTAKE
from bench.files import hash_bytes
from bench.obstacles import check_here
from bench.plain import plain
from bench.run_arguments import Point, chosen
from bench.sweep_arguments import (
    SweepArguments,
    bounds_of,
    check_each,
    ordered,
    placed,
    points,
    share_of,
    shortened,
    values_of,
)
from metrics.statistics import Estimate
from reports import schema
from reports.sweeps import Edge, Effort, Score, Sweep, Trial, Tuned

TRIALS = "trials"
KEPT = (
    "validation_loss", "caption_gap", "heard_colours", "heard_sizes", "heard_shapes", "caption_loss",
    "caption_loss_gap", "clip_score_gap", "perplexity_retention",
)  # fmt: skip
"""Metrics of a trial that the sweep's record repeats; the trial's own record has all."""
HIGHER = ("caption_gap", "heard_colours", "clip_score_gap")
"""Of the numbers that may decide, those of which more is better."""


def main(arguments: SweepArguments, config: Config, console: Console) -> int:
    """Do every trial that is not done yet, and record what came of them; 0 where every approach has its best value and
    all trials are done."""

    def told(point: Point) -> str:
        return f"{point.approach}, {arguments.field} {_plain(point.value)}, seed {point.config.seed}"

    check_here(config)
    work = Work(arguments, config, console)
    sweep = work.record()
    path = arguments.out / f"{sweep.name}.json"
    _save(sweep, path)
    for ended in array.in_turn(work.points, work.request, arguments.out / TRIALS, arguments.parallel, told, "trial"):
        work.ended = ended
        sweep = work.record()
        _save(sweep, path)
    if arguments.json:
        console.emit({"file": str(path), **plain(sweep)})
    else:
        tell(sweep, path, config.preset, console)
    code = runner.exit_code(work.ended)
    return MISTAKE if code == DONE and any(tuned.chosen is None for tuned in sweep.approaches) else code


def _save(sweep: Sweep, path: Path) -> None:
    if not array.keeps(path, sweep):
        schema.save(sweep, path.parent, path.name)


class Work:
    """One sweep at work. points: its trials, in the order in which they are done. ended: those that were."""

    def __init__(self, arguments: SweepArguments, config: Config, console: Console) -> None:
        self.arguments, self.config = arguments, config
        self.base = shortened(arguments, config)
        self.points = points(arguments, config)
        self.ended: list[runner.Ended] = []
        self.request = array.Requests(console)
        self.provenance = {**provenance({"seed": config.seed}), "command": list(self.request.command)}
        self.key = hash_bytes(arguments.rank_by, *(self.request(point).key for point in self.points))

    def record(self) -> Sweep:
        """The sweep as it stands."""
        arguments = self.arguments
        done = list(zip(self.points, self.ended, strict=False))
        names = tuple(dict.fromkeys(point.approach for point in self.points))
        tuned = tuple(self._tuned(name, [each for each in done if each[0].approach == name]) for name in names)
        status, reason = array.so_far(len(self.points), self.ended, "trial")
        first = self.points[0]
        return Sweep(
            name=f"{arguments.field.rpartition('.')[2]}-{self.config.preset}-{self.key[:8]}",
            key=self.key,
            status=status,
            reason=reason,
            field=arguments.field,
            values=values_of(arguments.field, arguments.values, first.approach, first.settings),
            seeds=tuple(dict.fromkeys(point.config.seed for point in self.points)),
            ranked_by=arguments.rank_by,
            share=share_of(arguments, self.config),
            config=plain(self.base),
            approaches=tuned,
            widened=() if status == "unfinished" else self._widened(tuned),
            provenance=self.provenance,
            notes=tuple(_notes(tuned, self.base)),
        )

    def _tuned(self, approach: str, done: Sequence[tuple[Point, runner.Ended]]) -> Tuned:
        arguments = self.arguments
        settings = arguments.settings_for(approach, self.config)
        values = values_of(arguments.field, arguments.values, approach, settings)
        trials = tuple(_trial(point, end) for point, end in done)
        scores = tuple(score(value, [trial for trial in trials if trial.value == value], arguments) for value in values)
        ranked = [each for each in scores if each.mean is not None]
        sign = -1 if arguments.rank_by in HIGHER else 1
        best = min(ranked, key=lambda each: sign * (each.mean or 0.0)) if ranked else None
        value = best.value if best else None
        return Tuned(
            approach=approach,
            settings=plain(settings),
            trials=trials,
            scores=scores,
            chosen=value,
            reason="" if best else "; ".join(dict.fromkeys(each.reason for each in scores)),
            edge=self._edge(approach, value, values, settings) if best else "",
            effort=_effort(trials),
        )

    def _edge(self, approach: str, value: Any, values: Sequence[Any], settings: Any) -> Edge:
        """A number at the bound of its field has nothing beyond it."""
        bounds = bounds_of(self.arguments.field, *placed(self.arguments.field, value, self.base, settings, approach))
        if not ordered(values) or (bounds is not None and value in (bounds.low, bounds.high)):
            return ""
        return "smallest" if value == values[0] else "largest" if value == values[-1] else ""

    def _widened(self, tuned: Sequence[Tuned]) -> tuple[Any, ...]:
        """The grid with a value more at each edge that an approach chose, as far from its neighbour in ratio as that
        one is from the next; none that one of the approaches could not be tried with."""
        edges = {each.edge for each in tuned} - {""}
        first = self.points[0]
        values = values_of(self.arguments.field, self.arguments.values, first.approach, first.settings)
        if not edges or min(values) <= 0:
            return ()
        added = {"smallest": values[0] ** 2 / values[1], "largest": values[-1] ** 2 / values[-2]}
        new = [float(f"{added[edge]:.6g}") for edge in edges]
        if isinstance(values[0], int):
            new = [max(1, round(value)) for value in new]
        fresh = {value for value in new if value not in values and self._can_be_tried(value)}
        return tuple(sorted({*values, *fresh})) if fresh else ()

    def _can_be_tried(self, value: Any) -> bool:
        """Whether a value is one for every approach of the sweep."""
        arguments = self.arguments
        try:
            for approach in chosen(arguments.approach):
                settings = arguments.settings_for(approach, self.config)
                config, _ = placed(arguments.field, value, self.base, settings, approach)
                check_each(arguments, self.config, [config])
        except UserError:
            return False
        return True


def score(value: Any, trials: Sequence[Trial], arguments: SweepArguments) -> Score:
    """One value's mean over its seeds, where every one of them has it."""
    found: list[float] = []
    for trial in trials:
        estimate = trial.metrics.get(arguments.rank_by)
        if trial.state != "done":
            return Score(value=value, mean=None, reason=f"{trial.state}: {trial.reason}")
        if estimate is None or estimate.value is None:
            why = estimate.reason if estimate else "it was not measured"
            return Score(value=value, mean=None, reason=f"no {arguments.rank_by}: {why}")
        found.append(estimate.value)
    if len(found) < arguments.seeds:
        return Score(value=value, mean=None, reason="still to do")
    return Score(value=value, mean=math.fsum(found) / len(found))


def _trial(point: Point, end: runner.Ended) -> Trial:
    record, spent = end.record, end.record.budgets if end.record else None
    metrics = record.metrics if record else {}
    state = end.state.state
    return Trial(
        value=point.value,
        seed=point.config.seed,
        folder=f"{TRIALS}/{end.folder.name}",
        state="unfinished" if state == "running" else state,
        reason=end.state.reason,
        sources=end.request.parts["sources"],
        batches=record.identical.batches if record else "",
        metrics={name: replace(metrics[name], details={}) for name in KEPT if name in metrics},
        steps=spent.steps if spent else None,
        images=spent.images if spent else None,
        flops=spent.flops if spent else None,
        train_seconds=record.seconds.get("train") if record else None,
        seconds=sum(record.seconds.values()) if record else None,
    )


def _effort(trials: Sequence[Trial]) -> Effort:
    done = [trial for trial in trials if trial.state == "done"]
    return Effort(
        trials=len(done),
        steps=sum(trial.steps or 0 for trial in done),
        images=sum(trial.images or 0 for trial in done),
        flops=math.fsum(trial.flops or 0 for trial in done),
        train_seconds=math.fsum(trial.train_seconds or 0 for trial in done),
        seconds=math.fsum(trial.seconds or 0 for trial in done),
    )


def _notes(tuned: Sequence[Tuned], base: Config) -> Iterator[str]:
    """What a reader should know of how far the trials are comparable."""
    trials = [trial for each in tuned for trial in each.trials]
    if len({trial.sources for trial in trials}) > 1:
        yield "the sources changed between trials: see each trial's"
    done = [trial for trial in trials if trial.state == "done"]
    if len({(trial.seed, trial.batches) for trial in done}) > len({trial.seed for trial in done}):
        yield "trials of one seed saw different batches: see each trial's"
    if len({trial.seed for trial in trials}) == 1:
        yield "one seed: how much chance there is in the order of values is not known"
    if len({trial.images for trial in done}) > 1:
        yield f"the budget is equal in {base.train.budget}: approaches and values saw different numbers of images"
    if unequal := [each for each in tuned if any(trial.state != "done" for trial in each.trials)]:
        yield f"not all trials are done, so the effort is not the same: {', '.join(each.approach for each in unequal)}"


# --------------------------------------------------------------------------------------------------------- telling


def tell(sweep: Sweep, path: Path, preset: str, console: Console) -> None:
    """A table an approach, the effort, what to do with it, and where the record is."""
    for tuned in sweep.approaches:
        console.info()
        console.table(f"{tuned.approach}, by {sweep.field}, ranked by {sweep.ranked_by}", rows(tuned, sweep))
    console.info()
    console.table("effort, over the trials that are done", effort_rows(sweep))
    console.info()
    for tuned in sweep.approaches:
        if tuned.chosen is None:
            console.info(f"{tuned.approach}: no best value: {tuned.reason}")
            continue
        where = f" (the {tuned.edge} of the grid: a better one may lie beyond)" if tuned.edge else ""
        flag = f"--preset {preset} --approach {tuned.approach} --{sweep.field} {_plain(tuned.chosen)}"
        console.info(f"{tuned.approach}: {_plain(tuned.chosen)}{where}: python -m bench run {flag}")
    console.info("the settings and fields of the config that this sweep was asked for with go with these commands")
    if sweep.widened:
        values = " ".join(map(_plain, sweep.widened))
        console.info(f"widen the grid by the same command with --values {values}: only what is new is done")
    for note in sweep.notes:
        console.info(f"note: {note}")
    console.info(str(path))


def rows(tuned: Tuned, sweep: Sweep) -> list[tuple[str, ...]]:
    """A heading, then a value a row: the means over seeds, an interval where there is one trial, what became of it."""
    present = [name for name in KEPT if any(name in trial.metrics for trial in tuned.trials)]
    table = [("", sweep.field.rpartition(".")[2], *present, "seconds", "")]
    for each in tuned.scores:
        trials = [trial for trial in tuned.trials if trial.value == each.value]
        best = each.mean is not None and each.value == tuned.chosen
        cells = [_cell([trial.metrics[name] for trial in trials if name in trial.metrics]) for name in present]
        seconds = math.fsum(trial.seconds or 0 for trial in trials)
        remark = each.reason or ("best" if best else "")
        table.append(("*" if best else "", _plain(each.value), *cells, clock(seconds), remark))
    return table


def effort_rows(sweep: Sweep) -> list[tuple[str, ...]]:
    """A heading, then an approach a row."""
    table: list[tuple[str, ...]] = [("", "trials", "steps", "images", "FLOPs", "training", "in all")]
    for tuned in sweep.approaches:
        spent = tuned.effort
        counts = (str(spent.trials), f"{spent.steps:,}", f"{spent.images:,}", f"{spent.flops:.3g}")
        table.append((tuned.approach, *counts, clock(spent.train_seconds), clock(spent.seconds)))
    return table


def _cell(estimates: Sequence[Estimate]) -> str:
    known = [estimate for estimate in estimates if estimate.value is not None]
    if not known or len(known) < len(estimates):
        return "-"
    if len(known) == 1 and known[0].low is not None and known[0].high is not None:
        return f"{known[0].value:.4f} [{known[0].low:.4f}, {known[0].high:.4f}]"
    mean = math.fsum(estimate.value or 0.0 for estimate in known) / len(known)
    return f"{mean:.4f}"


def _plain(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
