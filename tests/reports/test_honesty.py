"""What a report says before it is believed: whose settings are whose. Other marks are in test_words.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reports.contenders import Judge, contenders
from reports.gather import Gathered, Run
from reports.honesty import marks_of_honesty
from tests.reports.records import record_of


def marks(*ways: tuple[str, dict[str, Any], list[str]], about: str) -> list[str]:
    """The marks with a word in them, of approaches with settings, some of which are not the defaults."""
    runs = [
        Run(record=record_of(name, settings=settings, provenance={"settings_changed": changed}), folder=Path("x"))
        for name, settings, changed in ways
    ]
    return [mark for mark in marks_of_honesty(contenders(runs), Gathered(), Judge()) if about in mark]


def test_unequal_learning_rates_are_told_and_equal_ones_are_not():
    fast, quick = (
        ("dual_tower", {"learning_rate": 2e-3}, list[str]()),
        ("projection", {"learning_rate": 2e-3}, list[str]()),
    )
    (told,) = marks(("full_retraining", {"learning_rate": 1e-3}, []), fast, quick, about="Learning rates")
    assert told.endswith("another: 0.001 for full_retraining; 0.002 for dual_tower and projection.")
    assert not marks(fast, quick, about="Learning rates")
    assert not marks(fast, ("modular", {}, []), about="Learning rates")  # has none


def test_what_is_no_default_and_no_label_s_is_told():
    alone = ("full_retraining", {"learning_rate": 2e-3, "width": 96}, ["learning_rate", "width", "gone"])
    (told,) = marks(alone, ("dual_tower", {"learning_rate": 2e-3}, []), about="defaults")
    assert told == "Not an approach's defaults: full_retraining with learning_rate 0.002 and width 96."
    other = ("full_retraining", {"learning_rate": 1e-3, "width": 96}, ["width"])
    (told,) = marks(alone, other, about="defaults")  # the labels tell the rates
    assert told.endswith(
        ": full_retraining (learning_rate 0.001) with width 96; full_retraining (learning_rate 0.002) with width 96."
    )
    assert not marks(("full_retraining", {"learning_rate": 1e-3}, []), about="defaults")
    small, large = (
        ("modular", {"width": 96, "captioner_width": each}, ["captioner_width", "width"]) for each in (64, 128)
    )
    (told,) = marks(small, large, about="defaults")  # whose labels tell another width
    assert told.endswith(": modular (captioner_width 128) with width 96; modular (captioner_width 64) with width 96.")
