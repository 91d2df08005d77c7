"""results.json holds what the page's counts were made of, so that a reader can make them again."""

from __future__ import annotations

from pathlib import Path

from metrics.multiplicity import holm
from reports import results
from reports.document import document
from reports.looks import looks
from reports.tables import main_names
from tests.reports.records import four


def test_the_page_s_counts_follow_from_the_differences(tmp_path: Path):
    found = document([four(tmp_path, seeds=3)])
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
