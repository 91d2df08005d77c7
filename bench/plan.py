"""`python -m bench plan`: what a run would take, counted before anything runs. Names no approach: each is built as it
always is, of tensors that have shapes and no values, and asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import psutil

from bench import finding
from bench.budget import Counts, Machine, lines, step_flops, to_json
from bench.config import Config
from bench.console import Console
from bench.errors import UserError
from bench.hardware import HERE, KINDS
from bench.plan_arguments import PlanArguments
from bench.presets import explain
from bench.run_arguments import chosen
from reports import schema

if TYPE_CHECKING:
    import torch

USUAL = "by default, as measured at a 1B shape; narrow models reached 1 to 3%, uncompiled: docs/gpu.md"


def main(arguments: PlanArguments, config: Config, console: Console) -> int:
    """Print the plan of each approach asked for; 0."""
    from bench.counting import count

    machine = machine_of(arguments, config)
    found = {}
    if not console.as_json:
        console.info(f"preset {config.preset}: {explain(config.preset)}\n")
    for name in chosen(arguments.approach):
        settings = arguments.settings_for(name, config)
        counts = count(name, settings, config, ranks=machine.gpus, bf16=machine.bf16)
        steps = steps_of(counts, config, machine)
        found[name] = to_json(counts, config, machine, steps)
        if not console.as_json:
            console.info(f"{name} at {config.preset}" + (f", each of {arguments.seeds} seeds" * (arguments.seeds > 1)))
            for line in lines(counts, config, machine, steps):
                console.info(f"  {line}")
            console.info()
    if console.as_json:
        console.emit(found)
    return 0


def machine_of(arguments: PlanArguments, config: Config) -> Machine:
    """What is planned for: its peak from the data sheet, from the run whose MFU is taken, or measured now. UserError
    where that run measured none."""
    usual = arguments.mfu == PlanArguments.mfu
    mfu, source, peak = arguments.mfu, USUAL if usual else "given", 0.0
    if arguments.measured:
        record = schema.load(finding.find(arguments.measured, arguments.out))
        value = record.metrics.get("mfu")
        if value is None or value.value is None:
            why = value.reason if value is not None else "its record has none"
            raise UserError(f"run {record.name} has no measured MFU: {why}")
        mfu, source = value.value, f"measured by {record.name}"
        peak = float((value.details or {}).get("peak_flops_per_second", 0.0))
    if arguments.gpu != HERE:
        kind, bf16, host = KINDS[arguments.gpu], config.train.precision != "fp32", False
        peaks, memory = Peaks(kind.peak if bf16 else kind.fp32, kind.fp32, kind.tf32), kind.memory
    else:
        from bench.assembly import device_here

        device = device_here()
        wanted = config.train.precision
        bf16 = wanted == "bf16" or (wanted == "auto" and device.type == "cuda")
        peaks = peaks_of(device, bf16=bf16, peak=peak)
        memory, host = memory_of(device.type), device.type == "cpu"
    return Machine(
        name=arguments.gpu,
        gpus=arguments.gpus or (1 if arguments.gpu == HERE else 8),
        peak=peaks.training,
        peak_fp32=peaks.fp32,
        peak_tf32=peaks.tf32,
        memory=memory,
        mfu=mfu,
        mfu_of=source,
        bf16=bf16,
        host=host,
    )


class Peaks(NamedTuple):
    """FLOP/s in training's arithmetic, in float32, and in that of float32 convolutions."""

    training: float
    fp32: float
    tf32: float


def peaks_of(device: torch.device, *, bf16: bool, peak: float = 0.0) -> Peaks:
    """Of this machine's device, measured now. peak: training's where it is known already."""
    import torch

    from bench.meter import peak_flops

    cuda = device.type == "cuda"
    peak = peak or peak_flops(device, dtype=torch.bfloat16 if bf16 and cuda else torch.float32)
    fp32 = peak_flops(device) if bf16 and cuda else peak
    if not (cuda and torch.backends.cudnn.allow_tf32 and torch.cuda.get_device_capability(device) >= (8, 0)):
        return Peaks(peak, fp32, fp32)
    half = (peak if bf16 else peak_flops(device, dtype=torch.bfloat16)) / 2  # as in makers' data sheets
    return Peaks(peak, fp32, max(fp32, half))


def memory_of(device: str) -> float:
    """Bytes of this machine's device."""
    if device != "cuda":
        return float(psutil.virtual_memory().total)
    import torch

    return float(torch.cuda.get_device_properties(0).total_memory)


def steps_of(counts: Counts, config: Config, machine: Machine) -> int:
    """Steps of the config's budget; of one in seconds, as many as the machine does in them."""
    from bench.trainee import Budget

    worked = step_flops(counts, config)
    if config.train.budget == "seconds":
        return max(1, int(config.train.amount * machine.speed / worked))
    return Budget.of(config.train, worked + counts.update).steps or 1
