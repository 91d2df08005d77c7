"""A reproduction's page: the same facts in both forms, and nothing in a record is markup."""

from __future__ import annotations

import dataclasses
from typing import Any

import html5lib
from markdown_it import MarkdownIt

from metrics.statistics import Estimate
from reports.reproductions import Done, Ordering, Reproduction, Row, Stand
from reports.verdicts import cell, html, markdown, page

EVIL = "<script>alert(1)</script> | ]( `"
NAMES, SEEDS = ("two_towers", "one_tower"), (0, 1, 2)


def run(place: int, seed: int) -> Done:
    bad = place == 1 and seed == 2
    loss = Estimate(value=1.0 + place + seed / 100, low=0.9, high=2.5, n=8, unit="", better="lower")
    kept = Estimate(value=1.0 - place, low=None, high=None, n=9, unit="", better="higher", reason="exact")
    return Done(
        seed=seed, folder="runs/one", state="failed" if bad else "done", reason=EVIL if bad else "", steps=450,
        seconds=90.0, metrics={"validation_loss": loss, "perplexity_retention": kept},
    )  # fmt: skip


def row(place: int) -> Row:
    mean = Estimate(value=1.01 + place, low=0.98, high=1.03 + place, n=3, unit="", better="lower")
    return Row(
        name=NAMES[place], approach="dual_tower", settings={},
        published={"fid": 14.5 + place, "mmlu": 32.0 - place, "itm": 2.0 - place},
        runs=tuple(run(place, seed) for seed in SEEDS), means={"fid": mean},
    )  # fmt: skip


def ordering(measure: str, difference: Estimate, verdict: Any) -> Ordering:
    published = (row(0).published[measure], row(1).published[measure])
    return Ordering(
        measure=measure, metric="a metric", better=NAMES[0], worse=NAMES[1], published=published,
        difference=difference, verdict=verdict,
    )  # fmt: skip


def reproduction() -> Reproduction:
    """Two rows, three seeds, and every verdict but one."""
    told = Estimate(value=-1.0, low=-1.1, high=-0.9, n=3, unit="", better="lower")
    return Reproduction(
        name="table-tiny-1", key="1", table="table", source="A paper", note=EVIL, status="failed",
        reason="one is not done", share=0.5, seeds=SEEDS, config={"preset": "tiny"}, rows=(row(0), row(1)),
        orderings=(
            ordering("fid", told, "holds"),
            ordering("mmlu", dataclasses.replace(told, better="higher"), "contradicted"),
            ordering("itm", Estimate.missing("nothing measures it"), "not measured"),
        ),
        stands=(
            Stand(measure="fid", metric="validation_loss", reason="fid is missing"),
            Stand(measure="mmlu", metric="perplexity_retention"),
            Stand(measure="itm", metric="", reason="nothing measures it"),
        ),
        notes=(EVIL,),
        provenance={
            "command": ["python", "-m", "bench", "reproduce", "a table"],
            "commit": {"id": "c0ffee", "dirty": True, "reason": ""},
            "cpu": "a processor",
        },
    )  # fmt: skip


ANSWER = (
    "Of 3 published orderings: 1 holds, 1 contradicted, 1 not measured. "
    "Holds: two_towers before one_tower by a metric (for fid). "
    "Contradicted: two_towers before one_tower by a metric (for mmlu). "
    "Each was judged at the 5% level on its own; with Holm's correction for all 2, 2 pairs are told apart: "
    "two_towers before one_tower by a metric (for fid); one_tower before two_towers by a metric (for mmlu)."
)
CELLS = [
    "two_towers", "one_tower", "14.5 : 15.5", "-1 [-1.1, -0.9]", "holds", "contradicted", "not measured",
    "2.01 [0.98, 2.03] (15.5)", "- (31)", "450", "1.5", "2.01 [0.9, 2.5]",
]  # fmt: skip


def test_both_forms_tell_every_verdict_row_and_run() -> None:
    shown = page(reproduction())
    assert shown.answer == ANSWER
    text = markdown(shown)
    cells = [each.children for each in MarkdownIt("commonmark").enable("table").parse(text) if each.type == "inline"]
    written = ["".join(child.content for child in children or ()) for children in cells]
    tree = html5lib.parse(html(shown), treebuilder="etree", namespaceHTMLElements=False)
    found = ["".join(each.itertext()) for kind in ("td", "th") for each in tree.iter(kind)]
    assert [cell for cell in CELLS if cell not in found] == [] == [cell for cell in CELLS if cell not in written]
    whole = "".join(tree.find("body").itertext())
    for form in (whole, " ".join(written)):
        assert "nothing stands for itm: nothing measures it" in form and "one is not done" in form
        assert "python -m bench reproduce 'a table'" in form and "c0ffee with uncommitted changes" in form
        assert "with 0.5 of its budget, 3 seeds a row" in form and "a processor" in form


def test_of_many_looks_it_is_told_what_stands_together() -> None:
    near = Estimate(value=1.0, low=0.01, high=1.99, n=3, better="higher")  # alone told apart, just so
    looks = [ordering("fid", near, "holds"), *[ordering("fid", dataclasses.replace(near, low=-0.2), "not told apart")]]
    shown = page(dataclasses.replace(reproduction(), orderings=tuple(looks)))
    assert shown.answer.endswith("with Holm's correction for all 2, nothing is told apart.")
    none = page(dataclasses.replace(reproduction(), orderings=tuple(looks[1:])))
    assert "Holm" not in none.answer


def test_nothing_in_a_record_is_markup() -> None:
    shown = page(reproduction())
    tree = html5lib.parse(html(shown), treebuilder="etree", namespaceHTMLElements=False)
    assert len(list(tree.iter("script"))) == 1 and EVIL in "".join(tree.find("body").itertext())
    rendered = MarkdownIt("commonmark").enable("table").render(markdown(shown))
    assert "<script" not in rendered and "alert(1)" in rendered
    tables = html5lib.parse(rendered, treebuilder="etree", namespaceHTMLElements=False)
    for table in tables.iter("table"):
        assert len({len(list(line)) for line in table.iter("tr")}) == 1


def test_a_whole_one_at_its_full_budget_has_no_warning() -> None:
    shown = page(dataclasses.replace(reproduction(), status="done", reason="", share=1.0))
    assert shown.unfinished == "" and "budget" not in shown.lead
    assert "Not whole" not in html(shown) and "Not whole" not in markdown(shown)


def test_an_exact_number_has_no_interval_to_show() -> None:
    told = [Estimate(value=1.0, low=low, high=high, n=3) for low, high in ((0.9, 1.1), (1.0, 1.0))]
    assert [cell(each) for each in (*told, None)] == ["1 [0.9, 1.1]", "1", "-"]
