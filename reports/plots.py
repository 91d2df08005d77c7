"""The figures, one question each. Every figure has its numbers as a table beside it, and reads in black and white."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from metrics.statistics import Estimate
from reports.contenders import Contender, unlike
from reports.curves import by_compute, by_guidance, by_images, by_nfe, losses
from reports.figures import Plot, folded, legend, new
from reports.glossary import ARROWS, RETENTION, first_of, listed, meaning, scale_of, written
from reports.schema import has
from reports.svg import FAINT, HATCHES, INK, SERIES, look, spelled, style
from reports.tables import distance_name, is_distance, measured
from reports.throughput import by_batch, was_measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BAR_LABEL = 24
"""Characters of a line beside a bar."""
BARS = ("peak_memory_bytes", "steps_per_second", "seconds_per_image", "training_flops")


def plots(contenders: Sequence[Contender]) -> list[Plot]:
    """Every figure, in order."""
    if not contenders:
        return []
    made: tuple[Callable[[Sequence[Contender]], Plot], ...] = (
        plane, by_nfe, by_guidance, by_images, by_compute, losses, costs,
        *([by_batch] if was_measured(contenders) else []), by_document,
    )  # fmt: skip
    with style():
        return [draw(contenders) for draw in made]


# ------------------------------------------------------------------------------------------------------------ plane


def plane(contenders: Sequence[Contender]) -> Plot:
    """Text retention against picture distance, with intervals and Pareto front."""
    name = distance_name(contenders) or first_of(("validation_loss",), measured(contenders))
    question = "How much text does it give up for how good a picture?"
    if name is None:
        return Plot(name="plane", question=question, reason="no run has a number of its pictures")
    having = [
        (place, c, c.metrics[name], c.metrics[RETENTION])
        for place, c in enumerate(contenders)
        if has(c.metrics, name) and has(c.metrics, RETENTION)
    ]
    if not having:
        return Plot(
            name="plane", question=question, reason="no run has both text retention and a number of its pictures"
        )
    figure, axes = new()
    pairs = combinations([c for _, c, _, _ in having], 2)
    strange = next((why for a, b in pairs if (why := unlike(a, b, name) or unlike(a, b, RETENTION))), "")
    front = [] if strange else pareto([(x.value or 0.0, y.value or 0.0) for _, _, x, y in having])
    if len(front) > 1:
        corners = sorted((having[i][2].value or 0.0, having[i][3].value or 0.0) for i in front)
        axes.step(
            *zip(*corners, strict=True), where="post", color=INK, linewidth=1, linestyle=":", label="Pareto front"
        )
    for place, contender, x, y in having:
        own = {**look(place), "linestyle": "none", "markersize": 8}
        axes.errorbar(x.value, y.value, xerr=_reach(x), yerr=_reach(y), capsize=3, **{**own, "marker": ""})
        axes.plot(x.value, y.value, label=contender.label, **own)
    title = meaning(name).title
    axes.set_xlabel(f"{title} (to the left is better)")
    axes.set_ylabel("text retention (up is better)")
    axes.axhline(1, color=INK, linewidth=0.8)
    legend(axes)
    names = listed([having[i][1].label for i in front])
    none = f"No Pareto front is drawn, for not all can be compared: {strange}." if strange else ""
    note = (
        ""
        if is_distance(name)
        else "No run has a distance between sets of pictures: the validation loss stands in its place."
    )
    bars = "Bars are 95% intervals; the line at 1 is nothing lost."
    return Plot(
        name="plane",
        question=question,
        text=spelled(figure, "plane"),
        words=f"Text retention against {title}. "
        + (none or f"On the Pareto front, where nobody is better in both: {names}."),
        note=" ".join([*([note] if note else []), none or f"On the Pareto front: {names}.", bars]),
        table=(("", title, "text retention"), *((c.label, written(x), written(y)) for _, c, x, y in having)),
    )


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of the points that no other beats: x no larger and y no smaller, and one of them better."""
    return [i for i, (x, y) in enumerate(points) if not any(a <= x and b >= y and (a < x or b > y) for a, b in points)]


def _reach(estimate: Estimate) -> list[list[float]] | None:
    """An interval as matplotlib's error: distances below and above."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return None
    return [[max(0.0, estimate.value - estimate.low)], [max(0.0, estimate.high - estimate.value)]]


# ------------------------------------------------------------------------------------------------------------- bars


def costs(contenders: Sequence[Contender]) -> Plot:
    """Memory, speed and FLOPs as bars, each on its own scale."""
    question = "What does it cost to run?"
    names = [name for name in BARS if any(has(c.metrics, name) for c in contenders)]
    if not names:
        return Plot(name="costs", question=question, reason="no run measured its memory or speed")
    rows = math.ceil(len(names) / 2)
    figure, grid = new(nrows=rows, ncols=min(2, len(names)), squeeze=False)
    labels = [folded(c.label, BAR_LABEL) for c in contenders]
    lines = len(labels) * max(2, *(label.count("\n") + 1 for label in labels))
    figure.set_size_inches(5.2, 0.5 + rows * (0.75 + 0.13 * lines))
    told: list[tuple[str, ...]] = [("", *(meaning(name).title for name in names))]
    for name, axes in zip(names, grid.flat, strict=False):
        _bars(axes, name, contenders, labels if axes in grid[:, 0] else [""] * len(labels))
    for axes in list(grid.flat)[len(names) :]:
        axes.set_visible(False)
    told += [
        (c.label, *(written(c.metrics[n], unit=True) if n in c.metrics else "–" for n in names)) for c in contenders
    ]
    return Plot(
        name="costs",
        question=question,
        text=spelled(figure, "costs"),
        words=f"Bars of {listed([meaning(name).title for name in names])}; the numbers are in the table.",
        note="An arrow down: less is better. Whiskers are 95% intervals, where there are any.",
        table=tuple(told),
    )


def _bars(axes: Axes, name: str, contenders: Sequence[Contender], labels: Sequence[str]) -> None:
    having = [c.metrics[name] for c in contenders if has(c.metrics, name)]
    scale = scale_of(having[0].unit, [e.value or 0.0 for e in having])
    for place, contender in enumerate(contenders):
        if not has(contender.metrics, name):
            axes.text(0, place, " not measured", va="center", fontsize=8.5)
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
    axes.set_yticks(range(len(contenders)), labels, fontsize=8.5)
    axes.tick_params(axis="x", labelsize=8.5)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    arrow = ARROWS[having[0].better]
    axes.set_title(f"{meaning(name).title}{f' ({scale.unit})' if scale.unit else ''} {arrow}", fontsize=9, loc="left")


# -------------------------------------------------------------------------------------------------------- documents


def by_document(contenders: Sequence[Contender]) -> Plot:
    """The spread of text retention over the held-out documents."""
    question = "Is text lost everywhere, or in some documents?"
    having = [(p, c, values) for p, c in enumerate(contenders) if (values := document_retentions(c))]
    if not having:
        return Plot(name="documents", question=question, reason="no run holds its text retention by document")
    figure, axes = new()
    for place, contender, values in having:
        shares = [(i + 1) / len(values) for i in range(len(values))]
        every = max(1, len(values) // 8)
        axes.step(values, shares, where="post", label=contender.label, markevery=every, **look(place))
    axes.axvline(1, color=INK, linewidth=0.8)
    axes.set_xlabel("text retention of a document (1 is nothing lost)")
    axes.set_ylabel("share of documents at or below it")
    legend(axes)
    told = [(c.label, str(len(v)), *(f"{_quantile(v, q):.3f}" for q in (0, 0.25, 0.5, 0.75, 1))) for _, c, v in having]
    medians = listed([f"{row[0]} has a median of {row[4]} and a least of {row[2]}" for row in told])
    return Plot(
        name="documents",
        question=question,
        text=spelled(figure, "documents"),
        words=f"Text retention by document: {medians}.",
        note="A line that rises at once, at 1, loses nothing anywhere."
        + (" Of each contender's first seed." if any(len(c.runs) > 1 for _, c, _ in having) else ""),
        table=(("", "documents", "least", "quarter", "median", "three quarters", "most"), *told),
    )


def _quantile(ascending: Sequence[float], share: float) -> float:
    """The least value that this share of the values does not exceed."""
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]


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
