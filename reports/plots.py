"""The figures, one question each. Every figure has its numbers as a table beside it, and reads in black and white."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metrics.statistics import Estimate
from reports.contenders import Contender
from reports.glossary import listed, meaning, scale_of, written
from reports.svg import FAINT, HATCHES, INK, SERIES, inlined, look, spelled, style
from reports.tables import distance_name, is_distance

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RETENTION = "perplexity_retention"
BARS = ("peak_memory_bytes", "steps_per_second", "seconds_per_image", "training_flops")
MOST_ROWS = 60  # of a figure's table


@dataclass(frozen=True, kw_only=True)
class Plot:
    """One figure. question: its title. text: SVG as a file of its own; "" with the reason where there is nothing to
    draw. table: the numbers, a heading first. words: what a reader who does not see it is told."""

    name: str
    question: str
    text: str = ""
    words: str = ""
    note: str = ""
    reason: str = ""
    table: tuple[tuple[str, ...], ...] = ()

    @property
    def inline(self) -> str:
        """The figure as an element of a page."""
        return inlined(self.text, f"plot-{self.name}", self.question, self.words) if self.text else ""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One contender's points: x, y, and y's bounds where they are known."""

    place: int
    label: str
    points: tuple[tuple[float, float, float | None, float | None], ...]


def plots(contenders: Sequence[Contender]) -> list[Plot]:
    """Every figure, in order."""
    if not contenders:
        return []
    made: tuple[Callable[[Sequence[Contender]], Plot], ...] = (
        plane, by_nfe, by_guidance, by_compute, losses, costs, by_document,
    )  # fmt: skip
    with style():
        return [draw(contenders) for draw in made]


def _figure(**more: Any) -> tuple[Any, Any]:
    """A figure that no window and no global list knows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(**more)


def _legend(axes: Axes) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.17), ncols=2, fontsize=9, handlelength=3, columnspacing=1.2)


# ------------------------------------------------------------------------------------------------------------ plane


def plane(contenders: Sequence[Contender]) -> Plot:
    """Text retention against picture distance, with intervals and Pareto front."""
    name = distance_name(contenders) or _first_with(contenders, ("validation_loss",))
    question = "How much text does it give up for how good a picture?"
    if name is None:
        return Plot(name="plane", question=question, reason="no run has a number of its pictures")
    having = [
        (place, c, c.metrics[name], c.metrics[RETENTION])
        for place, c in enumerate(contenders)
        if _known(c, name) and _known(c, RETENTION)
    ]
    if not having:
        return Plot(name="plane", question=question, reason="no run has both text retention and a number of its pictures")
    figure, axes = _figure()
    front = pareto([(x.value or 0.0, y.value or 0.0) for _, _, x, y in having])
    if len(front) > 1:
        corners = sorted((having[i][2].value or 0.0, having[i][3].value or 0.0) for i in front)
        axes.step(*zip(*corners, strict=True), where="post", color=INK, linewidth=1, linestyle=":", label="Pareto front")
    for place, contender, x, y in having:
        axes.errorbar(
            x.value, y.value, xerr=_reach(x), yerr=_reach(y), label=contender.label, capsize=3, markersize=8,
            **{**look(place), "linestyle": "none"},
        )  # fmt: skip
    title = meaning(name).title
    axes.set_xlabel(f"{title} (to the left is better)")
    axes.set_ylabel("text retention (up is better)")
    axes.axhline(1, color=INK, linewidth=0.8)
    _legend(axes)
    on_front = listed([having[i][1].label for i in front])
    note = "" if is_distance(name) else "No run has a distance between sets of pictures: the validation loss stands in its place."
    return Plot(
        name="plane",
        question=question,
        text=spelled(figure, "plane"),
        words=f"Text retention against {title}. On the Pareto front, where nobody is better in both: {on_front}.",
        note=f"{note} On the Pareto front: {on_front}. Bars are 95% intervals; the line at 1 is nothing lost.".strip(),
        table=(("", title, "text retention"), *((c.label, written(x), written(y)) for _, c, x, y in having)),
    )


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of the points that no other beats: x no larger and y no smaller, and one of them better."""
    return [
        i
        for i, (x, y) in enumerate(points)
        if not any(a <= x and b >= y and (a < x or b > y) for a, b in points)
    ]


def _known(contender: Contender, name: str) -> bool:
    estimate = contender.metrics.get(name)
    return estimate is not None and estimate.value is not None


def _first_with(contenders: Sequence[Contender], names: Sequence[str]) -> str | None:
    return next((name for name in names if any(_known(c, name) for c in contenders)), None)


def _reach(estimate: Estimate) -> list[list[float]] | None:
    """An interval as matplotlib's error: distances below and above."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return None
    return [[max(0.0, estimate.value - estimate.low)], [max(0.0, estimate.high - estimate.value)]]


# ----------------------------------------------------------------------------------------------------------- curves


def by_nfe(contenders: Sequence[Contender]) -> Plot:
    """Quality against network evaluations."""
    return _sweep(contenders, "nfe", "How many evaluations does a good picture take?", "evaluations per picture")


def by_guidance(contenders: Sequence[Contender]) -> Plot:
    """Quality against guidance."""
    return _sweep(contenders, "guidance", "How much guidance is best?", "guidance scale (1 is none)")


def _sweep(contenders: Sequence[Contender], curve: str, question: str, label: str) -> Plot:
    """A quality against what was varied while drawing."""
    names = {n for c in contenders for row in c.record.curves.get(curve, ()) for n in row}
    metric = next(
        (n for n in sorted(names, key=lambda n: (not is_distance(n), n)) if n not in (curve, "step") and _is_metric(n, names)),
        None,
    )
    if metric is None:
        return Plot(name=curve, question=question, reason=f"no run was measured at several values of {label}")
    series = [
        Series(place=place, label=c.label, points=_points(c, curve, curve, metric)) for place, c in enumerate(contenders)
    ]
    return _lines(curve, question, label, metric, series, log=curve == "nfe")


def _is_metric(name: str, names: set[str]) -> bool:
    """Whether a column is a number itself, and no bound of one."""
    return not any(name.endswith(end) and name.removesuffix(end) in names for end in ("_low", "_high"))


def _points(contender: Contender, curve: str, x: str, y: str, factor: float = 1.0) -> tuple[Any, ...]:
    rows = contender.record.curves.get(curve, ())
    return tuple((row[x] * factor, row[y], row.get(f"{y}_low"), row.get(f"{y}_high")) for row in rows if x in row and y in row)


def by_compute(contenders: Sequence[Contender]) -> Plot:
    """Quality against training FLOPs."""
    question = "What does training compute buy?"
    metric, series = "validation_loss", []
    for place, contender in enumerate(contenders):
        flops = contender.record.budgets.flops_per_step
        if flops:
            series.append(
                Series(place=place, label=contender.label, points=_points(contender, "validation", "step", metric, flops))
            )
    if not any(s.points for s in series):
        return Plot(name="compute", question=question, reason="no run was measured while it was trained")
    return _lines("compute", question, "training FLOPs", metric, series, log=True)


def losses(contenders: Sequence[Contender]) -> Plot:
    """The training loss of the diffusion objective by step, smoothed."""
    question = "Did training settle?"
    series = []
    for place, contender in enumerate(contenders):
        rows = contender.record.curves.get("loss", ())
        name = "diffusion" if any("diffusion" in row for row in rows) else "loss"
        points = [(row["step"], row[name]) for row in rows if "step" in row and name in row]
        series.append(Series(place=place, label=contender.label, points=tuple((x, y, None, None) for x, y in smoothed(points))))
    if not any(s.points for s in series):
        return Plot(name="losses", question=question, reason="no run recorded its training loss")
    return _lines("losses", question, "step", "diffusion loss in training, smoothed", series, markers=False)


def smoothed(points: Sequence[tuple[float, float]], most: int = 60) -> list[tuple[float, float]]:
    """Means of up to `most` equal stretches."""
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    size = max(1, math.ceil(len(finite) / most))
    parts = [finite[start : start + size] for start in range(0, len(finite), size)]
    return [(sum(x for x, _ in p) / len(p), sum(y for _, y in p) / len(p)) for p in parts]


def _lines(
    name: str, question: str, x: str, metric: str, series: Sequence[Series], *, log: bool = False, markers: bool = True
) -> Plot:
    figure, axes = _figure()
    drawn = [one for one in series if one.points]
    for one in drawn:
        xs, ys, lows, highs = zip(*one.points, strict=True)
        every = max(1, len(xs) // 8)
        axes.plot(xs, ys, label=one.label, markersize=6 if markers else 5, markevery=1 if markers else every, **look(one.place))
        if all(bound is not None for bound in (*lows, *highs)):
            axes.fill_between(xs, lows, highs, color=SERIES[one.place % len(SERIES)], alpha=0.15, linewidth=0)
    if log:
        axes.set_xscale("log")
        if name == "nfe":
            ticks = sorted({point[0] for one in drawn for point in one.points})
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
    title = meaning(metric).title
    axes.set_xlabel(x)
    axes.set_ylabel(title)
    _legend(axes)
    rows = [
        (one.label, f"{point[0]:.4g}", f"{point[1]:.4g}" + ("" if point[2] is None else f" [{point[2]:.4g}, {point[3]:.4g}]"))
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
        note="Bands are 95% intervals." if banded else "",
        table=(("", x, title), *rows),
    )


# ------------------------------------------------------------------------------------------------------------- bars


def costs(contenders: Sequence[Contender]) -> Plot:
    """Memory, speed and FLOPs as bars, each on its own scale."""
    question = "What does it cost to run?"
    names = [name for name in BARS if any(_known(c, name) for c in contenders)]
    if not names:
        return Plot(name="costs", question=question, reason="no run measured its memory or speed")
    rows = math.ceil(len(names) / 2)
    figure, grid = _figure(nrows=rows, ncols=min(2, len(names)), squeeze=False)
    figure.set_size_inches(5.6, 0.5 + rows * (0.75 + 0.26 * len(contenders)))
    told: list[tuple[str, ...]] = [("", *(meaning(name).title for name in names))]
    for name, axes in zip(names, grid.flat, strict=False):
        _bars(axes, name, contenders, named=axes in grid[:, 0])
    for axes in list(grid.flat)[len(names) :]:
        axes.set_visible(False)
    told += [(c.label, *(written(c.metrics[n], unit=True) if n in c.metrics else "–" for n in names)) for c in contenders]
    return Plot(
        name="costs",
        question=question,
        text=spelled(figure, "costs"),
        words=f"Bars of {listed([meaning(name).title for name in names])}; the numbers are in the table.",
        note="Whiskers are 95% intervals, where there are any.",
        table=tuple(told),
    )


def _bars(axes: Axes, name: str, contenders: Sequence[Contender], *, named: bool) -> None:
    having = [c.metrics[name] for c in contenders if _known(c, name)]
    scale = scale_of(having[0].unit, [e.value or 0.0 for e in having])
    for place, contender in enumerate(contenders):
        if not _known(contender, name):
            axes.text(0, place, " not measured", va="center", fontsize=8)
            continue
        estimate = contender.metrics[name]
        reach = _reach(estimate)
        axes.barh(
            place,
            (estimate.value or 0.0) / scale.factor,
            xerr=None if reach is None else [[bound / scale.factor for bound in side] for side in reach],
            facecolor=SERIES[place % len(SERIES)],
            edgecolor=FAINT if HATCHES[place % len(HATCHES)] else INK,
            hatch=HATCHES[place % len(HATCHES)],
            height=0.7,
            ecolor=INK,
            capsize=2,
        )
    axes.set_yticks(range(len(contenders)), [c.label if named else "" for c in contenders], fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    better = having[0].better
    arrow = {"lower": ", less is better", "higher": ", more is better", "": ""}[better]
    axes.set_title(f"{meaning(name).title}{f' ({scale.unit})' if scale.unit else ''}{arrow}", fontsize=8.5, loc="left")


# -------------------------------------------------------------------------------------------------------- documents


def by_document(contenders: Sequence[Contender]) -> Plot:
    """The spread of text retention over the held-out documents."""
    question = "Is text lost everywhere, or in some documents?"
    having = [(p, c, values) for p, c in enumerate(contenders) if (values := document_retentions(c))]
    if not having:
        return Plot(name="documents", question=question, reason="no run holds its text retention by document")
    figure, axes = _figure()
    for place, contender, values in having:
        shares = [(i + 1) / len(values) for i in range(len(values))]
        every = max(1, len(values) // 8)
        axes.step(values, shares, where="post", label=contender.label, markersize=5, markevery=every, **look(place))
    axes.axvline(1, color=INK, linewidth=0.8)
    axes.set_xlabel("text retention of a document (1 is nothing lost)")
    axes.set_ylabel("share of documents at or below it")
    _legend(axes)
    told = [
        (c.label, str(len(v)), *(f"{v[min(len(v) - 1, int(q * len(v)))]:.3f}" for q in (0, 0.25, 0.5, 0.75)), f"{v[-1]:.3f}")
        for _, c, v in having
    ]
    medians = listed([f"{row[0]} has a median of {row[4]} and a least of {row[2]}" for row in told])
    return Plot(
        name="documents",
        question=question,
        text=spelled(figure, "documents"),
        words=f"Text retention by document: {medians}.",
        note="A line that rises at once, at 1, loses nothing anywhere.",
        table=(("", "documents", "least", "quarter", "median", "three quarters", "most"), *told),
    )


def document_retentions(contender: Contender) -> list[float]:
    """exp(base nats - adapted nats, a token) of each document of the first seed, ascending; empty where the record
    holds no documents."""
    estimate = contender.record.metrics.get(RETENTION)
    facts = estimate.details.get("documents") if estimate is not None else None
    if not isinstance(facts, dict):
        return []
    try:
        rows = zip(facts["tokens"], facts["base_nats"], facts["adapted_nats"], strict=True)
        return sorted(math.exp((base - adapted) / tokens) for tokens, base, adapted in rows if tokens)
    except (KeyError, TypeError, ValueError, OverflowError):
        return []
