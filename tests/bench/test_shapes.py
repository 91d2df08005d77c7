"""The procedural world: pure in (seed, split, index), true captions, held-out pairs and forms, exact antialiasing."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections import Counter
from functools import cache

import numpy as np
import pytest

from bench.data.captions import FORMS, HELD_OUT_FORMS, NUMBERS, PLURALS
from bench.data.scene import BACKGROUNDS, COLOURS, RADII, SHAPES, SIZES, TASKS, Demand, Thing, satisfied
from bench.data.shapes import GAP, HELD_OUT_PAIRS, PALETTE, Shapes, render
from bench.files import hash_bytes

COMMON = ("train", "validation", "test", "forms")
GOLDEN_CAPTIONS = (
    "a yellow square on a dark background",
    "dark background with four triangles",
    "a picture of two large crosses",
    "a small square on a dark background",
)


def world(split="train", *, size=16, seed=0, items=20_000):
    return Shapes(split=split, size=size, seed=seed, items=items)


@cache
def samples(split, count=600):
    data = world(split)
    return tuple(data[i] for i in range(count))


def fingerprint(sample):
    return hash_bytes(sample.key, sample.image.tobytes(), *sample.captions, repr(sample.scene))


def form(pattern):
    body = re.escape(pattern).replace(r"\{body\}", "(.+)").replace(r"\{background\}", f"({'|'.join(BACKGROUNDS)})")
    return re.compile(body)


def test_a_sample_depends_on_seed_split_and_index_alone():
    data = world()
    backwards = {i: fingerprint(data[i]) for i in reversed(range(20))}
    assert [fingerprint(world(items=20)[i]) for i in range(20)] == [backwards[i] for i in range(20)]
    others = [fingerprint(world(seed=1)[i]) for i in range(20)], [fingerprint(world("test")[i]) for i in range(20)]
    assert len({*backwards.values(), *others[0], *others[1]}) == 60


def test_another_process_draws_the_same():
    program = (
        "from bench.data.shapes import Shapes; from bench.files import hash_bytes\n"
        "for i in (7, 3, 11):\n"
        "    s = Shapes(split='train', size=16, seed=0, items=12)[i]\n"
        "    print(hash_bytes(s.key, s.image.tobytes(), *s.captions, repr(s.scene)))\n"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert said == [fingerprint(world()[i]) for i in (7, 3, 11)]


def test_an_index_outside_is_refused():
    for index in (-1, 20_000):
        with pytest.raises(IndexError, match="20000 samples"):
            world()[index]


def test_the_world_that_models_were_trained_on():
    data = world(size=32)
    assert data.content_hash() == "7ddb37a0664c333f"
    assert tuple(data[i].caption for i in range(4)) == GOLDEN_CAPTIONS


@pytest.mark.parametrize("split", Shapes.splits)
def test_objects_keep_their_distance_to_each_other_and_to_the_border(split):
    for sample in samples(split):
        things = sample.scene.things
        assert 1 <= len(things) <= 4
        for i, thing in enumerate(things):
            assert thing.radius == RADII[thing.size]
            for place in (thing.x, thing.y):
                assert thing.radius + GAP <= place <= 1 - thing.radius - GAP
            for other in things[:i]:
                assert math.dist((thing.x, thing.y), (other.x, other.y)) >= thing.radius + other.radius + GAP


@pytest.mark.parametrize("split", Shapes.splits)
def test_every_caption_is_true(split):
    for sample in samples(split):
        scene = sample.scene
        assert satisfied(scene.things, scene.demands, scene.relation), sample.key
        for background in BACKGROUNDS:  # "light" and "dark" are said of nothing but the background
            if background in sample.caption.split():
                assert background == scene.background
        numbers = Counter((thing.size, thing.colour, thing.shape) for thing in scene.things)
        assert Counter(said(sample.captions[1])) == numbers
        assert sample.captions[1].endswith(f"on a {scene.background} background")


def said(text):
    """The (size, colour, shape) that a description names, once for each object."""
    return re.findall(rf"({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})", text)


def test_held_out_pairs_are_in_every_picture_of_their_split_and_in_no_other():
    for split in COMMON:
        assert not any(sample.scene.pairs() & HELD_OUT_PAIRS for sample in samples(split))
    assert all(sample.scene.pairs() & HELD_OUT_PAIRS for sample in samples("pairs"))
    asking = [sample for sample in samples("pairs") if Shapes.asks_unseen(sample.scene)]
    assert 0.2 * len(samples("pairs")) < len(asking) < len(samples("pairs"))
    for sample in asking:  # in its caption's words, too
        assert any(shape in sample.caption and colour in sample.caption for shape, colour in HELD_OUT_PAIRS)
    assert not any(Shapes.asks_unseen(sample.scene) for sample in samples("train"))
    shown = set().union(*(sample.scene.pairs() for sample in samples("pairs")))
    assert shown >= HELD_OUT_PAIRS
    for index in range(2):  # the pieces of a held-out pair are known from other pairs
        seen = {pair[index] for sample in samples("train") for pair in sample.scene.pairs()}
        assert seen >= {pair[index] for pair in HELD_OUT_PAIRS}


def test_held_out_forms_are_in_their_split_alone():
    held_out = [form(each) for each in HELD_OUT_FORMS]
    for split in Shapes.splits:
        for sample in samples(split):
            found = [bool(each.fullmatch(sample.caption)) for each in held_out]
            assert sum(found) == (1 if split == "forms" else 0), sample.caption
    for each in held_out:
        assert any(each.fullmatch(sample.caption) for sample in samples("forms"))


def test_every_task_has_its_share():
    """Tasks are proposed evenly; scenes turned down (held-out pairs, relations that a person would not name) leave
    position with about half of an even share and colours with more than one."""
    counts = Counter(sample.scene.task for sample in samples("train"))
    assert set(counts) == set(TASKS)
    assert all(0.4 < len(TASKS) * count / 600 < 1.6 for count in counts.values()), counts


def test_every_allowed_kind_of_object_occurs_on_both_backgrounds():
    found = {
        (thing.shape, thing.colour, thing.size, sample.scene.background)
        for split in ("train", "validation", "pairs")
        for sample in samples(split)
        for thing in sample.scene.things
    }
    assert len(found) == len(SHAPES) * len(COLOURS) * len(SIZES) * len(BACKGROUNDS)


AREAS = {  # in squares of the radius
    "circle": math.pi,
    "square": (2 * 0.82) ** 2,
    "triangle": 1.75 * 2 / 2,
    "cross": 2 * (2 * 0.3) * (2 * 0.95) - (2 * 0.3) ** 2,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", SIZES)
def test_coverage_sums_to_the_area(shape, kind):
    size, radius = 256, RADII[kind]
    thing = Thing(shape=shape, colour="blue", size=kind, x=0.4137, y=0.5571, radius=radius)
    image = render((thing,), "light", size).astype(float)
    low, high = np.array(PALETTE["blue"], dtype=float), np.array(PALETTE["light"], dtype=float)
    coverage = ((high - image) / (high - low)).mean(axis=2)
    assert coverage.sum() == pytest.approx(AREAS[shape] * (radius * size) ** 2, rel=0.01)
    rows, columns = np.indices(coverage.shape) + 0.5
    assert (coverage * columns).sum() / coverage.sum() == pytest.approx(thing.x * size, abs=0.2)
    if shape != "triangle":
        assert (coverage * rows).sum() / coverage.sum() == pytest.approx(thing.y * size, abs=0.2)
    outside = np.hypot(columns - thing.x * size, rows - thing.y * size) > radius * size * 1.25 + 1
    assert np.abs(coverage[outside]).max() == 0  # the triangle's base corners reach 1.25 radii


def test_a_larger_picture_shrinks_to_the_smaller():
    for sample in samples("train", 40):
        large = render(sample.scene.things, sample.scene.background, 64).astype(float)
        shrunk = large.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
        small = render(sample.scene.things, sample.scene.background, 32).astype(float)
        assert np.abs(shrunk - small).max() < 0.08 * 255 and np.abs(shrunk - small).mean() < 0.5


def test_a_picture_mixes_only_the_background_with_one_object_at_a_time():
    for sample in samples("validation", 60):
        ground = np.array(PALETTE[sample.scene.background], dtype=float)
        pixels = sample.image.reshape(-1, 3).astype(float)
        best = np.abs(pixels - ground).max(axis=1)
        for colour in {thing.colour for thing in sample.scene.things}:
            line = np.array(PALETTE[colour], dtype=float) - ground
            share = np.clip((pixels - ground) @ line / (line @ line), 0, 1)
            best = np.minimum(best, np.abs(pixels - ground - share[:, None] * line).max(axis=1))
        assert best.max() <= 1.0, sample.key  # rounding, no more


def test_the_hash_sees_seed_size_items_and_split():
    worlds = [
        world(items=50),
        world(items=50, seed=1),
        world(items=50, size=20),
        world(items=51),
        world("test", items=50),
    ]
    assert len({each.content_hash() for each in worlds}) == len(worlds)
    assert world(items=50).content_hash() == worlds[0].content_hash()


@pytest.mark.parametrize("split", Shapes.splits)
def test_captions_are_grammatical(split):
    singular, plural = "|".join(SHAPES), "|".join(PLURALS.values())
    for sample in samples(split):
        for text in sample.captions:
            words = re.findall(r"[a-z]+", text)
            for word, after in zip(words, words[1:], strict=False):
                if word in ("a", "an"):
                    assert (word == "an") == (after[0] in "aeiou"), text
                    assert after not in (*NUMBERS, *PLURALS.values()), text
            attributes = rf"(?:(?:{'|'.join((*SIZES, *COLOURS))}) )*"
            for number in NUMBERS[2:]:
                assert not re.search(rf"\b{number} {attributes}(?:{singular})\b", text), text
                assert f"there is {number}" not in text, text
            assert not re.search(rf"\ban? {attributes}(?:{plural})\b", text), text
            assert not re.search(r"there are an?\b", text), text
            assert "  " not in text and text == text.strip() and "{" not in text


def test_plural_captions_that_begin_with_there_occur():
    texts = [sample.caption for sample in samples("train")]
    assert any(text.startswith("there are two ") for text in texts)
    for each in FORMS:
        shown = form(each.replace("is {body}", "(?:is|are) {body}")) if each.startswith("there") else form(each)
        assert any(shown.fullmatch(text) for text in texts) or each.startswith("there")


def test_a_demand_of_one_kind_counts_every_object():
    counting = [sample for sample in samples("train") if sample.scene.task == "counting"]
    assert {len(sample.scene.things) for sample in counting} == {2, 3, 4}
    for sample in counting:
        assert sample.scene.demands[0].count == len(sample.scene.things)
        assert not satisfied(sample.scene.things, (Demand(shape=sample.scene.demands[0].shape),), None)
