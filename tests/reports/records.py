"""Records for the tests of reports: four approaches with every kind of number, picture and curve, made up by closed
forms so that what is told apart is known."""

from __future__ import annotations

import dataclasses
import json
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bench.plain import plain
from metrics.statistics import Estimate, jackknife, mean_estimate
from reports import schema
from reports.contenders import Contender
from reports.gather import Run
from reports.schema import Budgets, Identical, Record, Sample

APPROACHES = ("full_retraining", "dual_tower", "projection", "modular")
N = 40
KEYS = [f"test/{i}" for i in range(N)]
EVIL = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>`|*_[x](javascript:alert(3))"
LONG = "a caption without an end " * 200


def settled(record: Record) -> dict[str, Any]:
    """What a repetition of the run on the same machine must give again: all but provenance, seconds, and the metrics
    that a clock or a counter of the machine gave."""
    values = plain(record)
    for name in ("provenance", "seconds"):
        del values[name]
    values["metrics"] = {n: v for n, v in values["metrics"].items() if v["unit"] not in schema.TIMED_UNITS}
    return values


def noise(name: str, n: int = N) -> np.ndarray:
    """Standard normal numbers that a name alone decides."""
    return np.random.default_rng(zlib.crc32(name.encode())).normal(size=n)


def mean_at(value: float, name: str, *, spread: float = 0.1, **more: Any) -> Estimate:
    """An estimate of exactly `value`, of N items with this spread."""
    draws = noise(name)
    items = value + spread * (draws - draws.mean()) / draws.std()
    return mean_estimate(items, keys=KEYS, **more)


def distance_at(value: float, name: str, *, spread: float = 0.5) -> Estimate:
    """A Frechet distance's kind of estimate, by a jackknife of a mean."""
    draws = noise(name, 64)
    items = value + spread * (draws - draws.mean()) / draws.std()
    keys = [f"test/{i}" for i in range(64)]
    details = {"null": 1.25, "rank_deficient": True, "weights": "e0e0e0e0", "resize": "128, antialias", "batch": 32}
    return jackknife(lambda x: float(x.mean()), items, keys=keys, better="lower", details=details)


def retention(value: float, name: str) -> Estimate:
    """Text retention with its documents; 1 is exact."""
    tokens = np.full(12, 100.0)
    lost = np.zeros(12) if value == 1 else -np.log(value) * 100 + noise(name, 12)
    base = 300 + noise("base", 12)
    documents = {"tokens": tokens.tolist(), "base_nats": base.tolist(), "adapted_nats": (base + lost).tolist()}
    reach = 0.0 if value == 1 else 0.01
    return Estimate(
        value=value, low=value - reach, high=value + reach, n=12, better="higher", details={"documents": documents}
    )


@cache
def metrics_of(place: int, seed: int) -> dict[str, Estimate]:
    """The numbers of the approach at a place: the first loses text and listens most, the second draws best."""
    tag = f"{place}/{seed}"
    shares = np.array([(i * 7 + place * 3 + seed) % 5 < (3, 4, 2, 2)[place] for i in range(N)], dtype=float)
    found = {
        "fd_efficientnet_lite0": distance_at((14.0, 9.0, 14.1, 20.0)[place] + 0.1 * seed, f"fd{tag}"),
        "null_fd_efficientnet_lite0": Estimate(value=1.25, reason="one split of real pictures", n=64, better="lower"),
        "fid": Estimate.missing("the weights of Inception-v3 are not here", better="lower"),
        "validation_loss": mean_at((0.3, 0.3, 0.35, 0.4)[place] + 0.001 * seed, f"loss{tag}", better="lower"),
        "caption_gap": mean_at((0.9, 0.3, 0.1, 0.3)[place], f"gap{tag}", better="higher"),
        "scene_accuracy": mean_estimate(shares, keys=KEYS, unit="share", better="higher"),
        "right_objects": mean_estimate(shares, keys=KEYS, unit="share", better="higher"),
        "perplexity_retention": retention((0.8, 1, 1, 1)[place], f"text{tag}"),
        "caption_attribute_f1": mean_at(0.5, f"f1{tag}", unit="share", better="higher"),
        "steps_per_second": Estimate(value=3.0 - place / 2, low=2.4, high=3.2, n=9, unit="1/s", better="higher"),
        "peak_memory_bytes": Estimate.reading(2e8 + 1e7 * place, unit="bytes", better="lower"),
        "seconds_per_image": Estimate(value=0.02, n=1, unit="s", better="lower", reason="median over batches"),
        "nearest_training_distance": mean_estimate(
            np.abs(noise(f"near{tag}")), keys=KEYS, details={"nearest": [f"train/{i}" for i in range(N)], "real": 1.0}
        ),
        "a_stranger_s_metric": Estimate(value=0.5, low=0.4, high=0.6, n=3, unit="shares & more", better="higher"),
    }
    if place == 3:
        found["scene_accuracy_0_redraws"] = mean_estimate(shares * 0, keys=KEYS, unit="share", better="higher")
    return found


def samples_of(place: int) -> tuple[Sample, ...]:
    """Pictures that an approach drew and described."""
    return tuple(
        Sample(
            key=key,
            prompt=(EVIL, LONG)[i] if i < 2 else f"a red circle and {i} squares",
            true=f"samples/{i:04}-true.png",
            drawn=f"samples/{i:04}.png",
            caption=(EVIL, LONG, "", None)[i] if i < 4 else f"a circle, {i}",
            trace={"plan": f"plan: {EVIL}", "verdicts": [0.1, 0.9], "accepted": True, "x": {"<b>": 1}}
            if place == 3
            else {},
        )
        for i, key in enumerate(KEYS)
    )


def curves_of(place: int) -> dict[str, Any]:
    """What an approach measured while it was trained, and at several values of what can be varied."""
    nfe = [(float(n), 9.0 + place + 40 / n) for n in (4, 8, 16, 25)]
    return {
        "loss": tuple({"step": float(s), "diffusion": 2 / (s + place + 1), "loss": 3.0} for s in range(1, 200)),
        "validation": tuple({"step": float(s), "validation_loss": 1 / s + 0.1 * place} for s in (200, 400, 1000)),
        "nfe": tuple(
            {"nfe": n, "fd_efficientnet_lite0": v, "fd_efficientnet_lite0_low": v - 1,
             "fd_efficientnet_lite0_high": v + 1} for n, v in nfe
        ),
        "guidance": tuple({"guidance": float(g), "fd_efficientnet_lite0": 9.0 + (g - 3) ** 2} for g in range(1, 5)),
        "images": tuple(
            {"images": 32_000.0 / share, "pictures": 512.0, "fd_efficientnet_lite0": 9.0 + share}
            for share in (4, 2, 1)
        ),
        "batch": tuple(
            {"batch": float(n), "pictures_per_second": 9.0 * n**0.5, "seconds_per_batch": n**0.5 / 9,
             "seconds_per_batch_p90": n**0.5 / 8, "seconds_per_batch_slowest": n**0.5 / 7, "repeats": 7.0}
            for n in (1, 4, 16)
        ),
    }  # fmt: skip


def record_of(approach: str, *, seed: int = 0, **changes: Any) -> Record:
    """A done run of an approach."""
    place = APPROACHES.index(approach)
    values: dict[str, Any] = {
        "key": f"{zlib.crc32(f'{approach}/{seed}/{changes}'.encode()):08x}" * 2,
        "name": f"{approach}-tiny-{seed:08}",
        "approach": approach,
        "settings": {"learning_rate": 1e-3, "variant": approach if approach == "dual_tower" else "transfusion"},
        "config": {"preset": "tiny", "seed": seed, "data": {"name": "shapes", "seed": 0}, "train": {"batch": 32}},
        "status": "done",
        "provenance": {
            "command": ["python", "-m", "bench", "run", "--seeds", "2", "<b>"],
            "commit": {"id": "0123abcd", "dirty": seed == 0, "reason": ""},
            "packages": {"torch": "2.13.0"},
            "cpu": "a <processor>",
            "curves": {"batch": {"machine": "a <processor>, 1 thread"}},
            "key": {"config": f"c{seed}", "sources": "s", "data": "d"},
        },
        "budgets": Budgets(
            total=10**7, trainable=(4, 4, 8, 6)[place] * 10**6, active=9 * 10**6, borrowed={"vae": 10**6},
            flops=(2, 1, 3, 1.5)[place] * 1e12, flops_per_step=(2, 1, 3, 1.5)[place] * 1e9, steps=1000, images=32_000,
        ),
        "identical": Identical(
            data="d", text="t", vae="v", language_model="l", batches=f"b{seed}", noise=f"n{seed}",
            diffusion={"prediction": "flow", "nfe": 25}, kernels={"attention": "sdpa", "reasons": {"norm": "fast"}},
        ),
        "curves": curves_of(place),
        "metrics": changes["metrics"] if "metrics" in changes else dict(metrics_of(place, seed)),
        "samples": samples_of(place),
        "sheets": {
            "drawn": "samples/drawn.png", "forward": "samples/forward.png", "reverse": "samples/reverse.png",
            "nearest of test/2": "samples/0002-nearest.png",
        },
        "notes": ("2 captions were cut",),
        "seconds": {"train": 60.0 * (place + 1), "measured": 5.0},
    }  # fmt: skip
    return Record(**{**values, **changes})


def write_run(folder: Path, record: Record, *, pictures: bool = True) -> Path:
    """A run's folder as a run leaves it."""
    schema.save(record, folder)
    if pictures:
        (folder / "samples").mkdir(exist_ok=True)
        shade = 40 * (APPROACHES.index(record.approach) if record.approach in APPROACHES else 0)
        for i in range(N):
            Image.new("RGB", (32, 32), (200, shade, 6 * i)).save(folder / f"samples/{i:04}.png")
            Image.new("RGB", (32, 32), (0, 0, 6 * i)).save(folder / f"samples/{i:04}-true.png")
        Image.new("RGB", (32, 32), "green").save(folder / "samples/0002-nearest.png")
        for name, colour in (("forward", "grey"), ("reverse", (shade, 9, 9))):
            told = PngInfo()
            told.add_text("Description", f"{name}: t = 0, 0.5, 1")
            Image.new("RGB", (202, 100), colour).save(folder / f"samples/{name}.png", pnginfo=told)
    return folder


def four(out: Path, *, seeds: int = 1) -> Path:
    """A folder of runs: the four approaches, each with as many seeds."""
    for approach in APPROACHES:
        for seed in range(seeds):
            write_run(out / f"{approach}-{seed}", record_of(approach, seed=seed))
    return out


def whole(out: Path) -> Path:
    """The four, and everything that can go wrong beside them."""
    four(out)
    lost = dataclasses.replace(
        record_of("modular", seed=7), status="killed", reason=f"signal SIGKILL {EVIL}", metrics={}
    )
    write_run(out / "killed", lost, pictures=False)
    for name, text in (("damaged", "{"), ("foreign", json.dumps({"schema": 1, EVIL: 2})), ("future", '{"schema": 99}')):
        (out / name).mkdir()
        (out / name / schema.FILE).write_text(text)
    (out / "begun").mkdir()
    (out / "begun" / "request.json").write_text("{}")
    return out


def contender(label: str = "way", *records: Record, **metrics: Estimate) -> Contender:
    """A contender of records, or of one that holds these numbers."""
    alone = record_of("modular", metrics=metrics, budgets=Budgets(), seconds={})
    made = records or (dataclasses.replace(alone, approach=label),)
    return Contender(label=label, runs=tuple(Run(record=record, folder=Path("nowhere")) for record in made))
