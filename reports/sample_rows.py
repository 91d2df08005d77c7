"""samples.csv: what every run drew and wrote for each held-out prompt, and its own score by every number that has one a
picture or caption. For whoever wants to see where one approach is right and another wrong."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

from bench.printable import clean
from reports.contenders import Contender
from reports.gather import Run

FIXED = ("contender", "seed", "run", "key", "prompt", "true", "drawn", "caption", "trace")
OF_DRAWN = ("scene_accuracy", "right_objects", "right_objects_gap", "clip_score", "clip_score_gap",
            "clip_retrieval_precision", "nfe")  # fmt: skip
OF_CAPTIONS = ("caption_attribute_f1", "caption_exact_match", "caption_f1_gap", "caption_cider", "caption_loss",
               "caption_loss_gap")  # fmt: skip
ONCE = "_0_redraws"


def samples_csv(contenders: Sequence[Contender]) -> str:
    """A row a run and held-out picture, "" where there is nothing. "" where no record holds samples."""
    rows = [row for contender in contenders for run in contender.runs for row in _rows(contender.label, run)]
    if not rows:
        return ""
    found = dict.fromkeys(name for row in rows for name in row if name not in FIXED)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, (*FIXED, *sorted(found)), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _rows(label: str, run: Run) -> Iterator[dict[str, Any]]:
    record = run.record
    scores = {name: values for name in record.metrics if (values := _each(run, name))}
    for place, sample in enumerate(record.samples):
        told = {"contender": label, "seed": record.seed, "run": record.name, "key": sample.key, "prompt": sample.prompt,
                "true": sample.true, "drawn": sample.drawn, "caption": sample.caption,
                "trace": json.dumps(sample.trace, sort_keys=True) if sample.trace else ""}  # fmt: skip
        row = {name: "" if value is None else clean(value) for name, value in told.items()}
        yield row | {name: values[place] for name, values in scores.items() if place in values}


def _each(run: Run, name: str) -> dict[int, float]:
    """A number of each sample, by its place: of numbers that have one a picture, or one a caption, in their order."""
    details, samples = run.record.metrics[name].details, run.record.samples
    values = details.get("own", details.get("per_item"))
    if not isinstance(values, list):
        return {}
    if name.removesuffix(ONCE) in OF_DRAWN:  # drawn pictures are the first samples, but for those that can't be scored
        places = list(details.get("looked_at", range(len(values))))
    elif name in OF_CAPTIONS:
        places = [place for place, sample in enumerate(samples) if sample.caption is not None]
    else:
        return {}
    if len(values) != len(places) or max(places, default=0) >= len(samples):
        return {}
    return {place: value for place, value in zip(places, values, strict=True) if isinstance(value, int | float)}
