"""The modular approach: what each expert learns from, what generate does with their verdicts, and what stays frozen."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from torch import Tensor

from approaches.base import Prompt
from approaches.modular.approach import CHECKED_NOISE, Modular
from approaches.modular.checker import agreement
from approaches.modular.layout import Layouts, scene_plan
from approaches.settings import ModularSettings
from approaches.shared.decoding import decode
from approaches.shared.randomness import generator
from bench.data.scene import plan_text
from bench.errors import UserError
from bench.meter import flops_per_evaluation
from bench.sampler import Sampling, noise_source
from tests.approaches.small import samples, small_batch, small_generators, small_shared

SMALL = ModularSettings(
    width=48, layers=2, heads=4, captioner_width=32, captioner_layers=2, checker_width=32, checker_layers=1
)
EXPERTS = {"diffusion": ("denoiser.", "layout."), "caption": ("captioner.",), "check": ("checker.",)}


@pytest.fixture(scope="module")
def shared():
    return small_shared()


def moved(approach: Modular, deviation: float = 0.05) -> Modular:
    """With every trained weight off its start, so that nothing hides behind a zero."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in approach.parameters():
            if parameter.requires_grad:
                parameter.add_(deviation * torch.randn(parameter.shape, generator=draw))
    return approach.eval()


def build(shared, **changes) -> Modular:
    return moved(Modular(shared, dataclasses.replace(SMALL, **changes)))


def prompts(count: int, *, scenes: bool = True) -> list[Prompt]:
    return [Prompt.text(sample.caption, sample.scene if scenes else None) for sample in samples(0, count)]


def total(terms) -> Tensor:
    whole = torch.zeros(())
    for loss in terms.values():
        whole = whole + loss.weight * loss.sum / loss.count
    return whole


def train(approach: Modular, batches, steps: int, rate: float) -> None:
    (group,) = approach.parameter_groups()
    optimizer = torch.optim.AdamW(group.parameters, lr=rate, weight_decay=0.01)
    for step in range(steps):
        optimizer.zero_grad()
        total(approach.losses(batches[step % len(batches)], small_generators(0, step))).backward()
        optimizer.step()


def known(approach: Modular, asked: list[Prompt]) -> Tensor:
    """Which prompts have a layout."""
    mask = approach.condition(asked).tokens_mask
    assert mask is not None
    return mask.any(1)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


# ------------------------------------------------------------------------------------------------------- training


def test_parameter_counts(shared) -> None:
    approach = Modular(shared, ModularSettings())
    counts = {
        name: sum(p.numel() for p in getattr(approach, name).parameters() if p.requires_grad)
        for name in ("language_model", "denoiser", "layout", "captioner", "checker")
    }
    assert counts == {
        "language_model": 0,
        "denoiser": 4_001_620,
        "layout": 1216,
        "captioner": 1_131_520,
        "checker": 365_761,
    }
    (group,) = approach.parameter_groups()
    assert sum(p.numel() for p in group.parameters) == sum(counts.values())
    assert approach.borrowed()["language_model"] == 3_148_224
    assert len(approach.blocks()) == len(approach.language_model.transformer.blocks) + 6 + 3 + 3


def test_fifty_steps_lower_every_loss_and_leave_the_language_model_as_it_was(shared) -> None:
    approach = Modular(shared, SMALL)
    frozen, text = approach.frozen_hash(), torch.arange(40).view(2, 20) + 7
    base = shared.language_model.transformer
    before_logits = base.logits(base(text))
    assert torch.equal(approach.text_logits(text), before_logits)
    batches = [small_batch(shared, 8, step) for step in range(3)]
    assert not approach.layout.trained

    def measured() -> dict[str, float]:
        with torch.no_grad():
            parts = [approach.losses(batch, small_generators(9, 9)) for batch in batches]
        return {name: sum(float(part[name].sum / part[name].count) for part in parts) / 3 for name in EXPERTS}

    before = measured()
    train(approach, batches, 50, 4e-3)
    after = measured()
    assert after["diffusion"] < 0.8 * before["diffusion"] and after["caption"] < 0.5 * before["caption"]
    assert after["check"] < 0.95 * before["check"]
    assert approach.frozen_hash() == frozen and torch.equal(approach.text_logits(text), before_logits)
    assert approach.layout.trained


def test_every_draw_of_a_step_is_a_stream_of_its_own(shared) -> None:
    asked: list[str] = []

    def noted(purpose: str) -> torch.Generator:
        asked.append(purpose)
        return small_generators()(purpose)

    Modular(shared, SMALL).losses(small_batch(shared, 6), noted)
    assert len(set(asked)) == len(asked) == 2 and all(purpose.startswith("whole/") for purpose in asked)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_share_of_false_layouts_is_the_settings(shared, share: float) -> None:
    settings = dataclasses.replace(SMALL, layout_false=share, layout_whole=1.0, layout_dropout=0.0)
    approach, batch = Modular(shared, settings), small_batch(shared, 24)
    batch = dataclasses.replace(batch, empty=torch.zeros(len(batch.draw), dtype=torch.bool))
    layouts = approach._learned_from(batch, generator(0, "test"))
    true = Layouts.of([scene_plan(scene) for scene in batch.draw.scenes]).widened(layouts.mask.shape[1])
    labels = agreement(layouts, true)
    right = ((labels[:, :-2] | ~layouts.mask).all(1) & labels[:, -2:].all(1)).float().mean()
    assert right == 1.0 if share == 0 else right < 0.3


def test_whether_a_layout_is_whole_false_or_dropped_is_drawn_each_on_its_own(shared) -> None:
    batch = small_batch(shared, 32)
    batch = dataclasses.replace(batch, empty=torch.zeros(32, dtype=torch.bool))
    true = Layouts.of([scene_plan(scene) for scene in batch.draw.scenes])

    def drawn(**share: float) -> Layouts:
        shares: dict[str, Any] = {"layout_whole": 1.0, "layout_dropout": 0.0, "layout_false": 0.0, **share}
        return Modular(shared, dataclasses.replace(SMALL, **shares))._learned_from(batch, generator(0, "test"))

    whole, known = drawn(layout_whole=0.5).cells[:, 0, 0] >= 0, drawn(layout_dropout=0.5).known
    planned = drawn(layout_false=0.5)
    labels = agreement(planned, true.widened(planned.mask.shape[1]))
    right = (labels[:, :-2] | ~planned.mask).all(1) & labels[:, -2:].all(1)
    for one, other in ((whole, known), (whole, right), (known, right)):
        assert len({*zip(one.tolist(), other.tolist(), strict=True)}) == 4  # both, either and neither


def test_the_checker_reads_pictures_of_every_level_of_noise_up_to_its_most(
    shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    approach, batch = Modular(shared, SMALL), small_batch(shared, 32)
    flat = [dataclasses.replace(p, latents=torch.full_like(p.latents, 100.0)) for p in (batch.draw, batch.describe)]
    seen: list[Tensor] = []

    def loss(latents: Tensor, planned: Layouts, true: Layouts) -> Tensor:
        seen.append(latents)
        return latents.sum()

    monkeypatch.setattr(approach.checker, "loss", loss)
    approach._misread(dataclasses.replace(batch, draw=flat[0], describe=flat[1]), generator(0, "test"))
    (noised,) = (latents.flatten(1) for latents in seen)
    level = 1 - noised.mean(1) / 100  # of a picture of 100, so much is gone, and as much noise is there
    assert len(level) == 48 and 0 < level.min() < 0.05 < 0.2 < level.max() < CHECKED_NOISE == 0.25
    torch.testing.assert_close(noised.std(1), level, rtol=0.2, atol=1e-3)


def test_each_term_is_a_mean_over_what_it_predicts(shared) -> None:
    batch = small_batch(shared, 6, levels=2)
    words = sum(len(shared.language_model.encode(caption)) + 1 for caption in batch.describe.captions)  # and the end
    terms = Modular(shared, SMALL).losses(batch, small_generators())
    counts = {name: float(term.count) for name, term in terms.items()}
    assert counts == {"diffusion": 12, "caption": words, "check": 9}  # six drawn and three described are checked


def test_gradients_reach_every_expert_from_its_own_loss_alone(shared) -> None:
    approach, batch = Modular(shared, SMALL), small_batch(shared, 6)
    train(approach, [batch], 3, 1e-3)
    for term, own in EXPERTS.items():
        approach.zero_grad()
        approach.losses(batch, small_generators())[term].sum.backward()
        for name, parameter in approach.named_parameters():
            if name.startswith("language_model."):
                assert not parameter.requires_grad and parameter.grad is None
            elif name.startswith(own):
                assert parameter.grad is not None and parameter.grad.any(), (term, name)
            else:
                assert parameter.grad is None, (term, name)


def test_the_loss_goes_through_condition_and_denoise(shared) -> None:
    approach = build(shared, planner="oracle", layout_dropout=0.0, layout_whole=0.0, layout_false=0.0)
    batch = small_batch(shared, 6)
    batch = dataclasses.replace(batch, empty=torch.zeros(6, dtype=torch.bool))
    asked = [Prompt.text(c, s) for c, s in zip(batch.draw.captions, batch.draw.scenes, strict=True)]
    diffusion = shared.diffusion
    with torch.no_grad():
        term = approach.losses(batch, small_generators())["diffusion"]
        x_t = diffusion.add_noise(batch.draw.latents, batch.noise, batch.times)
        prediction = approach.denoise(x_t, batch.times, approach.condition(asked))
        target = diffusion.target(batch.draw.latents, batch.noise, batch.times)
    assert term.count == 6
    close(diffusion.loss(prediction, target).sum(), term.sum, 1e-4)


def test_where_the_caption_or_the_layout_is_left_out_no_scene_is_seen(shared) -> None:
    batch = small_batch(shared, 6)
    others = dataclasses.replace(batch.draw, scenes=tuple(reversed(batch.draw.scenes)))
    empty = torch.ones(6, dtype=torch.bool)

    def term(approach, batch) -> Tensor:
        with torch.no_grad():
            return approach.losses(batch, small_generators())["diffusion"].sum

    layouts, dropped = build(shared, layout_dropout=0.0), build(shared, layout_dropout=1.0)
    assert not torch.equal(term(layouts, batch), term(layouts, dataclasses.replace(batch, draw=others)))
    assert torch.equal(term(dropped, batch), term(dropped, dataclasses.replace(batch, draw=others)))
    all_empty = dataclasses.replace(batch, empty=empty)
    assert torch.equal(term(layouts, all_empty), term(dropped, dataclasses.replace(all_empty, draw=others)))


def test_without_scenes_no_layout_is_learned_and_none_is_planned(shared) -> None:
    approach, batch = Modular(shared, SMALL), small_batch(shared, 6)
    blind = [dataclasses.replace(part, scenes=(None,) * len(part)) for part in (batch.draw, batch.describe)]
    batch = dataclasses.replace(batch, draw=blind[0], describe=blind[1])
    train(approach, [batch], 5, 1e-2)
    assert not approach.layout.trained and approach.losses(batch, small_generators())["check"].sum == 0
    made = generate(approach, prompts(2), nfe=2)
    assert [entry["reason"] for entry in made.trace] == ["no layout was learned from"] * 2
    assert made.tokens == 0 and not known(approach, prompts(2)).any()


# ------------------------------------------------------------------------------------------------------ conditions


def test_a_prompt_does_not_depend_on_its_batch(shared) -> None:
    approach = build(shared)
    asked = [*prompts(4, scenes=False), Prompt.text(""), Prompt.text("a dog in the park")]
    x_t = torch.randn(6, 4, 8, 8, generator=generator(0, "x"))
    t = torch.linspace(0.1, 0.9, 6)
    with torch.no_grad():
        condition = approach.condition(asked)
        whole = approach.denoise(x_t, t, condition)
        alone = [approach.condition([prompt]) for prompt in asked]
        each = torch.cat([approach.denoise(x_t[i : i + 1], t[i : i + 1], alone[i]) for i in range(6)])
        joined = approach.denoise(x_t, t, type(condition).cat(alone))
    close(each, whole)
    close(joined, whole)
    assert known(approach, asked).tolist() == [True] * 4 + [False] * 2


def test_a_plan_that_does_not_parse_leaves_the_words_alone(shared) -> None:
    broken, plain = build(shared, plan_tokens=5), build(shared, planner="empty")
    asked = prompts(3, scenes=False)
    made = generate(broken, asked, nfe=2)
    assert [(entry["parsed"], entry["accepted"], entry["rounds"]) for entry in made.trace] == [(False, None, 0)] * 3
    assert all(entry["plan"].startswith("plan") and entry["reason"] for entry in made.trace)
    assert made.nfe == (2, 2, 2) and made.tokens == 15
    assert torch.equal(made.latents, generate(plain, asked, nfe=2).latents)


def test_layouts_matter_and_only_the_oracle_sees_scenes(shared) -> None:
    asked = prompts(3)
    latents = {arm: generate(build(shared, planner=arm), asked, nfe=2).latents for arm in ("oracle", "rules", "empty")}
    assert not torch.allclose(latents["oracle"], latents["empty"], atol=1e-3)
    blind = [Prompt.text(prompt.words) for prompt in asked]
    assert torch.equal(generate(build(shared, planner="rules"), blind, nfe=2).latents, latents["rules"])
    traces = generate(build(shared, planner="oracle"), asked, nfe=2).trace
    assert [entry["plan"] for entry in traces] == [plan_text(prompt.scene) for prompt in asked if prompt.scene]


def test_prompts_tell_scenes_to_an_oracle_alone(shared) -> None:
    texts, scenes = zip(*((prompt.words, prompt.scene) for prompt in prompts(3)), strict=True)
    for arm in ("oracle", "rules"):
        told = build(shared, planner=arm).prompts(texts, scenes)
        assert [prompt.words for prompt in told] == list(texts)
        assert [prompt.scene for prompt in told] == (list(scenes) if arm == "oracle" else [None] * 3)


def test_a_plan_is_of_no_more_words_than_are_read(shared) -> None:
    said = "a red circle left of a blue square"
    approach = build(shared, planner="rules")
    approach.shared = dataclasses.replace(shared, caption_tokens=2 + len(shared.language_model.encode("a red circle")))
    (planned,), (short,) = (approach.plan([Prompt.text(text)]) for text in (said, "a red circle"))
    assert planned.plan == short.plan and planned.plan is not None
    assert approach.shared.cut("a red circle") == "a red circle"


# --------------------------------------------------------------------------------------------------------- redraws


def generate(approach: Modular, asked, *, nfe: int, noise_for=None):
    sampling = Sampling(nfe=nfe, guidance=2.0)
    return approach.generate(asked, noise_for or noise_source((4, 8, 8), 0, 0, torch.device("cpu")), sampling)


def script(approach: Modular, monkeypatch: pytest.MonkeyPatch, verdicts: list[list[float]]) -> None:
    """A checker that gives these verdicts, call by call."""
    calls = iter(verdicts)

    def probabilities(latents: Tensor, layouts: Layouts) -> tuple[Tensor, Tensor]:
        given = torch.tensor(next(calls))
        assert len(given) == len(latents) == len(layouts)
        return given, given[:, None].expand(-1, layouts.mask.shape[1] + 2).clone()

    monkeypatch.setattr(approach.checker, "probabilities", probabilities)


def test_rejected_pictures_are_drawn_again_and_accepted_ones_stay(shared, monkeypatch: pytest.MonkeyPatch) -> None:
    approach = build(shared, planner="oracle", redraws=3, threshold=0.5)
    asked = [*prompts(4), Prompt.text("a dog")]
    source, rounds = noise_source((4, 8, 8), 0, 0, torch.device("cpu")), []

    def noise_for(indices, turn):
        rounds.append((list(indices), turn))
        return source(indices, turn)

    #                                   accepted, then better, then worse than the first, never accepted; no plan
    script(approach, monkeypatch, [[0.9, 0.2, 0.3, 0.1, 1.0], [0.6, 0.1, 0.4], [0.2, 0.2], [0.1, 0.3]])
    made = generate(approach, asked, nfe=2, noise_for=noise_for)
    assert rounds == [([0, 1, 2, 3, 4], 0), ([1, 2, 3], 1), ([2, 3], 2), ([2, 3], 3)]
    assert made.nfe == (2, 4, 8, 8, 2) and made.first is not None
    same = [bool(torch.equal(made.latents[row], made.first[row])) for row in range(5)]
    assert same == [True, False, True, False, True]
    trace = made.trace
    assert [entry["kept"] for entry in trace] == [0, 1, 0, 1, 0]
    assert [entry["rounds"] for entry in trace] == [0, 1, 3, 3, 0]
    assert [entry["accepted"] for entry in trace] == [True, True, False, False, None]
    assert [entry["verdicts"] for entry in trace] == [[0.9], [0.2, 0.6], [0.3, 0.1, 0.2, 0.1], [0.1, 0.4, 0.2, 0.3], []]
    # a picture that is drawn again is what its own noise of that round gives, whoever is drawn beside it
    script(approach, monkeypatch, [[0.0], [1.0]])
    alone = generate(approach, asked[3:4], nfe=2, noise_for=lambda indices, turn: source([3], turn))
    close(alone.latents[0], made.latents[3])
    json.dumps(trace)


def test_no_redraws_give_the_first_pictures(shared) -> None:
    asked = prompts(4)
    strict = generate(build(shared, planner="oracle", redraws=1, threshold=1.0), asked, nfe=2)
    never = generate(build(shared, planner="oracle", redraws=0, threshold=1.0), asked, nfe=2)
    assert strict.nfe == (4,) * 4 and never.nfe == (2,) * 4 and never.first is None
    assert strict.first is not None and torch.equal(strict.first, never.latents)
    for entry, row in zip(strict.trace, range(4), strict=True):
        assert entry["kept"] == int(entry["verdicts"][1] > entry["verdicts"][0])
        assert torch.equal(strict.latents[row], strict.first[row]) == (entry["kept"] == 0)
        assert len(entry["objects"]) == len(samples(row, 1)[0].scene.things)  # type: ignore[union-attr]
    again = generate(build(shared, planner="oracle", redraws=1, threshold=1.0), asked, nfe=2)
    assert torch.equal(again.latents, strict.latents)


def test_the_cost_of_a_plan_is_told(shared) -> None:
    approach = build(shared, redraws=0)
    made = generate(approach, prompts(3, scenes=False), nfe=2)
    planned = approach.plan(prompts(3, scenes=False))
    assert made.tokens == sum(one.tokens for one in planned) > 30
    assert set(made.seconds) == {"plan", "draw", "check"} and all(value > 0 for value in made.seconds.values())
    assert [entry["source"] for entry in made.trace] == ["lm"] * 3 and all(entry["parsed"] for entry in made.trace)
    # whatever was planned before, a drawing writes its plans itself
    again = generate(approach, prompts(3, scenes=False), nfe=2)
    assert again.tokens == made.tokens and again.seconds["plan"] > 0.2 * made.seconds["plan"]
    assert [entry["plan"] for entry in again.trace] == [entry["plan"] for entry in made.trace]


def test_the_flops_of_a_prompt_do_not_depend_on_what_was_planned_before(shared) -> None:
    approach, latents = (
        build(shared),
        torch.zeros(1, shared.codecs["image"].channels, shared.latent_size, shared.latent_size),
    )
    assert flops_per_evaluation(approach, latents) == flops_per_evaluation(approach, latents)


# ------------------------------------------------------------------------------------------------------------ text


def test_text_is_the_language_models_and_captions_are_the_captioners(shared) -> None:
    approach = build(shared)
    words = ["once upon a time", "there was"]
    tokens, mask = shared.tokenise(words)
    base = shared.language_model.transformer
    with torch.no_grad():
        logits, state = approach.text_start([Prompt.text(text) for text in words])
        expected = base.logits(base(tokens))[torch.arange(2), mask.sum(1) - 1]
        close(logits, expected, 1e-4)
        further, _ = approach.text_step(torch.tensor([[11, 12, 13], [14, 15, 16]]), state)
        row = torch.cat([tokens[1][mask[1]], torch.tensor([14, 15, 16])])
        close(further[1], base.logits(base(row[None]))[0, -3:], 1e-4)
        pictures = torch.stack([torch.randn(4, 8, 8, generator=generator(0, "x", i)) for i in range(2)])
        logits, state = approach.text_start([Prompt.image(latent) for latent in pictures])
        further, _ = approach.text_step(tokens[:, 1:], state)
        approach.language_model.transformer.embed.weight.zero_()
        again, _ = approach.text_start([Prompt.image(latent) for latent in pictures])
    assert torch.equal(again, logits) and not torch.allclose(logits[0], logits[1], atol=1e-4)


def test_captions_are_trained_as_they_are_written(shared) -> None:
    approach, batch = build(small_shared()), small_batch(shared, 4)
    tokens, mask = batch.describe.tokens, batch.describe.mask
    with torch.no_grad():
        term = approach.losses(batch, small_generators())["caption"]
        logits, state = approach.text_start([Prompt.image(latent) for latent in batch.describe.latents])
        following, _ = approach.text_step(tokens[:, 1:-1], state)
        whole = torch.cat([logits[:, None], following], 1).log_softmax(-1)
    nats = -whole.gather(-1, tokens[:, 1:, None])[..., 0]
    close(nats[mask[:, 1:]].sum(), term.sum, 1e-3)
    assert int(term.count) == int(mask[:, 1:].sum()) and term.weight == SMALL.caption_weight
    start = approach.text_start([Prompt.image(latent) for latent in batch.describe.latents])
    written = decode(start, approach.text_step, limit=5, end_id=approach.language_model.end_id)
    assert len(written) == len(batch.describe)


@pytest.mark.parametrize(
    ("field", "value"), [("width", 50), ("captioner_width", 36), ("checker_width", 36), ("plan_tokens", 250)]
)
def test_settings_that_do_not_fit_are_named(shared, field: str, value: int) -> None:
    with pytest.raises(UserError, match=f"settings.{field} is {value}"):
        Modular(shared, ModularSettings(**{**dataclasses.asdict(SMALL), field: value}))
