from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from approaches.shared.vae import LatentCodec
from bench.data.scene import BACKGROUNDS, COLOURS, RADII, SHAPES, SIZES, TASKS, Demand, Scene, Thing
from bench.data.shapes import PALETTE, Shapes, render
from bench.errors import UserError
from metrics import composition, scene_parser
from metrics.composition import (
    parse,
    parse_all,
    parser_accuracy,
    right_objects,
    right_objects_gap,
    scene_accuracy,
    scene_metrics,
    share_found,
)
from metrics.differences import difference

ITEMS = 100


def drawn(split: str, size: int, items: int = ITEMS, seed: int = 5) -> tuple[NDArray[np.uint8], list[Scene]]:
    samples = Shapes(split=split, size=size, seed=seed, items=items).first(items)
    return np.stack([sample.image for sample in samples]), [s.scene for s in samples if s.scene is not None]


def thing(shape: str, colour: str, x: float, y: float, size: str = "small") -> Thing:
    return Thing(shape=shape, colour=colour, size=size, x=x, y=y, radius=RADII[size])


def test_the_parser_knows_the_world_as_it_is_drawn() -> None:
    assert {**scene_parser.INKS, **scene_parser.PAPERS} == PALETTE
    for shape in ("circle", "square", "triangle", "cross"):
        own = scene_parser._draw(shape, 30.3, 33.8, 12.16, (64, 64))
        red = render((thing(shape, "red", 30.3 / 64, 33.8 / 64, "large"),), "dark", 64)[..., 0]
        assert np.abs(own - (red - 40.0) / 174).max() < 0.25
        assert own.sum() == pytest.approx(scene_parser._AREA[shape] * 12.16**2, rel=0.02)


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("split", Shapes.splits)
def test_true_pictures_are_read_exactly(split: str, size: int) -> None:
    pictures, scenes = drawn(split, size)
    value = parser_accuracy(pictures, scenes).value
    assert value is not None and value >= 0.99


@pytest.mark.parametrize("size", [32, 64])
def test_pictures_through_the_shipped_vae_are_read(size: int) -> None:
    codec = LatentCodec.load("shipped:vae-tiny")
    pictures, scenes = drawn("test", size, 40)
    value = parser_accuracy(codec.decode_images(codec.encode_images(pictures)), scenes).value
    assert value is not None and value >= 0.97


@pytest.mark.parametrize("shape", ["square", "triangle", "circle"])
@pytest.mark.parametrize("size", [32, 64])
def test_touching_objects_of_one_colour_are_told_apart(shape: str, size: int) -> None:
    apart = 2 * RADII["large"] + 0.03
    for angle in np.linspace(0, np.pi, 13):
        offset = np.array([np.cos(angle), np.sin(angle)]) * apart / 2
        pair = tuple(thing(shape, "green", 0.5 + s * offset[0], 0.5 + s * offset[1], "large") for s in (1, -1))
        found = parse(render(pair, "light", size)).things
        assert [(t.shape, t.size) for t in found] == [(shape, "large")] * 2


@pytest.mark.parametrize("background", ["light", "dark"])
def test_a_blank_picture_has_nothing_in_it(background: str) -> None:
    found = parse(render((), background, 32))
    assert (found.things, found.background, found.rejected, found.confidence) == ((), background, "", 1)


@pytest.mark.parametrize("kind", ["uniform", "normal", "smooth", "framed", "red", "black shapes"])
def test_what_is_no_picture_of_the_world_has_no_objects_and_says_why(kind: str) -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        match kind:
            case "uniform":
                picture = generator.integers(0, 256, (32, 32, 3)).astype(float)
            case "normal":
                picture = generator.normal(128, 60, (32, 32, 3))
            case "smooth" | "framed":
                picture = 128 + 400 * ndimage.gaussian_filter(generator.normal(size=(32, 32, 3)), (2, 2, 0))
                if kind == "framed":
                    framed = render((), "light", 32).astype(float)
                    framed[6:-6, 6:-6] = picture[6:-6, 6:-6]
                    picture = framed
            case "red":
                picture = np.full((32, 32, 3), PALETTE["red"], dtype=float)
            case _:
                picture = render((thing("circle", "red", 0.4, 0.5, "large"),), "light", 32).astype(float)
                picture[picture[..., 1] < 140] = 0
        found = parse(np.clip(picture, 0, 255).astype(np.uint8))
        assert found.things == ()
        assert found.rejected
        assert found.confidence < scene_parser.CONFIDENT


def test_pictures_of_other_kinds_are_refused() -> None:
    with pytest.raises(UserError, match="float32 of shape"):
        parse(np.zeros((32, 32, 3), dtype=np.float32))
    with pytest.raises(UserError, match="expected at least 32"):
        parse(np.zeros((16, 16, 3), dtype=np.uint8))


def test_true_pictures_score_one_and_other_scenes_at_chance() -> None:
    pictures, scenes = drawn("test", 32, 300)
    parsed = parse_all(pictures)
    score = scene_accuracy(parsed, scenes)
    assert score.value == 1
    assert score.low is not None and 0.9 < score.low < 1  # a run of successes is no certainty
    assert 0 < score.details["chance"] < 0.35
    assert right_objects(parsed, scenes).value == 1
    by_task = {task: [i for i, s in enumerate(scenes) if s.task == task] for task in TASKS}
    shuffled = list(range(300))
    for members in by_task.values():
        for a, b in zip(members, members[1:] + members[:1], strict=True):
            shuffled[a] = b
    wrong = scene_accuracy([parsed[i] for i in shuffled], scenes)
    assert wrong.value == pytest.approx(score.details["chance"], abs=0.08)


def test_the_mean_is_over_tasks_not_pictures() -> None:
    one = Scene(things=(), background="light", task="one object", demands=(Demand(shape="cross"),))
    two = replace(one, task="counting", demands=(Demand(shape="cross", count=2),))
    single = parse(render((thing("cross", "blue", 0.5, 0.5),), "dark", 32))
    score = scene_accuracy([single] * 4, [one, two, two, two])
    assert score.value == 0.5
    assert score.details["per_item"] == [1, 0, 0, 0]
    assert right_objects([single] * 4, [one, two, two, two]).value == pytest.approx(0.75)


def test_each_task_has_its_own_accuracy_of_its_own_captions() -> None:
    pictures, scenes = drawn("test", 32, 120)
    blank = np.broadcast_to(render((), "light", 32), pictures.shape)
    counting = [scene.task == "counting" for scene in scenes]
    mixed = np.where(np.array(counting)[:, None, None, None], blank, pictures)
    found, bad = scene_metrics(mixed, pictures, scenes), scene_metrics(blank, pictures, scenes)
    for task in TASKS:
        own = found[f"scene_accuracy_{task.replace(' ', '_')}"]
        assert (own.value, own.n) == (float(task != "counting"), sum(scene.task == task for scene in scenes))
        assert own.low is not None and own.details["chance"] is not None
    told = difference(found["scene_accuracy_colours"], bad["scene_accuracy_colours"])
    assert told.paired and told.word == "better"
    few = [i for i, scene in enumerate(scenes) if scene.task != "position"]
    without = scene_metrics(mixed[few], pictures[few], [scenes[i] for i in few])["scene_accuracy_position"]
    assert without.value is None and "'position'" in without.reason


def test_only_what_was_asked_for_counts() -> None:
    pair = (thing("circle", "red", 0.3, 0.5), thing("cross", "blue", 0.7, 0.5, "large"))
    found = parse(render(pair, "dark", 64))
    demands = (Demand(shape="circle"), Demand(shape="cross"))
    for background, relation, expected in [("dark", "left of", 1), ("light", "left of", 1), ("dark", "right of", 0)]:
        scene = Scene(things=(), background=background, task="position", demands=demands, relation=relation)
        assert scene_accuracy([found, found], [scene, scene]).value == expected


def test_the_share_found_matches_objects_one_to_one() -> None:
    things = (thing("circle", "red", 0.3, 0.5), thing("cross", "blue", 0.7, 0.5))
    assert share_found(things, (Demand(shape="circle", count=2),)) == 0.5
    assert share_found(things, (Demand(shape="circle"), Demand(shape="circle", colour="red"))) == 0.5
    assert share_found(things, (Demand(shape="circle", colour="red"), Demand(shape="cross"))) == 1
    assert share_found(things, (Demand(shape="cross", colour="blue"),)) == 1  # whatever else is there
    assert share_found((), (Demand(shape="cross"),)) == 0


NOTHING = "nothing"


def confusion(pictures: NDArray[np.uint8], scenes: Sequence[Scene]) -> dict[str, dict[str, dict[str, int]]]:
    """For shape, colour, size and background: how often each true value was read as each value.

    Objects are paired by place, the nearest within a large object's radius; one without a partner counts as `nothing`,
    on either side."""
    names = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "background": BACKGROUNDS}
    table = {
        attribute: {true: {read: 0 for read in (*values, NOTHING)} for true in (*values, NOTHING)}
        for attribute, values in names.items()
    }
    for found, scene in zip(composition._parsed(pictures, scenes), scenes, strict=True):
        table["background"][scene.background][found.background or NOTHING] += 1
        for true, read in composition._pairs(scene.things, found.things):
            for attribute in ("shape", "colour", "size"):
                values = (getattr(thing, attribute) if thing else NOTHING for thing in (true, read))
                table[attribute][next(values)][next(values)] += 1
    return table


def test_the_confusion_matrix_has_true_things_on_its_diagonal_and_missed_ones_beside_it() -> None:
    pictures, scenes = drawn("test", 32, 60)
    tables = confusion(pictures, scenes)
    for attribute in ("shape", "colour", "size"):
        assert sum(tables[attribute][v][v] for v in tables[attribute]) == sum(len(s.things) for s in scenes)
    blank = np.broadcast_to(render((), "light", 32), pictures.shape)
    missed = confusion(blank, scenes)["shape"]
    assert sum(row["nothing"] for row in missed.values()) == sum(len(s.things) for s in scenes)
    extra = confusion(pictures, [replace(scene, things=()) for scene in scenes])["shape"]["nothing"]
    assert sum(extra.values()) == sum(len(s.things) for s in scenes)


def test_scores_travel_with_the_parsers_own_accuracy_and_compare_pairwise() -> None:
    pictures, scenes = drawn("test", 32, 60)
    blank = np.broadcast_to(render((), "light", 32), pictures.shape)
    mixed = np.concatenate([pictures[:50], blank[50:]])
    good, bad = scene_metrics(mixed, pictures, scenes), scene_metrics(blank, pictures, scenes)
    assert good["scene_accuracy"].details["parser_accuracy"] == good["parser_accuracy"].value == 1
    told = difference(good["scene_accuracy"], bad["scene_accuracy"])
    assert told.paired
    assert told.word == "better"
    unknown = scene_metrics(blank, pictures, [*scenes[1:], None])
    assert {estimate.value for estimate in unknown.values()} == {None}
    assert "1 of 60" in unknown["scene_accuracy"].reason
    other = [replace(scene, background="dark" if scene.background == "light" else "light") for scene in scenes]
    assert not difference(good["scene_accuracy"], scene_accuracy(blank, other)).paired


def test_a_picture_of_a_rejected_kind_is_counted() -> None:
    _, scenes = drawn("test", 32, 4)
    noise = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    score = scene_accuracy(noise, scenes)
    assert score.value == 0
    assert sum(score.details["rejected"].values()) == 4


def test_a_gap_is_what_a_caption_adds_to_other_captions_of_its_task_and_seeds_share_its_items() -> None:
    pictures, scenes = drawn("test", 32)
    parsed = parse_all(pictures)
    own, again = (right_objects_gap(parsed, scenes, seed=seed) for seed in (0, 1))
    assert (own.value or 0) > 0.3 and own.n <= ITEMS  # one alone in its task has no gap
    assert own.value != again.value and difference(own, again).paired
    next_one = right_objects_gap(parsed[1:] + parsed[:1], scenes)
    assert next_one.low is not None and next_one.high is not None and next_one.low < 0 < next_one.high
    alike = [scene for scene in scenes if scene.task == "counting"][:2]
    two = right_objects_gap(parse_all(np.stack([render(s.things, s.background, 32) for s in alike])), alike)
    shares = [[share_found(of.things, scene.demands) for scene in alike] for of in alike]
    expected = [shares[0][0] - shares[0][1], shares[1][1] - shares[1][0]]
    assert two.details["per_item"] == pytest.approx(expected)
    assert right_objects_gap(parsed[:1], scenes[:1]).value is None


def test_a_parser_that_errs_in_background_or_place_is_not_exact() -> None:
    pictures, scenes = drawn("test", 32, 20)
    parsed, other = parse_all(pictures), {"light": "dark", "dark": "light"}
    assert parser_accuracy(parsed, scenes).value == 1
    assert parser_accuracy(parsed, [replace(s, background=other[s.background]) for s in scenes]).value == 0
    moved = [replace(s, things=tuple(replace(t, x=t.x + 0.07) for t in s.things)) for s in scenes]
    assert parser_accuracy(parsed, moved).value == 0


def test_chance_is_what_another_scenes_demands_and_relation_give() -> None:
    demands, scenes, found = (Demand(shape="circle"), Demand(shape="cross")), [], []
    for relation, x in (("left of", 0.3), ("right of", 0.7)):
        things = (thing("circle", "red", x, 0.5), thing("cross", "blue", 1 - x, 0.5))
        found.append(parse(render(things, "dark", 64)))
        scenes.append(Scene(things=things, background="dark", task="position", demands=demands, relation=relation))
    score = scene_accuracy(found, scenes)
    assert score.value == 1 and score.details["chance"] == 0


def test_chance_is_the_mean_over_tasks_and_not_over_pairs() -> None:
    def scene(task: str, shape: str, x: float) -> Scene:
        demands = (Demand(shape=shape),)
        return Scene(things=(thing(shape, "red", x, 0.5),), background="dark", task=task, demands=demands)

    alike = [scene("one object", "circle", x) for x in (0.3, 0.7)]  # each is right for the other
    unlike = [scene("colours", shape, 0.5) for shape in ("circle", "square", "cross")]  # and these for none
    scenes = alike + unlike
    found = parse_all(np.stack([render(each.things, each.background, 64) for each in scenes]))
    score = scene_accuracy(found, scenes)
    assert (score.value, score.details["chance"]) == (1, 0.5)  # of the pairs it is a quarter
    assert [scene_accuracy(found[part], scenes[part]).details["chance"] for part in (slice(2), slice(2, 5))] == [1, 0]


def test_a_gap_s_reference_is_what_the_true_pictures_get_as_a_mean_over_tasks() -> None:
    pictures, scenes = drawn("test", 32)
    few = [i for i, scene in enumerate(scenes) if scene.task == "counting"][:2]
    kept = [*few, *[i for i, scene in enumerate(scenes) if scene.task == "colours"][:7]]
    parsed, scenes = parse_all(pictures[kept]), [scenes[i] for i in kept]
    true, blank = right_objects_gap(parsed, scenes), right_objects_gap(parse_all(0 * pictures[kept]), scenes)
    assert len(scenes) == 9 and true.details["reference"] == pytest.approx(true.value)
    assert blank.value == 0 and blank.details["reference"] == true.details["reference"]
    assert true.details["reference"] != pytest.approx(np.mean(true.details["per_item"]))


def test_a_border_that_is_mostly_but_not_nearly_all_paper_is_no_background() -> None:
    picture = render((), "light", 32).copy()
    picture[:, 22:] = PALETTE["purple"]
    found = parse(picture)
    assert found.background is None and "border" in found.rejected


@pytest.mark.parametrize(("size", "large", "blur"), [(32, "large", 0.9), (64, "small", 1.1)])
def test_blur_makes_no_circle_of_a_square(size: int, large: str, blur: float) -> None:
    for shape in ("square", "circle"):
        sharp = render((thing(shape, "red", 0.5, 0.5, large),), "dark", size).astype(float)
        blurred = ndimage.gaussian_filter(sharp, (blur, blur, 0)).round().astype(np.uint8)
        assert [found.shape for found in parse(blurred).things] == [shape]


@pytest.mark.parametrize("shape", ["square", "triangle", "cross"])
def test_a_line_of_one_pixel_does_not_hide_the_object_that_it_leaves(shape: str) -> None:
    picture = render((thing(shape, "red", 0.3, 0.5, "large"),), "dark", 32).copy()
    picture[16, 9:] = PALETTE["red"]
    assert [(found.shape, found.colour, found.size) for found in parse(picture).things] == [(shape, "red", "large")]


def test_a_stretched_triangle_keeps_its_centre() -> None:
    for stretch in (0.75, 1.0, 1.35):
        fit = scene_parser._fit(scene_parser._draw("triangle", 32.0, 31.0, 12.0, (64, 64), stretch))
        assert fit.shape == "triangle" and fit.x == pytest.approx(32, abs=0.1) and fit.y == pytest.approx(31, abs=0.15)


def test_sizes_part_in_the_middle_of_their_ratio_and_things_come_from_left_to_right() -> None:
    pair = (thing("circle", "red", 0.75, 0.25), thing("circle", "blue", 0.25, 0.75))
    middle = (RADII["small"] * RADII["large"]) ** 0.5
    pair = tuple(replace(t, radius=middle * (1 + e)) for t, e in zip(pair, (0.015, -0.015), strict=True))  # type: ignore[assignment]
    found = parse(render(pair, "dark", 64)).things
    assert [(t.colour, t.size) for t in found] == [("blue", "small"), ("red", "large")]


def test_a_spot_too_small_for_an_object_is_none() -> None:
    spot = replace(thing("circle", "red", 0.5, 0.5), radius=0.0495)
    found = parse(render((spot,), "dark", 64))
    assert found.things == () and found.rejected


def test_places_are_shares_of_each_side() -> None:
    square = render((thing("circle", "red", 0.5, 0.5),), "dark", 64)
    (found,) = parse(np.ascontiguousarray(square[:40])).things
    assert (found.x, found.y) == pytest.approx((0.5, 0.8), abs=0.01)
