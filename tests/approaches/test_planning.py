"""Plans: the grammar over tokenizers, the arms that write them, and layouts as numbers."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from approaches.modular.grammar import PlanGrammar, State, advance, token_texts
from approaches.modular.layout import KINDS, MOST, Layouts, LayoutTokens, scene_plan
from approaches.modular.planner import EXAMPLES, UNPARSED, Planner
from approaches.modular.rules import phrases, rule_plan
from approaches.shared.decoding import decode
from bench.data.scene import BACKGROUNDS, COLOURS, PLAN_PROMPT, SHAPES, SIZES, parse_plan, plan_text, satisfied
from bench.data.shapes import HELD_OUT_PAIRS, Shapes
from bench.errors import UserError
from metrics.captioning import parse_caption
from tests.approaches.checkpoints import byte_tokenizer
from tests.approaches.small import small_shared

OUTSIDE = ["", "a dog in the park", "  \n", "picture: plan: 1 2 3", "\N{SNOWMAN} and more"]


def world(split: str, count: int) -> list:
    return Shapes(split=split, size=8, seed=0, items=1000).first(count)


@lru_cache(maxsize=1)
def language_model():
    return small_shared().language_model


@lru_cache(maxsize=2)
def grammar(kind: str) -> PlanGrammar:
    if kind == "bytes":
        return PlanGrammar.of(byte_tokenizer(), 300)
    return PlanGrammar.of(language_model().tokenizer, language_model().transformer.config.vocabulary)


# -------------------------------------------------------------------------------------------------------- grammar


def test_every_plan_of_the_world_is_of_the_grammar_and_every_cut_one_goes_on() -> None:
    for sample in world("train", 60):
        line = plan_text(sample.scene) + "\n"
        state = advance(State(), line)
        assert state is not None and not grammar("lm").following(state)  # the end: nothing may follow
        for cut in range(len(line)):
            before = advance(State(), line[:cut])
            assert before is not None and grammar("bytes").following(before)


@pytest.mark.parametrize(
    "line",
    [
        "plan: dark\n",
        "plan:  large red circle 2 4; dark\n",
        "plan: red large circle 2 4; dark\n",
        "plan: large red circle 2 8; dark\n",
        "plan: large red circle 2 4, dark\n",
        "plan: large red circle 2 4; dark;\n",
        "plan: " + "large red circle 2 4; " * (MOST + 1) + "dark\n",
        "plan: large red circle 2 4; dark\n\n",
    ],
)
def test_what_is_no_plan_is_not_of_the_grammar(line: str) -> None:
    assert advance(State(), line) is None


@pytest.mark.parametrize("kind", ["bytes", "lm"])
@settings(max_examples=40)
@given(seed=st.integers(0, 2**32))
def test_whatever_is_drawn_under_the_grammar_parses(kind: str, seed: int) -> None:
    rules, generator = grammar(kind), torch.Generator().manual_seed(seed)
    allowed, found = rules.allowed(), list[int]()
    while (mask := allowed(0, found)) is not None and mask.any():
        found.append(int(torch.multinomial(mask.float(), 1, generator=generator)))
    plan = parse_plan(rules.text(found))
    assert plan is not None and 1 <= len(plan[0]) <= MOST


@pytest.mark.parametrize("kind", ["bytes", "lm"])
def test_tokens_write_what_the_tokenizer_reads(kind: str) -> None:
    tokenizer = byte_tokenizer() if kind == "bytes" else language_model().tokenizer
    texts = token_texts(tokenizer, len(tokenizer) + 7)
    line = "plan: large red circle 2 4; small blue square 6 1; dark\n"
    assert "".join(texts[token] for token in tokenizer.encode(line, add_special_tokens=False)) == line
    assert texts[-7:] == [""] * 7 and all(texts[token] == "" for token in tokenizer.all_special_ids)


def test_masks_are_made_once_and_decoding_keeps_rows_apart() -> None:
    rules = grammar("lm")
    assert rules.mask(State()) is rules.mask(State())
    logits = torch.randn(3, 4096, generator=torch.Generator().manual_seed(0))

    def step(tokens, state):
        return torch.stack([logits.roll(int(t), 1)[row] for row, t in enumerate(tokens[:, 0])])[:, None], state

    together = decode((logits, None), step, limit=200, end_id=4095, allowed=rules.allowed())
    for row in range(3):

        def alone(tokens, state, row=row):
            return logits[row].roll(int(tokens[0, 0]))[None, None], state

        found = decode((logits[row : row + 1], None), alone, limit=200, end_id=4095, allowed=rules.allowed())
        assert found == [together[row]]
        assert parse_plan(rules.text(found[0])) is not None


# ----------------------------------------------------------------------------------------------------------- arms


def test_every_plan_of_the_shipped_language_model_parses_and_is_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    planner = Planner(language_model(), arm="lm", tokens=72)
    words = [sample.caption for sample in world("train", 24) + world("forms", 24)]
    planned = planner.plan(words, [None] * len(words))
    assert all(one.parsed and one.plan is not None and one.source == "lm" and one.tokens > 0 for one in planned)
    again = planner.plan(words, [None] * len(words))
    assert all(a is b for a, b in zip(planned, again, strict=True))
    anew = planner.plan(words[:3], [None] * 3, anew=True)
    assert anew == planned[:3] and not any(a is b for a, b in zip(planned, anew, strict=False))
    written: list[str] = []

    def write(rows: list[str]) -> list[tuple[str, int]]:
        written.extend(rows)
        return [("plan: dark", 3)] * len(rows)

    monkeypatch.setattr(planner, "write", write)
    planner.plan(words[:2] * 3, [None] * 6)
    assert not written
    planner.plan(words[:2] * 3, [None] * 6, anew=True)
    assert sorted(written) == sorted(words[:2] * 3)  # each pays for its own, as its tokens are counted
    # a plan is the prompt's own, whatever stands beside it
    alone = Planner(language_model(), arm="lm", tokens=72).plan(words[5:6], [None])
    assert alone[0].text == planned[5].text


def test_the_language_model_plans_a_third_or_more_of_captions_rightly() -> None:
    samples = world("test", 48)
    planned = Planner(language_model(), arm="lm", tokens=72).plan([s.caption for s in samples], [None] * 48)
    right = sum(
        one.plan is not None and satisfied(one.plan[0], sample.scene.demands, sample.scene.relation)
        for one, sample in zip(planned, samples, strict=True)
    )
    assert right >= 16


@pytest.mark.parametrize("arm", ["lm", "rules"])
def test_prompts_outside_the_world_have_no_plan(arm: str) -> None:
    for one in Planner(language_model(), arm=arm, tokens=72).plan(OUTSIDE, [None] * len(OUTSIDE)):
        assert one.plan is None and one.parsed is None and one.reason and one.tokens == 0


def test_a_plan_that_is_cut_off_is_a_failure() -> None:
    (planned,) = Planner(language_model(), arm="lm", tokens=6).plan(["a red circle"], [None])
    assert planned.parsed is False and planned.plan is None and planned.reason == UNPARSED and planned.text
    (planned,) = Planner(language_model(), arm="rules", tokens=6).plan(["three circles and two squares"], [None])
    assert planned.parsed is False and planned.plan is None and planned.reason == UNPARSED


def test_a_long_prompt_leaves_room_for_its_plan() -> None:
    words = "a red circle " + "and so on and so forth " * 200
    planner = Planner(language_model(), arm="lm", tokens=72)
    assert planner._asked([words])[0].shape[1] + 72 <= language_model().transformer.config.context
    (planned,) = planner.plan([words], [None])
    assert planned.parsed
    with pytest.raises(UserError, match="plan_tokens is 250"):
        Planner(language_model(), arm="lm", tokens=250)


def test_examples_are_true_plans_of_what_training_shows_and_are_read_first() -> None:
    for caption, line in EXAMPLES:
        plan, claims = parse_plan(line), parse_caption(caption)
        assert plan is not None and claims is not None and claims.background in (None, plan[1])
        relation = claims.relations[0][1] if claims.relations else None
        assert satisfied(plan[0], claims.demands, relation)
        assert not {(thing.shape, thing.colour) for thing in plan[0]} & HELD_OUT_PAIRS
        assert list(plan[0]) == sorted(plan[0], key=lambda thing: (thing.x, thing.y))
    model = language_model()
    shown = Planner(model, arm="lm", tokens=40, examples=2)
    ids, mask = shown._asked(["a red circle", "two blue squares"])
    for row, kept, caption in zip(ids, mask, ("a red circle", "two blue squares"), strict=True):
        told = model.decode(row[kept].tolist())
        assert told.count("plan:") == 2 and told.endswith(PLAN_PROMPT.format(caption=caption))
        assert told.startswith(PLAN_PROMPT.format(caption=EXAMPLES[0][0]) + EXAMPLES[0][1])
    assert all(one.parsed for one in shown.plan(["a red circle"], [None]))
    with pytest.raises(UserError, match="settings.plan_examples take"):
        Planner(model, arm="lm", tokens=150, examples=4)


def test_only_the_oracle_looks_at_scenes() -> None:
    samples = world("test", 8)
    words, scenes = [s.caption for s in samples], [s.scene for s in samples]
    oracle = Planner(language_model(), arm="oracle", tokens=72)
    assert [one.text for one in oracle.plan(words, scenes)] == [plan_text(scene) for scene in scenes]
    assert oracle.plan(["a red circle"], [None])[0].plan is None
    for arm in ("lm", "rules", "empty"):
        planner = Planner(language_model(), arm=arm, tokens=72)
        blind = [one.text for one in planner.plan(words, [None] * 8)]
        assert blind == [one.text for one in Planner(language_model(), arm=arm, tokens=72).plan(words, scenes)]
    assert all(one.plan is None for one in Planner(language_model(), arm="empty", tokens=72).plan(words, scenes))


@pytest.mark.parametrize("split", ["train", "forms"])
def test_rules_fulfil_what_captions_demand(split: str) -> None:
    right = 0
    for sample in world(split, 300):
        plan = parse_plan(rule_plan(sample.caption) or "")
        assert sample.scene is not None
        right += plan is not None and satisfied(plan[0], sample.scene.demands, sample.scene.relation)
        for background in ("light", "dark"):
            if plan is not None and f"{background} background" in sample.caption:
                assert plan[1] == background
    assert right >= 0.95 * 300


def test_rules_leave_room_between_objects() -> None:
    for sample in world("train", 100):
        plan = parse_plan(rule_plan(sample.caption) or "")
        assert plan is not None
        for i, a in enumerate(plan[0]):
            for b in plan[0][:i]:
                assert ((a.x - b.x) ** 2 + (a.y - b.y) ** 2) ** 0.5 >= a.radius + b.radius


def test_phrases_of_a_caption() -> None:
    found = phrases("Two small red Crosses, an orange circle and squares over the sea")
    assert [tuple(one)[:4] for one in found] == [
        (2, "small", "red", "cross"),
        (1, None, "orange", "circle"),
        (1, None, None, "square"),
    ]
    assert rule_plan("nothing of the kind") is None


# -------------------------------------------------------------------------------------------------------- layouts


def plan_of(layouts: Layouts, row: int) -> str | None:
    """A row's line of plan; None where nothing is known."""
    if not layouts.known[row]:
        return None
    parts = []
    for kind, (column, line) in zip(layouts.kinds[row].tolist(), layouts.cells[row].tolist(), strict=True):
        words = " ".join(names[place] for names, place in zip(KINDS, kind, strict=True))
        parts.append(f"{words} {column} {line}")
    kept = [part for part, counts in zip(parts, layouts.mask[row].tolist(), strict=True) if counts]
    return "plan: " + "; ".join([*kept, BACKGROUNDS[int(layouts.background[row])]])


def test_layouts_round_trip() -> None:
    scenes = [sample.scene for sample in world("train", 60)]
    layouts = Layouts.of([*(scene_plan(scene) for scene in scenes), None])
    assert [plan_of(layouts, row) for row in range(60)] == [plan_text(scene) for scene in scenes]
    assert plan_of(layouts, 60) is None and not layouts.mask[60].any()
    wider = layouts.widened(MOST + 3)
    assert [plan_of(wider, row) for row in range(61)] == [plan_of(layouts, row) for row in range(61)]
    order = torch.tensor([5, 5, 2])
    assert [plan_of(layouts.select(order), row) for row in range(3)] == [plan_text(scenes[i]) for i in (5, 5, 2)]
    dropped = layouts.without(torch.arange(61) < 2)
    assert plan_of(dropped, 0) is None and plan_of(dropped, 2) == plan_of(layouts, 2)
    assert not dropped.mask[:2].any() and torch.equal(dropped.mask[2:], layouts.mask[2:])


def test_a_caption_s_background_stands_against_the_plan_s() -> None:
    captions = [
        "a red circle on a light background", "a Dark background with a square", "light and dark backdrop and a light "
        "background", "a light blue circle",
    ]  # fmt: skip
    layouts = Layouts.of([parse_plan("plan: large red circle 2 4; dark")] * 4 + [None])
    found, changed = layouts.corrected([*captions, captions[0]])
    assert changed == (True, False, False, False, False)
    assert plan_of(found, 0) == "plan: large red circle 2 4; light"
    assert [plan_of(found, row) for row in range(1, 5)] == [plan_of(layouts, row) for row in range(1, 5)]


def test_what_a_caption_leaves_open_is_open() -> None:
    line = "plan: large red circle 2 4; small blue square 6 1; dark"
    captions = ["a circle and a blue square", "a small square on a dark background", "a LARGE red circle", ""]
    layouts = Layouts.of([parse_plan(line)] * 4)
    said = layouts.said(captions)
    open_size, open_colour, open_ground = len(SIZES), len(COLOURS), len(BACKGROUNDS)
    red, blue, large, small = COLOURS.index("red"), COLOURS.index("blue"), SIZES.index("large"), SIZES.index("small")
    sizes, colours, shapes = said.kinds[:, :2].unbind(-1)
    assert sizes.tolist() == [[open_size] * 2, [open_size, small], [large, open_size], [open_size] * 2]
    assert colours.tolist() == [[open_colour, blue], [open_colour] * 2, [red, open_colour], [open_colour] * 2]
    assert torch.equal(shapes, layouts.kinds[:, :2, 2]) and torch.equal(said.mask, layouts.mask)
    assert said.background.tolist() == [open_ground, BACKGROUNDS.index("dark"), open_ground, open_ground]
    assert (said.cells == -1).all()
    kept = layouts.said(captions, torch.tensor([True, False, True, False]))
    assert plan_of(kept, 0) == line and plan_of(kept, 2) == line and torch.equal(kept.kinds[1], said.kinds[1])
    assert torch.equal(said.said(captions).kinds, said.kinds)
    tokens = LayoutTokens(16)
    nowhere, _ = tokens(said.select(torch.tensor([3])))
    moved, _ = tokens(Layouts.of([parse_plan(line.replace("2 4", "5 7").replace("red", "green"))]).said([""]))
    assert torch.equal(nowhere, moved)


def test_layout_tokens_tell_every_word_and_place_apart_and_keep_none_of_the_order() -> None:
    torch.manual_seed(0)
    tokens = LayoutTokens(16)
    lines = [f"plan: large {c} {s} 2 4; dark" for c in COLOURS for s in SHAPES]
    lines += ["plan: small red circle 2 4; dark", "plan: large red circle 2 4; light"]
    lines += [f"plan: large red circle {column} {row}; dark" for column in range(8) for row in range(8)]
    distinct = sorted(set(lines))
    whole, mask = tokens(Layouts.of([parse_plan(line) for line in distinct]))
    assert mask.sum(1).tolist() == [2] * len(distinct)
    flat = whole[mask].reshape(len(distinct), -1)
    assert torch.cdist(flat, flat).fill_diagonal_(1.0).min() > 1e-3
    a, _ = tokens(Layouts.of([parse_plan("plan: large red circle 2 4; small blue square 6 1; dark")]))
    b, _ = tokens(Layouts.of([parse_plan("plan: small blue square 6 1; large red circle 2 4; dark")]))
    assert torch.equal(a[:, [1, 0]], b[:, :2]) and torch.equal(a[:, -1], b[:, -1])
