"""Records: a strict round trip, sentences that name the file, older versions brought up to date."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import UserError
from bench.plain import plain
from metrics.statistics import Estimate
from reports import schema
from reports.open_parts import DETAILS, LARGEST
from reports.schema import Budgets, Identical, Record, Sample, from_json, load, save


def record(**changes: Any) -> Record:
    values: dict[str, Any] = {
        "key": "0123456789abcdef",
        "name": "way-tiny-01234567",
        "approach": "way",
        "settings": {"learning_rate": 1e-3, "variant": "a"},
        "config": {"preset": "tiny", "seed": 3},
        "status": "done",
        "provenance": {"sources": "ab", "devices": []},
        "budgets": Budgets(total=10, trainable=4, active=9, borrowed={"vae": 5}, flops=1e12, steps=7, images=448),
        "identical": Identical(vae="v", batches="b", diffusion={"prediction": "flow"}),
        "curves": {"loss": ({"step": 1, "diffusion": 0.5}, {"step": 2, "diffusion": 0.25})},
        "metrics": {
            "validation_loss": Estimate(value=0.3, low=0.2, high=0.4, n=512, better="lower", details={"bands": [1, 2]}),
            "fid": Estimate.missing("no weights", better="lower"),
            "steps_per_second": Estimate(value=3.0, low=2.0, high=4.0, n=9, unit="1/s", better="higher"),
        },
        "samples": (Sample(key="a", prompt="<script>", drawn="samples/a.png", trace={"plan": ["x"]}),),
        "sheets": {"grid": "samples/grid.png"},
        "notes": ("one seed",),
        "seconds": {"train": 1.5},
    }
    return Record(**{**values, **changes})


def test_a_record_comes_back_from_its_file(tmp_path: Path) -> None:
    path = save(record(), tmp_path)
    assert load(path) == load(tmp_path) == record()
    assert json.loads(path.read_text())["schema"] == schema.VERSION


@given(
    st.floats(-LARGEST, LARGEST, exclude_min=True, exclude_max=True),
    st.text(),
    st.dictionaries(
        st.text().filter(lambda key: key not in DETAILS),
        st.none() | st.booleans() | st.integers() | st.lists(st.text()),
    ),
)
def test_any_number_text_and_details_come_back(value: float, text: str, details: dict[str, Any]) -> None:
    whole = record(
        metrics={text: Estimate(value=value, n=1, reason="counted", unit=text, details=details)},
        samples=(Sample(key=text, prompt=text, caption=text, trace=details),),
    )
    assert from_json(plain(whole), "x") == whole


def fields(kind: Any, prefix: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    return [(*prefix, item.name) for item in dataclasses.fields(kind)]


NESTED = [
    *fields(Budgets, ("budgets",)),
    *fields(Identical, ("identical",)),
    *fields(Sample, ("samples", 0)),
    *fields(Estimate, ("metrics", "fid")),
    *[place for place in fields(Record, ()) if place != ("schema",)],
]


@pytest.mark.parametrize("place", NESTED, ids=lambda place: ".".join(map(str, place)))
def test_every_missing_and_every_unknown_field_is_named(tmp_path: Path, place: tuple[Any, ...]) -> None:
    for change in ("missing", "unknown"):
        values = plain(record())
        target: Any = values
        for step in place[:-1]:
            target = target[step]
        kept = target.pop(place[-1])
        if change == "unknown":
            target[place[-1]], target[f"{place[-1]}x"] = kept, kept
        (tmp_path / "record.json").write_text(json.dumps(values))
        with pytest.raises(UserError) as caught:
            load(tmp_path)
        said = str(caught.value)
        assert said.startswith(str(tmp_path / "record.json"))
        assert change in said and place[-1] in said


def test_a_number_that_no_float_holds_is_refused(tmp_path: Path) -> None:
    text = json.dumps({**plain(record()), "seconds": {"train": 1.25}}).replace("1.25", "1e999")
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(UserError, match="seconds.train is inf, expected a finite number"):
        load(tmp_path)


def metric(**details: Any) -> dict[str, Any]:
    """Metrics of one number, as JSON."""
    return {"x": Estimate(value=1.0, n=2, reason="two", details=details).to_json()}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"schema": schema.VERSION + 1}, "schema version"),
        ({"schema": None}, "no record of a run"),
        ({"schema": True}, "no record of a run"),
        ({"status": "dnoe"}, "did you mean 'done'?"),
        ({"key": 3}, "key is 3, expected text"),
        ({"notes": "one"}, "notes is 'one', expected a list"),
        ({"config": []}, "config is [], expected an object"),
        ({"metrics": {"fid": {"value": 1}}}, "the field 'metrics.fid."),
        ({"curves": {"loss": [{"step": "a"}]}}, "curves.loss[0].step is 'a', expected float"),
        ({"config": {"seed": "0"}}, "config.seed is '0', expected int"),
        ({"config": {}}, "config.seed is None, expected int"),
        ({"config": {"seed": 0, "data": 3}}, "config.data is 3, expected an object"),
        ({"seconds": {"train": float("nan")}}, "not readable as JSON: it holds NaN"),
        ({"seconds": {"train": float("inf")}}, "not readable as JSON: it holds Infinity"),
        (
            {"metrics": metric(per_item=[1.0, "a"])},
            "metrics.x.details.per_item is [1.0, 'a'], expected a list of numbers",
        ),
        ({"metrics": metric(sizes={"a": 1})}, "metrics.x.details.sizes is {'a': 1}, expected a list of numbers"),
    ],
)
def test_what_is_no_record_is_refused_by_name(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    (tmp_path / "record.json").write_text(json.dumps({**plain(record()), **change}))
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    assert sentence in str(caught.value) and "record.json" in str(caught.value)


def test_an_estimate_without_number_and_reason_is_refused(tmp_path: Path) -> None:
    values = plain(record())
    values["metrics"]["fid"]["reason"] = ""
    with pytest.raises(UserError, match=r"x: metrics\.fid: .*needs a reason"):
        from_json(values, "x")


def test_damaged_absent_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path)
    for text in ("", "{", "[]", "{}", "3"):
        (tmp_path / "record.json").write_text(text)
        with pytest.raises(UserError, match=r"record\.json"):
            load(tmp_path)


def test_older_records_go_through_every_version_between(monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(values: dict[str, Any]) -> dict[str, Any]:
        values["notes"] = values.pop("remarks")
        return values

    def add(values: dict[str, Any]) -> dict[str, Any]:
        assert values["schema"] == 2 and "notes" in values
        return {**values, "sheets": {"added": "x.png"}}

    monkeypatch.setattr(schema, "VERSION", 3)
    monkeypatch.setattr(schema, "UPGRADES", {1: rename, 2: add})
    values = {**plain(record()), "schema": 1}
    del values["sheets"]
    values["remarks"] = values.pop("notes")
    read = from_json(values, "x")
    assert (read.schema, read.notes, read.sheets) == (3, ("one seed",), {"added": "x.png"})


def test_every_version_before_this_one_has_its_upgrade() -> None:
    assert sorted(schema.UPGRADES) == list(range(1, schema.VERSION))
