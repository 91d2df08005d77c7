"""The figures with a line a contender: quality against what was spent on a picture, and on training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

from reports.contenders import Contender
from reports.figures import Plot, legend, new
from reports.glossary import listed, meaning, scale_of
from reports.svg import SERIES, look, spelled
from reports.tables import is_distance

MOST_ROWS = 60  # of a figure's table


@dataclass(frozen=True, kw_only=True)
class Series:
    """One contender's points: x, y, and y's bounds where they are known. seeds: which trainings these are means over;
    trainings: how many there are."""

    place: int
    label: str
    points: tuple[tuple[float, float, float | None, float | None], ...]
    seeds: tuple[int, ...]
    trainings: int


def by_nfe(contenders: Sequence[Contender]) -> Plot:
    """Quality against network evaluations."""
    question = "How many evaluations does a good picture take?"
    return _sweep(contenders, "nfe", question, "evaluations per picture, redraws counted")


def by_guidance(contenders: Sequence[Contender]) -> Plot:
    """Quality against guidance."""
    return _sweep(contenders, "guidance", "How much guidance is best?", "guidance scale (1 is none)")


def by_images(contenders: Sequence[Contender]) -> Plot:
    """Quality against the pictures trained on."""
    return _sweep(contenders, "images", "How many training pictures does it take?", "training pictures")


def _sweep(contenders: Sequence[Contender], curve: str, question: str, label: str) -> Plot:
    """A quality against what was varied: a distance, where no run has one a loss, else the first number by name."""
    names = {n for c in contenders for run in c.runs for row in run.record.curves.get(curve, ()) for n in row}
    metric = next(
        (
            n
            for n in sorted(names, key=lambda n: (not is_distance(n), "loss" not in n, n))
            if n not in (curve, "step", "pictures", "nfe_spent") and _is_metric(n, names)
        ),
        None,
    )
    if metric is None:
        return Plot(name=curve, question=question, reason=f"no run was measured at several values of {label}")
    series = []
    for place, contender in enumerate(contenders):
        rows, seeds = rows_of(contender, curve, curve)
        spent = "nfe_spent" if curve == "nfe" and all("nfe_spent" in row for row in rows) else curve
        series.append(_series(place, contender, points_of(rows, spent, metric), seeds))
    plot = lines(curve, question, label, metric, series, log=curve != "guidance")
    counts = sorted({int(row["pictures"]) for c in contenders for row in _rows(c, curve) if "pictures" in row})
    if plot.text and len(counts) > 1:
        told = f"Points are of {listed([f'{count:,}' for count in counts])} pictures, and not all to be compared."
        plot = replace(plot, note=f"{plot.note} {told}".strip())
    return plot


def _rows(contender: Contender, curve: str) -> list[Mapping[str, float]]:
    return [row for run in contender.runs for row in run.record.curves.get(curve, ())]


def _in_all(rows: Sequence[Mapping[str, float]]) -> list[str]:
    names = set(rows[0]).intersection(*rows[1:])
    return [name for name in rows[0] if name in names and _is_metric(name, names)]


def _is_metric(name: str, names: set[str]) -> bool:
    """Whether a column is a number itself, and no bound of one."""
    return not any(name.endswith(end) and name.removesuffix(end) in names for end in ("_low", "_high"))


def _series(place: int, contender: Contender, points: Any, seeds: tuple[int, ...]) -> Series:
    return Series(place=place, label=contender.label, points=tuple(points), seeds=seeds, trainings=len(contender.runs))


def rows_of(contender: Contender, curve: str, x: str) -> tuple[Sequence[Mapping[str, float]], tuple[int, ...]]:
    """A curve's rows and the seeds that have it: of several the means, without bounds, at every x that all have."""
    having = {run.record.seed: rows for run in contender.runs if (rows := run.record.curves.get(curve, ()))}
    seeds, every = tuple(having), list(having.values())
    if len(every) < 2:
        return (every[0] if every else ()), seeds
    by_x = [{row[x]: row for row in rows if x in row} for rows in every]
    return [
        {name: mean(rows[at][name] for rows in by_x) for name in _in_all([rows[at] for rows in by_x])}
        for at in by_x[0]
        if all(at in rows for rows in by_x)
    ], seeds


def points_of(rows: Sequence[Mapping[str, float]], x: str, y: str, factor: float = 1.0) -> tuple[Any, ...]:
    """A series' points, from left to right: rows that have both columns."""
    having = sorted((row for row in rows if x in row and y in row), key=lambda row: row[x])
    return tuple((row[x] * factor, row[y], *_bounds(row, y)) for row in having)


def _bounds(row: Mapping[str, float], name: str) -> tuple[float | None, float | None]:
    """Both bounds of a column in a row; neither where one is missing."""
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return (None, None) if low is None or high is None else (low, high)


def of_seeds(series: Sequence[Series]) -> list[str]:
    """What the figure says of several trainings, a sentence each."""
    told = ["Means over seeds, without bands."] if any(len(one.seeds) > 1 for one in series) else []
    alone: dict[int, list[str]] = {}
    for one in series:
        if one.trainings > 1 and len(one.seeds) == 1:
            alone.setdefault(one.seeds[0], []).append(one.label)
    return [*told, *(f"Of seed {seed} alone: {listed(labels)}." for seed, labels in alone.items())]


def by_compute(contenders: Sequence[Contender]) -> Plot:
    """Quality against training FLOPs."""
    question = "What does training compute buy?"
    metric, series = "validation_loss", []
    scale = scale_of("FLOP", [c.record.budgets.flops for c in contenders if c.record.budgets.flops])
    for place, contender in enumerate(contenders):
        flops = contender.record.budgets.flops_per_step
        if flops:
            rows, seeds = rows_of(contender, "validation", "step")
            series.append(_series(place, contender, points_of(rows, "step", metric, flops / scale.factor), seeds))
    if not any(s.points for s in series):
        return Plot(name="compute", question=question, reason="no run was measured while it was trained")
    return lines("compute", question, f"training compute ({scale.unit})", metric, series, log=True)


def losses(contenders: Sequence[Contender]) -> Plot:
    """The training loss of the diffusion objective by step, smoothed, of who has one."""
    question = "Did training settle?"
    series = []
    for place, contender in enumerate(contenders):
        rows, seeds = rows_of(contender, "loss", "step")
        points = [(row["step"], row["diffusion"]) for row in rows if "step" in row and "diffusion" in row]
        series.append(_series(place, contender, ((x, y, None, None) for x, y in smoothed(points)), seeds))
    if not any(s.points for s in series):
        return Plot(name="losses", question=question, reason="no run recorded a diffusion loss in training")
    return lines("losses", question, "step", "diffusion loss in training, smoothed", series, markers=False)


def smoothed(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means of up to 60 equal stretches."""
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    size = max(1, math.ceil(len(finite) / 60))
    parts = [finite[start : start + size] for start in range(0, len(finite), size)]
    return [(sum(x for x, _ in p) / len(p), sum(y for _, y in p) / len(p)) for p in parts]


def lines(
    name: str, question: str, x: str, metric: str, series: Sequence[Series], *, log: bool = False, markers: bool = True
) -> Plot:
    """A line a series, with its numbers as a table. x: the axis' name. metric: y's, by its name in a record."""
    figure, axes = new()
    drawn = [one for one in series if one.points]
    for one in drawn:
        xs, ys, lows, highs = zip(*one.points, strict=True)
        every = max(1, len(xs) // 8)
        axes.plot(xs, ys, label=one.label, markevery=1 if markers else every, **look(one.place))
        if all(bound is not None for bound in (*lows, *highs)):
            axes.fill_between(xs, lows, highs, color=SERIES[one.place % len(SERIES)], alpha=0.15, linewidth=0)
    if log:
        axes.set_xscale("log")
        ticks = log_ticks([point[0] for one in drawn for point in one.points])
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    title = meaning(metric).title
    axes.set_xlabel(x)
    axes.set_ylabel(title)
    legend(axes)
    rows = [
        (
            one.label,
            f"{point[0]:,.0f}" if point[0] >= 1e4 and float(point[0]).is_integer() else f"{point[0]:.4g}",
            f"{point[1]:.4g}" + ("" if point[2] is None else f" [{point[2]:.4g}, {point[3]:.4g}]"),
        )
        for one in drawn
        for point in (one.points if len(one.points) * len(drawn) <= MOST_ROWS else one.points[-1:])
    ]
    ends = listed([f"{one.label} ends at {one.points[-1][1]:.4g}" for one in drawn])
    banded = any(point[2] is not None for one in drawn for point in one.points)
    return Plot(
        name=name,
        question=question,
        text=spelled(figure, name),
        words=f"{title} against {x}: {ends}.",
        note=" ".join([*of_seeds(drawn), *["Bands are 95% intervals of one training's numbers."] * banded]),
        table=(("", x, title), *rows),
    )


def log_ticks(values: Sequence[float]) -> list[float]:
    """Where a logarithmic axis is labelled: at the values where they are few, else at 1, 2, 5 times powers of ten."""
    distinct = sorted({value for value in values if value > 0})
    if len(distinct) <= 4 or not distinct:
        return distinct
    low, high = math.floor(math.log10(distinct[0])), math.ceil(math.log10(distinct[-1]))
    steps = (1, 2, 5) if high - low <= 3 else (1,)
    ticks = [step * 10.0**power for power in range(low, high + 1) for step in steps]
    return [tick for tick in ticks if 0.9 * distinct[0] <= tick <= 1.1 * distinct[-1]]
