"""Figures: the Pareto front is one, text is text, and nobody needs colours to tell who is who."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics.statistics import Estimate
from reports import curves, plots, svg, throughput
from reports.claims import order
from reports.contenders import Contender, contenders
from reports.figures import Plot, folded
from reports.gather import Run
from reports.glossary import meaning
from tests.reports.records import APPROACHES, contender, record_of, retention

POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=9)


@pytest.fixture(scope="module")
def everyone() -> tuple[Contender, ...]:
    return contenders([Run(record=record_of(name), folder=Path("x")) for name in APPROACHES], order())


@pytest.fixture(scope="module")
def drawn(everyone: tuple[Contender, ...]) -> dict[str, Plot]:
    return {plot.name: plot for plot in plots.plots(everyone)}


@given(POINTS)
def test_the_front_is_what_nobody_beats(points: list[tuple[float, float]]):
    front = plots.pareto(points)
    beaten = [any(a <= x and b >= y and (a, b) != (x, y) for a, b in points) for x, y in points]
    assert front == [i for i, lost in enumerate(beaten) if not lost] and front


def test_every_figure_of_the_issue_is_drawn(drawn: dict[str, Plot]):
    assert set(drawn) == {"plane", "nfe", "guidance", "images", "batch", "compute", "losses", "costs", "documents"}
    for plot in drawn.values():
        assert plot.text and not plot.reason
        assert plot.question.endswith("?")
        root = ElementTree.fromstring(plot.text)
        words = {"".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")}
        assert set(APPROACHES) <= words, plot.name  # text is text, and everybody is named
        assert len({len(row) for row in plot.table}) == 1 and {row[0] for row in plot.table[1:]} == set(APPROACHES)
        assert plot.words


@pytest.mark.filterwarnings("error")  # matplotlib warns where labels leave the axes nothing
@pytest.mark.parametrize("count", [2, 8])
def test_settings_in_labels_leave_the_axes_their_room(count: int):
    """Runs of one approach are told apart by settings, which are longer than a name."""
    ways = [
        dataclasses.replace(
            contender(APPROACHES[0], **record_of(APPROACHES[0]).metrics),
            label=f"full_retraining (lm_learning_rate_ratio 0.{i}, replay_share 0.25, start language_model)",
        )
        for i in range(count)
    ]
    for plot in plots.plots(ways):
        if not plot.text:
            continue
        root = ElementTree.fromstring(plot.text)
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        assert 300 < width < 450, plot.name  # points: no label widens it, or it would be shrunk to the page's width
        assert height > 250 + 13 * count, plot.name
        lines = {"".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")}
        assert any("lm_learning_rate_ratio 0.1" in line for line in lines), plot.name


def test_a_label_is_folded_between_its_parts():
    label = "dual_tower (learning_rate 0.002, variant gated)"
    assert folded(label, 80) == label
    assert folded(label, 24) == "dual_tower\n(learning_rate 0.002,\nvariant gated)"
    assert folded("modular", 3) == "modular"


def test_a_figure_that_has_nothing_to_draw_says_why():
    for plot in plots.plots([contender("way")]):
        assert (plot.text == "") == bool(plot.reason)
        assert plot.inline == "" or plot.text
    assert plots.plots([]) == []


def test_the_plane_says_who_is_on_the_front_and_what_stands_in_for_a_distance(everyone: tuple[Contender, ...]):
    with svg.style():
        assert plots.plane(everyone).note.startswith("On the Pareto front: dual_tower.")
        bare = [contender("a", **{n: everyone[0].metrics[n] for n in ("validation_loss", "perplexity_retention")})]
        assert "validation loss stands in" in plots.plane(bare).note


def test_who_is_on_the_front_is_told_beside_one_without_both_numbers():
    def far(distance: float) -> Estimate:
        return Estimate(value=distance, low=distance - 0.1, high=distance + 0.1, n=9, better="lower")

    kept = {"a": (9.0, 1.0), "b": (8.0, 0.5), "beaten": (9.5, 0.9)}
    both = [contender(way, fid=far(d), perplexity_retention=retention(r, way)) for way, (d, r) in kept.items()]
    plot = plots.plane([contender("bare", fid=far(7.0)), *both])
    assert "On the Pareto front: a and b." in plot.note and "bare" not in str(plot.table)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The figures that are drawn, by name, as they are before they become text."""
    found: dict[str, Any] = {}

    def kept(figure: Any, name: str) -> str:
        found[name] = figure
        return svg.spelled(figure, name)

    monkeypatch.setattr("reports.plots.spelled", kept)
    return found


def test_bars_are_as_long_as_their_title_says(figures: dict[str, Any]):
    taken = {"a": Estimate.counted(2e8, unit="bytes"), "b": Estimate.counted(3e8, unit="bytes")}
    plots.costs([contender(label, peak_memory_bytes=each) for label, each in taken.items()])
    axes = figures["costs"].axes[0]
    assert "(MB)" in axes.get_title(loc="left") and [bar.get_width() for bar in axes.patches] == [200.0, 300.0]


def test_a_document_s_line_rises_by_its_share_to_all_of_them(figures: dict[str, Any]):
    """Of five documents that keep 1, 2, 3, 4 and 5 times what they had."""
    documents = {"tokens": [1.0] * 5, "base_nats": [math.log(k) for k in (3, 1, 5, 2, 4)], "adapted_nats": [0.0] * 5}
    kept = Estimate(value=2.6, low=1.0, high=5.0, n=5, better="higher", details={"documents": documents})
    plot = plots.by_document([contender("way", perplexity_retention=kept)])
    assert plot.table[0] == ("", "documents", "least", "quarter", "median", "three quarters", "most")
    assert plot.table[1] == ("way", "5", "1.000", "2.000", "3.000", "4.000", "5.000")
    (line, *_) = figures["documents"].axes[0].lines
    assert list(line.get_xdata()) == pytest.approx([1, 2, 3, 4, 5])
    assert list(line.get_ydata()) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_the_same_figure_is_the_same_text(everyone: tuple[Contender, ...], drawn: dict[str, Plot]):
    assert {plot.name: plot.text for plot in plots.plots(everyone)} == {n: p.text for n, p in drawn.items()}


def test_inlined_figures_share_no_id_no_style_and_no_colour_with_the_page(drawn: dict[str, Plot]):
    ids: list[str] = []
    for plot in drawn.values():
        text = plot.inline
        assert text.startswith("<svg viewBox=") and 'role="img"' in text
        own = re.findall(r'\bid="([^"]+)"', text)
        ids += own
        assert set(re.findall(r'(?:href="|url\()#([^")]+)', text)) <= set(own)
        assert "<style" not in text and "<metadata" not in text
        assert "http" not in re.sub(r'xmlns\S*="[^"]+"', "", text)
        assert "DejaVu" not in text
        for colour in (*svg.SERIES, svg.INK, svg.FAINT, svg.PAPER):
            assert colour not in text
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        ({"clip_score": 20.0, "validation_loss": 0.5, "fd_efficientnet_lite0": 90.0}, "fd_efficientnet_lite0"),
        ({"clip_score": 20.0, "validation_loss": 0.5}, "validation_loss"),
        ({"clip_score": 20.0, "clip_score_low": 19.0, "clip_score_high": 21.0}, "clip_score"),
        ({"clip_score": 20.0, "clip_score_low": 19.0}, "clip_score"),
        ({}, None),
    ],
)
def test_a_sweep_shows_a_distance_else_a_loss_and_never_a_count(columns: dict[str, float], shown: str | None):
    rows = tuple({"images": images, "pictures": 512.0, **columns} for images in (8e3, 16e3))
    runs = [Run(record=record_of(APPROACHES[0], curves={"images": rows}), folder=Path("x"))]
    plot = curves.by_images(contenders(runs, order()))
    assert (plot.table[0][-1] if plot.table else None) == (shown and meaning(shown).title)


def test_a_curve_of_several_trainings_is_their_mean_and_says_whose_it_is():
    def run(seed: int, *rows: tuple[float, float], **more: float) -> Run:
        made = tuple({"nfe": x, "fd_x": y, "fd_x_low": y - 1, "fd_x_high": y + 1, **more} for x, y in rows)
        return Run(record=record_of(APPROACHES[0], seed=seed, curves={"nfe": made} if rows else {}), folder=Path("x"))

    once = curves.by_nfe(contenders([run(0, (4, 9.0), (8, 5.0))], order()))
    assert [row[1:] for row in once.table[1:]] == [("4", "9 [8, 10]"), ("8", "5 [4, 6]")]
    assert once.note == "Bands are 95% intervals of one training's numbers."
    twice = curves.by_nfe(contenders([run(0, (4, 9.0), (8, 5.0)), run(1, (4, 7.0))], order()))
    assert [row[1:] for row in twice.table[1:]] == [("4", "8")]  # both have it; no band is known
    assert twice.note == "Means over seeds, without bands."
    alone = curves.by_nfe(contenders([run(0), run(1, (4, 7.0))], order()))
    assert alone.note.startswith(f"Of seed 1 alone: {APPROACHES[0]}. Bands are")


def test_evaluations_are_those_that_were_spent_redraws_among_them():
    rows = tuple({"nfe": x, "nfe_spent": 1.5 * x, "fd_x": 9.0} for x in (4.0, 8.0))
    plot = curves.by_nfe(
        contenders([Run(record=record_of(APPROACHES[0], curves={"nfe": rows}), folder=Path("x"))], order())
    )
    assert [row[1] for row in plot.table[1:]] == ["6", "12"]


def test_guidance_is_what_was_asked_for_whatever_was_spent():
    rows = tuple({"guidance": g, "nfe_spent": 50.0, "fd_x": 9.0 + g} for g in (1.0, 2.0))
    plot = curves.by_guidance([contender("a", record_of(APPROACHES[0], curves={"guidance": rows}))])
    assert [row[1:] for row in plot.table[1:]] == [("1", "10"), ("2", "11")]


def test_training_compute_is_a_step_s_operations_times_the_steps():
    rows = tuple({"step": step, "validation_loss": 1 / step} for step in (200.0, 400.0, 1000.0))
    plot = curves.by_compute([contender("a", record_of("dual_tower", curves={"validation": rows}))])
    assert plot.table[0][1] == "training compute (TFLOP)"  # of 10^9 operations a step
    assert [row[1:] for row in plot.table[1:]] == [("0.2", "0.005"), ("0.4", "0.0025"), ("1", "0.001")]


ROW = {"batch": 4.0, "pictures_per_second": 8.0, "pictures_per_second_low": 5.0, "pictures_per_second_high": 10.0,
       "seconds_per_batch": 0.5, "seconds_per_batch_low": 0.4, "seconds_per_batch_high": 0.8,
       "seconds_per_batch_p90": 0.7, "repeats": 7.0}  # fmt: skip


def timed(seed: int, machine: str, **more: float) -> Run:
    told = {"curves": {"batch": {"machine": machine}}} if machine else {}
    record = record_of(APPROACHES[0], seed=seed, curves={"batch": ({**ROW, **more},)}, provenance=told)
    return Run(record=record, folder=Path("x"))


def test_drawing_by_batch_is_a_line_and_a_table_of_one_machine():
    with svg.style():
        plot = throughput.by_batch(contenders([timed(0, "A, 1 thread", seconds_per_batch_slowest=0.9)], order()))
    assert plot.table[1] == (APPROACHES[0], "4", "8 [5, 10]", "0.5 [0.4, 0.8]", "0.7", "0.9 (of 7)", "–", "–")
    assert plot.note.startswith("Taken on A, 1 thread. From words to pixels") and "pictures a batch" in plot.text
    more = {"seconds_per_batch_p99": 0.85, "peak_memory_bytes": 3e6, "joules_per_picture": 2.0}
    cells = throughput.by_batch(contenders([timed(0, "A, 1 thread", **more)], order())).table[1]
    assert cells[-3:] == ("0.85 (99% within)", "3 MB", "2")
    record = record_of(APPROACHES[0], seed=0, curves={"batch": ({"pictures_per_second": 3.0},)})  # of no size of batch
    plot = throughput.by_batch(contenders([Run(record=record, folder=Path("x"))], order()))
    assert (plot.text, plot.table) == ("", ()) and "no size of batch was timed" in plot.reason


def test_rows_of_several_machines_are_in_no_mean_and_in_no_line_together():
    group = contenders(
        [timed(0, "A, 1 thread"), timed(1, "B, 1 thread", pictures_per_second=80.0), timed(2, "A, 1 thread")], order()
    )
    with svg.style():
        plot = throughput.by_batch(group)
    assert {row[0]: row[2] for row in plot.table[1:]} == {
        f"{APPROACHES[0]}, on A, 1 thread": "8",  # the mean of two seeds
        f"{APPROACHES[0]}, on B, 1 thread": "80 [5, 10]",
    }
    assert "Taken on A, 1 thread and B, 1 thread: compare lines of one machine alone." in plot.note
    assert f"Of seed 1 alone: {APPROACHES[0]}, on B, 1 thread." in plot.note
    words = {"".join(text.itertext()) for text in ElementTree.fromstring(plot.text).iter() if text.tag.endswith("text")}
    assert any("on B, 1 thread" in word for word in words)
    assert throughput.UNNAMED in throughput.by_batch(contenders([timed(0, "")], order())).note
    apart = contenders([timed(0, "A, 1 thread"), timed(1, "A, 1 thread", batch=16.0)], order())
    assert "timed with all seeds" in throughput.by_batch(apart).reason
    other = Run(record=replace(timed(0, "A, 1 thread").record, approach=APPROACHES[1]), folder=Path("x"))
    plot = throughput.by_batch(
        contenders([timed(0, "A, 1 thread"), timed(1, "A, 1 thread", batch=16.0), other], order())
    )
    assert f"Not shown, because its seeds have no size of batch in common: {APPROACHES[0]}." in plot.note
    assert APPROACHES[1] in plot.text and "Means over seeds" not in plot.note


def test_a_page_does_not_miss_a_curve_that_few_ask_for():
    alone = contenders([Run(record=record_of(APPROACHES[0], curves={}), folder=Path("x"))], order())
    assert "batch" not in {plot.name for plot in plots.plots(alone)}


def test_contenders_are_told_apart_without_colour():
    looks = [svg.look(place) for place in range(len(svg.SERIES))]
    for what in ("marker", "linestyle"):
        assert len({str(look[what]) for look in looks}) == len(looks)
    assert len(set(svg.HATCHES)) == len(svg.SERIES)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(-1e3, 1e3)), min_size=1, max_size=300))
def test_smoothing_keeps_the_mean_of_equal_stretches(points: list[tuple[float, float]]):
    smooth = curves.smoothed(points)
    assert len(smooth) <= 60
    assert min(y for _, y in points) - 1e-9 <= min(y for _, y in smooth)
    assert max(y for _, y in smooth) <= max(y for _, y in points) + 1e-9
    if len(points) <= 60:
        assert smooth == points


def test_a_last_stretch_that_is_shorter_is_a_mean_of_what_it_has():
    smooth = curves.smoothed([(float(x), 3.0) for x in range(1, 122)])  # 40 stretches of three, and one point
    assert [y for _, y in smooth] == [3.0] * 41 and (smooth[0], smooth[-1]) == ((2.0, 3.0), (121.0, 3.0))


def test_a_logarithmic_axis_is_labelled_where_it_can_be_read():
    assert curves.log_ticks([4, 8, 16, 25]) == [4, 8, 16, 25]
    assert curves.log_ticks([]) == []
    many = curves.log_ticks([0.2 + 0.01 * i for i in range(300)])
    assert many == pytest.approx([0.2, 0.5, 1, 2])
    assert len(curves.log_ticks([10.0**i for i in range(9)])) <= 9


def test_retention_by_document_is_that_of_its_sums(everyone: tuple[Contender, ...]):
    values = plots.document_retentions(everyone[0])
    assert len(values) == 12 and values == sorted(values)
    assert sum(values) / 12 == pytest.approx(0.8, abs=0.01)
    assert plots.document_retentions(everyone[1]) == [1.0] * 12
    assert plots.document_retentions(contender("way")) == []
