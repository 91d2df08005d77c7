"""The table that `python -m bench run` ends with: done runs side by side, budgets first, then the main metrics."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from bench.console import clock
from metrics.statistics import Estimate
from reports.schema import Record

COLUMNS = 4  # runs side by side in a table
MAIN = (
    "fid", "fd_dinov2", "fd_efficientnet_lite0", "kid_efficientnet_lite0", "precision", "recall", "clip_score",
    "clip_score_gap", "clip_retrieval_precision", "validation_loss", "caption_gap", "heard_colours", "heard_shapes",
    "heard_sizes", "scene_accuracy", "scene_accuracy_0_redraws",
    "scene_accuracy_pairs", "right_objects", "right_objects_gap", "training_copies_latent", "caption_exact_match",
    "caption_attribute_f1", "caption_f1_gap", "caption_loss_gap", "caption_cider", "perplexity_retention",
    "perplexity_retention_*", "plans_readable", "plans_right",
    "kl_base_adapted", "top1_agreement", "bits_per_byte", "seconds_per_image",
    "seconds_to_first_image", "seconds_per_caption", "nfe", "flops_per_image", "steps_per_second",
    "images_per_second", "tokens_per_second", "peak_memory_bytes", "energy_joules",
)  # fmt: skip
"""The metrics of the table, or patterns of them, in its order; a record holds more."""


def rows(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """A table's rows: a heading, the budgets, then the main metrics that one of the records has."""
    seeds = {record.seed for record in records}
    heading = [f"{record.approach} {record.seed}" if len(seeds) > 1 else record.approach for record in records]
    table = [("", *heading)]
    for name, of in (
        ("parameters", lambda r: _count(r.budgets.total)),
        ("  trained", lambda r: _count(r.budgets.trainable)),
        ("training FLOPs", lambda r: _count(r.budgets.flops)),
        ("images seen", lambda r: _count(r.budgets.images)),
        ("seconds", lambda r: clock(sum(r.seconds.values()))),
    ):
        table.append((name, *map(of, records)))
    every = sorted({name for record in records for name in record.metrics})
    for name in (name for pattern in MAIN for name in fnmatch.filter(every, pattern)):
        estimates = [record.metrics.get(name) for record in records]
        better = next((e.better for e in estimates if e is not None and e.better), "")
        unit = next((e.unit for e in estimates if e is not None and e.unit), "")
        notes = ", ".join(word for word in (unit, f"{better} is better" if better else "") if word)
        table.append((f"{name} ({notes})" if notes else name, *map(_cell, estimates)))
    return table


def _cell(estimate: Estimate | None) -> str:
    if estimate is None or estimate.value is None:
        return "-"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.4g}"
    return f"{estimate.value:.4g} [{estimate.low:.4g}, {estimate.high:.4g}]"


def _count(number: float | None) -> str:
    return "-" if number is None else f"{number:.3g}" if number >= 1e7 else f"{number:,.0f}"
