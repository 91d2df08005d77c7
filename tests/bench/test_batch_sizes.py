"""What drawing costs by pictures a batch: the clock's arithmetic, what counts, what a record and a page say of it."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench import batch_sizes, curves
from bench.batch_sizes import LEAST, SECONDS, cost
from bench.config import Config
from bench.console import Console
from bench.curve_arguments import CurveArguments
from bench.errors import UserError
from bench.exits import FAILED
from metrics.statistics import Estimate
from reports import schema
from reports.document import document
from reports.html import html
from reports.schema import Record
from tests.bench.conftest import MicroRun

QUIET = Console(interval=1e9)
WARM = 1000.0  # seconds of a first batch, which nothing may take in


class Timed:
    """In place of drawing: batches that take the seconds given, and what was drawn."""

    def __init__(self, seconds: Iterator[float]) -> None:
        self.seconds, self.places, self.noises = seconds, list[list[int]](), list[int]()

    def __call__(self, _: Any, __: Any, places: Sequence[int], ___: Any, *, first: int) -> tuple[float, Any]:
        self.places.append(list(places))
        self.noises.append(first)
        return next(self.seconds), SimpleNamespace(nfe=[99 if len(self.places) == 1 else 3] * len(places))


def measured(
    monkeypatch: pytest.MonkeyPatch, seconds: Iterator[float], rows: int, pictures: int
) -> tuple[dict[str, float], dict[str, str], Timed]:
    timed = Timed(itertools.chain([WARM], seconds))
    monkeypatch.setattr(batch_sizes, "to_pixels", timed)
    monkeypatch.setattr(batch_sizes, "Energy", Counter)
    approach: Any = torch.nn.Linear(1, 1)
    found, lacking = cost(approach, None, Config(), rows, pictures)  # type: ignore[arg-type]
    return found, lacking, timed


class Counter:
    """Twelve joules, or none where the class says so."""

    reason = ""

    def __init__(self, device: object) -> None:
        self.device = device

    def __enter__(self) -> Counter:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def estimate(self) -> Estimate:
        """See Energy."""
        return Estimate.missing(self.reason, unit="J") if self.reason else Estimate.counted(12.0, unit="J")


def test_the_numbers_are_those_of_the_batches_that_count(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [0.5, 0.2, 0.3, 0.4, 0.8, 0.6, 0.7]
    found, lacking, timed = measured(monkeypatch, iter(given), 4, 32)
    assert found["repeats"] == 7 and found["pictures"] == 28 and found["batch"] == 4
    assert found["seconds_per_batch"] == statistics.median(given) == 0.5
    assert (found["seconds_per_batch_low"], found["seconds_per_batch_high"]) == (0.2, 0.8)  # of seven the outermost
    assert found["seconds_per_batch_slowest"] == 0.8 and "seconds_per_batch_p99" not in found
    assert found["seconds_per_batch_p90"] == pytest.approx(0.7 + 0.4 * 0.1)
    assert found["pictures_per_second"] == 4 / 0.5
    assert (found["pictures_per_second_low"], found["pictures_per_second_high"]) == (4 / 0.8, 4 / 0.2)
    assert found["nfe_spent"] == 3 and found["joules_per_picture"] == pytest.approx(12 / 28)
    assert found["peak_memory_bytes"] >= 0 and lacking == {}
    assert timed.places == [list(range(start, start + 4)) for start in range(0, 32, 4)]  # others each time, in order
    assert timed.noises == list(range(0, 32, 4))


def test_a_hundred_batches_have_a_percentile_and_fewer_a_slowest(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _, _ = measured(monkeypatch, iter([0.001 * n for n in range(1, 101)]), 1, 101)
    assert found["repeats"] == 100 and "seconds_per_batch_slowest" not in found
    assert found["seconds_per_batch_p99"] == pytest.approx(0.099 + 0.01 * 0.001)
    found, _, _ = measured(monkeypatch, iter([0.001] * 99), 1, 100)
    assert found["repeats"] == 99 and "seconds_per_batch_p99" not in found


@pytest.mark.parametrize(
    ("taken", "rows", "pictures", "repeats"),
    [
        (0.1, 16, 128, 7),  # a first batch and seven: all captions
        (0.1, 16, 2, 7),  # in any case
        (0.1, 3, 128, 41),  # no batch but whole ones
        (4.0, 1, 128, 7),  # 28 s: no more are begun, but seven are drawn in any case
        (2.0, 1, 128, 10),
    ],
)
def test_captions_and_seconds_bound_the_batches(
    monkeypatch: pytest.MonkeyPatch, taken: float, rows: int, pictures: int, repeats: int
) -> None:
    found, _, _ = measured(monkeypatch, itertools.repeat(taken), rows, pictures)
    assert found["repeats"] == repeats >= LEAST and WARM > SECONDS


def test_energy_that_nobody_counts_is_lacking_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counter, "reason", "this machine shows none")
    found, lacking, _ = measured(monkeypatch, itertools.repeat(0.1), 1, 2)
    assert "joules_per_picture" not in found and lacking == {"joules_per_picture": "this machine shows none"}


@pytest.mark.slow
def test_a_run_s_rows_are_in_its_record_with_their_machine_and_on_its_page(
    micro_run: MicroRun, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = CurveArguments(run=str(copy), of="batch", values=(2, 1), pictures=8)
    assert curves.main(asked, Config(), QUIET) == 0
    record = schema.load(copy)
    assert [row["batch"] for row in record.curves["batch"]] == [1, 2]
    for row in record.curves["batch"]:
        assert row["repeats"] == 7 and row["pictures"] == 7 * row["batch"] and row["nfe_spent"] == 2
        assert 0 < row["seconds_per_batch_low"] <= row["seconds_per_batch"] <= row["seconds_per_batch_p90"]
        assert row["seconds_per_batch_p90"] <= row["seconds_per_batch_slowest"]
        assert row["pictures_per_second"] == pytest.approx(row["batch"] / row["seconds_per_batch"])
    told = record.provenance["curves"]["batch"]
    assert told["machine"] == record.metrics["seconds_per_image"].details["machine"] == record.provenance["machine"]
    assert (told["nfe"], told["guidance"]) == (2, record.config["diffusion"]["guidance"])
    assert f"on {told['machine']}; nfe 2" in (out := capsys.readouterr().out) and "costs against batch" in out
    page = html(document([copy]))
    assert "What does drawing many at a time give?" in page and f"Taken on {told['machine']}." in page

    seen: list[list[float]] = []
    save = schema.save

    def noted(kept: Record, folder: Path) -> None:
        seen.append([row["batch"] for row in kept.curves["batch"]])
        save(kept, folder)

    monkeypatch.setattr(schema, "save", noted)
    assert curves.main(replace(asked, values=(3,)), Config(), QUIET) == 0
    assert seen == [[3, 1, 2], [3]]
    monkeypatch.setattr(curves, "machine", lambda _: "another, 9 threads")
    seen.clear()
    assert curves.main(replace(asked, values=(1,)), Config(), QUIET) == 0
    assert seen == [[1], [1]]  # no row of before beside them: it was another machine's
    assert schema.load(copy).provenance["curves"]["batch"]["machine"] == "another, 9 threads"


def test_a_batch_that_can_t_be_drawn_takes_no_other_down(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = schema.load(copy)

    def falls(_: Any, __: Any, ___: Any, rows: int, *____: Any) -> tuple[dict[str, float], dict[str, str]]:
        if rows == 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmuch")
        if rows == 32:  # as a CPU says it
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")
        if rows == 8:
            raise UserError("the prompt is too long")
        return {"batch": float(rows)}, {"joules_per_picture": "nobody counts"}

    monkeypatch.setattr(batch_sizes, "cost", falls)
    assert curves.main(CurveArguments(run=str(copy), of="batch", values=(1, 4, 8, 16, 32)), Config(), QUIET) == 0
    after = schema.load(copy)
    assert after.curves["batch"] == ({"batch": 1.0}, {"batch": 16.0}) and after.metrics == before.metrics
    assert after.provenance["curves"]["batch"]["missing"] == {"joules_per_picture": "nobody counts"}
    told = capsys.readouterr().err
    assert "batch 4: CUDA out of memory. Tried to allocate\n" in told and "batch 8: the prompt is too long" in told
    assert "batch 32: [enforce fail] DefaultCPUAllocator" in told
    assert told.count("joules_per_picture: nobody counts") == 1
    assert curves.main(CurveArguments(run=str(copy), of="batch", values=(4, 8)), Config(), QUIET) == FAILED
    assert schema.load(copy).curves["batch"] == after.curves["batch"]  # nothing was made: what there was stays
