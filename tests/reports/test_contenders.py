"""Who is compared and what may be said: groups of seeds, labels that tell apart, words from intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import t as student

from metrics.differences import difference
from metrics.statistics import Estimate, mean_estimate
from reports.contenders import Judge, bounded, budget_estimates, compare, contenders, unlike
from reports.gather import Run
from reports.schema import Budgets, Record
from tests.reports.records import APPROACHES, contender, mean_at, record_of


def runs(*records: Record) -> list[Run]:
    return [Run(record=record, folder=Path("x")) for record in records]


def test_runs_that_differ_in_their_seed_alone_are_one_contender():
    made = contenders(runs(*(record_of(name, seed=seed) for seed in (2, 0, 1) for name in APPROACHES)), APPROACHES)
    assert [c.label for c in made] == list(APPROACHES)
    assert all(c.seeds == (0, 1, 2) for c in made)
    assert [c.label for c in contenders(runs(*map(record_of, APPROACHES)), ("modular",))][0] == "modular"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"settings": {"learning_rate": 1e-3, "variant": "gated"}}, "variant gated"),
        ({"settings": {"learning_rate": 2e-3, "variant": "dual_tower"}}, "learning_rate 0.002"),
        ({"config": {**record_of("dual_tower", metrics={}).config, "data": {"name": "emoji"}}}, "name emoji"),
        ({"provenance": {"key": {"config": "c0", "sources": "other", "data": "d"}}}, "sources other"),
    ],
)  # fmt: skip
def test_what_differs_in_anything_else_is_another_and_its_label_says_in_what(changes: dict[str, Any], words: str):
    made = contenders(runs(record_of("dual_tower"), record_of("dual_tower", **changes), record_of("modular")))
    labels = [c.label for c in made]
    assert len(labels) == len(set(labels)) == 3
    assert sum(words in label for label in labels) == 1
    assert labels[-1] == "modular"


def test_a_mean_over_seeds_covers_seeds_and_items_and_one_seed_its_own():
    values = [0.4, 0.5, 0.9]
    estimates = [Estimate(value=v, low=0, high=1, n=7, better="lower") for v in values]
    group = contender("way", *(record_of("modular", seed=s, metrics={"x": e}) for s, e in enumerate(estimates)))
    told = group.metrics["x"]
    reach = student.ppf(0.975, 2) * 0.26457513110645906 / 3**0.5
    assert told.value == pytest.approx(0.6)
    down, up = (np.sqrt(np.mean(np.square(each))) for each in ((0.4, 0.5, 0.9), (0.6, 0.5, 0.1)))
    assert (told.low, told.high) == pytest.approx((0.6 - np.hypot(reach, down), 0.6 + np.hypot(reach, up)))
    assert told.details["interval"] == "seeds and items, as if all seeds had the same"
    assert told.n == 3 and told.details["items_each"] == 7
    assert contender("way", record_of("modular")).metrics["caption_gap"] == record_of("modular").metrics["caption_gap"]


def test_a_share_over_seeds_stays_one_and_a_gap_may_be_negative():
    def over(name: str, *values: float) -> Estimate:
        estimates = [Estimate(value=v, low=v, high=v + 0.01, n=9, unit="share", better="higher") for v in values]
        return contender(
            "way", *(record_of("modular", seed=s, metrics={name: e}) for s, e in enumerate(estimates))
        ).metrics[name]

    assert over("precision", 0.01, 0.0, 0.04).low == 0.0 and over("plans_right", 1.0, 0.99, 0.95).high == 1.0
    assert (over("caption_f1_gap", 0.01, 0.0, 0.04).low or 0) < 0 and (over("density", 1.0, 0.9, 1.1).high or 0) > 1


def test_what_is_kept_of_text_is_never_less_than_nothing():
    runs = (
        record_of("modular", seed=seed, metrics={name: Estimate(value=v, low=v, high=v, n=9, better="higher")})
        for name, kept in (("perplexity_retention_x", (1e-6, 2e-5, 3e-4)), ("other", (1e-6, 2e-5, 3e-4)))
        for seed, v in enumerate(kept)
    )
    *retained, a, b, c = runs
    found = contender("way", *retained).metrics["perplexity_retention_x"]
    assert found.low == 0 and found.high is not None and found.high > 3e-4
    other = contender("way", a, b, c).metrics["other"]
    assert other.low is not None and other.low < 0 and other.high == found.high


def test_an_interval_ends_where_its_number_must_and_nowhere_else():
    def ends(name: str, value: float, reach: float, unit: str = "") -> tuple[float | None, float | None]:
        found = bounded(name, Estimate(value=value, low=value - reach, high=value + reach, n=3, unit=unit))
        return found.low, found.high

    assert ends("scene_accuracy", 0.5, 0.75, "share") == (0.0, 1.0)
    assert ends("perplexity_retention", 0.5, 0.75) == (0.0, 1.25)  # text may be kept better than before
    assert ends("seconds_per_image", 2.0, 2.5, "s") == (0.0, 4.5)
    assert ends("caption_gap", 0.5, 0.75, "share") == (-0.25, 1.25)


@pytest.mark.parametrize("level", ["chance", "reference"])
@pytest.mark.parametrize(
    ("by_seed", "told"),
    [
        ((0.2, 0.4), 0.3),
        ((0.2, None), None),
        ((None, 0.2), None),
        ((0.2, 0.4, "no number"), 0.3),
    ],
)
def test_a_level_that_not_every_seed_has_is_none_of_the_mean(level: str, by_seed: tuple[Any, ...], told: float | None):
    def x(found: float | str | None) -> Estimate:
        if isinstance(found, str):
            return Estimate.missing(found, better="higher")
        details = {} if found is None else {level: found}
        return Estimate(value=1.0, low=0.9, high=1.1, n=9, better="higher", details={"model": "m", **details})

    records = (record_of("modular", seed=seed, metrics={"x": x(found)}) for seed, found in enumerate(by_seed))
    details = contender("way", *records).metrics["x"].details
    assert details.get(level) == pytest.approx(told) and (level in details) == (told is not None)
    assert details["model"] == "m"


def test_the_model_s_own_operations_are_the_whole_less_the_optimizer_s():
    spent = Budgets(flops=1100.0, flops_per_step=110.0, optimizer_flops_per_step=10.0, steps=10)
    found = budget_estimates(record_of("modular", budgets=spent))
    assert (found["training_flops"].value, found["training_flops_model"].value) == (1100.0, 1000.0)


def test_a_seed_without_the_number_is_left_out_of_the_mean():
    have = Estimate(value=0.5, low=0.4, high=0.6, n=7, better="lower")
    records = [record_of("modular", seed=0, metrics={"x": have}), record_of("modular", seed=1, metrics={"x": have}),
               record_of("modular", seed=2, metrics={"x": Estimate.missing("nan")})]  # fmt: skip
    assert contender("way", *records).metrics["x"].n == 2


def seeded(label: str, *values: float, first: int = 0) -> Any:
    records = (
        record_of("modular", seed=first + s, metrics={"x": mean_at(v, "the same items", better="lower", spread=5.0)})
        for s, v in enumerate(values)
    )
    return contender(label, *records)


def test_a_distance_of_other_numbers_of_pictures_is_in_no_mean_and_no_pair():
    def distances(*of: tuple[float, int]):
        made = [Estimate(value=v, low=v - 1, high=v + 1, n=n, better="lower") for v, n in of]
        return contender("way", *(record_of("modular", seed=s, metrics={"fd_x": e}) for s, e in enumerate(made)))

    a, b = distances((8.0, 256), (9.0, 256), (10.0, 256)), distances((8.0, 256), (14.0, 110), (9.0, 256))
    assert (a.metrics["fd_x"].value, b.metrics["fd_x"].value) == (9.0, 8.5)
    assert b.lacking("fd_x") == [(1, "of 110 pictures, other seeds' of 256, and its expectation depends on n")]
    told = compare(a, b, "fd_x")
    assert told is not None and told.estimate.details["per_seed"] == [0.0, 1.0]
    one, other = (distances((8.0, 256), (20.0 * side, 110), (10.0, 256)) for side in (1, 2))
    told = compare(one, other, "fd_x")  # what no mean holds is in no difference either
    assert told is not None and told.estimate.details["per_seed"] == [0.0, 0.0]
    few = distances((8.0, 110), (9.0, 256), (10.0, 256))
    told = compare(a, few, "fd_x")
    assert told is not None and told.estimate.details["per_seed"] == [0.0, 0.0]


def test_a_distance_of_fewer_pictures_is_in_no_mean_where_another_seed_has_none():
    made = [
        Estimate(value=8.0, low=7.0, high=9.0, n=256, better="lower"),
        Estimate(value=None, n=512, reason="not finite", better="lower"),  # of more pictures, and yet no number
        Estimate(value=10.0, low=9.0, high=11.0, n=110, better="lower"),
    ]
    way = contender("way", *(record_of("modular", seed=s, metrics={"fd_x": each}) for s, each in enumerate(made)))
    assert way.metrics["fd_x"].value == 8.0
    assert [seed for seed, _ in way.lacking("fd_x")] == [1, 2]


def test_a_number_that_is_made_otherwise_by_now_is_not_compared_with_the_older():
    old, new = (
        Estimate(value=0.1, low=0.0, high=0.2, n=9, unit="share", better="lower", details=told)
        for told in ({}, {"latents": "of the pictures, encoded anew"})
    )
    one, other = (contender("way", record_of("modular", metrics={"copies": each})) for each in (old, new))
    assert compare(one, other, "copies") is None and compare(one, one, "copies") is not None
    assert "as they were drawn and of the pictures" in unlike(one, other, "copies")


def test_over_seeds_in_common_the_differences_are_judged():
    # Each seed moves both alike, and so does each item: the means overlap, the differences do not.
    a, b = seeded("a", 1.0, 3.0, 5.0), seeded("b", 0.5, 2.49, 4.51)
    found = compare(a, b, "x")
    assert found is not None and found.paired and found.word == "worse"
    assert found.estimate.value == pytest.approx(0.5)
    assert abs(found.estimate.low - 0.5) < 0.05  # type: ignore[operator]
    unpaired = compare(a, seeded("b", 0.5, 2.49, 4.51, first=7), "x")
    assert unpaired is not None and unpaired.word == "not told apart" and not unpaired.paired


def test_one_seed_is_judged_by_its_items():
    a, b = contender("a", x=mean_at(1.0, "p", better="lower")), contender("b", x=mean_at(1.3, "q", better="lower"))
    assert compare(a, b, "x") == difference(a.metrics["x"], b.metrics["x"])
    assert Judge().word(a, b, "x") == "better" and Judge().word(b, a, "x") == "worse"


def test_there_is_nothing_to_say_without_two_numbers_and_a_direction():
    a = contender("a", x=Estimate.missing("none", better="lower"), y=mean_at(1, "y"), z=mean_at(1, "z", better="lower"))
    b = contender(
        "b", x=mean_at(1, "x", better="lower"), y=mean_at(2, "y"), z=mean_at(2, "z", better="lower", unit="s")
    )
    assert [Judge().word(a, b, name) for name in ("x", "y", "z", "nothing")] == [""] * 4


@pytest.mark.parametrize(
    ("unit", "first", "second", "word"),
    [
        ("parameters", 100, 200, "better"),
        ("parameters", 1000, 1005, "not told apart"),  # within a hundredth
        ("parameters", 1000, 1011, "better"),
        ("bytes", 100, 200, "not told apart"),  # one reading of a counter
        ("s", 100, 200, "not told apart"),
    ],
)
def test_counts_are_exact_and_readings_are_not(unit: str, first: float, second: float, word: str):
    a, b = (contender(n, x=Estimate.counted(v, unit=unit, better="lower")) for n, v in (("a", first), ("b", second)))
    assert Judge().word(a, b, "x") == word


def test_items_that_no_mean_gives_back_exactly_are_the_same_all_the_same():
    first, second = (mean_estimate([each] * 3, better="lower", details={}) for each in (0.1, 0.2))
    assert first.value != 0.1  # a mean is rounded
    assert difference(first, second).word == "better"


def test_what_is_the_same_for_every_item_has_no_spread():
    same = Estimate(value=4.0, n=3, better="lower", reason="all 3 values are the same", details={"per_item": [4.0] * 3})
    wide = Estimate(value=9.0, low=8.0, high=10.0, n=3, better="lower")
    assert Judge().word(contender("a", x=same), contender("b", x=wide), "x") == "better"
    unknown = Estimate(value=4.0, n=1, better="lower", reason="one item has no interval", details={"per_item": [4.0]})
    assert Judge().word(contender("a", x=unknown), contender("b", x=wide), "x") == "not told apart"


def test_two_seeds_in_common_are_enough_to_judge_over_seeds():
    found = compare(seeded("a", 1.0, 5.0), seeded("b", 0.5, 4.4), "x")
    assert found is not None and found.estimate.details["per_seed"] == pytest.approx([0.5, 0.6])


def test_a_clocks_mean_over_seeds_covers_seeds_and_differing_counts_have_one():
    def over(unit: str, *estimates: Estimate) -> Estimate:
        records = (record_of("modular", seed=s, metrics={"x": each}) for s, each in enumerate(estimates))
        return contender("way", *records).metrics["x"]

    clocked = over("s", *(Estimate(value=v, low=v - 1, high=v + 1, n=9, unit="s", better="lower") for v in (5.0, 6.0)))
    assert clocked.details["interval"] == "seeds"
    counted = over("", *(Estimate.counted(v, unit="parameters", better="lower") for v in (1.0, 3.0)))
    assert counted.value == 2.0 and counted.n == 2


def test_two_readings_of_a_counter_are_not_told_apart_where_clocks_are_judged():
    a, b = (contender(n, x=Estimate.counted(v, unit="bytes", better="lower")) for n, v in (("a", 1.0), ("b", 2.0)))
    found = compare(a, b, "x")
    assert found is not None and found.word == Judge(clocks=True).word(a, b, "x") == "not told apart"


def clocked(value: float, unit: str = "s", **details: Any) -> Estimate:
    return Estimate(value=value, low=value - 0.1, high=value + 0.1, n=9, unit=unit, better="lower", details=details)


@pytest.mark.parametrize("unit", ["s", "1/s", "bytes", "J", "share of peak"])
@pytest.mark.parametrize(
    ("told", "other", "why"),
    [
        ({"rows": 4}, {"rows": 36}, "taken with 4 and with 36 rows a batch"),
        ({"machine": "A, 1 thread"}, {"machine": "A, 2 threads"}, "taken on A, 1 thread and on A, 2 threads"),
        ({"machine": "A", "rows": 4}, {"machine": "B", "rows": 4}, "taken on A and on B"),
        ({}, {"machine": "B", "rows": 4}, ""),  # a record of before: as it was
        ({"machine": "A", "rows": 4}, {"machine": "A", "rows": 4}, ""),
    ],
)
def test_clocks_are_compared_where_they_were_read_alike(
    unit: str, told: dict[str, Any], other: dict[str, Any], why: str
):
    a, b = contender("a", x=clocked(1.0, unit, **told)), contender("b", x=clocked(2.0, unit, **other))
    assert unlike(a, b, "x") == why
    assert Judge(clocks=True).word(a, b, "x") == ("" if why else "better")


def test_what_no_clock_gave_is_compared_whatever_it_was_counted_on():
    a, b = (contender(n, x=clocked(v, "", machine=n, rows=v)) for n, v in (("a", 1.0), ("b", 2.0)))
    assert unlike(a, b, "x") == "" and Judge().word(a, b, "x") == "better"


def over_seeds(*estimates: Estimate) -> Any:
    return contender("way", *(record_of("modular", seed=s, metrics={"x": each}) for s, each in enumerate(estimates)))


def test_clocks_of_several_machines_have_no_mean():
    a, b = (clocked(value, machine=on, rows=4) for value, on in ((1.0, "A"), (2.0, "B")))
    mixed = over_seeds(a, b)
    assert mixed.metrics["x"].value is None and mixed.metrics["x"].better == "lower"
    assert mixed.metrics["x"].reason == "its seeds were taken on A and on B: such have no mean"
    assert compare(mixed, over_seeds(a, a), "x") is None
    rows = over_seeds(a, clocked(2.0, machine="A", rows=8)).metrics["x"]
    assert rows.reason == "its seeds were taken with 4 and with 8 rows a batch: such have no mean"
    alike = over_seeds(a, clocked(2.0, machine="A", rows=4)).metrics["x"]
    assert alike.value == 1.5 and (alike.details["machine"], alike.details["rows"]) == ("A", 4)
    before = over_seeds(clocked(1.0), b)  # the one that says it says it for all
    assert before.metrics["x"].value == 1.5 and unlike(before, over_seeds(a, a), "x") == "taken on B and on A"


def test_training_s_clock_says_where_it_ran():
    here, there = (
        contender(name, record_of("modular", provenance={"machine": name}, seconds={"train": 60.0}))
        for name in ("A, then B", "A")
    )
    assert unlike(here, there, "training_seconds") == "taken on A, then B and on A"
    before = contender("way", record_of("modular", seconds={"train": 60.0}))
    assert unlike(here, before, "training_seconds") == ""
