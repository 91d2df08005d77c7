"""Figures as SVG that sits in a page: text stays text, colours are the page's, and no two figures share a name."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT, PAPER = "#101011", "#c0c0c1", "#fdfdfe"
"""Text and lines, grids, ground: colours that the page replaces by its own."""
SERIES = ("#0072b2", "#d55e00", "#009e73", "#aa3377", "#7a5c00", "#4b5cc4", "#b3261e", "#00707f")
"""Of the contenders, in order: told apart by most colour-blind readers, dark enough on white."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 1)), (0, (3, 1, 1, 1)))
HATCHES = ("", "//", "\\\\", "xx", "--", "||", "++", "////")
RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "text.parse_math": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.facecolor": PAPER,
    "figure.facecolor": PAPER,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "legend.frameon": False,
    "hatch.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "figure.figsize": (5.2, 3.7),
}


@contextmanager
def style() -> Iterator[None]:
    """Inside, figures are drawn in this style, without a display."""
    import matplotlib

    with matplotlib.rc_context({**RC, "backend": "Agg"}):
        yield


def look(place: int) -> dict[str, Any]:
    """Colour, marker and line of the contender at a place: told apart without colour too, and where several lie on one
    another, by their widths."""
    return {
        "color": SERIES[place % len(SERIES)],
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": LINES[place % len(LINES)],
        "linewidth": max(1.2, 3.0 - 0.6 * place),
        "markersize": max(4.0, 8.0 - place),
    }


def spelled(figure: Figure, name: str) -> str:
    """The figure as a file of its own. The same figure gives the same text."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight", pad_inches=0.06
        )
    return re.sub(r"[ \t]+$", "", buffer.getvalue(), flags=re.MULTILINE)


def inlined(text: str, name: str, title: str, description: str) -> str:
    """A spelled figure as an element of a page: the page's fonts and colours, ids of its own, a name and a description
    for a reader who does not see it."""
    body = text[text.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'<style type="text/css">.*?</style>', "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", body)
    body = re.sub(r'(?:xlink:)?href="#([^"]+)"', rf'href="#{name}-\1"', body)
    for number, colour in enumerate(SERIES):
        body = body.replace(colour, f"var(--series-{number})")
    for colour, variable in ((INK, "ink"), (FAINT, "faint"), (PAPER, "paper")):
        body = body.replace(colour, f"var(--{variable})")
    # No face by name: the page's own comes with the machine, and metrics of sans-serif faces are near enough.
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = re.sub(r"font: [^;\"]*?(\d+(?:\.\d+)?px)[^;\"]*", r"font-size: \1", body)
    # The size is the page's, the shape is the box's.
    opening = re.match(r"<svg[^>]*>", body)
    assert opening is not None
    box = re.search(r'viewBox="([^"]+)"', opening[0])
    assert box is not None
    width = float(box[1].split()[2])
    head = (
        f'<svg viewBox="{box[1]}" role="img" aria-labelledby="{name}-title {name}-words" class="plot" '
        f'style="max-width: {width * 4 / 3:.0f}px"><title id="{name}-title">{html.escape(title)}</title>'
        f'<desc id="{name}-words">{html.escape(description)}</desc>'
    )
    return head + body[opening.end() :].strip()
