"""The numbers that README.md and docs/findings.md show are those of the committed results, to the last digit shown."""

from __future__ import annotations

import csv
import io
import json
import re
import tarfile
from pathlib import Path

import pytest

from reports import results
from reports.document import document

ROOT = Path(__file__).parents[1]
APPROACHES = ("full_retraining", "dual_tower", "projection", "modular")
TABLES = {"README.md": "docs/longer/results.csv", "docs/findings.md": "docs/example-report/results.csv"}
ROWS = {  # how a row's label begins: the metric, and what its numbers are multiplied by
    "text retention on the replayed corpus": ("perplexity_retention", 1.0),
    "text retention on other English": ("perplexity_retention_readmes", 1.0),
    "text retention on the rest": ("perplexity_retention_world", 1.0),
    "picture plans": ("plans_right", 100.0),
    "validation loss": ("validation_loss", 1.0),
    "colours heard": ("heard_colours", 1.0),
    "sizes heard": ("heard_sizes", 1.0),
    "shapes heard": ("heard_shapes", 1.0),
    "FD on EfficientNet-Lite0": ("fd_efficientnet_lite0", 1.0),
    "KID on the same features": ("kid_efficientnet_lite0", 1000.0),
    "CLIP score minus that of 99": ("clip_score_gap", 1.0),
    "scene accuracy, %": ("scene_accuracy", 100.0),
    "right objects minus chance": ("right_objects_gap", 100.0),
    "the same on combinations": ("right_objects_gap_pairs", 100.0),
    "captions: attribute F1 minus": ("caption_f1_gap", 1.0),
    "captions: attribute F1 ↑": ("caption_attribute_f1", 1.0),
    "the same minus that of shuffled": ("caption_f1_gap", 1.0),
    "trained parameters, million": ("parameters_trained", 1e-6),
    "training, TFLOP, optimizer included": ("training_flops", 1e-12),
    "training, TFLOP of the model alone": ("training_flops_model", 1e-12),
    "network evaluations": ("nfe", 1.0),
}
QUIET = ("learning rate", "training steps a second", "seconds a picture")  # settings, and clocks of other runs
CELL = re.compile(r"(-?[\d.]+)(?: \[(-?[\d.]+), (-?[\d.]+)\])?(?:; (-?[\d.]+) drawn once)?")


def table(page: str) -> list[tuple[str, list[str]]]:
    """The page's first table of the four approaches: labels, and a cell for each."""
    text = (ROOT / page).read_text(encoding="utf-8")
    head = "| | " + " | ".join(f"`{name}`" for name in APPROACHES) + " |"
    body = text[text.index(head) :].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in body]
    return [(row[0], row[1:]) for row in rows]


def means(results: str) -> dict[tuple[str, str], dict[str, str]]:
    """(approach, metric) -> the row of its mean over seeds, or of its one run."""
    with (ROOT / results).open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    whole = {(row["approach"], row["metric"]): row for row in found if row["seed"] == ""}
    return {(row["approach"], row["metric"]): row for row in found} | whole


def said(value: str, scale: float, like: str) -> str:
    """A value as it is written with as many decimals as another number; "" where there is none."""
    if not value:
        return ""
    text = f"{float(value) * scale:.{len(like.partition('.')[2])}f}"
    return text if float(text) else text.lstrip("-")


@pytest.mark.parametrize("page", TABLES)
def test_every_number_of_the_table_is_of_the_committed_results(page: str) -> None:
    rows, known, checked = table(page), means(TABLES[page]), 0
    assert len(rows) > 12
    for label, cells in rows:
        if label.startswith(QUIET):
            continue
        (name,) = [name for name in ROWS if label.startswith(name)]
        metric, scale = ROWS[name]
        for approach, cell in zip(APPROACHES, cells, strict=True):
            found = CELL.fullmatch(cell)
            assert found, f"{page}: '{label}' of {approach} is '{cell}'"
            value, low, high, once = found.groups()
            row = known[approach, metric]
            assert value == said(row["value"], scale, value), (label, approach)
            if low is None:  # none, or no wider than what is shown
                assert said(row["low"], scale, value) in ("", value) and said(row["high"], scale, value) in ("", value)
            else:
                assert [low, high] == [said(row["low"], scale, low), said(row["high"], scale, high)], (label, approach)
            if once is not None:
                assert once == said(known[approach, f"{metric}_0_redraws"]["value"], scale, once), (label, approach)
            checked += 1
    assert checked >= 48


def test_the_claims_are_judged_as_in_the_committed_results() -> None:
    found = json.loads((ROOT / "docs/longer/results.json").read_text(encoding="utf-8"))["claims"]
    text = (ROOT / "docs/findings.md").read_text(encoding="utf-8")
    body = text[text.index("| approach | claim | taken to mean |") :].split("\n\n")[0].splitlines()[2:]
    told, approach = [], ""
    for line in body:
        name, claim, _, verdict, because = (cell.strip() for cell in line.strip("|").split("|"))
        approach = name.strip("`") or approach
        told.append((approach, {"+": "pro", "-": "con"}[claim[0]], claim[2:], verdict))
        assert because
    assert told == [(each["approach"], each["side"], each["says"], each["verdict"]) for each in found]


def test_the_committed_records_give_the_committed_numbers(tmp_path: Path) -> None:
    """Whoever doubts a number can have it made again: `python -m bench report` of the records that are here."""
    for archive in sorted((ROOT / "docs/longer/records").glob("*.tar.xz")):
        with tarfile.open(archive) as tar:
            tar.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.3 has none
            tar.extractall(tmp_path)
    told = csv.DictReader(io.StringIO(results.as_csv(document([tmp_path]).contenders), newline=""))
    with (ROOT / "docs/longer/results.csv").open(encoding="utf-8", newline="") as file:
        for made, kept in zip(told, csv.DictReader(file), strict=True):
            for name, value in kept.items():
                if value and name in ("value", "low", "high"):  # another processor adds up in another order
                    assert float(made[name]) == pytest.approx(float(value), rel=1e-9, abs=1e-12), kept
                else:
                    assert made[name] == value, kept
