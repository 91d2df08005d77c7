"""Claims: the verdict follows the numbers by one rule, and the data names what exists."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from approaches.registry import APPROACHES
from metrics.statistics import Estimate
from reports import claims
from reports.contenders import Contender, Judge
from reports.glossary import known, meaning
from reports.schema import Budgets
from tests.reports.records import contender, record_of


def at(value: float, reach: float = 0.1, better: str = "higher") -> Estimate:
    return Estimate(value=value, low=value - reach, high=value + reach, n=9, better=better)  # type: ignore[arg-type]


def one_claim(expects: str, **more: Any) -> dict[str, Any]:
    evidence = {"metric": ["x"], "expects": expects, **more}
    claim = {"side": "pro", "says": "s", "reading": "r", "evidence": [evidence]}
    return {"rows": [{"approach": "own", "examples": ["e"], "claims": [claim]}]}


def judged(expects: str, own: float, *others: float, **more: Any) -> str:
    everyone = [contender("own", x=at(own), y=at(0.5)), *(contender(f"o{i}", x=at(v)) for i, v in enumerate(others))]
    (claim,) = claims.claims(everyone, Judge(), one_claim(expects, **more))
    return claim.verdict


@pytest.mark.parametrize(
    ("own", "others", "verdict"),
    [
        (3.0, (1.0, 2.0, 1.5), "supported"),
        (3.0, (1.0, 2.0, 3.05), "supported"),  # two of three, and none the other way
        (3.0, (1.0, 3.05), "supported"),  # just half
        (3.0, (5.0, 3.05), "contradicted"),  # just half
        (3.0, (1.0, 3.05, 3.05), "not told apart"),  # one of three
        (3.0, (4.0, 5.0, 6.0), "contradicted"),
        (3.0, (1.0, 5.0), "mixed"),
        (3.0, (1.0, 2.0, 5.0), "mixed"),  # one the other way is enough
        (3.0, (3.01, 3.02), "not told apart"),
        (3.0, (), "not measured"),
    ],
)
def test_a_claim_against_others_needs_half_of_them_and_none_the_other_way(
    own: float, others: tuple[float, ...], verdict: str
):
    assert judged("better than the others", own, *others) == verdict
    opposite = {"supported": "contradicted", "contradicted": "supported"}.get(verdict, verdict)
    assert judged("worse than the others", own, *others) == opposite


@pytest.mark.parametrize(
    ("estimate", "at_least", "below"),
    [
        (Estimate(value=1.0, low=1.0, high=1.0, n=1), "supported", "contradicted"),
        (Estimate(value=0.9, low=0.8, high=0.95, n=1), "contradicted", "supported"),
        (Estimate(value=0.98, low=0.9, high=1.1, n=1), "not told apart", "not told apart"),
        (Estimate(value=1.2, low=1.1, high=1.3, n=1), "supported", "contradicted"),
        (Estimate(value=0.5, n=1, reason="one"), "not told apart", "not told apart"),
    ],
)
def test_a_bound_is_judged_by_the_interval(estimate: Estimate, at_least: str, below: str):
    assert claims.to_bound(estimate, "at least", 1.0) == at_least
    assert claims.to_bound(estimate, "below", 1.0) == below


def test_a_number_against_another_of_the_same_contender():
    assert judged("better than its own", 3.0, other="y") == "supported"
    assert judged("better than its own", 0.2, other="y") == "contradicted"
    assert judged("better than its own", 0.51, other="y") == "not told apart"
    assert judged("better than its own", 3.0, other="z") == "not measured"


def test_over_seeds_it_is_each_seeds_own_difference_that_counts():
    # x is 0.01 above y in each seed, and both move much more from seed to seed
    pairs = [(0.5 + 0.1 * seed, 0.49 + 0.1 * seed + 0.0001 * seed) for seed in range(3)]
    records = [
        replace(
            record_of("modular", seed=seed, metrics={"x": at(x, 1e-3), "y": at(y, 1e-3)}, budgets=Budgets(), seconds={})
        )
        for seed, (x, y) in enumerate(pairs)
    ]
    found = claims._against_itself(contender("way", *records), "x", "y", "x")
    assert found.verdict == "supported" and "difference 0.0099" in found.words


def test_an_approach_in_several_settings_speaks_once_by_those_nearest_to_its_defaults():
    told = one_claim("better than the others")

    def run(label: str, approach: str, value: float, changed: list[str]) -> Contender:
        record = record_of("modular", metrics={"x": at(value)}, budgets=Budgets(), seconds={})
        record = replace(record, approach=approach, provenance={**record.provenance, "settings_changed": changed})
        return contender(label, record)

    own = [run("ablation", "own", 1.0, ["replay_share"]), run("plain", "own", 3.0, [])]
    others = [run(f"worse {i}", "other", 4.0, ["a"] * (i + 1)) for i in range(3)]
    everyone = [*own, *others, run("other", "other", 2.0, []), run("third", "third", 1.0, [])]
    (claim,) = claims.claims(everyone, Judge(), told)
    assert (claim.contender, claim.verdict) == ("plain", "supported")
    assert "worse 0" not in claim.evidence[0].words
    twice = Contender(label="two seeds", runs=(*run("a", "own", 3.0, []).runs, *run("b", "own", 3.1, []).runs))
    (claim,) = claims.claims([*own, twice, *others], Judge(), told)
    assert claim.contender == "two seeds"


def test_evidence_that_goes_both_ways_is_mixed():
    assert claims.overall(["supported", "not told apart"]) == "partly supported"
    assert claims.overall(["supported", "not measured"]) == claims.overall(["supported"] * 2) == "supported"
    assert claims.overall(["contradicted", "not told apart"]) == "contradicted"
    assert claims.overall(["supported", "contradicted"]) == "mixed"
    assert claims.overall(["mixed", "supported"]) == "mixed"
    assert claims.overall(["not measured", "not told apart"]) == "not told apart"
    assert claims.overall([]) == "not measured"


def test_variants_of_the_same_approach_are_no_others():
    own, variant = contender("own", x=at(1.0)), contender("own", x=at(9.0))
    found = claims.claims([own, variant], Judge(), one_claim("worse than the others"))
    assert [claim.verdict for claim in found] == ["not measured"]


# ------------------------------------------------------------------------------------------------------------- data


def test_the_claims_name_approaches_and_settings_that_exist():
    values = claims.published()
    assert set(claims.order()) == {row["approach"] for row in values["rows"]} <= set(APPROACHES)


def test_the_claims_name_metrics_of_the_glossary_and_known_expectations():
    values = claims.published()
    items = [e for row in values["rows"] for claim in row["claims"] for e in claim["evidence"]]
    assert items
    for item in items:
        for pattern in item["metric"]:
            assert meaning(pattern.replace("*", "x")).group in set(known()["groups"]) - {"other"}, pattern
    for item in items:
        assert item["expects"] in {
            "better than the others", "worse than the others", "better than its own", "at least", "below",
        }  # fmt: skip


def test_every_row_of_the_published_table_has_pros_and_cons():
    for row in claims.published()["rows"]:
        assert {claim["side"] for claim in row["claims"]} == {"pro", "con"}
        assert row["examples"] and all(claim["evidence"] or claim["unmeasured"] for claim in row["claims"])
