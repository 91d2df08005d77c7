"""What drawing costs: time, network evaluations, floating-point operations, energy. The same for every approach."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from approaches.base import Approach
from bench.collection import Collection
from bench.config import Config
from bench.measured import Names
from bench.meter import flops_of_prompt, flops_per_evaluation, machine, now, synchronise
from bench.quantiles import median_interval
from bench.sampler import Drawn, Sampling, draw
from metrics.statistics import Estimate, mean_estimate

TRIES = 7  # of a first picture, of which the first does not count
COSTS: Names = {
    "seconds_per_image": ("s", "lower"), "seconds_to_first_image": ("s", "lower"), "nfe": ("", "lower"),
    "flops_per_image": ("FLOP", "lower"),
}  # fmt: skip


def drawing_costs(approach: Approach, drawn: Drawn, collection: Collection, config: Config) -> dict[str, Estimate]:
    """`seconds_per_image` in batches, and its named parts; `seconds_to_first_image`, one prompt alone to its pixels;
    `nfe`; `flops_per_image`; and where an approach plans or draws again, `planner_tokens` and `redraws` a picture."""
    how = taken_with(approach, rows_of(drawn.seconds))
    batches = {"batches": drawn.seconds, "parts": drawn.parts, **how}
    found = {
        "seconds_per_image": median_of(a_row_each(drawn.seconds), batches),
        "seconds_to_first_image": _first(approach, collection, config),
        "nfe": mean_estimate(drawn.nfe, keys=collection.keys[: len(drawn.nfe)], better="lower", details={}),
        "flops_per_image": _flops(approach, drawn, collection, config),
    }
    for part, seconds in drawn.parts.items():
        found[f"seconds_per_image_{part}"] = Estimate(
            value=seconds / len(drawn.nfe),
            n=len(drawn.nfe),
            unit="s",
            better="lower",
            reason="the sum over all batches",
            details=how,
        )
    if drawn.tokens:
        found["planner_tokens"] = Estimate(
            value=drawn.tokens / len(drawn.nfe),
            n=len(drawn.nfe),
            unit="a picture",
            better="lower",
            reason="the sum over all pictures",
        )
    return found | traced(drawn.trace)


def traced(trace: Sequence[Mapping[str, Any]]) -> dict[str, Estimate]:
    """From what an approach tells of each picture: `redraws`, and `redraws_accepted`, the share of the pictures drawn
    again whose last word was yes; and of plans that somebody wrote (`parsed` is None where nobody did) `plans_unread`
    and `plans_corrected`."""
    found = {}
    if rounds := [float(entry["rounds"]) for entry in trace if "rounds" in entry]:
        found["redraws"] = mean_estimate(rounds, unit="a picture", better="lower", details={})
    if again := [float(entry["accepted"]) for entry in trace if entry.get("rounds") and "accepted" in entry]:
        found["redraws_accepted"] = mean_estimate(again, unit="share", better="higher", details={})
    planned = [entry for entry in trace if entry.get("parsed") is not None]
    if planned:
        unread = [float(not entry["parsed"]) for entry in planned]
        found["plans_unread"] = mean_estimate(unread, unit="share", better="lower", details={})
    if corrected := [float(entry["corrected"]) for entry in planned if "corrected" in entry]:
        found["plans_corrected"] = mean_estimate(corrected, unit="share", better="lower", details={})
    return found


def taken_with(approach: Approach, rows: int) -> dict[str, Any]:
    """What the numbers of a clock say of how they were taken: rows a batch, and on what."""
    return {"rows": rows, "machine": machine(next(approach.parameters()).device)}


def rows_of(batches: Sequence[tuple[float, int]]) -> int:
    """Rows of a full batch. batches: seconds, rows."""
    return max((rows for _, rows in batches), default=0)


def a_row_each(batches: Sequence[tuple[float, int]]) -> list[float]:
    """Seconds a row of each full batch, in ascending order: a smaller one at the end takes longer a row. batches:
    seconds, rows."""
    full = rows_of(batches)
    return sorted(seconds / rows for seconds, rows in batches if rows == full)


def median_of(ordered: Sequence[float], details: Mapping[str, Any]) -> Estimate:
    """The median of ordered seconds. Its interval holds for this run on this machine."""
    bounds = median_interval(ordered)
    return Estimate(
        value=statistics.median(ordered),
        low=bounds[0] if bounds else None,
        high=bounds[1] if bounds else None,
        n=len(ordered),
        unit="s",
        better="lower",
        reason="" if bounds else f"too few batches for an interval of their median: {len(ordered)}",
        details=details,
    )


def _first(approach: Approach, collection: Collection, config: Config) -> Estimate:
    """From one prompt to its picture's pixels, alone: reading, planning, drawing, decoding. Of several prompts: some
    are drawn again."""
    seconds, nfe = [], []
    for turn in range(TRIES):
        spent, drawn = to_pixels(approach, collection, range(turn, turn + 1), config, first=0)
        seconds.append(spent)
        nfe += drawn.nfe
    return median_of(sorted(seconds[1:]), {"tries": seconds, "nfe": nfe, **taken_with(approach, 1)})


def to_pixels(
    approach: Approach, collection: Collection, places: Sequence[int], config: Config, *, first: int
) -> tuple[float, Drawn]:
    """The first captions at these places of a collection, which begins anew after its last, drawn as one batch: seconds
    from words to pixels. first: whose noise the first gets."""
    shared, device = approach.shared, next(approach.parameters()).device
    sampling = Sampling(nfe=config.diffusion.nfe, guidance=config.diffusion.guidance)
    chosen = [place % len(collection) for place in places]
    words = [collection.captions[place][0] for place in chosen]
    prompts = approach.prompts(words, [collection.scenes[place] for place in chosen])
    synchronise(device)
    begun = now()
    drawn = draw(approach, prompts, sampling, seed=config.seed, batch=len(prompts), first=first)
    shared.codecs["image"].decode_images(drawn.latents)
    return now() - begun, drawn


def _flops(approach: Approach, drawn: Drawn, collection: Collection, config: Config) -> Estimate:
    """Of reading a caption of the median length and all evaluations of a picture: a count where all pictures take as
    many, else their mean. Guidance doubles the evaluations, and reads its empty prompt once a batch."""
    if "denoise" not in approach.capabilities:
        return Estimate.missing(
            "the approach declares no 'denoise', which is what is counted", unit="FLOP", better="lower"
        )
    latents = collection.latents[:1].to(next(approach.parameters()).device)
    captions = sorted((texts[0] for texts in collection.captions[: len(drawn.nfe)]), key=len)
    work = flops_per_evaluation(approach, latents, captions[len(captions) // 2])
    guided, many = config.diffusion.guidance != 1, len(drawn.nfe)
    each = (1 + guided) * work["denoise"] * np.array(drawn.nfe, dtype=float) + work["condition"]
    if guided:
        each += flops_of_prompt(approach, "") / min(config.evaluate.batch, many)
    told = {**work, "guided": guided, "left_out": "a planner's tokens, checks and decoding to pixels are not counted"}
    if len(set(drawn.nfe)) == 1:
        return Estimate.counted(float(each[0]), unit="FLOP", better="lower", **told)
    return mean_estimate(each, keys=collection.keys[:many], unit="FLOP", better="lower", details=told)
