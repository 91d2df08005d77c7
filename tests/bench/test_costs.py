"""What an approach's own traces say of its drawing."""

from __future__ import annotations

from typing import Any

from bench.costs import traced


def test_only_plans_that_somebody_wrote_are_read_or_corrected():
    trace: list[dict[str, Any]] = [
        {"rounds": 1, "parsed": None, "corrected": False},  # a rule's
        {"rounds": 0, "parsed": True, "corrected": True},
        {"rounds": 1, "parsed": True, "corrected": False},
        {"rounds": 0, "parsed": False, "corrected": False},
    ]
    found = traced(trace)
    assert {name: (estimate.value, estimate.n) for name, estimate in found.items()} == {
        "redraws": (0.5, 4), "plans_unread": (1 / 3, 3), "plans_corrected": (1 / 3, 3),
    }  # fmt: skip
    assert set(traced(trace[:1])) == {"redraws"}
    assert traced([]) == {} and traced([{"anything": 1}]) == {}
