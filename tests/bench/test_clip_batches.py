"""What the two stages of CLIP's pretraining see: twins that differ in what they are twins by, and nothing held out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.config import OptimizerConfig
from bench.data.captions import PLURALS
from bench.data.scene import SHAPES, Demand
from bench.data.shapes import HELD_OUT_PAIRS, Shapes
from bench.presets import preset
from bench.pretrain import clip_batches
from bench.pretrain.clip import stage_key
from bench.pretrain.clip_batches import Batch, binding_batch, fits, matching_batch, said_sides


@pytest.fixture(scope="module")
def bindings() -> list[Batch]:
    """Batches from before and after sides are told apart."""
    recipe = preset("tiny").pretrain.clip
    world = Shapes(split="train", size=8, seed=0, items=10**9)
    return [binding_batch(recipe, world, [], 0, step) for step in (0, 1, 2, recipe.binding.steps - 1)]


def test_a_binding_batch_is_a_function_of_seed_and_step(bindings: list[Batch]) -> None:
    recipe, world = preset("tiny").pretrain.clip, Shapes(split="train", size=8, seed=0, items=10**9)
    again = binding_batch(recipe, world, [], 0, 1)
    assert again.texts == bindings[1].texts and np.array_equal(again.pictures, bindings[1].pictures)
    assert binding_batch(recipe, world, [], 1, 1).texts != bindings[1].texts != bindings[2].texts


def test_twins_stand_side_by_side_and_neither_text_is_true_of_the_other_picture(bindings: list[Batch]) -> None:
    late = bindings[-1]
    size = preset("tiny").pretrain.clip.binding.batch
    assert late.twins.tolist() == [[i, i + 1] for i in range(0, round(size * clip_batches.TWINNED), 2)]
    assert len(late.texts) == len(late.pictures) == len(late.negatives) == len(late.sides) == size
    assert late.true.diagonal().all()
    for first, second in late.twins:
        assert not late.true[first, second] and not late.true[second, first]
        assert late.texts[first] != late.texts[second]
        assert not np.array_equal(late.pictures[first], late.pictures[second])


def test_sides_are_only_read_at_first(bindings: list[Batch]) -> None:
    early, late = bindings[0], bindings[-1]
    told = {int(place) for pair in early.twins for place in pair}
    pairs = [(i, i + 1) for i in range(0, int(late.twins.max()) + 1, 2)]
    of_sides = [pair for pair in pairs if pair[0] not in told]
    assert len(of_sides) == round(0.5 * len(pairs))
    for first, second in of_sides:
        assert early.true[first, second] and early.true[second, first] and early.sides[first].any()
    assert early.reading > late.reading > 0


def test_no_text_of_the_second_stage_names_a_held_out_pair(bindings: list[Batch]) -> None:
    for batch in bindings:
        for text in (*batch.texts, *batch.negatives):
            for shape, colour in HELD_OUT_PAIRS:
                assert f"{colour} {shape}" not in text and f"{colour} {PLURALS[shape]}" not in text


def test_said_sides_follow_the_relation() -> None:
    samples = Shapes(split="train", size=8, seed=0, items=400).first(400)
    found = 0
    for sample in samples:
        assert sample.scene is not None
        sides = said_sides(sample).reshape(2, -1)
        if sample.scene.relation is None:
            assert not sides.any()
            continue
        found += 1
        axis = int(sample.scene.relation in ("above", "below"))
        assert not sides[1 - axis].any()
        first, second = sample.scene.things
        for thing, other in ((first, second), (second, first)):
            gap = (thing.x - other.x, thing.y - other.y)[axis]
            assert sides[axis, SHAPES.index(thing.shape)] == np.sign(gap)
    assert found >= 30


def test_a_caption_fits_the_pictures_that_it_is_true_of() -> None:
    samples = Shapes(split="train", size=8, seed=0, items=60).first(60)
    assert all(fits(sample, sample) for sample in samples)
    scenes = [sample.scene for sample in samples if sample.scene is not None]
    circle = samples[next(i for i, scene in enumerate(scenes) if scene.demands == (Demand(shape="circle"),))]
    true = [fits(sample, circle) for sample in samples]
    shown = ["circle" in [thing.shape for thing in scene.things] for scene in scenes]
    assert any(true) and not all(shown)
    assert not any(is_true and not has_circle for is_true, has_circle in zip(true, shown, strict=True))


def test_stage_one_is_the_same_stage_whatever_stage_two_does() -> None:
    recipe = preset("tiny").pretrain.clip
    other = replace(recipe, binding=replace(recipe.binding, steps=1, lr=1.0))
    assert stage_key("matching", recipe, 0, "data") == stage_key("matching", other, 0, "data")
    assert stage_key("binding", recipe, 0, "data") != stage_key("binding", other, 0, "data")
    for changed in (replace(recipe, width=64), replace(recipe, optimizer=replace(recipe.optimizer, steps=7))):
        assert stage_key("matching", changed, 0, "data") != stage_key("matching", recipe, 0, "data")
    keys = {stage_key(*values) for values in (
        ("matching", recipe, 0, "data"), ("matching", recipe, 1, "data"), ("matching", recipe, 0, "other"),
        ("binding", recipe, 0, "data"),
    )}  # fmt: skip
    assert len(keys) == 4


def test_a_matching_batch_has_its_share_of_emoji_and_no_twins() -> None:
    recipe = replace(preset("tiny").pretrain.clip, emoji_share=0.25, optimizer=OptimizerConfig(steps=1, batch=8))
    world = Shapes(split="train", size=8, seed=0, items=100)
    pictures = [replace(sample, scene=None, captions=("a face", "smile")) for sample in world.first(5)]
    batch = matching_batch(recipe, world, pictures, 0, 0)
    assert sum(text in ("a face", "smile") for text in batch.texts) == 2 and len(batch.texts) == 8
    assert len(batch.twins) == 0 and not batch.binding and not batch.reading
