"""What the command line of `plan` takes besides a config. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from bench import finding
from bench.config import Config
from bench.errors import UserError, nearest
from bench.hardware import HERE, KINDS
from bench.own_settings import check_asked
from bench.ranges import Range
from bench.run_arguments import RunArguments, chosen


@dataclass(frozen=True, kw_only=True)
class PlanArguments(RunArguments):
    """What a run would take, before anything runs and without any weights: parameters, FLOPs, memory on each GPU, disk
    and hours, with the arithmetic. One approach's settings are options too: --approach dual_tower --settings.fuse."""

    gpu: str = "h100"
    """Kind of GPU: one of b200, h200, h100, a100, l40s, rtx4090, or "here" for this machine."""
    gpus: Annotated[int, Range(1, 1_000_000)] | None = None
    """How many of them share a batch; by default 8, and 1 here."""
    mfu: Annotated[float, Range(0, 1, above=True)] = 0.36
    """Share of the GPUs' peak by their data sheet that training reaches; 0.36 is what full_retraining and dual_tower
    reached, compiled, at a 1B shape on an H200 (docs/gpu.md). Taken for encoding, validating and drawing too, of the
    peak of their float32. See also --measured."""
    measured: str = ""
    """A done run whose measured MFU is taken in place of --mfu: its folder, its name's beginning, or an approach."""
    json: bool = False
    """Print JSON: approach -> counts, memory, disk, times."""

    def check(self, config: Config) -> None:
        """UserError on an unknown approach or kind of GPU, or a run that is not there. Data and weights need not be
        named; paths that are must be ones that `run` could read."""
        from bench.data import catalogue, text

        chosen(self.approach)
        if not self.approach:
            raise UserError("--approach names none, expected one or more, or all")
        for name in chosen(self.approach):
            check_asked(self.settings_for(name, config))
        if self.gpu not in (*KINDS, HERE):
            raise UserError(f"--gpu is '{self.gpu}': {nearest(self.gpu, (*KINDS, HERE))}")
        if self.measured:
            finding.find(self.measured, self.out)
        if config.data.path is not None:
            catalogue.check_path(config.data)
        text.check_path(config.text)
