"""The tables of learning rates in docs/sweeps.md and docs/published-tables.md are those of the committed records, to
the last digit shown."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

DOCS = Path(__file__).parents[1] / "docs"
RATES = (1e-3, 2e-3, 4e-3)
METRICS = {
    "colours heard ↑": "heard_colours",
    "validation loss ↓": "validation_loss",
    "CLIP score above others' ↑": "clip_score_gap",
    "text retained (`pydocs`) ↑": "perplexity_retention",
}


def records(path: str, row: Callable[[dict[str, Any]], str]) -> dict[tuple[str, float], list[dict[str, Any]]]:
    """The trials' metrics by row and rate, a seed each."""
    found: dict[tuple[str, float], list[dict[str, Any]]] = {}
    with tarfile.open(DOCS / path) as archive:
        for member in sorted(archive.getmembers(), key=lambda each: each.name):
            file = archive.extractfile(member)
            assert file is not None
            record = json.load(io.TextIOWrapper(file, encoding="utf-8"))
            of = found.setdefault((row(record), record["settings"]["learning_rate"]), [])
            of.append({"seed": record["config"]["seed"], **record["metrics"]})
    return {key: sorted(each, key=lambda one: one["seed"]) for key, each in found.items()}


def rows() -> Iterator[tuple[str, str, list[str]]]:
    """The page's rows: approach, what, and a cell a rate."""
    page = (DOCS / "sweeps.md").read_text(encoding="utf-8")
    approach = ""
    for line in page[: page.index("### The other variants")].splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 6 and cells[1] in METRICS:
            approach = cells[0].strip("`") or approach
            yield approach, cells[1], cells[2:5]


def check(cell: str, values: list[float], told: tuple[object, ...]) -> None:
    """A cell is the mean of its values, and, where it has them, the values."""
    shown, *seeds = re.findall(r"-?\d+(?:\.\d+)?", cell)
    for text, value in [(shown, mean(values)), *zip(seeds, values, strict=bool(seeds))]:
        digits = len(text.partition(".")[2])
        assert abs(float(text) - value) <= 0.5001 * 10**-digits, told


def test_the_table_is_the_records() -> None:
    known, told = records("sweeps/trials-450.tar.xz", lambda record: record["approach"]), list(rows())
    assert len(told) == 13 and {len(each) for each in known.values()} == {2}
    for approach, what, cells in told:
        for rate, cell in zip(RATES, cells, strict=True):
            check(cell, [one[METRICS[what]]["value"] for one in known[approach, rate]], (approach, what, rate))


def row_of(record: dict[str, Any]) -> str:
    """The published row that a run stands for."""
    variant = record["settings"]["variant"]
    return {"transfusion": "single tower", "gated": "gated tower"}.get(variant, variant.replace("_", " "))


def test_the_published_rows_at_other_rates_are_the_records() -> None:
    known = records("published/records/x_fusion_rates.tar.xz", row_of)
    page = (DOCS / "published-tables.md").read_text(encoding="utf-8")
    table = page[page.index("### At other rates") : page.index("### Each row at a rate")]
    metrics = {
        "CLIP score ↑": "clip_score",
        "FD, n = 128 ↓": "fd_efficientnet_lite0",
        "captions: F1 above shuffled pictures' ↑": "caption_f1_gap",
        "validation loss ↓": "validation_loss",
        "colours heard ↑": "heard_colours",
    }
    seen, what = 0, ""
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) != 6 or cells[1] not in {name for name, _ in known}:
            continue
        what = metrics[cells[0]] if cells[0] else what
        for rate, cell in zip((2e-3, 4e-3, 8e-3, 1.6e-2), cells[2:], strict=True):
            assert bool(cell) == ((cells[1], rate) in known)
            if cell:
                check(cell, [one[what]["value"] for one in known[cells[1], rate]], (cells[1], what, rate))
                seen += 1
    assert seen == len(metrics) * len(known) == 65 and {len(each) for each in known.values()} == {2}


@pytest.mark.parametrize(
    ("begins", "ends", "record"),
    [
        ("## X-Fusion's table 1", "### At other rates", "x_fusion_table_1.json"),
        ("### Each row at a rate of its own", "### Four times as long", "x_fusion_table_1_own_rates.json"),
        ("### Four times as long", "**The table as it was.**", "x_fusion_table_1_longer.json"),
    ],
)
def test_a_tried_table_is_its_record(begins: str, ends: str, record: str) -> None:
    """Means over seeds with their intervals, and what is published; and how many orderings came out how."""
    numbers = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
    page = (DOCS / "published-tables.md").read_text(encoding="utf-8")
    part = page[page.index(begins) : page.index(ends)]
    found = json.loads((DOCS / "published" / record).read_text(encoding="utf-8"))
    known = {row["name"].replace("_", " "): row for row in found["rows"]}
    seen = set()
    for line in part.splitlines():
        name, *cells = [cell.strip() for cell in line.split("|")[1:-1]] or [""]
        if name not in known:
            continue
        seen.add(name)
        for cell, measure in zip(cells, ("fid", "clip", "blip2_itm", "mmlu"), strict=True):
            own, published = cell.removesuffix(")").split(" (")
            assert float(published) == known[name]["published"][measure]
            mean_of = known[name]["means"][measure]
            bounds = [mean_of[each] for each in ("value", "low", "high")]
            texts = re.findall(r"-?\d+(?:\.\d+)?", own)
            assert len(texts) in (1, 3)
            for text, value in zip(texts, bounds, strict=False):
                digits = len(text.partition(".")[2])
                assert abs(float(text) - value) <= 0.5001 * 10**-digits, (name, measure, text, value)
    assert seen == set(known)
    count = Counter(each["verdict"] for each in found["orderings"])
    words = [numbers[count[verdict]] for verdict in ("holds", "contradicted", "not told apart")]
    hold, contradicted, level = words
    told = (
        rf"Of {len(found['orderings'])} orderings\W+{hold} hold\b.*\b{contradicted} are contradicted, {level} are not"
    )
    assert re.search(told, part), told


@pytest.mark.parametrize(
    ("sweep", "trials", "row"),
    [
        ("sweeps/learning_rate-tiny-450.json", "sweeps/trials-450.tar.xz", lambda of: of["approach"]),
        *(
            (f"published/rates/{name}.json", "published/records/x_fusion_rates.tar.xz", row_of)
            for name in ("single_tower", "gated", "dual_projection", "dual_tower")
        ),
    ],
)
def test_a_sweep_s_own_record_is_of_the_same_trials(
    sweep: str, trials: str, row: Callable[[dict[str, Any]], str]
) -> None:
    known = records(trials, row)
    found = json.loads((DOCS / sweep).read_text(encoding="utf-8"))
    seen = 0
    for tuned in found["approaches"]:
        for trial in tuned["trials"]:
            (record,) = (one for one in known[row(tuned), trial["value"]] if one["seed"] == trial["seed"])
            for name, metric in trial["metrics"].items():
                assert record[name]["value"] == metric["value"]
                seen += 1
    assert seen > 20
