"""Which pictures are shown: by rule, from best to worst, the same prompts for all."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from metrics.statistics import Estimate
from reports.contenders import Contender
from reports.gather import Album, Run
from reports.pictures import FIRST, RANKED, pictures, spaced
from tests.reports.records import KEYS, N, record_of, write_run


def made(tmp_path: Path, scores: dict[str, list[float]], keys: list[str] | None = None) -> list[Contender]:
    found = []
    for label, values in scores.items():
        metric = Estimate(value=0.5, low=0, high=1, n=len(values), better="higher", details={"per_item": values})
        record = record_of("modular", metrics={"right_objects": metric})
        if keys is not None and label == "b":
            samples = tuple(s for s in record.samples if s.key in keys)
            record = dataclasses.replace(record, samples=samples)
        run = Run(record=record, folder=write_run(tmp_path / label, record))
        found.append(Contender(label=label, runs=(run,)))
    return found


@given(st.integers(1, 500), st.integers(2, 9))
def test_places_are_evenly_spaced_and_hold_both_ends(count: int, wanted: int):
    places = spaced(count, wanted)
    assert places[0] == 0 and places[-1] == count - 1
    assert places == sorted(set(places)) and len(places) == min(count, wanted)
    gaps = [b - a for a, b in zip(places, places[1:], strict=False)]
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_the_first_come_as_they_are_and_the_others_from_best_to_worst(tmp_path: Path):
    scores = {"a": [i / N for i in range(N)], "b": [(i % 7) / 7 for i in range(N)]}
    shown = pictures(made(tmp_path, scores), Album())
    assert [one.key for one in shown.first] == KEYS[:FIRST]
    assert len(shown.ranked) == RANKED
    means = [sum(values[KEYS.index(one.key)] for values in scores.values()) / 2 for one in shown.ranked]
    assert means == sorted(means, reverse=True)
    every = [(a + b) / 2 for a, b in zip(*scores.values(), strict=True)]
    assert means[0] == max(every) and means[-1] == min(every)  # failures as well as successes
    assert [drawn.label for drawn in shown.ranked[0].drawn] == ["a", "b"]
    assert all(drawn.picture.data for one in shown.ranked for drawn in one.drawn)
    assert "right objects" in shown.rule


def test_whether_all_draw_from_the_same_noise_is_told_of_what_is_shown(tmp_path: Path):
    both = made(tmp_path, {"a": [0.5] * N, "b": [0.5] * N})
    assert pictures(both, Album()).same_noise
    record = dataclasses.replace(both[1].record, identical=dataclasses.replace(both[1].record.identical, noise="other"))
    both[1] = dataclasses.replace(both[1], runs=(dataclasses.replace(both[1].runs[0], record=record),))
    assert not pictures(both, Album()).same_noise


def test_a_score_belongs_to_its_picture_where_others_are_left_out(tmp_path: Path):
    """CLIP leaves pictures out that are not finite, and says which it looked at; its scores are no shares."""
    (one,) = made(tmp_path, {"a": [0.0] * N})
    details = {"per_item": [0.8 + i for i in range(N - 1)], "looked_at": list(range(1, N))}
    metric = Estimate(value=20, low=19, high=21, n=N - 1, better="higher", details=details)
    record = dataclasses.replace(one.record, metrics={"clip_score": metric})
    shown = pictures([Contender(label="a", runs=(dataclasses.replace(one.runs[0], record=record),))], Album())
    assert [one.drawn[0].score for one in shown.first[:3]] == ["", "CLIP score 1", "CLIP score 2"]
    assert shown.ranked[-1].key == KEYS[1]  # the worst of those with a score


def test_only_prompts_that_all_have_drawn_are_shown(tmp_path: Path):
    shown = pictures(made(tmp_path, {"a": [0.5] * N, "b": [0.5] * 3}, keys=KEYS[10:13]), Album())
    assert [one.key for one in shown.first] == KEYS[10:13]
    assert "all have the same" in shown.rule


def test_without_scores_there_is_no_ranking_and_without_samples_nothing(tmp_path: Path):
    (one,) = made(tmp_path, {"a": []})
    shown = pictures([one], Album())
    assert shown.first and not shown.ranked
    bare = dataclasses.replace(one.record, samples=(), sheets={})
    assert pictures([Contender(label="x", runs=(Run(record=bare, folder=tmp_path),))], Album()).first == ()


def test_a_strip_that_all_have_the_same_stands_once_and_contact_sheets_not_at_all(tmp_path: Path):
    found = []
    for label in ("full_retraining", "dual_tower"):
        record = record_of(label)
        found.append(Contender(label=label, runs=(Run(record=record, folder=write_run(tmp_path / label, record)),)))
    shown = pictures(found, Album())
    assert [(s.name, s.label) for s in shown.strips] == [
        ("forward", ""), ("reverse", "full_retraining"), ("reverse", "dual_tower"),
    ]  # fmt: skip
    assert shown.strips[0].picture.words == "forward: t = 0, 0.5, 1"
    assert [(n.label, n.key) for n in shown.neighbours] == [("full_retraining", "train/2"), ("dual_tower", "train/2")]
    assert all(n.nearest.data and n.drawn.data and n.distance for n in shown.neighbours)
