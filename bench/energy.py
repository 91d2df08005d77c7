"""The energy that a piece of work took, where the machine counts it: NVML's counter of a GPU, RAPL's of the processors.

Both count everything that the device or the machine does meanwhile, other programs too."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from bench.errors import in_a_line
from metrics.statistics import Estimate

RAPL = Path("/sys/class/powercap")
EVERY = 30.0  # seconds between looks: RAPL's counters begin anew after some minutes at full power


class Energy:
    """Joules taken inside a `with`. Missing, with the reason, where nothing counts them."""

    def __init__(self, device: torch.device | str = "cpu", *, rapl: Path = RAPL, every: float = EVERY) -> None:
        self.device, self.every = torch.device(device), every
        self.reason, self.source, self.joules = "", "", 0.0
        self._counters: list[_Counter] = []
        try:
            self._counters = [_Gpu(self.device)] if self.device.type == "cuda" else _processors(rapl)
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            self.reason = in_a_line(error)
        self.source = ", ".join(counter.name for counter in self._counters)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._look()
        self.joules = 0.0
        if self._counters:
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        self._look()

    def estimate(self, *, whole: bool = True) -> Estimate:
        """Joules. whole: whether the work was all done inside; a part of it would pass for less."""
        if not whole:
            return Estimate.missing(
                "the work was done by several processes, of which one counted", unit="J", better="lower"
            )
        if self.reason:
            return Estimate.missing(self.reason, unit="J", better="lower")
        return Estimate.reading(self.joules, unit="J", better="lower", source=self.source)

    def _watch(self) -> None:
        while not self._ended.wait(self.every):
            self._look()

    def _look(self) -> None:
        try:
            self.joules += sum(counter.look() for counter in self._counters)
        except (OSError, ValueError, RuntimeError) as error:
            self.reason = f"the energy counter stopped: {in_a_line(error)}"


class _Counter:
    """A counter of energy. name: where it is."""

    name = ""

    def look(self) -> float:
        """Joules since the last look."""
        raise NotImplementedError


class _Rapl(_Counter):
    """One package's counter, in microjoules, which begins anew at its range."""

    def __init__(self, folder: Path) -> None:
        self.name = f"RAPL {_name(folder)} of the whole machine"
        self.file, self.range = folder / "energy_uj", int((folder / "max_energy_range_uj").read_text())
        self.last = int(self.file.read_text())

    def look(self) -> float:
        now = int(self.file.read_text())
        grown, self.last = now - self.last, now
        return (grown if grown >= 0 else grown + self.range) / 1e6


class _Gpu(_Counter):
    """NVML's counter of one GPU, in millijoules."""

    def __init__(self, device: torch.device) -> None:
        import pynvml

        self.name = f"NVML {torch.cuda.get_device_name(device)}"
        self._nvml: Any = pynvml
        try:
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        except pynvml.NVMLError as error:
            raise OSError(str(error)) from error
        self.last = self._read()

    def _read(self) -> int:
        try:
            return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        except self._nvml.NVMLError as error:  # a slice of a GPU, or one without the counter
            raise OSError(str(error)) from error

    def look(self) -> float:
        now = self._read()
        grown, self.last = now - self.last, now
        if grown < 0:  # a driver was loaded anew
            raise OSError("it began anew")
        return grown / 1e3


PLATFORM = "psys"
"""The zone of the whole platform, which counts the packages once more."""


def _name(zone: Path) -> str:
    try:
        return (zone / "name").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _processors(rapl: Path) -> list[_Counter]:
    """One counter a processor package. OSError, with what to do, where they can't be read."""
    zones = sorted(folder for folder in rapl.glob("intel-rapl:*") if folder.name.count(":") == 1)
    packages = [zone for zone in zones if _name(zone) != PLATFORM]
    if not packages:
        raise OSError(f"this machine shows no energy counter (RAPL) in {rapl}")
    try:
        return [_Rapl(folder) for folder in packages]
    except PermissionError as error:
        raise OSError("the energy counters (RAPL) may be read by the administrator only") from error
