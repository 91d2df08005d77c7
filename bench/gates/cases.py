"""Everything that is timed, by name: for pytest-benchmark, and for the gate's pairs of workers. One table for both.

A name is group/what; the approaches' come from their registry and from what they say they can, so a new one is timed
without a line here. A case imports what it alone needs in its setup: what has another place in the base's code then
costs that case only."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from approaches.base import Approach, Prompt
from approaches.registry import APPROACHES
from approaches.shared.vae import to_unit
from bench import meter
from bench.config import Config, to_json
from bench.gates.world import ROWS, World
from metrics.registry import EXTRACTORS
from metrics.statistics import mean_estimate
from reports import schema
from reports.schema import Record

Work = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Case:
    """setup: makes the work to be timed, which may be called any number of times and costs the same each time.
    flops: of one call, where that can be counted."""

    name: str
    setup: Callable[[World], Work]
    flops: Callable[[World], int] | None = None

    @property
    def group(self) -> str:
        """The first part of the name."""
        return self.name.split("/")[0]

    def info(self, world: World) -> dict[str, Any]:
        """What a timing is to be read with: FLOPs of one call, kernels, threads."""
        return {
            "flops": None if self.flops is None else self.flops(world),
            "kernels": world.common.kernels.record(),
            "threads": torch.get_num_threads(),
            "device": "cpu",
        }


def cases() -> dict[str, Case]:
    """All of them, in the order in which they run."""
    return {case.name: case for case in (*_of_approaches(), *_of_shared_parts())}


def _of_approaches() -> Iterator[Case]:
    made: dict[str, list[Case]] = {"training_step": [], "denoising_step": [], "caption_token": []}
    for name in APPROACHES:
        able = APPROACHES[name].load().capabilities
        made["training_step"].append(
            Case(name=f"training_step/{name}", setup=partial(_training, name), flops=partial(_training_flops, name))
        )
        for group, capability, setup in (
            ("denoising_step", "denoise", _denoising),
            ("caption_token", "caption", _captioning),
        ):
            if capability in able:
                flops = partial(_flops_of, partial(setup, name))
                made[group].append(Case(name=f"{group}/{name}", setup=partial(setup, name), flops=flops))
    for found in made.values():
        yield from found


def _of_shared_parts() -> Iterator[Case]:
    yield Case(name="latent_encode/vae", setup=_encoding, flops=partial(_flops_of, _encoding))
    yield Case(name="latent_decode/vae", setup=_decoding, flops=partial(_flops_of, _decoding))
    for name in EXTRACTORS:
        if not EXTRACTORS[name].obstacle():
            yield Case(name=f"feature_extraction/{name}", setup=partial(_extraction, name))
    yield Case(name="metric_computation/fidelity", setup=_fidelity)
    yield Case(name="metric_computation/scenes", setup=_scenes)
    yield Case(name="report_build/record", setup=_record)
    yield Case(name="report_build/report", setup=_report)


# ------------------------------------------------------------------------------------------------------ approaches


def _training(name: str, world: World) -> Work:
    """A whole step of the one training loop, at a learning rate of 0, so that every step has the same to do."""
    trainee = world.trainee(world.fresh(name))
    return lambda: trainee.step(0, 0.0)


def _training_flops(name: str, world: World) -> int:
    return meter.flops_per_step(world.fresh(name), world.batches(0), world.batches.generators(0))


def _denoising(name: str, world: World) -> Work:
    approach = world.approach(name).eval()
    x_t, t = world.test.latents[:ROWS], torch.linspace(0.1, 0.9, ROWS)
    with torch.no_grad():
        condition = approach.condition(world.prompts())

    @torch.no_grad()
    def work() -> object:
        return approach.denoise(x_t, t, condition)

    return work


def _captioning(name: str, world: World) -> Work:
    approach: Approach = world.approach(name).eval()
    with torch.no_grad():
        logits, state = approach.text_start([Prompt.image(latent) for latent in world.test.latents[:ROWS]])
    tokens = logits.argmax(-1, keepdim=True)

    @torch.no_grad()
    def work() -> object:
        return approach.text_step(tokens, state)

    return work


def _flops_of(setup: Callable[[World], Work], world: World) -> int:
    return meter.flops(setup(world))


# ---------------------------------------------------------------------------------------------------- shared parts


def _encoding(world: World) -> Work:
    codec, pictures = world.common.codecs["image"], to_unit(np.asarray(world.test.pictures[:8]))
    return lambda: codec.encode(pictures)


def _decoding(world: World) -> Work:
    codec, latents = world.common.codecs["image"], world.test.latents[:8]
    return lambda: codec.decode(latents)


def _extraction(name: str, world: World) -> Work:
    from metrics.features import open_extractor

    extractor, pictures = open_extractor(name), np.asarray(world.test.pictures[:2])
    return lambda: extractor.extract(pictures, batch=2)


def _fidelity(world: World) -> Work:
    from metrics.fidelity import Features, fidelity_metrics

    draws = np.random.default_rng(0)
    sets = []
    for place in range(3):
        values = draws.normal(size=(96, 64)).astype(np.float32)
        provenance = {"extractor": "synthetic", "weights": "", "resize": "", "feature_size": 64, "batch": 32}
        sets.append(Features(values=values, content=str(place), provenance=provenance))
    return lambda: fidelity_metrics(sets[0], sets[1], sets[2], blocks=8)


def _scenes(world: World) -> Work:
    from metrics.composition import scene_metrics

    test = world.test
    pictures = np.asarray(test.pictures[:8])
    return lambda: scene_metrics(pictures, pictures, test.scenes[:8])


def _record(world: World) -> Work:
    """Write and read a record of the size that a run leaves."""
    record = _made("any", 400)

    def work() -> object:
        schema.save(record, world.folder)
        return schema.load(world.folder)

    return work


def _report(world: World) -> Work:
    """A whole report of a record of every approach."""
    from bench.report import write

    places = [world.folder / "records" / name for name in APPROACHES]
    for place in places:
        place.mkdir(parents=True)
        schema.save(_made(place.name, 40), place)
    return lambda: write(places, world.folder / "report")


def _made(name: str, rows: int) -> Record:
    curve = tuple({"step": float(step), "loss": 1.0 / (1 + step), "diffusion": 0.5} for step in range(rows))
    losses = np.random.default_rng(0).random(64)
    return Record(
        key=name,
        name=name,
        approach=name,
        settings={},
        config=json.loads(to_json(Config())),
        status="done",
        curves={"loss": curve, "validation": curve},
        metrics={"validation_loss": mean_estimate(losses, better="lower", details={})},
    )
