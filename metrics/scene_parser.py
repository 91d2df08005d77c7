"""What is in a picture of the procedural world, read from its pixels by rules.

No learned model, and nothing shared with whatever an approach may use to check its own pictures. The steps: the
background from the border; each pixel unmixed into background and one ink; connected components, taken whole where one
ink may explain them and apart by ink elsewhere; a shape, a radius, a stretch and a centre for each from its area,
centroid and variances, judged by the overlap with that shape drawn anew; what no one shape explains is tried without
its spurs, and as several that touch.

H W picture height and width; coordinates and radii are fractions, as in `bench.data.scene`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bench.data.scene import BACKGROUNDS, RADII, Thing
from bench.errors import UserError

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

SMALLEST_SIDE = 32  # pixels; below it a small cross is two pixels wide
INKS = {
    "red": (214, 40, 40),
    "green": (44, 160, 64),
    "blue": (44, 92, 214),
    "yellow": (240, 208, 48),
    "purple": (144, 56, 176),
    "orange": (240, 132, 32),
}
PAPERS = {"light": (236, 236, 236), "dark": (40, 40, 48)}
PAPER_DISTANCE = 70.0  # RGB units from a paper's colour, at most, for the border's median
BORDER_SHARE = 0.75  # of the border's pixels that must be within PAPER_DISTANCE of that median
INK_DISTANCE = 80.0  # RGB units from the line between paper and ink, at most
PAPER, FOREIGN = -1, -2  # labels of pixels that are no ink
COVERED = 0.45  # of a pixel that ink must cover, at least, for it to belong to an object
SMALLEST_AREA = 0.3  # of the smallest object's area; a component below it is debris
SMALLEST_TOUCHING = 0.9  # the same for each of several objects that a component is taken for; less is a spur
SMALLEST_RADIUS = 0.45  # of the smallest object's radius, at least
OVERLAP_KNOWN = 0.55  # intersection over union below which something is no shape of this world, or several
STRETCH = 1.4  # times, at most, that an object is wider or narrower than its shape, and less high or higher
ROUNDED = 0.03  # of overlap that a circle must have more than a shape with corners
ONE_INK = 0.9  # of a component's pixels, at least, that one ink may explain for it to be one object
CONFIDENT = 0.6  # a picture of which less is explained is rejected
BETWEEN_SIZES = (RADII["small"] * RADII["large"]) ** 0.5
LARGEST = 1.35 * RADII["large"]
MOST = 6  # objects tried for in one component
SUPERSAMPLE = 4

# Shapes in radii from the centre, v down: area, and how far the centroid lies below the centre.
_AREA = {"circle": np.pi, "square": 1.64**2, "triangle": 1.75, "cross": 2 * 0.6 * 1.9 - 0.36}
_SINK = {"circle": 0.0, "square": 0.0, "triangle": 0.75 - 1.75 / 3, "cross": 0.0}
_SMALLEST = min(_AREA.values()) * RADII["small"] ** 2
_LEAST = SMALLEST_AREA * _SMALLEST


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """What a picture shows.

    confidence: the overlap (intersection over union) of everything that is not background with the objects found, drawn
    anew; 1 for an empty picture. rejected: why the picture is none of this world, and then it has no things; or "".
    """

    things: tuple[Thing, ...]
    background: str | None
    confidence: float
    rejected: str = ""


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """A shape with its centre and radius in pixels, its drawn coverage (H W), and its overlap with what it explains."""

    shape: str
    x: float
    y: float
    radius: float
    cover: Floats
    overlap: float


def parse(picture: NDArray[np.uint8]) -> Parsed:
    """The objects and the background of one uint8 picture, H W 3, of at least SMALLEST_SIDE pixels; UserError for
    anything else."""
    check_pictures(picture[None])
    pixels = picture.astype(np.float64)
    background, paper = _paper(pixels)
    if background is None:
        return Parsed(things=(), background=None, confidence=0.0, rejected="the border is no background of this world")
    amount, near, label = _unmix(pixels, paper)
    found = [each for body in _bodies(label != PAPER) for each in _inked(body, amount, near, label)]
    things = [_thing(fit, ink) for fit, ink in found]
    explained = np.max([np.zeros(label.shape), *(fit.cover for fit, _ in found)], axis=0)
    inked = np.where(ndimage.binary_dilation(label != PAPER), amount.max(axis=0), 0.0)
    empty = (label != PAPER).sum() < _LEAST * label.shape[1] ** 2
    confidence = 1.0 if empty else _overlap(explained, inked)
    if confidence < CONFIDENT:
        rejected = "most of what is in it is no object of this world"
        return Parsed(things=(), background=background, confidence=confidence, rejected=rejected)
    ordered = tuple(sorted(things, key=lambda thing: (thing.x, thing.y)))
    return Parsed(things=ordered, background=background, confidence=confidence)


def parse_all(pictures: Iterable[NDArray[np.uint8]]) -> list[Parsed]:
    """`parse` of each."""
    return [parse(picture) for picture in pictures]


def check_pictures(pictures: NDArray[np.uint8]) -> None:
    """UserError where an array is no stack of uint8 RGB pictures, N H W 3, of at least SMALLEST_SIDE pixels."""
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3:
        raise UserError(f"pictures are uint8, N H W 3; these are {pictures.dtype} of shape {pictures.shape}")
    if min(pictures.shape[1:3]) < SMALLEST_SIDE:
        raise UserError(
            f"pictures of {pictures.shape[2]} x {pictures.shape[1]}: expected at least {SMALLEST_SIDE} a side"
        )


def _paper(pixels: Floats) -> tuple[str | None, Floats]:
    """The background's name and its colour in this picture, from the border, where no object reaches."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    middle = np.median(border, axis=0)
    distances = {name: float(np.linalg.norm(middle - PAPERS[name])) for name in BACKGROUNDS}
    name = min(distances, key=distances.__getitem__)
    alike = np.linalg.norm(border - middle, axis=1) < PAPER_DISTANCE
    known = distances[name] < PAPER_DISTANCE and alike.mean() >= BORDER_SHARE
    return (name if known else None), middle


def _unmix(pixels: Floats, paper: Floats) -> tuple[Floats, Mask, NDArray[np.int64]]:
    """Each pixel as paper and one ink: how much of it each ink would cover, which inks may explain it (both inks H W),
    and the index of the ink that does so best where that covers COVERED; FOREIGN where none does, else PAPER."""
    away = np.array(list(INKS.values())) - paper
    offset = pixels - paper
    amount = np.clip(np.einsum("hwc,ic->ihw", offset, away) / (away**2).sum(axis=1)[:, None, None], 0, 1)
    rest = np.linalg.norm(offset[None] - amount[..., None] * away[:, None, None, :], axis=-1)
    label = rest.argmin(axis=0)
    best = np.take_along_axis(amount, label[None], axis=0)[0]
    label = np.where(best >= COVERED, label, PAPER)
    near = rest <= INK_DISTANCE
    return amount, near, np.where(near.any(axis=0), label, FOREIGN)


def _bodies(mask: Mask) -> Iterator[Mask]:
    """The connected components of a mask (H W) that are no debris."""
    parts, count = ndimage.label(mask)
    areas = np.bincount(parts.ravel(), minlength=count + 1)
    for part in range(1, count + 1):
        if areas[part] >= _LEAST * mask.shape[1] ** 2:
            yield parts == part


def _inked(body: Mask, amount: Floats, near: Mask, label: NDArray[np.int64]) -> Iterator[tuple[_Fit, str]]:
    """The objects that a component is, each with its ink: one where one ink and one shape may explain it (yellow and
    orange are alike: a spot of the one on the other is no object); else those of each ink apart."""
    names = list(INKS)
    main = int(np.bincount(np.maximum(label[body], 0), minlength=len(names)).argmax())
    if near[main][body].mean() >= ONE_INK:
        whole = _fits(_soft(body, amount[main], label))
        if len(whole) == 1:
            yield whole[0], names[main]
            return
    for number, ink in enumerate(names):
        for part in _bodies(body & (label == number)):
            for fit in _fits(_soft(part, amount[number], label)):
                yield fit, ink


def _soft(part: Mask, amount: Floats, label: NDArray[np.int64]) -> Floats:
    """How much of each pixel a component covers: its own pixels, and the half-covered ones around it."""
    rim = ndimage.binary_dilation(part, structure=np.ones((3, 3))) & (label == PAPER)
    return np.where(part | rim, amount, 0.0)


def _fits(amount: Floats) -> list[_Fit]:
    """The objects that a component is; none where no shape fits."""
    width = amount.shape[1]
    single = _fit(amount)
    if single.overlap < OVERLAP_KNOWN:
        amount = _without_spurs(amount)
        single = _fit(amount)
    best, score = [single], single.overlap
    if score < OVERLAP_KNOWN or single.radius > LARGEST * width:
        for count in range(2, MOST + 1):
            fits = _split(amount, count)
            if fits is None:
                break
            overlap = _overlap(np.clip(sum(fit.cover for fit in fits), 0, 1), amount)
            if overlap > score + 0.03:  # one object more must be worth it
                best, score = fits, overlap
    least = SMALLEST_RADIUS * RADII["small"] * width
    return [fit for fit in best if fit.overlap >= OVERLAP_KNOWN and least <= fit.radius <= LARGEST * width]


def _without_spurs(amount: Floats) -> Floats:
    """A component without what is one pixel wide; as it is, where that would leave debris or cut it in pieces."""
    solid = ndimage.binary_opening(amount >= 0.5, structure=np.ones((2, 2)))
    if solid.sum() < _LEAST * amount.shape[1] ** 2 or ndimage.label(solid)[1] > 1:
        return amount
    return np.where(ndimage.binary_dilation(solid, structure=np.ones((3, 3))), amount, 0.0)


def _fit(amount: Floats) -> _Fit:
    """The shape that, drawn with the area, centroid and stretch of `amount` (H W), overlaps it most; a circle only
    where none with corners does nearly as well, since blur rounds corners."""
    area = amount.sum()
    columns, rows = np.arange(amount.shape[1]) + 0.5, np.arange(amount.shape[0]) + 0.5
    across, down = amount.sum(axis=0) / area, amount.sum(axis=1) / area
    x, y = float(across @ columns), float(down @ rows)
    variances = float(across @ (columns - x) ** 2), float(down @ (rows - y) ** 2)
    stretch = float(np.clip((variances[0] / max(variances[1], 1e-9)) ** 0.25, 1 / STRETCH, STRETCH))
    fits = []
    for shape, unit in _AREA.items():
        radius = float(np.sqrt(area / unit))
        centre = y - _SINK[shape] * radius / stretch
        cover = _draw(shape, x, centre, radius, amount.shape, stretch)
        overlap = _overlap(cover, amount)
        fits.append(_Fit(shape=shape, x=x, y=centre, radius=radius, cover=cover, overlap=overlap))
    return max(fits, key=lambda fit: fit.overlap - (ROUNDED if fit.shape == "circle" else 0))


def _split(amount: Floats, count: int) -> list[_Fit] | None:
    """A component as `count` touching objects: seeded at the centres of its largest inscribed discs, its pixels then
    dealt to the nearest object, in radii, and fitted anew until that settles. None where there is no room for them."""
    width = amount.shape[1]
    depth = ndimage.distance_transform_edt(amount >= 0.5)
    rows, columns = np.indices(amount.shape) + 0.5
    seeds = []
    for _ in range(count):
        row, column = np.unravel_index(depth.argmax(), depth.shape)
        if depth[row, column] < 1:
            return None
        seeds.append((column + 0.5, row + 0.5, max(float(depth[row, column]), 0.6 * RADII["small"] * width)))
        depth[(columns - column - 0.5) ** 2 + (rows - row - 0.5) ** 2 < (1.2 * RADII["small"] * width) ** 2] = 0
    fits: list[_Fit] = []
    for _ in range(4):
        distances = np.stack([np.hypot(columns - x, rows - y) / radius for x, y, radius in seeds])
        owner = distances.argmin(axis=0)
        shares = [np.where(owner == i, amount, 0.0) for i in range(count)]
        if min(float(share.sum()) for share in shares) < SMALLEST_TOUCHING * _SMALLEST * width**2:
            return None
        fits = [_fit(share) for share in shares]
        seeds = [(fit.x, fit.y, fit.radius) for fit in fits]
    return fits


def _overlap(first: Floats, second: Floats) -> float:
    """Intersection over union of two soft masks; 0 where both are empty."""
    union = np.maximum(first, second).sum()
    return float(np.minimum(first, second).sum() / union) if union > 0 else 0.0


def _thing(fit: _Fit, ink: str) -> Thing:
    height, width = fit.cover.shape
    radius = fit.radius / width
    size = "small" if radius < BETWEEN_SIZES else "large"
    return Thing(shape=fit.shape, colour=ink, size=size, x=fit.x / width, y=fit.y / height, radius=radius)


def _draw(shape: str, x: float, y: float, radius: float, frame: Sequence[int], stretch: float = 1.0) -> Floats:
    """How much of each pixel of a frame (H W) a shape covers; sizes in pixels. stretch: it is so many times wider and
    less high."""
    cover = np.zeros(tuple(frame))
    wide, high = radius * stretch, radius / stretch
    left, right = max(0, int(x - 1.3 * wide)), min(frame[1], int(x + 1.3 * wide) + 2)
    top, bottom = max(0, int(y - 1.3 * high)), min(frame[0], int(y + 1.3 * high) + 2)
    steps = (np.arange(SUPERSAMPLE) + 0.5) / SUPERSAMPLE
    u = ((np.arange(left, right)[:, None] + steps).ravel() - x)[None, :] / wide
    v = ((np.arange(top, bottom)[:, None] + steps).ravel() - y)[:, None] / high
    inside = _inside(shape, u, v).reshape(bottom - top, SUPERSAMPLE, right - left, SUPERSAMPLE)
    cover[top:bottom, left:right] = inside.mean(axis=(1, 3))
    return cover


def _inside(shape: str, u: Floats, v: Floats) -> Mask:
    """Whether points, in radii from the centre, lie in a shape of the world."""
    if shape == "circle":
        return u * u + v * v <= 1
    if shape == "square":
        return (abs(u) <= 0.82) & (abs(v) <= 0.82)
    if shape == "triangle":
        return (abs(v + 0.125) <= 0.875) & (1.75 * abs(u) <= v + 1)
    across, along = np.minimum(abs(u), abs(v)), np.maximum(abs(u), abs(v))
    return (across <= 0.3) & (along <= 0.95)
