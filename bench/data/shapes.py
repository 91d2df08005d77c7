"""`shapes`: a procedural captioned world whose content is known exactly.

One to four objects (shape, colour, size, place) on one of two backgrounds, drawn with antialiasing at any size, with
captions in varied English that cover GenEval's six tasks (arXiv 2310.11513). Sample i of a split is a pure function of
(seed, split, i), so neither worker count nor order changes it.

Splits: train, validation and test share one distribution. `pairs` has in every picture a (shape, colour) pair that
training never shows, which one caption in three asks for; `forms` has captions of sentence forms that training never
reads.
"""

from __future__ import annotations

import math
from collections import Counter
from functools import lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from bench.config import DataConfig
from bench.data.captions import caption, description
from bench.data.dataset import Dataset, Sample
from bench.data.scene import (
    BACKGROUNDS,
    COLOURS,
    RADII,
    RELATIONS,
    SHAPES,
    SIZES,
    TASKS,
    Demand,
    Scene,
    Thing,
    stands,
)
from bench.files import hash_bytes
from bench.seeds import derive

HELD_OUT_PAIRS = frozenset({("circle", "purple"), ("square", "green"), ("triangle", "yellow"), ("cross", "red")})
PALETTE = {
    "red": (214, 40, 40),
    "green": (44, 160, 64),
    "blue": (44, 92, 214),
    "yellow": (240, 208, 48),
    "purple": (144, 56, 176),
    "orange": (240, 132, 32),
    "light": (236, 236, 236),
    "dark": (40, 40, 48),
}
SUPERSAMPLE = 8  # samples a pixel's side, for antialiasing
REVISION = 1  # raise when a change here changes any sample
GAP = 0.03  # least distance between two objects, and to the border


class Shapes(Dataset):
    """The procedural world; see the module's text."""

    name = "shapes"
    splits: ClassVar[tuple[str, ...]] = ("train", "validation", "test", "pairs", "forms")

    def __init__(self, *, split: str, size: int, seed: int, items: int) -> None:
        self.split, self.size, self.seed, self.items = split, size, seed, items
        self.exclusions: Counter[str] = Counter()

    @classmethod
    def build(cls, config: DataConfig, split: str) -> Shapes:
        """The split that a config describes."""
        return cls(split=split, size=config.size, seed=config.seed, items=config.bound(split))

    @classmethod
    def asks_unseen(cls, scene: Scene | None) -> bool:
        """See Dataset. Of the six tasks only the two of colours can: "a circle" is no purple one."""
        return scene is not None and any((each.shape, each.colour) in HELD_OUT_PAIRS for each in scene.demands)

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.items:
            raise IndexError(f"shapes/{self.split} has {self.items} samples, asked for number {index}")
        generator = np.random.default_rng(derive(self.seed, f"shapes/{self.split}", index))
        scene = draw_scene(generator, held_out=self.split == "pairs")
        text = caption(scene, generator, held_out=self.split == "forms")
        return Sample(
            key=f"{self.split}/{index}",
            image=render(scene.things, scene.background, self.size),
            captions=(text, description(scene)),
            scene=scene,
        )

    def content_hash(self) -> str:
        """See Dataset. The world is code, so the hash covers what decides it, and a sample of what it gives."""
        probe = [self[index] for index in range(0, self.items, max(1, self.items // 16))]
        content: list[bytes | str] = []
        for sample in probe:
            content += [sample.image.tobytes(), *sample.captions]
        return hash_bytes(f"{self.name}/{REVISION}/{self.split}/{self.size}/{self.seed}/{self.items}", *content)


def draw_scene(generator: np.random.Generator, *, held_out: bool) -> Scene:
    """A scene of a task proposed evenly from TASKS; scenes that don't do are turned down, which leaves `position` about
    half of an even share. held_out: with at least one of HELD_OUT_PAIRS; otherwise with none."""
    while True:
        task = TASKS[generator.integers(len(TASKS))]
        kinds = _kinds(task, generator)
        pairs = {(shape, colour) for shape, colour, _ in kinds} & HELD_OUT_PAIRS
        if bool(pairs) != held_out:
            continue
        things = _place(kinds, generator)
        if things is not None and (scene := _scene(task, things, generator)) is not None:
            return scene


def _kinds(task: str, generator: np.random.Generator) -> list[tuple[str, str, str]]:
    """The (shape, colour, size) of each object that a task's picture holds."""

    def pick(choices: tuple[str, ...]) -> str:
        return choices[generator.integers(len(choices))]

    if task in ("one object", "colours"):
        return [(pick(SHAPES), pick(COLOURS), pick(SIZES))]
    if task == "counting":
        count = int(generator.integers(2, 5))
        kind = (pick(SHAPES), pick(COLOURS))
        return [(*kind, pick(SIZES)) for _ in range(count)]
    first, second = generator.permutation(len(SHAPES))[:2]
    kinds = [(SHAPES[first], pick(COLOURS), pick(SIZES)), (SHAPES[second], pick(COLOURS), pick(SIZES))]
    if task == "colour binding":
        while kinds[1][1] == kinds[0][1]:
            kinds[1] = (kinds[1][0], pick(COLOURS), kinds[1][2])
        extra = generator.integers(0, 3) if generator.random() < 0.4 else 0
        kinds += [(pick(SHAPES), pick(COLOURS), pick(SIZES)) for _ in range(int(extra))]
    return kinds


def _place(kinds: list[tuple[str, str, str]], generator: np.random.Generator) -> tuple[Thing, ...] | None:
    """Objects at places that keep GAP to each other and to the border; None where 60 tries an object don't do."""
    things: list[Thing] = []
    for shape, colour, size in kinds:
        radius = RADII[size]
        for _ in range(60):
            x, y = (float(v) for v in generator.uniform(radius + GAP, 1 - radius - GAP, size=2))
            if all(math.dist((x, y), (other.x, other.y)) >= radius + other.radius + GAP for other in things):
                things.append(Thing(shape=shape, colour=colour, size=size, x=x, y=y, radius=radius))
                break
        else:
            return None
    return tuple(things)


def _scene(task: str, things: tuple[Thing, ...], generator: np.random.Generator) -> Scene | None:
    """What a caption of the task demands of these objects; None where they can't carry it."""
    background = BACKGROUNDS[generator.integers(len(BACKGROUNDS))]
    relation = None
    first = things[0]
    if task == "one object":
        demands: tuple[Demand, ...] = (Demand(shape=first.shape),)
    elif task == "counting":
        demands = (Demand(shape=first.shape, count=len(things)),)
    elif task == "colours":
        demands = (Demand(shape=first.shape, colour=first.colour),)
    elif task == "colour binding" and len(things) > 2:
        kinds = Counter((thing.shape, thing.colour) for thing in things)
        demands = tuple(Demand(shape=s, colour=c, count=n) for (s, c), n in kinds.items())
    elif task == "colour binding":
        demands = tuple(Demand(shape=thing.shape, colour=thing.colour) for thing in things)
    else:
        demands = tuple(Demand(shape=thing.shape) for thing in things)
    if task == "position" or (task == "colour binding" and len(things) == 2 and generator.random() < 0.5):
        relation = RELATIONS[generator.integers(len(RELATIONS))]
        demands = tuple(Demand(shape=d.shape, colour=d.colour) for d in demands)
        if not stands(things[0], things[1], relation):
            things, demands = (things[1], things[0]), (demands[1], demands[0])
        if not _clear(things[0], things[1], relation):
            return None
    if generator.random() < 0.3:
        demands = tuple(_with_size(demand, things) for demand in demands)
    return Scene(things=things, background=background, task=task, demands=demands, relation=relation)


def _clear(first: Thing, second: Thing, relation: str) -> bool:
    """Whether a person would name this relation: the centres differ along its axis by more than across it, and more
    than the larger radius."""
    along, across = abs(first.x - second.x), abs(first.y - second.y)
    if relation in ("above", "below"):
        along, across = across, along
    return along > across and along > max(first.radius, second.radius)


def _with_size(demand: Demand, things: tuple[Thing, ...]) -> Demand:
    """The demand with a size too, where every object it speaks of has the same."""
    sizes = {thing.size for thing in things if demand.met_by(thing)}
    size = sizes.pop() if len(sizes) == 1 else None
    return Demand(shape=demand.shape, colour=demand.colour, size=size, count=demand.count)


def render(things: tuple[Thing, ...], background: str, size: int) -> NDArray[np.uint8]:
    """The picture, size size 3, uint8: each object's exact coverage of each pixel, sampled SUPERSAMPLE^2 times."""
    image = np.empty((size, size, 3))
    image[:] = PALETTE[background]
    for thing in things:
        rows, columns, coverage = _coverage(thing.shape, thing.x * size, thing.y * size, thing.radius * size, size)
        patch = image[rows, columns]
        image[rows, columns] = patch + coverage[..., None] * (np.array(PALETTE[thing.colour]) - patch)
    return np.round(image).astype(np.uint8)


def _coverage(shape: str, x: float, y: float, radius: float, size: int) -> tuple[slice, slice, NDArray[np.float64]]:
    """The pixels that a shape may touch, and how much of each it covers."""
    left, top = max(0, int(x - radius)), max(0, int(y - radius))
    right, bottom = min(size, int(x + radius) + 1), min(size, int(y + radius) + 1)
    offsets = _offsets(max(right - left, bottom - top))
    u = (left + offsets[: (right - left) * SUPERSAMPLE] - x)[None, :] / radius
    v = (top + offsets[: (bottom - top) * SUPERSAMPLE] - y)[:, None] / radius
    inside = _inside(shape, u, v)
    blocks = inside.reshape(bottom - top, SUPERSAMPLE, right - left, SUPERSAMPLE)
    return slice(top, bottom), slice(left, right), blocks.mean(axis=(1, 3))


@lru_cache(maxsize=64)
def _offsets(pixels: int) -> NDArray[np.float64]:
    return (np.arange(pixels * SUPERSAMPLE) + 0.5) / SUPERSAMPLE


def _inside(shape: str, u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether points (u right, v down, in radii from the centre) lie in a shape."""
    if shape == "circle":
        return u**2 + v**2 <= 1
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) <= 0.82
    if shape == "triangle":  # base below, apex above
        return (v <= 0.75) & (v >= -1) & (np.abs(u) <= (v + 1) / 1.75)
    arm = 0.3
    return ((np.abs(u) <= arm) & (np.abs(v) <= 0.95)) | ((np.abs(v) <= arm) & (np.abs(u) <= 0.95))
