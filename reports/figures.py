"""What every figure of a report is, and what all draw on. matplotlib is imported when the first is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reports.svg import inlined

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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


def legend(axes: Axes) -> None:
    """Who is who, below the axes."""
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.17), ncols=2, fontsize=9, handlelength=3, columnspacing=1.2)
