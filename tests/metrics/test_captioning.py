from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.data.captions import FORMS, HELD_OUT_FORMS
from bench.data.negatives import KINDS, false_caption
from bench.data.scene import Demand, Scene, Thing
from bench.data.shapes import Shapes
from metrics.captioning import attribute_f1, bleu4, caption_metrics, cider, f1_gap, is_true, parse_caption, words_of
from metrics.differences import difference
from metrics.registry import cider_obstacle


def scenes(split: str, items: int = 200) -> tuple[list[str], list[str], list[Scene]]:
    samples = Shapes(split=split, size=32, seed=3, items=items).first(items)
    known = [sample.scene for sample in samples if sample.scene is not None]
    return [s.captions[0] for s in samples], [s.captions[1] for s in samples], known


def thing(shape: str, colour: str, size: str = "small", x: float = 0.5, y: float = 0.5) -> Thing:
    return Thing(shape=shape, colour=colour, size=size, x=x, y=y, radius=0.1)


PAIR = Scene(
    things=(thing("circle", "red", "small", 0.2), thing("cross", "blue", "large", 0.8)),
    background="dark",
    task="position",
    demands=(Demand(shape="circle"), Demand(shape="cross")),
    relation="left of",
)


@pytest.mark.parametrize("split", Shapes.splits)
def test_every_caption_of_the_world_is_read_as_it_was_meant(split: str) -> None:
    said, described, known = scenes(split)
    for text, whole, scene in zip(said, described, known, strict=True):
        claims = parse_caption(text)
        assert claims is not None, text
        assert sorted(map(repr, claims.demands)) == sorted(map(repr, scene.demands))
        assert [relation for _, relation, _ in claims.relations] == ([scene.relation] if scene.relation else [])
        assert claims.background in (None, scene.background)
        assert is_true(claims, scene)
        full = parse_caption(whole)
        assert full is not None and is_true(full, scene)
        assert attribute_f1(full, scene) == 1


def test_captions_that_are_almost_right_are_false() -> None:
    _, _, known = scenes("test", 120)
    judged = 0
    for scene in known:
        for kind in KINDS:
            if (pair := false_caption(scene, kind, 7)) is not None:
                true, false = map(parse_caption, pair)
                assert true is not None and is_true(true, scene), pair
                assert false is not None and not is_true(false, scene), pair
                judged += 1
    assert judged > 150


@pytest.mark.parametrize("form", [*FORMS, *HELD_OUT_FORMS])
def test_each_form_of_sentence_is_read(form: str) -> None:
    claims = parse_caption(form.format(body="two big violet discs and a cross", background="dark"))
    assert claims is not None
    assert claims.demands == (Demand(shape="circle", colour="purple", size="large", count=2), Demand(shape="cross"))
    assert claims.background == ("dark" if "{background}" in form else None)


@pytest.mark.parametrize(
    ("words", "relation"),
    [
        ("to the left of", "left of"),
        ("is on the right of", "right of"),
        ("over", "above"),
        ("on top of", "above"),
        ("underneath", "below"),
    ],
)
def test_places_have_synonyms(words: str, relation: str) -> None:
    claims = parse_caption(f"A red circle {words} 3 small crosses.")
    assert claims is not None
    assert claims.relations == ((0, relation, 1),)
    assert claims.demands[1] == Demand(shape="cross", size="small", count=3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "a red dog",
        "a red",
        "circle of life red",
        "a red and blue circle",
        "a red red circle",
        "two circle",
        "one circles",
        "left of a circle",
        "a circle left of",
        "a circle left of a red",
        "a fluffy circle",
        "a circle on a dark background on a light background",
        "the the the",
        "plan: large red circle 2 4; dark",
        "zero circles",
    ],
)
def test_what_cant_be_read_is_no_caption(text: str) -> None:
    assert parse_caption(text) is None
    assert attribute_f1(None, PAIR) == 0


@pytest.mark.parametrize(
    ("text", "true", "f1"),
    [
        ("a circle and a cross", True, 2 * 2 / (2 + 6)),
        ("a small red circle left of a large blue cross", True, 1.0),
        ("a small red circle right of a large blue cross", False, 1.0),
        ("a small red circle and a large blue cross on a light background", False, 1.0),
        ("a circle", True, 2 * 1 / (1 + 6)),
        ("two circles", False, 2 * 1 / (2 + 6)),
        ("a blue circle and a red cross", False, 2 * 2 / (4 + 6)),
        ("a red circle, a red circle and a cross", False, 2 * 3 / (5 + 6)),
        ("a circle and a red circle", False, 2 * 2 / (3 + 6)),
    ],
)
def test_truth_and_f1_by_hand(text: str, true: bool, f1: float) -> None:
    claims = parse_caption(text)
    assert claims is not None
    assert is_true(claims, PAIR) == true
    assert attribute_f1(claims, PAIR) == pytest.approx(f1)


def test_scores_stand_beside_chance_and_unparsed_captions_are_failures() -> None:
    said, described, known = scenes("test", 120)
    found = caption_metrics([*said[:100], *[""] * 20], known)
    exact, f1 = found["caption_exact_match"], found["caption_attribute_f1"]
    assert exact.value == pytest.approx(100 / 120)
    assert exact.details["unparsed"] == f1.details["unparsed"] == 20
    assert 0 < exact.details["chance"] < 0.15
    claims = [parse_caption(text) for text in said]

    def crossed(place: int) -> float:
        """Two captions, each of the other's scene."""
        one, other = claims[place], claims[place + 1]
        assert one is not None and other is not None
        return (attribute_f1(one, known[place + 1]) + attribute_f1(other, known[place])) / 2

    place = next(each for each in range(99) if crossed(each) > 0)
    both = caption_metrics(said[place : place + 2], known[place : place + 2])["caption_attribute_f1"]
    assert both.details["chance"] == pytest.approx(crossed(place))
    assert f1.details["per_item"][-20:] == [0] * 20
    assert f1.details["chance"] < f1.value
    whole = caption_metrics(described, known)
    assert whole["caption_attribute_f1"].value == 1
    gap, best = found["caption_f1_gap"], whole["caption_f1_gap"]
    assert best.value == pytest.approx(best.details["reference"])  # full descriptions are what it is of
    assert 0.5 < gap.details["reference"] < 1 and gap.value < gap.details["reference"]
    assert found["caption_cider"].reason == "no reference captions were given"
    unknown = caption_metrics(said, [*known[1:], None], [[text] for text in said])
    assert unknown["caption_exact_match"].value is None
    assert "1 of 120" in unknown["caption_exact_match"].reason
    assert unknown["caption_bleu4"].value == pytest.approx(1)


def test_a_single_caption_has_no_interval() -> None:
    found = caption_metrics(["a circle and a cross"], [PAIR], [["a circle and a cross"]])
    assert found["caption_exact_match"].value == 1 and found["caption_exact_match"].low is None
    assert found["caption_exact_match"].details["chance"] is None
    assert found["caption_cider"].value is None and "two captions" in found["caption_cider"].reason


def test_bleu_agrees_with_the_other_library() -> None:
    bleu = pytest.importorskip("pycocoevalcap.bleu.bleu", reason="needs the package pycocoevalcap")
    said, described, _ = scenes("validation", 60)
    captions = [*said[:30], *described[30:]]
    references = [[a, b] for a, b in zip(said[1:] + said[:1], described, strict=True)]
    own = bleu4(captions, references)
    cooked = {i: [words_of(text) for text in texts] for i, texts in enumerate(references)}
    scores, _ = bleu.Bleu(4).compute_score(cooked, {i: [words_of(c)] for i, c in enumerate(captions)}, verbose=0)
    assert own.value == pytest.approx(scores[3], rel=1e-5)
    assert own.value and own.low and own.high and own.low < own.value < own.high
    few = [*["a picture of it"] * 30, *["one two three four five"] * 2]  # of 32 captions two are right
    told = bleu4(few, [*[["nothing like that"]] * 30, *[["one two three four five"]] * 2])
    assert told.value and told.low is not None and told.high and 0 <= told.low < told.value < told.high <= 1
    none = bleu4(few, [["nothing like that"]] * 32)
    assert (none.value, none.low, none.reason) == (0, None, "no run of four words is right")


def test_cider_is_ten_for_the_references_themselves_and_falls() -> None:
    pytest.importorskip("pycocoevalcap.cider.cider", reason="needs the package pycocoevalcap")
    texts = ["a red circle above two crosses", "three large squares of stone", "the blue triangle stands alone today"]
    references = [[text] for text in texts]
    assert cider(texts, references).value == pytest.approx(10)
    mixed = cider([texts[0], texts[2], texts[1]], references)
    assert mixed.value is not None and mixed.value < 4
    # One word of tf-idf by hand: each of the two captions is one word, the other caption's document frequency is 1.
    dogs = cider(["dog", "dog"], [["dog"], ["cat"]])
    assert dogs.details["per_item"] == pytest.approx([10 / 4, 0])
    assert difference(dogs, cider(["cat", "cat"], [["dog"], ["cat"]])).paired


def test_without_the_package_cider_is_missing_and_bleu_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "pycocoevalcap" in name else find(name))
    found = caption_metrics(["a b c d", "e f g h"], [PAIR, replace(PAIR)], [["a b c d"], ["e f g h"]])
    assert found["caption_cider"].value is None and "pycocoevalcap" in found["caption_cider"].reason
    assert found["caption_bleu4"].value == pytest.approx(1)


def test_a_folder_that_is_called_as_the_package_is_not_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pycocoevalcap").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for name in [name for name in sys.modules if name.partition(".")[0] == "pycocoevalcap"]:
        monkeypatch.delitem(sys.modules, name)
    assert cider_obstacle().startswith("CIDEr needs pycocoevalcap")


def test_tokens_are_those_of_the_literature() -> None:
    assert words_of("A dog's ball, red: 2 of them!") == "a dog's ball red 2 of them"
    assert np.all([words_of(words_of(t)) == words_of(t) for t in ("It's (nice)...", "a-b")])


def test_a_gap_is_what_looking_adds_to_luck_and_seeds_share_its_items() -> None:
    _, described, known = scenes("test", 60)
    own, again = (f1_gap(described, known, seed=seed) for seed in (0, 1))
    assert (own.value or 0) > 0.3 and own.value != again.value and difference(own, again).paired
    other = f1_gap(described[1:] + described[:1], known)
    assert other.low is not None and other.high is not None and other.low < 0 < other.high
    two = f1_gap(described[:2], known[:2])
    claims = [parse_caption(text) for text in described[:2]]
    shares = [[attribute_f1(claim, scene) for scene in known[:2]] for claim in claims]
    luck = (shares[0][1] + shares[1][0]) / 2
    assert two.value == pytest.approx((shares[0][0] + shares[1][1]) / 2 - luck)
    assert two.details["per_item"] == pytest.approx([shares[0][0] - luck, shares[1][1] - luck])
    assert f1_gap(described[:1], known[:1]).value is None


def test_an_item_of_the_gap_is_what_its_caption_and_its_scene_do_to_it() -> None:
    """As the jackknife of the whole gap has it: a scene stands beside other captions as well."""
    _, described, known = scenes("test", 24)
    right = np.random.default_rng(0).random(24) < 0.5
    captions = [described[i if right[i] else (i + 1) % 24] for i in range(24)]
    shares = np.array([[attribute_f1(parse_caption(text), scene) for scene in known] for text in captions])

    def gap(kept: NDArray[np.int64]) -> float:
        left = shares[np.ix_(kept, kept)]
        return float(np.trace(left) / len(kept) - (left.sum() - np.trace(left)) / (len(kept) * (len(kept) - 1)))

    every = np.arange(24)
    found = f1_gap(captions, known)
    assert found.value == pytest.approx(gap(every))
    pseudo = [24 * gap(every) - 23 * gap(np.delete(every, i)) for i in every]
    assert np.corrcoef(pseudo, found.details["per_item"])[0, 1] > 0.999
    assert np.std(pseudo) == pytest.approx(np.std(found.details["per_item"]), rel=0.01)


def test_a_caption_longer_than_its_reference_wins_nothing_by_its_length() -> None:
    told = bleu4(["one two three four five six"], [["one two three four five"]])
    assert told.value == pytest.approx((5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25)


def test_a_relation_holds_between_the_two_that_it_names() -> None:
    things = (thing("cross", "blue", x=0.2), thing("circle", "red", x=0.5), thing("square", "green", x=0.8))
    scene = replace(PAIR, things=things)
    for text, true in [("a circle left of a square", True), ("a circle left of a cross", False)]:
        claims = parse_caption(text)
        assert claims is not None and is_true(claims, scene) == true


@pytest.mark.parametrize("text", ["small two circles", "red two circles"])
def test_a_number_stands_first(text: str) -> None:
    assert parse_caption(text) is None


def test_each_gap_is_its_own_captions() -> None:
    _, described, known = scenes("test", 20)
    gaps = f1_gap([*described[:7], "", *described[8:]], known).details["per_item"]
    assert int(np.argmin(gaps)) == 7 and sorted(gaps)[1] > gaps[7] + 0.1  # nothing was said there
