"""The stages of one run: prepare, build, train, measure, record. What a stage has found is kept in the run's folder, so
that a run that was cut off goes on with the next one; what is measured is always what was written to disk."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from approaches.base import Approach, Shared
from approaches.registry import package_of
from bench import launch, shard_checkpoint, store
from bench.assembly import build, device_here, load_shared_for, open_trained, untrained
from bench.batches import Batches, moved, part
from bench.budget import bytes_, disk
from bench.config import Config
from bench.console import Console
from bench.contents import check_read
from bench.counting import flops_per_update
from bench.data.catalogue import open_dataset
from bench.data.text import TextCorpus, open_text
from bench.energy import Energy
from bench.environment import provenance
from bench.errors import UserError
from bench.evaluate import measure, validation_row
from bench.files import atomic_path, read_json, require_space, write_json
from bench.held_out import hold_out, hold_out_others, training
from bench.imagined import imagining
from bench.meter import (
    Meter,
    PeakMemory,
    flops_per_evaluation,
    flops_per_step,
    machine,
    mfu,
    now,
    parameters,
    peak_flops,
    taken,
)
from bench.owed import unreached
from bench.plain import plain
from bench.rehearsal import rehearse
from bench.run_arguments import changed
from bench.sampler import noise_source
from bench.samples import keep, neighbours, sheets, strips
from bench.training import compiles, precision, train
from metrics.statistics import Estimate
from reports import schema
from reports.schema import Budgets, Identical, Record, Sample

CHECKPOINT = "checkpoint.safetensors"
TRAINED, MEASURED = "trained.json", "measured.json"
MUCH = 1e9  # bytes on the disk that a run says beforehand that it will take


class Run:
    """One run at work in its folder. main: this process writes."""

    def __init__(self, folder: Path, console: Console) -> None:
        self.folder, self.console = folder, console
        self.request = store.Request.read(folder)
        self.config = self.request.config
        self.device, self.main = device_here(), launch.rank() == 0

    @cached_property
    def corpus(self) -> TextCorpus:
        """Text for replay and retention."""
        return open_text(self.config.text, self.console.info)

    def stage(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What the stage found: read from its file where it is done, else done now, and timed unless it says."""
        path = self.folder / name
        if not path.exists():
            begun = now()
            found = work()
            if not self.main:
                return found
            write_json(path, {"seconds": {name.partition(".")[0]: now() - begun}, **found})
        values: dict[str, Any] = read_json(path)
        return values


def work(folder: Path, console: Console) -> None:
    """Do what is left to do of a run, and write its record."""
    run = Run(folder, console)
    if other := store.other_sources(run.request):
        whose = "the suite's sources" if "sources" in other else f"the package of approach '{run.request.approach}'"
        raise UserError(f"{whose} changed since this run was asked for: start it again, as another run")
    record = _begun(run)
    if run.main:
        schema.save(record, folder)
    trained = run.stage(TRAINED, lambda: _train(run))
    launch.leave()
    if not run.main:
        return
    measured = run.stage(MEASURED, lambda: _measure(run, trained))
    schema.save(_done(record, trained, measured), folder)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    shard_checkpoint.remove(folder / CHECKPOINT)


def _begun(run: Run) -> Record:
    """The record of a run that is not done yet."""
    request = run.request
    told = provenance({"seed": run.config.seed, "data": run.config.data.seed, "text": run.config.text.seed})
    return Record(
        key=request.key,
        name=run.folder.name,
        approach=request.approach,
        settings=request.settings,
        config=plain(run.config),
        status="unfinished",
        reason="the run is still at work, or ended together with what watched it",
        provenance={
            **told,
            "packages": told["packages"] | package_of(request.approach),
            "command": list(request.command),
            "key": request.parts,
            "settings_changed": changed(request.approach, request.settings, request.config),
            **({"launch": launch.record()} if launch.ranks() > 1 else {}),
        },
    )


def _done(record: Record, trained: dict[str, Any], measured: dict[str, Any]) -> Record:
    metrics = {**trained["metrics"], **measured["metrics"]}
    identical = {**trained["identical"], **measured["identical"]}
    return replace(
        record,
        status="done",
        reason="",
        provenance={**record.provenance, **trained.get("provenance", {})},
        budgets=budgets_of(trained, measured),
        identical=Identical(data=record.provenance["key"]["data"], text=record.provenance["key"]["text"], **identical),
        curves={name: tuple(rows) for name, rows in trained["curves"].items()},
        metrics={name: Estimate.from_json(value) for name, value in metrics.items()},
        samples=tuple(Sample(**sample) for sample in measured["samples"]),
        sheets=measured["sheets"],
        notes=(*trained["notes"], *measured["notes"]),
        seconds={**trained["seconds"], **measured["seconds"]},
    )


def budgets_of(trained: Mapping[str, Any], measured: Mapping[str, Any]) -> Budgets:
    """What training took; the optimizer's operations with the model's."""
    found, update = trained["budgets"], measured["optimizer_flops_per_step"]
    step = found["flops_per_step"] + update
    whole = {"flops": step * found["steps"], "flops_per_step": step, "optimizer_flops_per_step": update}
    return Budgets(**{**found, **whole})


def _train(run: Run) -> dict[str, Any]:
    """Train to the budget's end, from the checkpoint where there is one, and write the averaged weights."""
    config, console, begun, compiled = run.config, run.console, now(), compiles(run.config, run.device)
    with launch.first_of_machine():
        shared = load_shared_for(run.request, run.device)
        approach = build(run.request, shared).to(run.device)
        _tell_disk(run, approach)
        batches = _batches(run, shared)
        held = hold_out(config, shared, run.corpus, console)
    counted, flops = parameters(approach, held.validation.latents.to(run.device)), _step_flops(approach, batches)
    arithmetic = _arithmetic(config, run.device)
    peak = peak_flops(run.device, dtype=arithmetic)
    prepared, meter = now() - begun, Meter(run.device, place=machine(run.device, launch.ranks()))

    def validate() -> dict[str, float]:
        if "denoise" not in approach.capabilities:
            return {}
        return validation_row(approach, held, config.evaluate.batch, config.seed)

    path = run.folder / CHECKPOINT
    resumed = path.exists() or shard_checkpoint.step(path) >= 0
    told: dict[str, Any] = {"key": run.request.key, "description": run.request.approach, "console": console}
    told |= {"meter": meter, "flops_per_step": flops + flops_per_update(approach, config)}
    with PeakMemory(run.device) as memory, Energy(run.device) as energy:
        fitted = train(approach, batches, config, path=path, validate=validate, **told)
    if run.main:
        average = {name: value.cpu().contiguous().clone() for name, value in fitted.average.items()}
        with atomic_path(run.folder / store.WEIGHTS) as whole:
            save_file(average, whole)
    cut = [f"{batches.cut} captions were longer than train.caption_tokens, and cut"] if batches.cut else []
    notes = [*batches.collection.left_out, *cut]
    if said := unreached(fitted.unreached):
        console.warn(f"{run.request.approach}: {said}")
        notes.append(said)
    costs = {
        **_speed(meter, batches, flops, max(peak, peak_flops(run.device, dtype=arithmetic))),  # beside other work, less
        "peak_memory_bytes": memory.estimate(whole=not resumed),
        "energy_joules": energy.estimate(whole=not resumed and launch.ranks() == 1),
    }
    return {
        "metrics": {name: taken(value, meter.place).to_json() for name, value in costs.items()},
        "curves": {"loss": fitted.losses, "validation": fitted.curve},
        "budgets": {**counted, "flops_per_step": float(flops), "steps": fitted.steps, "images": fitted.images},
        "identical": {
            "vae": shared.codecs["image"].weights_hash,
            "language_model": approach.language_model.weights_hash,  # which an approach may bring itself
            "batches": fitted.digest,
            "diffusion": {
                **shared.diffusion.record(),
                "nfe": config.diffusion.nfe,
                "guidance": config.diffusion.guidance,
            },
            "kernels": {**shared.kernels.record(), "blocks": "compiled" if compiled else "eager"},
            "details": batches.record(),
        },
        "frozen_hash": fitted.frozen_hash,
        "provenance": _worked(meter),
        "seconds": {"prepare": prepared, "train": fitted.seconds},
        "notes": notes,
    }


def _worked(meter: Meter) -> dict[str, Any]:
    """On what a training was done, for its record."""
    launched = {"launch": launch.record()} if launch.ranks() > 1 else {}
    return {"machine": ", then ".join(meter.places), **launched}


def _tell_disk(run: Run, approach: Approach) -> None:
    """Say what the run will take on the disk where that is much. UserError where the disk has not that much left."""
    trained = sum(parameter.numel() for parameter in approach.parameters() if parameter.requires_grad)
    hidden, shared = sum(matrix.numel() for matrix in approach.hidden_matrices()), approach.shared
    needed = disk(trained, hidden, shared.codecs["image"].channels * shared.latent_size**2, run.config)
    mine = int(needed["weights"] + needed["checkpoint"])
    path = run.folder / CHECKPOINT
    there = [run.folder / store.WEIGHTS, path, *shard_checkpoint.folder_of(path).rglob("*")]
    written = sum(each.stat().st_size for each in there if each.is_file())
    require_space(run.folder, max(0, mine - written), "the weights and checkpoints of this run")
    if (whole := sum(needed.values())) > MUCH:
        terms = ", ".join(f"{name} {bytes_(value)}" for name, value in needed.items())
        run.console.info(f"{run.folder.name} takes up to {bytes_(whole)} on the disk: {terms}")


def _batches(run: Run, shared: Shared) -> Batches:
    """UserError where the pictures or the text are others than when the run was asked for."""
    config = run.config
    check_read(run.request, run.console.info)
    return Batches(
        config,
        open_dataset(config.data, "train"),
        run.corpus,
        shared.language_model,
        shared.codecs["image"],
        run.console,
        with_pictures=bool(config.model.encoder),
    )


def _step_flops(approach: Approach, batches: Batches) -> int:
    """Of a whole batch, after a rehearsal with its first part. Where it is worked through in parts, or on a GPU, which
    may not hold it as it is counted: on tensors without values. An approach or a kernel that can't do without takes as
    many times its first part, whose rows may be a few less than the others'."""
    whole, draws, device = batches(0), batches.generators(0), device_here()
    parts = launch.ranks() * batches.config.train.accumulation
    rehearse(approach, moved(part(whole, 0, parts), device), batches.generators(0))
    if parts > 1 or device.type != "cpu":
        there = moved(whole, device)
        with suppress(Exception), imagining():  # whatever a foreign approach may do with values
            return flops_per_step(approach, there, draws)
    return parts * flops_per_step(approach, moved(part(whole, 0, parts), device), draws)


def _arithmetic(config: Config, device: torch.device) -> torch.dtype:
    """Of training's matrix products."""
    return torch.bfloat16 if precision(config, device) == "bf16" else torch.float32


def _speed(meter: Meter, batches: Batches, flops: int, peak: float) -> dict[str, Estimate]:
    """Of training, over its laps. tokens: of pictures and captions; text replay is not counted. peak: the machine's, in
    operations a second."""
    rows = batches.draw_rows + batches.describe_rows
    side = batches.collection.latents.shape[-1] // batches.config.train.patch
    tokens = rows * (side * side + float(batches.mask.float().sum(1).mean()))
    steps = meter.rate()
    return {
        "steps_per_second": steps,
        "images_per_second": meter.rate(rows),
        "tokens_per_second": meter.rate(tokens),
        "mfu": mfu(steps, flops / launch.ranks(), peak),
    }


def _measure(run: Run, trained: dict[str, Any]) -> dict[str, Any]:
    """`measure_run` in the run's own folder, of what the run was asked for: training may have taken days."""
    check_read(run.request, run.console.info)
    return measure_run(run, trained, run.folder)


def measure_run(run: Run, trained: dict[str, Any], place: Path) -> dict[str, Any]:
    """Load what was trained, as anybody will who uses it, measure that, and leave its pictures in a folder."""
    config, console = run.config, run.console
    gc.collect()  # compiled blocks hold themselves, and the last gradients
    if run.device.type == "cuda":
        torch.cuda.empty_cache()
    approach = open_trained(run.folder, run.request)
    if (frozen := approach.frozen_hash()) != trained["frozen_hash"]:
        raise UserError(
            f"approach '{run.request.approach}', built anew, has other frozen weights than the one that was trained "
            f"({frozen}, not {trained['frozen_hash']}): expected weights that are drawn inside `shared.fresh`"
        )
    shared = approach.shared
    held = hold_out(config, shared, run.corpus, console)
    held = replace(held, others=hold_out_others(config, shared, run.corpus, console))
    base = untrained(run.request, shared)
    found = measure(approach, held, config, base, console)
    if "denoise" in approach.capabilities:
        work = flops_per_evaluation(approach, held.validation.latents.to(run.device))
        counted = Estimate.counted(work["denoise"], unit="FLOP", better="lower", **work)
        found.metrics["flops_per_evaluation"] = counted
    return {
        "metrics": {name: value.to_json() for name, value in found.metrics.items()},
        "optimizer_flops_per_step": float(flops_per_update(approach, config)),
        "identical": {"noise": _noise_hash(shared, config)},
        "samples": [vars(sample) for sample in keep(place, found, held)],
        "sheets": {
            **sheets(place, found, held),
            **strips(place, approach, held, config),
            **neighbours(place, found, held, lambda: _training_pictures(run, shared)),
        },
        "notes": found.notes,
    }


def _training_pictures(run: Run, shared: Shared) -> tuple[Sequence[str], Any]:
    """Keys and pictures of what was trained on, from the cache that training filled."""
    found = training(run.config, shared, run.console)
    return found.keys, found.pictures


def _noise_hash(shared: Shared, config: Config) -> str:
    """Of the noise that held-out prompts are drawn from: of the first 16."""
    shape = (shared.codecs["image"].channels, shared.latent_size, shared.latent_size)
    noise = noise_source(shape, config.seed, 0, torch.device("cpu"))(range(16), 0)
    return hashlib.sha256(noise.numpy().tobytes()).hexdigest()[:16]
