"""The page: valid HTML, one file, nothing in a record is markup, and it can be read without eyes or a mouse."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import html5lib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.printable import clean
from metrics.statistics import Estimate
from reports.document import document
from reports.html import cut, html
from reports.markdown import markdown
from tests.reports.records import EVIL, LONG, four, record_of, whole, write_run

NAMESPACE = "{http://www.w3.org/1999/xhtml}"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return html(document([whole(tmp_path_factory.mktemp("page") / "runs")]))


@pytest.fixture(scope="module")
def tree(page: str) -> Any:
    return html5lib.HTMLParser(strict=True).parse(page)  # raises on the first error of syntax


def all_of(tree: Any, *names: str) -> Iterator[Any]:
    for name in names:
        yield from tree.iter(f"{NAMESPACE}{name}")


def words(element: Any) -> str:
    return " ".join("".join(element.itertext()).split())


def test_it_is_valid_and_whole(tree: Any, page: str):
    sections = {section.get("id") for section in all_of(tree, "section")}
    assert sections == {
        "answer", "results", "pictures", "plots", "claims", "budgets", "same", "again", "not-done", "all", "made",
    }  # fmt: skip
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    targets = {a.get("href")[1:] for a in all_of(tree, "a") if a.get("href", "").startswith("#")}
    assert targets <= set(ids) and sections <= targets


def test_it_asks_nothing_of_anybody(tree: Any, page: str):
    for element in tree.iter():
        for name in ("src", "href", "action", "data", "poster", "srcset", "background"):
            assert element.get(name, "#").startswith(("#", "data:")), element.get(name)
    assert "default-src 'none'" in page and not re.search(r"@import|url\((?!#)", page)
    assert not re.search(r"(?:src|href)=.{0,1}https?:", page)


def test_no_text_of_a_record_is_markup(tree: Any, page: str):
    scripts = list(all_of(tree, "script"))
    assert len(scripts) == 1 and "alert" not in words(scripts[0])
    assert not [e for e in tree.iter() if any(str(name).startswith("on") for name in e.attrib)]
    assert all(img.get("src", "").startswith("data:image/") for img in all_of(tree, "img"))
    assert "alert(1)" in page and "<script>alert" not in page
    quotes = [words(quote) for quote in all_of(tree, "blockquote")]
    assert " ".join(EVIL.split()) in quotes
    assert not [a for a in all_of(tree, "a") if "javascript" in a.get("href", "")]


def test_a_long_caption_is_folded_and_cut(tree: Any, page: str):
    folds = [fold for fold in all_of(tree, "details") if "without an end" in words(fold)]
    assert folds and f"({len(LONG):,} letters in all)" in page
    assert LONG not in page


def test_headings_tables_pictures_and_figures_are_named(tree: Any):
    levels = [int(e.tag[-1]) for e in tree.iter() if re.fullmatch(re.escape(NAMESPACE) + "h[1-6]", str(e.tag))]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))
    for table in all_of(tree, "table"):
        assert words(next(all_of(table, "caption")))
        assert all(th.get("scope") in ("col", "row") for th in all_of(table, "th"))
    assert all(img.get("alt") for img in all_of(tree, "img"))
    svg = [e for e in tree.iter() if str(e.tag).endswith("}svg")]
    assert len(svg) == 9 and all(e.get("role") == "img" and e.get("aria-labelledby") for e in svg)
    boxes = [e for e in all_of(tree, "div") if e.get("class") == "box"]
    assert all(e.get("tabindex") == "0" and e.get("role") == "region" and e.get("aria-label") for e in boxes)
    assert len(boxes) == len(list(all_of(tree, "table")))


def test_every_dash_has_its_reason_in_words(tree: Any):
    (results,) = [s for s in all_of(tree, "section") if s.get("id") == "all"]
    notes = {li.get("id"): words(li) for li in all_of(results, "li")}
    missing = [td for td in all_of(results, "td") if td.get("class") == "missing"]
    assert missing
    for cell in missing:
        (link,) = all_of(cell, "a")
        assert notes[link.get("href")[1:]] == next(all_of(cell, "abbr")).get("title")


def test_what_failed_and_what_was_refused_is_said(tree: Any):
    (section,) = [s for s in all_of(tree, "section") if s.get("id") == "not-done"]
    said = words(section)
    assert "killed signal SIGKILL" in said and "nothing of it is in the tables" in said
    for name in ("damaged", "foreign", "future", "begun"):
        assert f"{name}/record.json refused" in said


def test_an_unfair_comparison_is_called_one(tmp_path: Path):
    write_run(tmp_path / "a", record_of("modular"), pictures=False)
    same = record_of("projection").identical
    other = record_of("projection", identical=dataclasses.replace(same, vae="another"))
    write_run(tmp_path / "b", other, pictures=False)
    page = html(document([tmp_path]))
    assert "Not a fair comparison:" in page and "VAE weights" in page
    assert "Not a fair comparison:" not in html(document([tmp_path / "a"]))


def test_nothing_done_is_a_report_too(tmp_path: Path):
    (tmp_path / "record.json").write_text("{")
    page = html(document([tmp_path]))
    html5lib.HTMLParser(strict=True).parse(page)
    assert "no run is done" in page and "refused" in page


def test_twelve_runs_take_less_than_five_seconds(tmp_path: Path):
    out = four(tmp_path / "runs", seeds=3)
    html(document([out / "modular-0"]))  # fonts and templates are read once

    def seconds(place: Path) -> float:
        begun = time.process_time()  # other processes' work does not count
        html(document([place]))
        return time.process_time() - begun

    # Of a slow machine no seconds are asked, but that twelve runs take no more than six times one.
    assert (many := seconds(out)) < 5 or many < 6 * seconds(out / "modular-0")


@settings(max_examples=30)
@given(st.text())
def test_cleaned_text_is_fit_for_html_and_keeps_what_is(text: str):
    parsed = html5lib.HTMLParser(strict=True).parseFragment(f"<p>{re.sub('[<&]', '', clean(text))}</p>")
    assert parsed is not None
    assert clean(clean(text)) == clean(text) and len(clean(text)) == len(text)
    clean(text).encode()
    if text.isprintable():
        assert clean(text) == text


def test_what_is_cut_says_how_long_it_was():
    assert cut("abc", 3) == "abc"
    assert cut("x" * 5000, 10) == "x" * 10 + " … (5,000 letters in all)"


def test_the_colours_can_be_read():
    style = (Path(__file__).parents[2] / "reports/templates/style.css").read_text().partition("@media print")[0]
    schemes = [dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6});", part)) for part in style.split("prefers-color-scheme")]
    assert len(schemes) == 2
    for scheme in schemes:
        for ground in ("paper", "box", "mark"):
            for ink in ("ink", "soft", "link", "good", "bad", "fair", "none"):
                if ground == "mark" and ink not in ("ink", "soft", "good", "link"):
                    continue
                assert contrast(scheme[ink], scheme[ground]) >= 4.5, (ink, ground, scheme)


def contrast(a: str, b: str) -> float:
    """WCAG 2's."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_no_order_to_a_terminal_gets_into_a_page_or_a_figure(tmp_path: Path):
    """From every text of a record that a figure shows: who, by which setting, in which number and unit, taken on what.
    Lone surrogates can't be written at all."""
    evil = "\x1b[31m\x07 \x9b \ud800"
    for number, setting in enumerate((f"a{evil}", f"b{evil}")):
        record = record_of("modular", seed=number)
        metrics = {**record.metrics, "peak_memory_bytes": Estimate.counted(1.0, unit=evil, better="lower")}
        sweep = tuple({"nfe": row["nfe"], f"loss{evil}": 1.0 + row["nfe"]} for row in record.curves["nfe"])
        machine = {"curves": {"batch": {"machine": f"{evil}{number}"}}}
        record = dataclasses.replace(
            record,
            approach=f"mine{evil}",
            key=f"{evil}{number}",
            settings={"variant": setting, "x": number},
            metrics=metrics,
            curves={**record.curves, "nfe": sweep},
            provenance={**record.provenance, **machine},
        )
        write_run(tmp_path / str(number), record, pictures=False)
    found = document([tmp_path])
    drawn = [plot for plot in found.plots if plot.text]
    assert {"nfe", "costs", "batch", "plane", "losses"} <= {plot.name for plot in drawn}
    for plot in drawn:
        ElementTree.fromstring(plot.text.encode())
        ElementTree.fromstring(plot.inline.encode())
    text, files = markdown(found)
    whole = (
        html(found).encode() + text.encode() + b"".join(data for name, data in files.items() if name.endswith("svg"))
    )
    assert not {0x1B, 0x07} & set(whole) and "\x9b".encode() not in whole and "mine\ufffd".encode() in whole
