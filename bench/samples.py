"""What a person looks at in a run: its pictures one by one, and on contact sheets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench import store
from bench.evaluate import HeldOut, Measured
from bench.preview import sheet
from reports.schema import Sample

KEPT = 128  # pictures of a run that are kept one by one
SHOWN = 36  # pictures on a sheet


def keep(folder: Path, found: Measured, held: HeldOut) -> list[Sample]:
    """Everything made of the held-out pictures, the first KEPT of them with their files."""
    pictures: Sequence[NDArray[np.uint8]] = () if found.pictures is None else list(found.pictures)
    samples = []
    for index in range(max(len(pictures), len(found.captions))):
        name = f"{store.SAMPLES}/{index:04}"
        true = _write(folder, f"{name}-true.png", held.test.pictures[index]) if index < KEPT else None
        drawn = _write(folder, f"{name}.png", pictures[index]) if index < min(KEPT, len(pictures)) else None
        sample = Sample(
            key=held.test.keys[index],
            prompt=held.test.captions[index][0],
            true=true,
            drawn=drawn,
            caption=found.captions[index] if index < len(found.captions) else None,
            trace=found.trace[index] if index < len(found.trace) else {},
        )
        samples.append(sample)
    return samples


def sheets(folder: Path, found: Measured, held: HeldOut) -> dict[str, str]:
    """Contact sheets: each true picture beside the drawn one, under the words; each true picture with its caption."""
    made = {}
    if found.pictures is not None:
        pairs = [[np.asarray(held.test.pictures[i]), p] for i, p in enumerate(found.pictures[:SHOWN])]
        words = [captions[0] for captions in held.test.captions[: len(pairs)]]
        made["drawn"] = _write(folder, f"{store.SAMPLES}/drawn.png", sheet(pairs, words))
    if found.captions:
        texts = found.captions[:SHOWN]
        seen = [[np.asarray(held.test.pictures[i])] for i in range(len(texts))]
        made["described"] = _write(folder, f"{store.SAMPLES}/described.png", sheet(seen, texts))
    return made


def _write(folder: Path, name: str, picture: NDArray[np.uint8] | Image.Image) -> str:
    """A PNG file in the run's folder; its relative path. The stage's own file, written last, says that it is whole."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    (picture if isinstance(picture, Image.Image) else Image.fromarray(np.asarray(picture))).save(path, format="PNG")
    return name
