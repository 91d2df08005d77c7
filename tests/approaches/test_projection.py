"""Projection: what is frozen stays, what is trained learns, and training, sampling and decoding are one thing."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from approaches.base import Batch, Loss, Prompt
from approaches.projection import Projection
from approaches.registry import APPROACHES
from approaches.settings import ProjectionSettings
from approaches.shared.decoding import decode, score
from approaches.shared.denoiser import Prepared
from approaches.shared.language_model import named_hash
from bench.errors import UserError
from tests.approaches.small import small_batch, small_generators, small_shared

READOUTS = ("learned_queries", "random_queries", "last_hidden")
CONNECTORS = ("qformer", "encoder", "mlp", "linear")
WAYS = list(itertools.product(CONNECTORS, READOUTS))
LITTLE = ProjectionSettings(queries=5, width=48, layers=2, heads=4, connector_depth=1, encoder_layers=1)
TEXTS = ("a red circle", "", "two small blue squares and a large yellow triangle on a dark background")


def made(seed: int = 0, settings: ProjectionSettings = LITTLE, **changes: Any) -> Projection:
    return Projection(small_shared(seed), replace(settings, **changes))


def shallow(**changes: Any) -> Projection:
    """Around a language model cut to its first two layers, which is quicker to train around."""
    shared = small_shared()
    transformer = shared.language_model.transformer
    transformer.blocks, transformer.config = transformer.blocks[:2], replace(transformer.config, layers=2)
    return Projection(shared, replace(LITTLE, **changes))


def alive(model: Projection) -> Projection:
    """With every zero-initialised weight drawn, so that nothing is hidden behind a zero."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.2, generator=draw)
    return model


def total(terms: dict[str, Loss]) -> Tensor:
    return torch.stack([term.weight * term.sum / term.count for term in terms.values()]).sum()


def train(model: Projection, batches: list[Batch], steps: int) -> list[dict[str, float]]:
    """The means of each term, step by step."""
    parameters = [parameter for group in model.parameter_groups() for parameter in group.parameters]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3)
    curve = []
    for step in range(steps):
        terms = model.losses(batches[step % len(batches)], small_generators(step=step))
        optimizer.zero_grad()
        total(terms).backward()
        optimizer.step()
        curve.append({name: float(term.sum.detach() / term.count) for name, term in terms.items()})
    return curve


def prompts(*texts: str) -> list[Prompt]:
    return [Prompt.text(text) for text in texts]


def noisy(rows: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    return torch.randn(rows, 4, 8, 8, generator=draw), torch.rand(rows, generator=draw)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


@pytest.fixture(scope="module")
def model() -> Projection:
    return alive(made())


@pytest.mark.parametrize(("connector", "readout"), WAYS)
def test_fifty_steps_lower_both_losses_and_leave_the_language_model(connector: str, readout: str) -> None:
    model = shallow(connector=connector, readout=readout)
    batches = [small_batch(model.shared, 4, step) for step in range(2)]
    tokens = batches[0].draw.tokens
    transformer = model.shared.language_model.transformer
    with torch.no_grad():
        base = transformer.logits(transformer(tokens))
        assert torch.equal(model.text_logits(tokens), base)
    weights, frozen = named_hash(model.language_model.state_dict()), model.frozen_hash()
    first = {name: value.clone() for name, value in model.trained_state().items()}
    curve = train(model, batches, 50)
    for term in ("diffusion", "caption"):
        early, late = (sum(row[term] for row in rows) / 4 for rows in (curve[:4], curve[-4:]))
        assert late < 0.8 * early, (term, early, late)
    assert named_hash(model.language_model.state_dict()) == weights
    assert model.frozen_hash() == frozen
    with torch.no_grad():
        assert torch.equal(model.text_logits(tokens), base)
    assert [name for name, value in model.trained_state().items() if torch.equal(value, first[name])] == []


@pytest.mark.parametrize(("connector", "readout"), WAYS)
def test_gradients_reach_all_that_is_trained_and_nothing_else(connector: str, readout: str) -> None:
    model = shallow(connector=connector, readout=readout)
    train(model, [small_batch(model.shared, 4)], 3)
    model.zero_grad()
    total(model.losses(small_batch(model.shared, 4, 1), small_generators())).backward()
    grouped = {id(parameter) for group in model.parameter_groups() for parameter in group.parameters}
    without, names = [], set(model.trained_state())
    for name, parameter in model.named_parameters():
        assert (id(parameter) in grouped) is (name in names), name
        if name not in names:
            assert parameter.grad is None, name
        elif parameter.grad is None or not parameter.grad.any():
            without.append(name)
    assert without == []
    frozen = {name for name, _ in model.named_parameters() if name not in names}
    untrained = {"queries"} if readout == "random_queries" else set()
    assert frozen == {f"language_model.{name}" for name, _ in model.language_model.named_parameters()} | untrained
    assert ("queries" in names) is (readout == "learned_queries")
    assert (model.queries is None) is (readout == "last_hidden")


@pytest.mark.parametrize("words", ["own", "frozen"])
def test_frozen_readouts_keep_no_graph_of_the_language_model(words: str) -> None:
    batch = small_batch(small_shared(), 2)
    for readout in READOUTS:
        model = made(readout=readout, words=words)
        seen: list[bool] = []
        model.connector.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0].requires_grad))
        model.losses(batch, small_generators())
        assert seen == [readout == "learned_queries" or words == "own"]


def test_a_perturbed_frozen_weight_shows(model: Projection) -> None:
    tokens = torch.tensor([[model.language_model.start_id, *model.language_model.encode(TEXTS[2])]])
    weight = model.transformer.blocks[2].get_parameter("mlp_norm.weight")
    with torch.no_grad():
        before, hashed = model.text_logits(tokens), model.frozen_hash()
        weight[0] += 1e-3
        after, rehashed = model.text_logits(tokens), model.frozen_hash()
        weight[0] -= 1e-3
    assert not torch.equal(before, after)
    assert hashed != rehashed


@torch.no_grad()
@pytest.mark.parametrize("readout", READOUTS)
def test_a_row_does_not_depend_on_its_batch(readout: str) -> None:
    model = alive(made(readout=readout))
    x_t, t = noisy(len(TEXTS))
    whole = model.denoise(x_t, t, model.condition(prompts(*TEXTS)))
    for row, text in enumerate(TEXTS):
        alone = model.denoise(x_t[row : row + 1], t[row : row + 1], model.condition(prompts(text)))
        close(alone, whole[row : row + 1], 1e-4)  # other batches are summed in another order
    other = model.denoise(x_t[:1], t[:1], model.condition(prompts("a green cross")))
    assert (other - whole[:1]).abs().max() > 1e-3  # the prompt counts


@torch.no_grad()
@pytest.mark.parametrize("readout", READOUTS)
def test_conditions_select_and_cat(readout: str) -> None:
    model = alive(made(readout=readout)).double()  # in single precision batches of one and three differ by up to 2e-5
    x_t, t = (value.double() for value in noisy(4))
    condition = model.condition(prompts(*TEXTS))
    index = torch.tensor([2, 0, 0, 1])
    parts = [model.condition(prompts(TEXTS[int(row)])) for row in index]
    close(model.denoise(x_t, t, condition.select(index)), model.denoise(x_t, t, Prepared.cat(parts)))


@torch.no_grad()
def test_the_loss_is_that_of_the_sampler_s_own_prediction(model: Projection) -> None:
    batch = small_batch(model.shared, 3)
    captions = [
        "" if empty else caption for caption, empty in zip(batch.draw.captions, batch.empty.tolist(), strict=True)
    ]
    assert captions[1] == ""
    diffusion, latents = model.shared.diffusion, batch.draw.latents
    x_t = diffusion.add_noise(latents, batch.noise, batch.times)
    prediction = model.denoise(x_t, batch.times, model.condition(prompts(*captions)))
    error = diffusion.loss(prediction, diffusion.target(latents, batch.noise, batch.times))
    term = model.losses(batch, small_generators())["diffusion"]
    close(term.sum, error.sum())
    assert term.count == 3 and term.weight == 1


def test_each_term_is_a_mean_over_what_it_predicts(model: Projection) -> None:
    batch = small_batch(model.shared, 6, levels=2)
    words = sum(len(model.language_model.encode(caption)) + 1 for caption in batch.describe.captions)  # and the end
    counts = {name: float(term.count) for name, term in model.losses(batch, small_generators()).items()}
    assert counts == {"diffusion": 12, "caption": words}


def test_the_words_of_a_prompt_learn_at_a_rate_of_their_own() -> None:
    model = made(words_learning_rate_ratio=3.0)
    groups = {group.name: group for group in model.parameter_groups()}
    assert {name: group.ratio for name, group in groups.items()} == {"words": 3.0, "new": 1.0}
    assert model.words is not None and groups["words"].parameters == tuple(model.words.parameters())


@torch.no_grad()
@pytest.mark.parametrize("connector", CONNECTORS)
def test_captions_are_scored_as_they_are_trained(connector: str) -> None:
    model = alive(made(connector=connector))
    batch = small_batch(model.shared, 6)
    describe = batch.describe
    start = model.text_start([Prompt.image(latent) for latent in describe.latents])
    nats = score(start, model.text_step, describe.targets)
    term = model.losses(batch, small_generators())["caption"]
    close(nats.sum(), term.sum, 1e-4)
    assert int(term.count) == int((describe.targets != -100).sum()) and term.weight == LITTLE.caption_weight
    # token by token, as a caption is written; the state that was read from stays as it was
    logits, state = start
    for place in range(4):
        picked = -logits.log_softmax(-1).gather(1, describe.targets[:, place : place + 1])[:, 0]
        close(picked, nats[:, place], 1e-4)
        following, state = model.text_step(describe.targets[:, place : place + 1], state)
        logits = following[:, -1]
    close(score(start, model.text_step, describe.targets), nats)


@torch.no_grad()
def test_text_is_the_language_model_s_own_with_padding_and_cache(model: Projection) -> None:
    language_model = model.language_model
    texts = ("the big red", "a list of everything that was there in the")
    start = model.text_start(prompts(*texts))
    written = decode(start, model.text_step, limit=6, end_id=language_model.end_id)
    for text, ids in zip(texts, written, strict=True):
        assert language_model.decode(ids) == language_model.continue_text(text, tokens=6)
    transformer = language_model.transformer
    for row, text in enumerate(texts):
        tokens = torch.tensor([[language_model.start_id, *language_model.encode(text)]])
        close(start[0][row], transformer.logits(transformer(tokens))[0, -1], 1e-4)


@torch.no_grad()
def test_trained_words_are_read_on_the_way_to_a_picture_and_nowhere_else() -> None:
    model = alive(made())
    asked, (x_t, t) = prompts(*TEXTS[::2]), noisy(2)
    text, drawn = model.text_start(asked)[0], model.denoise(x_t, t, model.condition(asked))
    assert model.words is not None
    next(model.words.parameters()).mul_(2).add_(0.1)
    assert torch.equal(model.text_start(asked)[0], text)
    assert not torch.allclose(model.denoise(x_t, t, model.condition(asked)), drawn, atol=1e-4)


@torch.no_grad()
def test_a_picture_is_read_and_one_row_alone_is_read_the_same(model: Projection) -> None:
    latents = small_batch(model.shared, 6).describe.latents
    logits, _ = model.text_start([Prompt.image(latent) for latent in latents])
    assert (logits[0] - logits[1]).abs().max() > 1e-3
    close(model.text_start([Prompt.image(latents[1])])[0][0], logits[1], 1e-4)


@torch.no_grad()
def test_pictures_and_text_may_alternate(model: Projection) -> None:
    """Padding in the middle, where a short text stands before a picture, moves nothing."""
    latents = small_batch(model.shared, 4).describe.latents
    asked = [
        Prompt(segments=(("text", text), ("image", latent))) for text, latent in zip(TEXTS[1:], latents, strict=True)
    ]
    logits, _ = model.text_start(asked)
    x_t, t = noisy(2)
    drawn = model.denoise(x_t, t, model.condition(asked))
    for row, prompt in enumerate(asked):
        close(model.text_start([prompt])[0][0], logits[row], 1e-4)
        close(model.denoise(x_t[row : row + 1], t[row : row + 1], model.condition([prompt]))[0], drawn[row], 1e-4)


@pytest.mark.parametrize("connector", CONNECTORS)
def test_soft_prompts_start_at_the_embeddings_scale(connector: str) -> None:
    model = made(connector=connector)
    vectors = model.soft_prompts(small_batch(model.shared, 4).describe.latents)
    assert vectors.shape[1] == (LITTLE.queries if connector == "qformer" else model.shared.patchify.tokens)
    scale = model.transformer.embed.weight.detach().square().mean().sqrt()
    close(vectors.square().mean(-1).sqrt(), scale.expand(vectors.shape[:2]), 1e-3)
    if model.queries is not None:
        assert 0.9 < float(model.queries.detach().square().mean().sqrt() / scale) < 1.1


def test_the_seed_decides_the_weights_and_nothing_else_does() -> None:
    torch.manual_seed(1)
    first = made()
    torch.manual_seed(2)
    again, other = made(), made(seed=1)
    assert named_hash(first.state_dict()) == named_hash(again.state_dict())
    assert first.queries is not None and other.queries is not None
    assert not torch.equal(first.queries, other.queries)
    # readouts start from the same queries and differ in whether these are trained
    baseline = made(readout="random_queries")
    assert baseline.queries is not None and torch.equal(first.queries, baseline.queries)


# trained and all parameters of the default settings, with the shipped language model
@pytest.mark.parametrize(
    ("changes", "trained", "whole"),
    [
        ({}, 8_110_228, 11_258_452),
        ({"readout": "random_queries"}, 8_107_156, 11_258_452),
        ({"readout": "last_hidden"}, 8_107_156, 11_255_380),
        ({"connector": "encoder"}, 7_587_604, 10_735_828),
        ({"connector": "mlp"}, 5_890_324, 9_038_548),
        ({"words": "frozen"}, 7_323_796, 10_472_020),
        ({"connector": "linear"}, 5_742_100, 8_890_324),
    ],
)
def test_exact_parameter_counts(changes: dict[str, Any], trained: int, whole: int) -> None:
    model = made(settings=ProjectionSettings(), **changes)
    got = sum(value.numel() for value in model.trained_state().values())
    assert (got, sum(parameter.numel() for parameter in model.parameters())) == (trained, whole)
    assert model.borrowed()["language_model"] == 3_148_224


def test_blocks_are_all_repeated_layers() -> None:
    for connector, connectors in (("qformer", 2), ("encoder", 2), ("mlp", 0)):
        blocks = made(connector=connector).blocks()
        assert len(blocks) == len({id(block) for block in blocks}) == 6 + 1 + connectors + LITTLE.layers


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="settings.width is 50"):
        made(width=50, heads=5)
    with pytest.raises(UserError, match="settings.width is 48, expected a multiple of 4 and of settings.heads, 5"):
        made(heads=5)
    with pytest.raises(UserError, match="context of 256 tokens: lower settings.queries"):
        made(queries=220)
    made(readout="last_hidden", connector="mlp", queries=220)  # which uses none
    with pytest.raises(UserError, match="context of 256 tokens: raise train.patch, or take connector qformer"):
        Projection(replace(small_shared(), caption_tokens=250), replace(LITTLE, connector="mlp", queries=1))
    patches = small_shared().patchify.tokens  # as many queries, of which `last_hidden` uses none
    with pytest.raises(UserError, match="context of 256 tokens: raise train.patch, or take connector qformer"):
        settings = replace(LITTLE, connector="mlp", readout="last_hidden", queries=patches)
        Projection(replace(small_shared(), caption_tokens=250), settings)


def test_it_is_registered() -> None:
    assert APPROACHES["projection"].load() is Projection
    assert APPROACHES["projection"].load_settings() is ProjectionSettings
