"""The table of learning rates in docs/sweeps.md is that of the committed records, to the last digit shown."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
RATES = (1e-3, 2e-3, 4e-3)
METRICS = {
    "colours heard ↑": "heard_colours",
    "validation loss ↓": "validation_loss",
    "CLIP score above others' ↑": "clip_score_gap",
    "text retained (`pydocs`) ↑": "perplexity_retention",
}


def records() -> dict[tuple[str, float], list[dict[str, Any]]]:
    """The trials' metrics by approach and rate, a seed each."""
    found: dict[tuple[str, float], list[dict[str, Any]]] = {}
    with tarfile.open(DOCS / "sweeps/trials-450.tar.xz") as archive:
        for member in sorted(archive.getmembers(), key=lambda each: each.name):
            file = archive.extractfile(member)
            assert file is not None
            record = json.load(io.TextIOWrapper(file, encoding="utf-8"))
            of = found.setdefault((record["approach"], record["settings"]["learning_rate"]), [])
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


def test_the_table_is_the_records() -> None:
    known, told = records(), list(rows())
    assert len(told) == 13 and {len(each) for each in known.values()} == {2}
    for approach, what, cells in told:
        for rate, cell in zip(RATES, cells, strict=True):
            values = [one[METRICS[what]]["value"] for one in known[approach, rate]]
            shown, *seeds = re.findall(r"-?\d+\.\d+", cell)
            digits = len(shown.partition(".")[2])
            assert abs(float(shown) - mean(values)) <= 0.5001 * 10**-digits, (approach, what, rate)
            for seed, value in zip(seeds, values, strict=bool(seeds)):
                assert abs(float(seed) - value) <= 0.5001 * 10**-digits, (approach, what, rate)


def test_the_sweep_s_own_record_is_of_the_same_trials() -> None:
    known = records()
    sweep = json.loads((DOCS / "sweeps/learning_rate-tiny-450.json").read_text(encoding="utf-8"))
    for tuned in sweep["approaches"]:
        for trial in tuned["trials"]:
            (record,) = (one for one in known[tuned["approach"], trial["value"]] if one["seed"] == trial["seed"])
            for name, metric in trial["metrics"].items():
                assert record[name]["value"] == metric["value"]
