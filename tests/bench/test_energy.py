"""Energy: a counter's growth in joules, over its wrap too; and a reason where nothing counts."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.energy import Energy


def counter(folder: Path, microjoules: int, name: str = "intel-rapl:0") -> Path:
    place = folder / name
    place.mkdir(exist_ok=True)
    (place / "name").write_text("package-0\n")
    (place / "max_energy_range_uj").write_text("1000000000")
    (place / "energy_uj").write_text(str(microjoules))
    return place


def test_joules_are_the_counters_growth_over_all_packages_and_none_of_their_parts(tmp_path: Path) -> None:
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        counter(tmp_path, 5_000_000, name)
    with Energy("cpu", rapl=tmp_path) as energy:
        counter(tmp_path, 8_000_000, "intel-rapl:0")
        counter(tmp_path, 5_500_000, "intel-rapl:1")
        counter(tmp_path, 900_000_000, "intel-rapl:0:0")  # the cores are in their package already
    told = energy.estimate()
    assert told.value == pytest.approx(3.5) and told.unit == "J" and told.better == "lower"
    assert "whole machine" in told.details["source"]


def test_a_platform_s_own_counter_is_no_second_package(tmp_path: Path) -> None:
    counter(tmp_path, 0)
    (counter(tmp_path, 0, "intel-rapl:1") / "name").write_text("psys\n")
    with Energy("cpu", rapl=tmp_path) as energy:
        counter(tmp_path, 3_000_000)
        (tmp_path / "intel-rapl:1" / "energy_uj").write_text("5000000")
    assert energy.estimate().value == pytest.approx(3.0)


def test_a_counter_that_began_anew_went_on(tmp_path: Path) -> None:
    counter(tmp_path, 999_000_000)
    with Energy("cpu", rapl=tmp_path) as energy:
        counter(tmp_path, 2_000_000)
    assert energy.estimate().value == pytest.approx(3.0)


def test_where_nothing_counts_the_reason_is_told(tmp_path: Path) -> None:
    with Energy("cpu", rapl=tmp_path) as energy:
        pass
    assert energy.estimate().value is None and "no energy counter" in energy.estimate().reason
    place = counter(tmp_path, 5)
    (place / "energy_uj").write_text("not a number")
    with Energy("cpu", rapl=tmp_path) as energy:
        pass
    assert energy.estimate().value is None and "ValueError" in energy.estimate().reason


def test_a_counter_that_vanishes_and_work_done_in_part_give_no_number(tmp_path: Path) -> None:
    place = counter(tmp_path, 5)
    with Energy("cpu", rapl=tmp_path) as energy:
        (place / "energy_uj").unlink()
    assert energy.estimate().value is None and "stopped" in energy.estimate().reason
    counter(tmp_path, 5)
    with Energy("cpu", rapl=tmp_path) as energy:
        counter(tmp_path, 6)
    assert energy.estimate().value is not None
    assert "several processes" in energy.estimate(whole=False).reason


def test_a_counter_that_stops_before_the_work_begins_ends_nothing(tmp_path: Path) -> None:
    place = counter(tmp_path, 5)
    energy = Energy("cpu", rapl=tmp_path)
    (place / "energy_uj").unlink()
    with energy:
        pass
    assert energy.estimate().value is None and "stopped" in energy.estimate().reason


READING = "nvmlDeviceGetTotalEnergyConsumption"


def a_gpu(monkeypatch: pytest.MonkeyPatch, *readings: int, refused: str = "") -> None:
    """A machine whose GPU has these readings in turn, or whose NVML refuses a call of that name."""

    class NVMLError(Exception):
        pass

    given = iter(readings)

    def call(name: str) -> Any:
        def answer(*_: Any) -> int:
            if name == refused:
                raise NVMLError("Not Supported")
            return next(given) if name == READING else 7

        return answer

    names = ("nvmlInit", "nvmlDeviceGetHandleByUUID", READING)
    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(NVMLError=NVMLError, **{n: call(n) for n in names}))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1-2"))


def test_a_gpu_counts_in_millijoules(monkeypatch: pytest.MonkeyPatch) -> None:
    a_gpu(monkeypatch, 1_000, 4_000, 9_500)  # as it is opened, as the work begins and as it ends
    with Energy("cuda") as energy:
        pass
    told = energy.estimate()
    assert (told.value, told.unit, told.details["source"]) == (5.5, "J", "NVML a GPU")


@pytest.mark.parametrize("refused", ["nvmlInit", "nvmlDeviceGetHandleByUUID", READING])
def test_a_gpu_that_shows_no_counter_ends_no_training(refused: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML's errors derive from Exception alone: a container without its library, a slice of a GPU, no counter."""
    a_gpu(monkeypatch, 7, 7, 7, refused=refused)
    with Energy("cuda") as energy:
        pass
    assert energy.estimate().value is None and "Not Supported" in energy.estimate().reason


def test_a_gpu_whose_counter_began_anew_gives_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    a_gpu(monkeypatch, 1_000, 4_000, 500)
    with Energy("cuda") as energy:
        pass
    assert energy.estimate().value is None and "it began anew" in energy.estimate().reason
