"""What each step of CLIP's two stages sees. A batch is a pure function of (seed, stage, step).

`matching` draws from the world as it is. `binding` draws scenes until it has enough whose caption has an almost right
twin, and draws the picture that the twin is true of too: then neither a text nor a picture alone tells which two
belong together. For sides that is too hard a start (no gradient leads out of chance while neither embedding speaks of
them, and a wrong guess costs most): the first steps only have them read from each embedding by itself.
"""

from __future__ import annotations

import string
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from bench.config import ClipPretrainConfig
from bench.data.captions import description
from bench.data.dataset import Sample
from bench.data.negatives import KINDS, false_caption, twin_captions, twin_scene
from bench.data.scene import COLOURS, SHAPES, Demand, Scene, satisfied
from bench.data.shapes import HELD_OUT_PAIRS, Shapes, draw_scene, render
from bench.seeds import derive

CAPTION, DESCRIPTION = 0, 1  # places in a shapes sample's captions
DESCRIBED = 0.4  # share of ordinary training texts that are full descriptions
TWINNED = 0.75  # share of a binding batch's pictures that stand there with their twin
TWIN_KINDS = {"sides swapped": 0.5, "colours swapped": 0.25, "count off by one": 0.25}  # shares of the twins
SIDES = 2 * (len(SHAPES) + len(COLOURS))  # what a caption can say of sides: right or left, then below or above, each
SIDES_FIRST = 0.25  # share of stage two's steps in which sides are only read, not yet told apart
READING_FIRST, READING_LATER = 20.0, 2.0  # weights of reading the sides, in those steps and after
FILLED = 0.25  # share of the twins whose captions begin with words that mean nothing


def _no_twins() -> NDArray[np.int64]:
    return np.zeros((0, 2), dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """pictures: uint8 B H W 3. texts: B true captions. negatives: an almost right caption each, "" for none.
    true: bool B B, whether text j is true of picture i. twins: P 2, places of two pictures each of which the other's
    text is almost right of. sides: B SIDES, 1 where the text says that a shape or colour lies right of the other
    thing or below it, -1 for left and above, 0 where it does not say. reading: the weight of reading those from the
    embeddings. binding: whether twins and negatives weigh on their own."""

    pictures: NDArray[np.uint8]
    texts: list[str]
    negatives: list[str]
    true: NDArray[np.bool_]
    twins: NDArray[np.int64] = field(default_factory=_no_twins)
    sides: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, SIDES), dtype=np.float32))
    reading: float = 0.0
    binding: bool = False


def matching_batch(recipe: ClipPretrainConfig, world: Shapes, emoji: list[Sample], seed: int, step: int) -> Batch:
    """A batch of stage one: the world's pictures in order, each with an almost right caption, and emoji."""
    size = recipe.optimizer.batch
    of_emoji = min(len(emoji), round(size * recipe.emoji_share))
    of_world = size - of_emoji
    samples = [world[step * of_world + i] for i in range(of_world)]
    generator = np.random.default_rng(derive(seed, "clip/batch", step))
    samples, negatives = _captioned(samples, generator, seed, step)
    return _batch(samples, negatives, _chosen_emoji(emoji, of_emoji, generator))


def binding_batch(recipe: ClipPretrainConfig, world: Shapes, emoji: list[Sample], seed: int, step: int) -> Batch:
    """A batch of stage two: twins by the shares of TWIN_KINDS, then ordinary pictures from the half of the world that
    stage one never sees, then emoji."""
    size = recipe.binding.batch
    pairs = round(size * TWINNED / 2)
    of_emoji = min(len(emoji), round((size - 2 * pairs) * recipe.emoji_share))
    of_world = size - 2 * pairs - of_emoji
    generator = np.random.default_rng(derive(seed, "clip/twins", step))
    kinds = _shared_out(TWIN_KINDS, pairs)
    twins = [sample for kind in kinds for sample in _twins(kind, world.size, generator)]
    start = len(world) // 2 + step * of_world
    ordinary, negatives = _captioned([world[start + i] for i in range(of_world)], generator, seed, step, unseen=False)
    batch = _batch([*twins, *ordinary], ["" for _ in twins] + negatives, _chosen_emoji(emoji, of_emoji, generator))
    sides = np.zeros((size, SIDES), dtype=np.float32)
    sides[: len(twins) + len(ordinary)] = [said_sides(sample) for sample in (*twins, *ordinary)]
    told_apart, reading = np.arange(2 * pairs).reshape(pairs, 2), READING_LATER
    if step < SIDES_FIRST * recipe.binding.steps:
        of_sides = np.array([kind == "sides swapped" for kind in kinds], dtype=bool)
        first, second = told_apart[of_sides].T
        batch.true[first, second] = batch.true[second, first] = True  # so that neither is the other's negative
        told_apart, reading = told_apart[~of_sides], READING_FIRST
    return replace(batch, twins=told_apart, sides=sides, reading=reading, binding=True)


def said_sides(sample: Sample) -> NDArray[np.float32]:
    """What a sample's caption says of sides; see Batch."""
    sides = np.zeros((2, len(SHAPES) + len(COLOURS)), dtype=np.float32)
    scene = sample.scene
    if scene is not None and scene.relation is not None:
        axis = 0 if scene.relation in ("left of", "right of") else 1
        sign = 1 if scene.relation in ("right of", "below") else -1
        for demand, side in zip(scene.demands, (sign, -sign), strict=True):
            sides[axis, SHAPES.index(demand.shape)] += side
            if demand.colour is not None:  # two things of one colour cancel: it is on neither side
                sides[axis, len(SHAPES) + COLOURS.index(demand.colour)] += side
    return sides.ravel()


def fits(picture: Sample, caption: Sample) -> bool:
    """Whether a sample's first caption is true of another's picture."""
    if picture.scene is None or caption.scene is None:
        return picture.caption == caption.caption
    says_background = "background" in caption.caption or "backdrop" in caption.caption
    if says_background and picture.scene.background != caption.scene.background:
        return False
    return satisfied(picture.scene.things, caption.scene.demands, caption.scene.relation)


def _batch(samples: list[Sample], negatives: list[str], emoji: list[tuple[Sample, str]]) -> Batch:
    whole = [*samples, *(sample for sample, _ in emoji)]
    return Batch(
        pictures=np.stack([sample.image for sample in whole]),
        texts=[*(sample.caption for sample in samples), *(text for _, text in emoji)],
        negatives=negatives + [""] * len(emoji),
        true=np.array([[fits(picture, caption) for caption in whole] for picture in whole]),
    )


def _captioned(
    samples: list[Sample], generator: np.random.Generator, seed: int, step: int, *, unseen: bool = True
) -> tuple[list[Sample], list[str]]:
    """Samples whose first caption is what the step shows, and an almost right caption each, "" for none.

    unseen: whether these may name pairs of HELD_OUT_PAIRS. A text that is false whenever it names one teaches that
    there is no such thing."""
    shown, negatives = list(samples), [""] * len(samples)
    for i, sample in enumerate(samples):
        assert sample.scene is not None
        if generator.random() < DESCRIBED:  # the full description, so that every attribute counts
            whole = replace(sample.scene, demands=_all_demands(sample.scene), relation=None)
            shown[i] = replace(sample, captions=(sample.captions[DESCRIPTION],), scene=whole)
            continue
        for kind in generator.permutation(len(KINDS)):
            pair = false_caption(sample.scene, KINDS[kind], derive(seed, "clip/negative", step, i), unseen_pairs=unseen)
            if pair is not None:
                shown[i], negatives[i] = replace(sample, captions=(pair[0],)), pair[1]
                break
    return shown, negatives


def _chosen_emoji(emoji: list[Sample], number: int, generator: np.random.Generator) -> list[tuple[Sample, str]]:
    return [
        (emoji[i], emoji[i].captions[int(generator.integers(len(emoji[i].captions)))])
        for i in generator.permutation(len(emoji))[:number]
    ]


def _twins(kind: str, size: int, generator: np.random.Generator) -> tuple[Sample, Sample]:
    """A picture whose caption has a twin of a kind, and the picture of that twin, in an order that is drawn."""
    while True:
        scene = draw_scene(generator, held_out=False)
        twin = twin_scene(scene, kind, generator)
        if twin is None or twin.pairs() & HELD_OUT_PAIRS:
            continue
        texts = twin_captions(scene, twin, int(generator.integers(2**62)))
        if texts is None:
            continue
        filler = _filler(generator) if generator.random() < FILLED else ""
        first, second = (
            Sample(
                key=f"twin/{kind}", image=render(each.things, each.background, size),
                captions=(filler + text, description(each)), scene=each,
            )
            for each, text in zip((scene, twin), texts, strict=True)
        )  # fmt: skip
        return (second, first) if generator.random() < 0.5 else (first, second)


def _filler(generator: np.random.Generator) -> str:
    """One or two words of drawn letters: a caption means the same after words that were never read."""
    letters = np.array(list(string.ascii_lowercase))
    words = ["".join(generator.choice(letters, size=generator.integers(2, 7))) for _ in range(generator.integers(1, 3))]
    return " ".join(words) + (": " if generator.random() < 0.3 else " ")


def _shared_out(shares: dict[str, float], number: int) -> list[str]:
    """`number` names, each as often as its share says; the last takes what rounding leaves."""
    names = [name for name, share in shares.items() for _ in range(round(share * number))]
    return (names + [list(shares)[-1]] * number)[:number]


def _all_demands(scene: Scene) -> tuple[Demand, ...]:
    return tuple(Demand(shape=thing.shape, colour=thing.colour, size=thing.size) for thing in scene.things)
