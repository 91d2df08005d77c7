"""Tables and numbers: marks only where something is told apart, reasons for what is missing, digits that are borne."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics.statistics import Estimate
from reports.contenders import Contender, Judge
from reports.glossary import (
    Scale,
    common_digits,
    digits,
    known,
    main_metrics,
    meaning,
    number,
    ordered,
    scale_of,
    written,
)
from reports.schema import Record
from reports.tables import is_distance, made, marks_of, null_distance, table
from tests.reports.records import contender, record_of


def at(value: float, reach: float = 0.1, better: str = "higher") -> Estimate:
    return Estimate(value=value, low=value - reach, high=value + reach, n=9, better=better)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "better", "marks"),
    [
        ((3.0, 2.0, 1.0), "higher", {"c0": "best"}),
        ((3.0, 2.0, 1.0), "lower", {"c2": "best"}),
        ((3.0, 2.95, 1.0), "higher", {"c0": "tied", "c1": "tied"}),
        ((1.0, 1.01, 1.02), "higher", {}),
        ((1.0,), "higher", {}),
        ((3.0, None, 1.0), "higher", {"c0": "best"}),
        ((3.0, None, None), "higher", {}),
        ((3.0, 1.0), "", {}),
    ],
)
def test_best_is_marked_only_where_it_is_told_apart(
    values: tuple[float | None, ...], better: str, marks: dict[str, str]
):
    made = [
        contender(f"c{i}", x=Estimate.missing("no", better=better) if v is None else at(v, better=better))  # type: ignore[arg-type]
        for i, v in enumerate(values)
    ]
    assert marks_of(made, "x", Judge()) == marks


def test_numbers_without_intervals_are_never_marked():
    made = [contender(f"c{v}", x=Estimate(value=v, n=1, reason="one reading", better="lower")) for v in (1.0, 100.0)]
    assert marks_of(made, "x", Judge()) == {}


def test_what_is_missing_is_a_dash_with_its_reason_as_a_note():
    a, b = contender("a", fid=Estimate.missing("no weights", better="lower"), x=at(1)), contender("b", x=at(2))
    made = table("t", "T", ["fid", "x"], [a, b], Judge())
    missing, absent = made.rows[0].cells[0], made.rows[1].cells[0]
    assert (missing.text, missing.value, missing.hint) == ("–", None, "no weights")
    assert [made.footnotes[n - 1] for n in missing.notes] == ["no weights"]
    assert [made.footnotes[n - 1] for n in absent.notes] == ["the record holds no such number"]
    assert made.rows[0].cells[1].notes == ()
    assert [column.arrow for column in made.columns] == ["↓", "↑"]


def test_a_number_without_an_interval_has_the_reason_as_a_note():
    made = table("t", "T", ["x"], [contender("a", x=Estimate(value=1.0, n=1, reason="one batch"))], Judge())
    assert made.footnotes == ("no interval: one batch",)
    exact = table("t", "T", ["x"], [contender("a", x=Estimate.counted(3, unit=""))], Judge())
    assert exact.footnotes == ()


def seeded(label: str, **by_seed: float | None) -> Contender:
    """One number by seed, as s0=..., with an interval of 0.1 either way."""
    gone = Estimate.missing("not finite", better="lower")
    made = {int(seed[1:]): gone if v is None else at(v, 0.1, better="lower") for seed, v in by_seed.items()}
    return contender(label, *(record_of("modular", seed=seed, metrics={"x": e}) for seed, e in made.items()))


def test_who_is_beaten_over_the_seeds_in_common_does_not_lead():
    """Half an array: a's mean is the best for its seed 0, which the others have not run, yet b beats it in seed 1."""
    a, b, c = seeded("a", s0=0.0, s1=6.0), seeded("b", s1=4.0), seeded("c", s1=8.0)
    assert Judge().word(b, a, "x") == "better"
    assert marks_of([a, b, c], "x", Judge()) == {"b": "best"}


def test_a_mean_names_the_seeds_that_it_lacks():
    made = table("t", "T", ["x"], [seeded("a", s0=1.0, s1=2.0, s2=None), seeded("b", s0=3.0, s1=4.0, s2=4.0)], Judge())
    assert made.footnotes == ("seed 2 is left out of this mean: not finite",)
    assert [row.cells[0].notes for row in made.rows] == [(1,), ()]
    assert table("t", "T", ["x"], [seeded("a", s0=None, s1=None)], Judge()).footnotes == ("not finite",)


def test_beside_a_distance_stand_n_the_null_distance_and_a_warning_for_too_few_pictures():
    details = {"null": 1.5, "rank_deficient": True}
    few = Estimate(value=9.0, low=8.0, high=10.0, n=500, better="lower", details=details)
    made = table("t", "T", ["fd_x"], [contender("a", fd_x=few)], Judge())
    assert made.rows[0].cells[0].beside == "n 500, null 1.5"
    assert "no larger than the number of features" in made.footnotes[0]
    least = {"vae_fd_x": Estimate(value=4.0, low=3.0, high=5.0, n=500, better="lower")}
    assert table("t", "T", ["fd_x"], [contender("a", fd_x=few, **least)], Judge()).rows[0].cells[0].beside == (
        "n 500, null 1.5, VAE 4.0"
    )
    bare = contender("a", fd_x=Estimate(value=9.0, low=8.0, high=10.0, n=500, better="lower"))
    assert null_distance(bare, "fd_x") is None
    assert table("t", "T", ["fd_x"], [bare], Judge()).footnotes == ("the null distance was not measured",)
    assert is_distance("fid") and is_distance("kid_x") and not is_distance("fidelity") and not is_distance("null_fid")


def test_what_one_process_s_clock_gave_is_never_best_and_over_seeds_it_may_be():
    fast, slow = (Estimate(value=v, low=v - 0.1, high=v + 0.1, n=9, unit="s", better="lower") for v in (1.0, 2.0))
    once = [contender("a", x=fast), contender("b", x=slow)]
    assert marks_of(once, "x", Judge()) == {}
    assert marks_of(once, "x", Judge(clocks=True)) == {"a": "best"}

    def thrice(label: str, estimate: Estimate) -> Contender:
        values = [replace(estimate, value=(estimate.value or 0) + 0.01 * seed) for seed in range(3)]
        return contender(label, *(record_of("modular", seed=i, metrics={"x": e}) for i, e in enumerate(values)))

    assert marks_of([thrice("a", fast), thrice("b", slow)], "x", Judge()) == {"a": "best"}


def test_a_number_s_chance_level_stands_beside_it_as_a_mean_over_seeds():
    def run(seed: int, chance: float) -> Record:
        x = Estimate(value=0.09, low=0.07, high=0.12, n=9, unit="share", better="higher", details={"chance": chance})
        return record_of("modular", seed=seed, metrics={"x": x})

    (row,) = table("t", "T", ["x"], [contender("a", run(0, 0.076))], Judge()).rows
    assert row.cells[0].beside == "chance 0.076"
    fewer = replace(run(0, 0.05).metrics["x"], n=5)
    cells = [
        row.cells[0]
        for row in table("t", "T", ["x"], [contender("a", run(0, 0.05)), contender("b", x=fewer)], Judge()).rows
    ]
    assert [cell.beside for cell in cells] == ["n 9, chance 0.050", "n 5, chance 0.050"]
    (row,) = table("t", "T", ["x"], [contender("a", run(0, 0.05), run(1, 0.07))], Judge()).rows
    assert row.cells[0].beside.startswith("chance 0.06")


def test_what_the_truth_gets_stands_once_at_a_number_s_head():
    def run(seed: int, name: str, reference: float) -> Record:
        details = {"reference": reference}
        x = Estimate(value=0.31, low=0.29, high=0.34, n=9, unit="share", better="higher", details=details)
        return record_of("modular", seed=seed, metrics={name: x})

    def head(name: str, *contenders: Contender) -> str:
        return table("t", "T", [name], list(contenders), Judge()).columns[0].best

    alike = [contender(label, run(0, "right_objects_gap", 0.756)) for label in "ab"]
    assert head("right_objects_gap", *alike) == "true pictures 0.756"
    over_seeds = contender("a", run(0, "right_objects_gap", 0.74), run(1, "right_objects_gap", 0.76))
    assert head("right_objects_gap", over_seeds) == "true pictures 0.750"
    assert head("right_objects_gap", alike[0], over_seeds) == "true pictures 0.750 to 0.756"
    assert head("caption_f1_gap", contender("a", run(0, "caption_f1_gap", 0.69))).startswith("full descriptions 0.69")
    assert head("scene_accuracy", contender("a", run(0, "scene_accuracy", 0.69))) == ""  # which says of it nothing


def test_a_distance_at_another_n_is_another_number_and_says_so():
    a, b = (
        contender(label, fd_x=Estimate(value=v, low=v - 1, high=v + 1, n=n, better="lower"), y=at(v, 1))
        for label, v, n in (("a", 9.0, 500), ("b", 90.0, 64))
    )
    assert Judge().word(a, b, "fd_x") == "" and Judge().word(a, b, "y") == "worse"
    assert marks_of([a, b], "fd_x", Judge()) == {}
    made = table("t", "T", ["fd_x", "y"], [a, b], Judge())
    assert [cell.beside for row in made.rows for cell in row.cells] == ["n 500", "", "n 64", ""]
    assert "the contenders differ in n: a number on other items is another number" in made.footnotes


def test_of_how_many_items_a_number_is_made_is_told_from_the_fewest_to_the_most():
    def told(*counts: int) -> str:
        (found,) = made([contender(f"c{n}", x=replace(at(1.0), n=n)) for n in counts])
        return found.n

    assert told(1500, 100, 700) == "100 to 1,500" and told(100, 100) == "100"
    (exact,) = made([contender("a", x=Estimate.counted(3, unit=""))])
    assert exact.n == "exact"


# ---------------------------------------------------------------------------------------------------------- numbers


@given(st.floats(-1e6, 1e6), st.floats(1e-5, 1e3))
def test_a_number_has_two_digits_of_its_interval(value: float, reach: float):
    estimate = Estimate(value=value, low=value - reach, high=value + reach, n=2)
    decimals = digits(estimate, Scale())
    assert decimals >= 0
    if 0 < decimals < 6:
        assert 9.5 <= reach * 10**decimals < 100.5
    # What is written lies within a twentieth of half the interval of the number.
    if abs(value) < 1e7:
        assert abs(float(number(value, decimals).replace(",", "")) - value) <= 0.06 * reach + 0.5 * (decimals == 0)


@given(st.floats(1e-9, 1e20), st.sampled_from(["bytes", "FLOP", "parameters", "s", "J", "share", ""]))
def test_a_scaled_number_is_the_number(value: float, unit: str):
    scale = scale_of(unit, [value])
    assert scale.factor > 0
    if unit in ("bytes", "FLOP", "parameters") and 1 <= value < 1e21:
        assert value / scale.factor >= 1


@pytest.mark.parametrize(
    ("unit", "values", "name"),
    [
        ("s", [0.02, 0.5, 70.0], "ms"),
        ("s", [70.0, 0.02, 2.0], "s"),
        ("bytes", [2e6, 3e9], "MB"),  # of two the lesser
        ("bytes", [0.0, 3e9], "GB"),
        ("share", [0.1], "share"),
    ],
)
def test_numbers_side_by_side_have_the_unit_of_the_middle_one(unit: str, values: list[float], name: str):
    assert scale_of(unit, values).unit == name


def test_numbers_side_by_side_have_the_digits_of_the_one_that_needs_most():
    assert common_digits([at(1.0, 0.5)], Scale()) == 2
    assert common_digits([at(1.0, 0.5), at(1.0, 0.05)], Scale()) == 3
    assert common_digits([at(1.0, 0.005), at(1.0, 0.5)], Scale()) == 4
    assert common_digits([at(1.0, 0.0), at(1.0, 0.5)], Scale()) == 2  # one without a spread needs none


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(value=0.9081, low=0.8284, high=0.9292, n=1), "0.908 [0.828, 0.929]"),
        (Estimate(value=1.0, low=1.0, high=1.0, n=1), "1 [1, 1]"),
        (Estimate(value=-0.00012, low=-0.004, high=0.004, n=1), "-0.0001 [-0.0040, 0.0040]"),
        (Estimate(value=-0.000001, low=-0.4, high=0.4, n=1), "0.00 [-0.40, 0.40]"),
        (Estimate.counted(3_658_820, unit="parameters"), "3.66 million"),
        (Estimate.counted(1.5e13, unit="FLOP"), "15 TFLOP"),
        (Estimate(value=0.0165, n=1, unit="s", reason="x"), "16.5 ms"),
        (Estimate.missing("x"), "–"),
    ],
)
def test_numbers_as_they_are_written(estimate: Estimate, text: str):
    assert written(estimate, unit=True) == text


# --------------------------------------------------------------------------------------------------------- glossary


def test_every_metric_of_the_glossary_is_found_by_its_own_pattern():
    for entry in known()["metrics"]:
        name = entry["pattern"].replace("*", "_x" if not entry["pattern"].endswith("_*") else "x")
        assert meaning(name).says == entry["says"], name
        assert "{" not in meaning(name).title and entry["group"] in known()["groups"]


def test_a_stranger_s_metric_is_shown_under_its_own_name_and_last():
    assert meaning("my_own_thing").title == "my own thing"
    assert ordered(["my_own_thing", "peak_memory_bytes", "fid"]) == ["fid", "peak_memory_bytes", "my_own_thing"]
    assert ordered(["validation_loss_t0.25_0.5", "validation_loss_t0_0.25"])[0] == "validation_loss_t0_0.25"


def test_the_headline_takes_what_was_measured_before_what_is_missing():
    assert main_metrics(["fid", "fd_x"], ["fd_x"]) == ["fd_x"]
    assert main_metrics(["fid", "fd_x"], ["fid", "fd_x"]) == ["fid"]
    assert main_metrics(["fid"], []) == ["fid"]


def test_the_headline_has_the_retention_of_every_text_that_was_measured():
    every = ["perplexity_retention_world", "perplexity_retention", "perplexity_retention_a", "perplexity_retention_b"]
    assert main_metrics(every, every[:3]) == ["perplexity_retention", every[2], every[0]]
    assert meaning("perplexity_retention_wiki_text").title == "text retention, wiki text (not replayed)"
