"""What a record says where its type leaves that open: a page reads it, or the record is refused by name, and the others
are reported."""

from __future__ import annotations

import copy
import json
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import cli
from bench.errors import UserError
from bench.plain import plain
from reports.open_parts import COUNTS, DEEPEST
from reports.schema import from_json
from tests.reports.records import record_of, write_run

ROOT = Path(__file__).parents[2]
HUGE = 10**400
Place = tuple[str | int, ...]
DETAILS = ("metrics", "right_objects", "details")
NEAREST = ("metrics", "nearest_training_distance", "details", "nearest")
FD = ("metrics", "fd_efficientnet_lite0")


def small(approach: str, seed: int = 0) -> dict[str, Any]:
    """A record as JSON that holds everything a page reads, of few items."""
    values = plain(record_of(approach, seed=seed))
    values["samples"] = values["samples"][:6]
    values["curves"] = {name: rows[:4] for name, rows in values["curves"].items()}
    for estimate in values["metrics"].values():
        details = estimate["details"]
        details |= {name: details[name][:6] for name in ("per_item", "nearest") if name in details}
    values["metrics"]["right_objects"]["details"] |= {"looked_at": [0, 1, 2, 3, 4, 5], "strata": [*"aabbcc"]}
    values["metrics"]["plans_right"] = copy.deepcopy(values["metrics"]["caption_gap"])
    values["metrics"]["plans_right"]["details"] |= {"base": 0.9, "per_seed": [0.5, 0.6]}
    values["config"]["model"] = {"encoder": "efficientnet_lite0"}
    values["budgets"]["borrowed"]["encoder"] = 5
    values["provenance"] |= {"settings_changed": ["variant"], "machine": "a machine"}
    return values


def with_(values: dict[str, Any], place: Place, value: Any) -> dict[str, Any]:
    """The record with another value at a place."""
    changed: Any = copy.deepcopy(values)
    inside = changed
    for step in place[:-1]:
        inside = inside[step]
    inside[place[-1]] = value
    return changed


def written(folder: Path, values: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "record.json").write_text(json.dumps(values))


REPORTED_AS_TAKING_ALL_DOWN: list[tuple[Place, Any, str]] = [
    (("provenance", "settings_changed"), 3, "provenance.settings_changed is 3, expected a list of text"),
    (("config", "model"), [], "config.model is [], expected an object"),
    (("budgets", "total"), HUGE, "budgets.total is 1000"),
    (("budgets", "borrowed", "x"), HUGE, "budgets.borrowed.x is 1000"),
    (NEAREST, 5, "metrics.nearest_training_distance.details.nearest is 5, expected a list of text"),
    ((*DETAILS, "looked_at"), "xxx", "looked_at is 'xxx', expected different whole numbers from 0 on"),
    (("provenance", "curves"), [1], "provenance.curves is [1], expected an object of objects"),
]
OTHERS: list[tuple[Place, Any, str]] = [
    (("provenance", "curves"), {"batch": 1}, "expected an object of objects"),
    (("provenance", "settings_changed"), ["a", 1], "expected a list of text"),
    (("config", "model", "encoder"), [], "config.model.encoder is [], expected text"),
    (("config", "train"), 1, "config.train is 1, expected an object"),
    ((*DETAILS, "looked_at"), [0, 1, 2, 3, 4, -1], "expected different whole numbers from 0 on"),
    ((*DETAILS, "looked_at"), [0, 1, 2, 3, 4, 4], "expected different whole numbers from 0 on"),
    ((*DETAILS, "looked_at"), [0, 1], "details.looked_at has 2 values, expected as many as per_item has"),
    ((*DETAILS, "strata"), ["a"], "details.strata has 1 values, expected as many as per_item has"),
    ((*DETAILS, "per_seed"), 5, "details.per_seed is 5, expected a list of numbers"),
    ((*DETAILS, "items_each"), "x", "details.items_each is 'x', expected a whole number from 0 on"),
    ((*DETAILS, "per_item"), [True] * 6, "expected a list of numbers"),
    ((*DETAILS, "anything"), {"a": [HUGE]}, "details.anything.a[0] is 1000"),
    ((*FD, "details", "sizes"), [1.0] * 16, "expected two numbers or more above 1"),
    ((*FD, "details", "sizes"), [2.0], "details.sizes has 1 values, expected as many as pseudo has"),
    ((*FD, "details", "pseudo"), [2.0], "expected as many as pseudo has"),
    ((*FD, "n"), -1, "n is -1, expected a whole number from 0 on"),
    ((*FD, "value"), 1e300, "value is 1e+300, expected a finite number, smaller than 1e+120"),
    (("budgets", "steps"), COUNTS + 1, "budgets.steps is 9007199254740993, expected a whole number from 0"),
    (("budgets", "borrowed", "x"), -1, "budgets.borrowed.x is -1, expected a whole number from 0"),
    (("seconds", "train"), -1e200, "seconds.train is -1e+200"),
    (("curves", "nfe", 0, "nfe"), 1e200, "curves.nfe[0].nfe is 1e+200"),
    (("settings", "x"), float("inf"), "settings.x is inf, expected a finite number"),
]


@pytest.mark.parametrize(("place", "value", "sentence"), [*REPORTED_AS_TAKING_ALL_DOWN, *OTHERS])
def test_a_value_that_no_page_can_read_is_refused_by_its_place(place: Place, value: Any, sentence: str):
    good = small("modular")
    assert from_json(good, "x").approach == "modular"
    with pytest.raises(UserError, match="^x: ") as caught:
        from_json(with_(good, place, value), "x")
    assert sentence in str(caught.value) and len(str(caught.value)) < 300


def test_items_of_a_number_that_is_there_are_some():
    values = small("modular")
    del values["metrics"]["caption_gap"]["details"]["items"]
    with pytest.raises(UserError, match=r"caption_gap\.details\.per_item is \[\], expected the items"):
        from_json(with_(values, ("metrics", "caption_gap", "details", "per_item"), []), "x")
    values["metrics"]["fid"]["details"]["per_item"] = []
    assert from_json(values, "x").metrics["fid"].value is None


@pytest.mark.parametrize("field", ["settings", "provenance", "config"])
def test_what_is_too_deep_for_a_page_is_refused(field: str):
    deep: Any = 1
    for _ in range(DEEPEST - 1):
        deep = [{"a": deep}][0]
    good = small("modular")
    from_json(with_(good, (field, "deep"), deep), "x")
    for _ in range(900):
        deep = [deep]
    with pytest.raises(
        UserError, match=f"{field}.deep.* holds more than {DEEPEST} objects and lists inside each other"
    ):
        from_json(with_(good, (field, "deep"), deep), "x")


def test_records_of_every_study_that_was_committed_are_still_read():
    """The first of each archive: what its runs hold is alike."""
    archives = sorted((ROOT / "docs").rglob("records/*.tar.xz"))
    assert len(archives) > 10
    for archive in archives:
        with tarfile.open(archive) as files:
            member = next(member for member in files if member.name.endswith("record.json"))
            file = files.extractfile(member)
            assert file is not None
            assert from_json(json.load(file), f"{archive.name}/{member.name}").status == "done"


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and not spelled, which takes most of a report's time."""
    for module in ("plots", "curves"):
        monkeypatch.setattr(f"reports.{module}.spelled", lambda figure, name: '<svg viewBox="0 0 1 1"></svg>')


@pytest.mark.usefixtures("undrawn")
def test_a_malformed_record_takes_no_other_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("modular", "projection"):
        write_run(tmp_path / name, record_of(name), pictures=False)
    for number, (place, value, _) in enumerate(REPORTED_AS_TAKING_ALL_DOWN):
        bad = {**with_(small("dual_tower"), place, value), "key": f"bad-{number}"}
        written(tmp_path / f"bad-{number}", bad)
    assert cli.main(["report", str(tmp_path)]) == 0
    told = capsys.readouterr().err.splitlines()
    assert len(told) == len(REPORTED_AS_TAKING_ALL_DOWN)
    for number, (_, _, sentence) in enumerate(REPORTED_AS_TAKING_ALL_DOWN):
        line = next(line for line in told if line.startswith(f"warning: refused bad-{number}/record.json: "))
        assert sentence in line
    values = json.loads((tmp_path / "results.json").read_text())
    assert [each["label"] for each in values["contenders"]] == ["projection", "modular"]


MUTANTS: list[Any] = [
    3, -1, 0, 2.5, "xxx", "", [], {}, None, True, [1], ["a"], [[1]], {"a": [1]}, {"a": {"b": 1}}, HUGE, 1e300, -1e119,
    1e-300, "\x1b[31m\x07", "\ud800",
]  # fmt: skip


def places(value: Any, inside: Place = ()) -> Iterator[Place]:
    """Of everything in parsed JSON; of a list its first two."""
    if inside:
        yield inside
    pairs = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for name, item in pairs:
        yield from places(item, (*inside, name))


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_whatever_stands_in_a_record_it_is_reported_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """40 drawn mutations, each in one of three records, one of which is of the same contender. Figures are made where
    what they are made of may have changed."""
    good, draw = small("modular"), random.Random(0)
    every = list(places(good))
    written(tmp_path / "b", small("modular", seed=1))
    written(tmp_path / "c", small("projection"))
    outcomes = set()
    for _ in range(40):
        place, value = draw.choice(every), draw.choice(MUTANTS)
        written(tmp_path / "a", with_(good, place, value))
        with monkeypatch.context() as patched:
            if place[0] not in ("approach", "budgets", "curves", "provenance"):
                patched.setattr("reports.plots.plots", lambda contenders: [])
            code = cli.main(["report", str(tmp_path), "--debug"])
        told = capsys.readouterr()
        assert code == 0, f"{place} = {value!r:.40}: {told.err}"
        outcomes.add("warning: refused a/record.json: " in told.err)
        page = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert "projection" in page and not set("\x07\x1b") & set(page + told.out + told.err)
    assert outcomes == {True, False}
