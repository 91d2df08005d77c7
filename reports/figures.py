"""What every figure of a report is, and what all draw on. matplotlib is imported when the first is drawn."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reports.svg import inlined

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BESIDE, ALONE = 26, 66
"""Characters of a label that stands beside another in a legend, and of a line of one that stands alone."""
LINE = 0.18
"""Height of a line of a legend, in inches."""


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


def new(**more: Any) -> tuple[Any, Any]:
    """A figure that no window and no global list knows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(**more)


def folded(label: str, width: int) -> str:
    """A contender's label in lines no wider than this many characters where its parts are not: no line parts a
    setting from its value."""
    first, *others = re.split(r" (?=\()|(?<=,) ", label)
    lines = [first]
    for part in others:
        if len(lines[-1]) + 1 + len(part) <= width:
            lines[-1] += f" {part}"
        else:
            lines.append(part)
    return "\n".join(lines)


def legend(axes: Axes) -> None:
    """Who is who, below the axes: side by side where labels are short. What it takes is added to the figure's height,
    so that the axes keep theirs."""
    handles, labels = axes.get_legend_handles_labels()
    columns = 2 if all(len(label) <= BESIDE for label in labels) else 1
    told = [folded(label, ALONE) for label in labels]
    lines = math.ceil(sum(label.count("\n") + 1 for label in told) / columns)
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.set_figheight(figure.get_figheight() + LINE * max(0, lines - 2))
    figure.legend(handles, told, loc="outside lower left", ncols=columns, fontsize=9, handlelength=3, columnspacing=1.2)
