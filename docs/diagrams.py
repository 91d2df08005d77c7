"""Draws the diagrams of docs/approaches.md: python docs/diagrams.py."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

COLOURS = {
    "frozen": ("#d6e6f5", "#2c5f8a"),
    "trained": ("#fde0c2", "#b5530e"),
    "data": ("#ffffff", "#555555"),
    "rule": ("#e6e6e6", "#555555"),
}
Box = tuple[float, float, float, float]


class Drawing:
    """Boxes and arrows on a sheet of 100 x `height` units."""

    def __init__(self, height: float) -> None:
        self.figure, axes = plt.subplots(figsize=(9, 0.09 * height))
        self.axes: Axes = axes
        self.axes.set(xlim=(0, 100), ylim=(0, height))
        self.axes.axis("off")
        self.figure.subplots_adjust(0, 0, 1, 1)

    def box(self, kind: str, x: float, y: float, text: str, width: float = 18, height: float = 7) -> Box:
        """A box around (x, y)."""
        face, edge = COLOURS[kind]
        corner = (x - width / 2, y - height / 2)
        self.axes.add_patch(
            FancyBboxPatch(corner, width, height, "round,pad=0,rounding_size=1", facecolor=face, edgecolor=edge)
        )
        self.axes.text(x, y, text, ha="center", va="center", fontsize=9, color="#222222")
        return x, y, width, height

    def arrow(self, start: Box, end: Box, text: str = "", *, bend: float = 0.0, dashed: bool = False) -> None:
        """From one box's edge to another's."""
        from_, to = _edge(start, end), _edge(end, start)
        style = {"linestyle": "--"} if dashed else {}
        self.axes.add_patch(
            FancyArrowPatch(
                from_,
                to,
                arrowstyle="-|>",
                mutation_scale=11,
                color="#444444",
                connectionstyle=f"arc3,rad={bend}",
                **style,
            )
        )
        if text:
            x, y = (from_[0] + to[0]) / 2, (from_[1] + to[1]) / 2
            self.axes.text(x, y + 1.2, text, ha="center", va="bottom", fontsize=8, color="#444444", backgroundcolor="w")

    def legend(self, y: float = 3) -> None:
        """What the colours mean."""
        for place, (kind, text) in enumerate((("frozen", "frozen"), ("trained", "trained"), ("rule", "no weights"))):
            self.box(kind, 10 + 14 * place, y, text, 12, 4)

    def save(self, name: str) -> None:
        """As SVG, the same bytes every time."""
        folder = Path(__file__).parent / "pictures"
        self.figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        plt.close(self.figure)


def _edge(box: Box, towards: Box) -> tuple[float, float]:
    """Where the line between two boxes' centres leaves the first."""
    x, y, width, height = box
    dx, dy = towards[0] - x, towards[1] - y
    share = min(width / 2 / abs(dx) if dx else 9e9, height / 2 / abs(dy) if dy else 9e9)
    return x + dx * share, y + dy * share


def full_retraining() -> None:
    """One transformer."""
    d = Drawing(52)
    caption, latent = d.box("data", 20, 12, "text tokens"), d.box("data", 70, 12, "noisy latent, time")
    embed, patches = d.box("trained", 20, 23, "embeddings"), d.box("trained", 70, 23, "patches in")
    tower = d.box("trained", 45, 34, "one transformer: causal over text, both ways inside a picture", 68)
    head, out = d.box("trained", 20, 46, "next token"), d.box("trained", 70, 46, "patches out: flow")
    for start, end in ((caption, embed), (latent, patches)):
        d.arrow(start, end)
    for x, low, high in ((20, embed, head), (70, patches, out)):
        inside = (x, tower[1], 18, 7)
        d.arrow(low, inside)
        d.arrow(inside, high)
    d.legend()
    d.save("full_retraining")


def dual_tower() -> None:
    """Two towers."""
    d = Drawing(58)
    caption, latent = d.box("data", 16, 12, "text tokens"), d.box("data", 84, 12, "noisy latent, time")
    embed, patches = d.box("frozen", 16, 22, "embeddings"), d.box("trained", 84, 22, "patches in")
    text, vision = (
        d.box("frozen", 16, 36, "text tower, layer i", 24, 9),
        d.box("trained", 84, 36, "vision tower, layer i", 24, 9),
    )
    head, out = d.box("frozen", 16, 51, "next token"), d.box("trained", 84, 51, "patches out: flow")
    for chain in ((caption, embed, text, head), (latent, patches, vision, out)):
        for start, end in zip(chain, chain[1:], strict=False):
            d.arrow(start, end)
    upper, lower = 38.5, 33.5
    d.arrow((16, upper, 24, 1), (84, upper, 24, 1), "text states, with the vision tower's keys and values")
    d.arrow((84, lower, 24, 1), (16, lower, 24, 1))
    d.axes.text(
        50,
        lower - 3.2,
        "a picture's states, with the text tower's keys and values",
        ha="center",
        fontsize=8,
        color="#444444",
    )
    d.legend()
    d.save("dual_tower")


def projection() -> None:
    """Connectors around a frozen model."""
    d = Drawing(58)
    d.axes.text(2, 55, "text to image", fontsize=9, style="italic")
    caption = d.box("data", 11, 48, "caption", 14)
    queries = d.box("trained", 11, 39, "queries", 14)
    model = d.box("frozen", 34, 44, "language model", 18, 14)
    connector = d.box("trained", 58, 44, "connector", 16)
    denoiser = d.box("trained", 84, 44, "denoiser: flow", 20)
    noise = d.box("data", 84, 33, "noisy latent, time", 20, 6)
    for start, end in (
        (caption, model),
        (queries, model),
        (model, connector),
        (connector, denoiser),
        (noise, denoiser),
    ):
        d.arrow(start, end)
    d.axes.text(2, 26, "image to text", fontsize=9, style="italic")
    latent = d.box("data", 11, 17, "clean latent", 14)
    encoder = d.box("trained", 34, 17, "latent encoder", 18)
    second = d.box("trained", 58, 17, "connector:\nsoft prompts", 16)
    again = d.box("frozen", 84, 17, "language model:\nnext token", 20)
    for start, end in ((latent, encoder), (encoder, second), (second, again)):
        d.arrow(start, end)
    d.legend()
    d.save("projection")


def modular() -> None:
    """Plan, draw, check."""
    d = Drawing(58)
    caption = d.box("data", 10, 46, "caption", 14)
    planner = d.box("frozen", 31, 46, "language model\nas planner", 18)
    grammar = d.box("rule", 31, 33, "grammar", 12, 5)
    plan = d.box("data", 54, 46, "plan: objects,\nattributes, places", 20)
    expert = d.box("trained", 82, 46, "layout denoiser", 18)
    picture = d.box("data", 82, 33, "picture", 14)
    checker = d.box("trained", 54, 33, "checker")
    captioner = d.box("trained", 54, 18, "captioner")
    latent, words = d.box("data", 31, 18, "clean latent", 16), d.box("data", 82, 18, "caption", 14)
    links = (
        (caption, planner),
        (planner, plan),
        (plan, expert),
        (expert, picture),
        (picture, checker),
        (plan, checker),
    )
    for start, end in (*links, (grammar, planner), (latent, captioner), (captioner, words)):
        d.arrow(start, end)
    d.arrow(checker, expert, "draw again", dashed=True, bend=0.12)
    d.legend()
    d.save("modular")


def main() -> None:
    """All four."""
    plt.rcParams.update({"svg.hashsalt": "docs", "font.family": "sans-serif"})
    full_retraining()
    dual_tower()
    projection()
    modular()


if __name__ == "__main__":
    main()
