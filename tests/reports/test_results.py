"""results.json holds what the page's counts were made of, so that a reader can make them again."""

from __future__ import annotations

import pytest

from metrics.multiplicity import holm
from reports import results
from reports.document import Document, document
from reports.looks import looks
from reports.tables import main_names
from tests.reports.records import four


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Document:
    return document([four(tmp_path_factory.mktemp("runs"), seeds=3)])


def test_the_page_s_counts_follow_from_the_differences(found: Document):
    seen = looks(found.contenders, found.judge, names := main_names(found.contenders))
    values = results.as_json(found)
    pairs = {(each["metric"], each["first"], each["second"]): each for each in values["differences"]}
    assert len(pairs) == len(values["differences"]) > len(names)
    had = [name for c in found.contenders for name, e in c.metrics.items() if e.value is not None and e.better]
    assert {name for name, *_ in pairs} == {name for name in had if had.count(name) > 1}
    judged = [each for each in values["differences"] if each["metric"] in names and each["has_a_part"]]
    apart = [each for each in judged if each["first_is"] != "not told apart"]
    assert (len(judged), len(apart)) == (seen.pairs, seen.apart) and seen.apart > 0
    left = holm([each["chance"] if each in apart else 1.0 for each in judged])
    assert seen.left is not None
    told = [({a, b}, name) for a, b, name in seen.left]
    stands = [({e["first"], e["second"]}, e["metric"]) for e, stays in zip(judged, left, strict=True) if stays]
    assert len(told) == len(stands) and all(pair in told for pair in stands)


@pytest.mark.parametrize(
    ("metric", "first", "second", "gap", "word"),
    [
        ("validation_loss", "full_retraining", "projection", -0.05, "better"),
        ("validation_loss", "full_retraining", "dual_tower", 0.0, "not told apart"),
        ("fd_efficientnet_lite0", "full_retraining", "dual_tower", 5.0, "worse"),
        ("fd_efficientnet_lite0", "dual_tower", "modular", -11.0, "better"),
        ("caption_gap", "full_retraining", "dual_tower", 0.6, "better"),
        ("caption_gap", "projection", "modular", -0.2, "worse"),
        ("perplexity_retention", "full_retraining", "dual_tower", -0.2, "worse"),
        ("perplexity_retention", "dual_tower", "projection", 0.0, "not told apart"),
    ],
)
def test_which_way_a_difference_goes(found: Document, metric: str, first: str, second: str, gap: float, word: str):
    asked = {"metric": metric, "first": first, "second": second}
    (row,) = (each for each in results.as_json(found)["differences"] if asked.items() <= each.items())
    assert (row["difference"], row["first_is"]) == (pytest.approx(gap, abs=1e-9), word)


def test_a_difference_is_the_first_s_number_less_the_second_s(found: Document):
    numbers = {(each.label, name): number for each in found.contenders for name, number in each.metrics.items()}
    for each in results.as_json(found)["differences"]:
        one, other = numbers[each["first"], each["metric"]], numbers[each["second"], each["metric"]]
        assert one.value is not None and other.value is not None
        assert each["difference"] == pytest.approx(one.value - other.value, abs=1e-9)
        assert each["low"] is None or each["low"] <= each["difference"] <= each["high"]
