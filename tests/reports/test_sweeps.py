"""Sweeps' records: a strict round trip, sentences that name the file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from bench.errors import UserError
from metrics.statistics import Estimate
from reports import sweeps
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
        "reason": "1 trials are not done",
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


def test_a_sweep_comes_back_from_its_file(tmp_path: Path) -> None:
    path = sweeps.save(sweep(), tmp_path)
    assert path.name == "learning_rate-tiny-01234567.json"
    assert sweeps.load(path) == sweep()
    assert json.loads(path.read_text())["schema"] == sweeps.VERSION


@pytest.mark.parametrize("values", [(True, False), ("a", "b"), (None, "x"), (1, 2)])
def test_values_of_any_kind_come_back(tmp_path: Path, values: tuple[Any, ...]) -> None:
    assert sweeps.load(sweeps.save(sweep(values=values), tmp_path)).values == values


PLACES = [
    *[(item.name,) for item in dataclasses.fields(Sweep) if item.name not in ("schema", "ranked_by")],
    *[("approaches", 0, item.name) for item in dataclasses.fields(Tuned)],
    *[("approaches", 0, "trials", 0, item.name) for item in dataclasses.fields(Trial)],
    *[("approaches", 0, "scores", 1, item.name) for item in dataclasses.fields(Score)],
    *[("approaches", 0, "effort", item.name) for item in dataclasses.fields(Effort)],
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_every_missing_and_every_unknown_field_is_named(tmp_path: Path, place: tuple[Any, ...]) -> None:
    path = sweeps.save(sweep(), tmp_path)
    for change in ("missing", "unknown"):
        values = sweep().to_json()
        target: Any = values
        for step in place[:-1]:
            target = target[step]
        kept = target.pop(place[-1])
        if change == "unknown":
            target[place[-1]], target[f"{place[-1]}x"] = kept, kept
        path.write_text(json.dumps(values))
        with pytest.raises(UserError) as caught:
            sweeps.load(path)
        assert str(caught.value).startswith(str(path))
        assert change in str(caught.value) and place[-1] in str(caught.value)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "is no record of a sweep"),
        ([], "is no record of a sweep"),
        ({"schema": 1}, "is no record of a sweep"),  # a run's
        ({"schema": sweeps.VERSION + 1, "ranked_by": "x"}, "schema version"),
        ({**sweep().to_json(), "status": "dnoe"}, "did you mean 'done'?"),
        ({**sweep().to_json(), "seeds": ["0"]}, "seeds[0] is '0', expected int"),
    ],
)
def test_what_is_no_sweep_is_refused(tmp_path: Path, values: Any, sentence: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(values))
    with pytest.raises(UserError) as caught:
        sweeps.load(path)
    assert sentence in str(caught.value) and "x.json" in str(caught.value)


def test_every_version_before_this_one_has_its_upgrade() -> None:
    assert sorted(sweeps.UPGRADES) == list(range(1, sweeps.VERSION))
