"""Sweeps' records: a strict round trip."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from bench.files import read_json
from bench.plain import build
from metrics.statistics import Estimate
from reports import schema
from reports.sweeps import Effort, Score, Sweep, Trial, Tuned


def sweep(**changes: Any) -> Sweep:
    trial = Trial(
        value=1e-3,
        seed=0,
        folder="trials/way-tiny-01234567",
        state="done",
        metrics={"validation_loss": Estimate(value=0.3, low=0.2, high=0.4, n=512, better="lower")},
        steps=7,
        images=448,
        flops=1e12,
        train_seconds=3.5,
        seconds=9.0,
    )
    lost = dataclasses.replace(trial, value=2e-3, state="killed", reason="signal SIGKILL", metrics={}, flops=None)
    tuned = Tuned(
        approach="way",
        settings={"learning_rate": 1e-3},
        trials=(trial, lost),
        scores=(Score(value=1e-3, mean=0.3), Score(value=2e-3, mean=None, reason="killed: signal SIGKILL")),
        chosen=1e-3,
        edge="smallest",
        effort=Effort(trials=1, steps=7, images=448, flops=1e12, train_seconds=3.5, seconds=9.0),
    )
    values: dict[str, Any] = {
        "name": "learning_rate-tiny-01234567",
        "key": "0123456789abcdef",
        "status": "failed",
        "reason": "1 trial is not done",
        "field": "settings.learning_rate",
        "values": (1e-3, 2e-3),
        "seeds": (0,),
        "ranked_by": "validation_loss",
        "share": 0.25,
        "config": {"preset": "tiny"},
        "approaches": (tuned,),
        "widened": (5e-4, 1e-3, 2e-3),
        "provenance": {"sources": "ab"},
        "notes": ("one seed",),
    }
    return Sweep(**{**values, **changes})


def back(path: Path) -> Any:
    """The sweep in a file."""
    return build(Sweep, read_json(path), full=True)


def test_a_sweep_comes_back_from_its_file(tmp_path: Path) -> None:
    assert back(schema.save(sweep(), tmp_path, "x.json")) == sweep()


@pytest.mark.parametrize("values", [(True, False), ("a", "b"), (None, "x"), (1, 2)])
def test_values_of_any_kind_come_back(tmp_path: Path, values: tuple[Any, ...]) -> None:
    assert back(schema.save(sweep(values=values), tmp_path, "x.json")).values == values
