"""Each of our approaches on language models with what the shipped one has not: biases, a head of their own, grouped
queries, normed queries and keys, layers without positions."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from approaches.base import Approach, Prompt, Shared
from approaches.registry import APPROACHES
from approaches.shared.kernels import choose
from approaches.shared.language_model import LanguageModel
from approaches.shared.transformer import Block, Transformer
from bench.sampler import Sampling, draw
from tests.approaches.checkpoints import drawn
from tests.approaches.small import samples, small_batch, small_generators, small_shared

FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": {"qkv_bias": True, "tied": False},
    "qwen3": {"qk_norm": True, "head_width": 24},
    "smollm3": {"unrotated": (1,)},
}
NAMES = [name for name in APPROACHES if APPROACHES[name].load().__module__.startswith("approaches.")]


def shared_of(family: str) -> Shared:
    """The small parts with a language model of a family, its weights drawn wide."""
    shared = small_shared()
    old = shared.language_model.transformer.config
    config = replace(old, width=48, layers=3, heads=4, kv_heads=2, head_width=12, hidden=64)
    transformer = drawn(Transformer(replace(config, **FAMILIES[family]), choose("cpu")))
    return replace(shared, language_model=LanguageModel(transformer, shared.language_model.tokenizer))


def built(name: str, family: str) -> tuple[Shared, Approach]:
    """An approach of ours in its own settings."""
    shared, entry = shared_of(family), APPROACHES[name]
    return shared, entry.load()(shared, entry.load_settings()())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", NAMES)
def test_an_approach_learns_draws_describes_and_writes(name: str, family: str) -> None:
    shared, approach = built(name, family)
    base = copy.deepcopy(shared.language_model.transformer)
    optimizer = torch.optim.AdamW([{"params": list(g.parameters)} for g in approach.parameter_groups()], lr=1e-3)
    reached = set()
    for step in range(3):  # some gates open from 0
        optimizer.zero_grad()
        losses = approach.train().losses(small_batch(shared, 4, step), small_generators(0, step))
        torch.stack([loss.weight * loss.sum / loss.count for loss in losses.values()]).sum().backward()
        reached |= {n for n, p in approach.named_parameters() if p.grad is not None and bool(p.grad.any())}
        optimizer.step()
    assert reached == {n for n, p in approach.named_parameters() if p.requires_grad}

    approach.eval()
    prompts = [Prompt.text(sample.caption, sample.scene) for sample in samples(100, 3)]
    latents = small_batch(shared, 3, 9).draw.latents
    words, language_model = "a red circle left of a dark blue square", shared.language_model
    begun = [language_model.start_id, *language_model.encode(words)]
    read, tokens = len(begun), torch.tensor([[*begun, *range(50, 61)]])
    with torch.no_grad():
        sampling = Sampling(nfe=2, guidance=2.0)
        pictures = draw(approach, prompts, sampling, seed=0, batch=3).latents
        assert pictures.shape == latents.shape and bool(torch.isfinite(pictures).all())
        logits, state = approach.text_start([Prompt.image(latent) for latent in latents])
        assert bool(torch.isfinite(approach.text_step(logits.argmax(-1, keepdim=True), state)[0]).all())
        whole = approach.text_logits(tokens)
        first, state = approach.text_start([Prompt.text(words)])
        rest, _ = approach.text_step(tokens[:, read:], state)
        torch.testing.assert_close(torch.cat([first[:, None], rest], 1), whole[:, read - 1 :], atol=1e-4, rtol=1e-4)
        kept = torch.equal(whole, base.logits(base(tokens)))
    assert kept == (name != "full_retraining")


@pytest.mark.parametrize("variant", ["gated", "dual_projection"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_tower_begins_as_the_language_model_has_it(family: str, variant: str) -> None:
    """What is copied is all of a layer: its biases, the norms of its heads, and whether it turns by position."""
    shared, entry = shared_of(family), APPROACHES["dual_tower"]
    approach = entry.load()(shared, entry.load_settings()(variant=variant))
    blocks = [block for block in approach.modules() if isinstance(block, Block)]
    theirs = shared.language_model.transformer.blocks
    assert len(blocks) == 2 * len(theirs)
    for place, block in enumerate(blocks):
        own = theirs[place % len(theirs)]
        assert block.rotates == own.rotates
        assert block.state_dict().keys() == own.state_dict().keys()
        assert all(torch.equal(value, own.state_dict()[name]) for name, value in block.state_dict().items())


def matrices(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value for name, value in module.state_dict().items() if value.ndim == 2}


@pytest.mark.parametrize("start", ["language_model", "scratch"])
def test_what_starts_from_scratch_has_nothing_of_the_language_model(start: str) -> None:
    shared = small_shared()
    theirs = matrices(shared.language_model.transformer.blocks)
    for name in ("full_retraining", "dual_tower"):
        entry = APPROACHES[name]
        approach: Any = entry.load()(shared, entry.load_settings()(start=start))
        own = matrices(approach.tower.text.blocks if name == "full_retraining" else approach.towers.vision)
        assert own.keys() == theirs.keys()
        assert [torch.equal(own[each], theirs[each]) for each in own] == [start == "language_model"] * len(own), name
        # the dual tower has the frozen one beside it all the same
        assert ("language_model" in approach.borrowed()) == (start == "language_model" or name == "dual_tower")


def test_a_tower_of_another_width_has_the_language_models_attention() -> None:
    shared, entry = small_shared(), APPROACHES["dual_tower"]
    approach: Any = entry.load()(shared, entry.load_settings()(hidden=128))
    own, theirs = matrices(approach.towers.vision), matrices(shared.language_model.transformer.blocks)
    alike = {name: own[name].shape == theirs[name].shape and torch.equal(own[name], theirs[name]) for name in own}
    mlp = {name for name in own if any(part in name for part in (".gate.", ".up.", ".down."))}
    assert mlp and {name for name, same in alike.items() if not same} == mlp


def test_copied_words_begin_as_the_language_models() -> None:
    shared = small_shared()
    words = shared.language_model.transformer.embed.weight
    tower: Any = APPROACHES["dual_tower"].load()(shared, APPROACHES["dual_tower"].load_settings()())
    projection: Any = APPROACHES["projection"].load()(shared, APPROACHES["projection"].load_settings()())
    for own in (tower.towers.own.weight, projection.words.weight):
        assert torch.equal(own, words) and own.requires_grad and own is not words


def test_low_rank_updates_begin_at_nothing() -> None:
    shared, entry = small_shared(), APPROACHES["full_retraining"]
    approach = entry.load()(shared, entry.load_settings()(variant="lora")).eval()
    tokens, base = torch.tensor([[5, 60, 7, 90]]), shared.language_model.transformer
    with torch.no_grad():
        torch.testing.assert_close(approach.text_logits(tokens), base.logits(base(tokens)))
