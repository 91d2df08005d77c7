"""What a language model reads of the world: the same on every machine, right, and nothing of what is held out."""

from __future__ import annotations

import re
from itertools import islice

import pytest

from bench.data import world_text
from bench.data.captions import HELD_OUT_FORMS, PLURALS
from bench.data.scene import COLOURS, PLAN_PROMPT, SHAPES, SIZES, parse_plan
from bench.data.shapes import HELD_OUT_PAIRS
from bench.data.world_text import WorldText, world_document, world_documents
from bench.errors import UserError

DOCUMENTS = list(islice(world_documents(0, "train"), 1500))
THING = re.compile(rf"({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})")


def lines(beginning: str) -> list[str]:
    return [line for text in DOCUMENTS for line in text.splitlines() if line.startswith(beginning)]


def test_a_document_is_a_function_of_seed_split_and_index() -> None:
    assert [world_document(0, "train", i) for i in reversed(range(50))] == DOCUMENTS[49::-1]
    for other in (world_documents(1, "train"), world_documents(0, "validation")):
        assert list(islice(other, 50)) != DOCUMENTS[:50]


def test_every_plan_parses_and_holds_no_held_out_pair() -> None:
    plans = lines("plan:")
    assert len(plans) > 1000
    for line in plans:
        plan = parse_plan(line)
        assert plan is not None and 1 <= len(plan[0]) <= 4
        assert not {(thing.shape, thing.colour) for thing in plan[0]} & HELD_OUT_PAIRS


def test_plan_and_description_of_a_document_name_the_same_objects_in_the_same_order() -> None:
    both = [text.splitlines() for text in DOCUMENTS if text.startswith("plan:")]
    assert len(both) > 200
    for plan, whole in both:
        assert whole.startswith("description: ")
        assert THING.findall(plan) == THING.findall(whole)
        assert whole.endswith(f" on a {plan.rsplit('; ', 1)[1]} background")


def test_a_caption_stands_in_the_prompt_that_plans_are_asked_with() -> None:
    beginning = PLAN_PROMPT.split("{")[0]
    for text in DOCUMENTS:
        first, second = text.splitlines()
        assert text.endswith("\n") and first.startswith((beginning, "plan: "))
        assert second.startswith(("plan: ", "description: "))


@pytest.mark.parametrize(("shape", "colour"), sorted(HELD_OUT_PAIRS))
def test_no_held_out_pair_is_ever_named(shape: str, colour: str) -> None:
    named = re.compile(rf"\b{colour} ({shape}|{PLURALS[shape]})\b")
    assert not any(named.search(text) for text in DOCUMENTS)


@pytest.mark.parametrize("form", HELD_OUT_FORMS)
def test_no_held_out_form_is_ever_read(form: str) -> None:
    fixed = [part.strip() for part in re.split(r"\{\w+\}", form) if part.strip(" :")]
    assert fixed
    assert not any(all(part in line for part in fixed) for line in lines("picture:"))


def test_some_are_the_first_ones_and_no_others_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counted(seed: int, split: str, index: int) -> str:
        made.append(index)
        return f"{split} {index}\n"

    monkeypatch.setattr(world_text, "world_document", counted)
    corpus = WorldText(seed=0)
    assert [item.text for item in corpus.some("test", 3)] == ["test 0", "test 1", "test 2"] and made == [0, 1, 2]
    assert corpus.some("train", 0) == [] and made == [0, 1, 2]
    assert corpus.some("test", 3) == corpus.documents("test")[:3] and len(corpus.some("test", 5000)) == 1000
    bounded = WorldText(seed=0, limit=7)
    assert bounded.some("validation", 3) == bounded.documents("validation")[:3]
    with pytest.raises(UserError, match="unknown split 'tst'"):
        corpus.some("tst", 1)
