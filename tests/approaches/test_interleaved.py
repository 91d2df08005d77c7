"""The sequence approaches against the naive form: every tower over every token of the whole sequence."""

import dataclasses
import functools
from typing import Any

import pytest
import torch

from approaches.base import Prompt
from approaches.dual_tower import DualTower
from approaches.full_retraining import FullRetraining
from approaches.settings import DualTowerSettings, FullRetrainingSettings
from approaches.shared.encoder import Encoder
from approaches.shared.interleaved import Tap
from approaches.shared.kernels.attention import attention
from approaches.shared.low_rank import LowRank
from approaches.shared.prefix import Prefix
from bench.errors import UserError
from tests.approaches.small import small_batch, small_generators, small_shared
from tests.approaches.whole import Whole

VARIANTS = [
    FullRetrainingSettings(),
    FullRetrainingSettings(variant="lora", lora_rank=4),
    FullRetrainingSettings(image_attention="causal"),
    DualTowerSettings(),
    DualTowerSettings(variant="dual_projection"),
    DualTowerSettings(variant="gated"),
    DualTowerSettings(variant="crossing"),
    DualTowerSettings(variant="crossing", words="frozen"),
    DualTowerSettings(fuse=True),
    DualTowerSettings(hidden=128),
]


@pytest.fixture(scope="module")
def shared():
    return small_shared()


def build(shared, settings):
    """The approach with every trained weight moved off its start, so that gates and zero-initialised parts count."""
    kind = FullRetraining if isinstance(settings, FullRetrainingSettings) else DualTower
    approach = kind(shared, settings).eval()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in approach.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
    return approach


def naive(tower, whole, x, words):
    """Every tower over all tokens of the sequence; a token then keeps what its variant says. B T D -> B T D.

    words: the text's tokens, of which the vision tower has embeddings of its own."""
    dual = hasattr(tower, "vision")
    mask = whole.attention_mask(causal_image="image" in tower.causal)
    rope = tower.text.rotary(whole.positions, x.dtype)
    is_text = torch.zeros(whole.length, dtype=torch.bool)
    is_text[whole.text_places] = True
    choose = is_text[None, :, None]

    def block(own, x, k=None, v=None):
        normed = own.attention_norm(x)
        if k is None:
            k, v = own.keys_values(normed, rope)
        mixed = attention(own.queries(normed, rope), k, v, mask=mask, backend="eager")
        h = x + own.output(mixed)
        return h + own.mlp(h)

    for index, text in enumerate(tower.text.blocks):
        if not dual:
            x = block(text, x)
            continue
        vision = tower.vision[index]
        pairs = [own.keys_values(own.attention_norm(x), rope) for own in (text, vision)]
        per_head = is_text[None, None, :, None]
        by_owner = [torch.where(per_head, a, b) for a, b in zip(*pairs, strict=True)]
        by_text = block(text, x, *by_owner) if tower.variant in ("dual_projection", "crossing") else block(text, x)
        if tower.variant == "dual_projection":
            by_vision = block(vision, x, *by_owner)
        else:
            read = x
            if tower.own is not None:
                words_seen = tower.own(words)
                if index:  # both at unit size
                    states = x[:, is_text]
                    sizes = [v.square().mean(-1, keepdim=True).sqrt() for v in (states, words_seen)]
                    words_seen = states / sizes[0] + words_seen / sizes[1]
                read = x.masked_scatter(choose, words_seen)
            by_vision = block(vision, x, *vision.keys_values(vision.attention_norm(read), rope))
        if tower.gamma is not None:
            by_vision = by_text + tower.gamma[index] * by_vision
        if tower.beta is not None:
            by_vision = tower.alpha[index] * by_vision + tower.beta[index] * by_text
        x = torch.where(choose, by_text, by_vision)
    return x


def tower_of(approach):
    return approach.tower if isinstance(approach, FullRetraining) else approach.towers


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
@torch.no_grad()
def test_drawing_and_describing_equal_the_naive_form(shared, settings):
    approach = build(shared, settings)
    tower, batch = tower_of(approach), small_batch(shared, rows=6)
    count = shared.patchify.tokens
    # text first
    x_t = batch.noise
    words = shared.tokenise(batch.draw.captions)
    prompts = [Prompt.text(caption) for caption in batch.draw.captions]
    given = approach.denoise(x_t, batch.times, approach.condition(prompts))
    tokens, mask = words
    whole = Whole(mask, count, text_first=True)
    picture, entered = tower.image(x_t, batch.times)
    x = torch.cat([tower.text.embed(tokens), picture], 1)
    hidden = naive(tower, whole, x, tokens)
    expected = tower.image.predict(hidden[:, whole.image_places], entered)
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-4)
    assert float(given.abs().mean()) > 1e-3
    # image first
    tokens, mask = batch.describe.prompt
    latents = batch.describe.latents
    whole = Whole(mask, count, text_first=False)
    x = torch.cat([tower.image(latents, torch.zeros(len(latents)))[0], tower.text.embed(tokens)], 1)
    hidden = tower.text.norm(naive(tower, whole, x, tokens)[:, whole.text_places])
    logits = tower.text.logits(hidden)
    start, state = approach.text_start([Prompt.image(latent) for latent in latents])
    torch.testing.assert_close(start, logits[:, 0], atol=2e-4, rtol=1e-4)
    rest, _ = approach.text_step(tokens[:, 1:], state)
    real = mask[:, 1:]
    torch.testing.assert_close(rest[real], logits[:, 1:][real], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
@torch.no_grad()
def test_a_picture_sees_all_of_itself_unless_it_is_causal(shared, attention):
    tower = build(shared, FullRetrainingSettings(image_attention=attention)).tower
    tokens = torch.randn(2, 10, tower.text.config.width, generator=torch.Generator().manual_seed(0))
    other = tokens.clone()
    other[:, 6] += 1
    for before in (None, tower.read_text(torch.full((2, 3), 7), keep=("all",))[1]):
        one, two = (tower.read(x, "image", before)[0] for x in (tokens, other))
        changed = (one != two).any(2).all(0).tolist()
        assert changed == [attention == "bidirectional" or place >= 6 for place in range(10)]


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_the_training_loss_is_the_shared_path_s(shared, settings):
    """losses() equals condition + denoise on the same triples, within 1e-5."""
    approach, batch = build(shared, settings), small_batch(shared, rows=6)
    batch = dataclasses.replace(batch, empty=torch.zeros_like(batch.empty))
    terms = approach.losses(batch, lambda purpose: torch.Generator().manual_seed(0))
    with torch.no_grad():
        x_t = shared.diffusion.add_noise(batch.draw.latents, batch.noise, batch.times)
        given = approach.denoise(x_t, batch.times, approach.condition([Prompt.text(c) for c in batch.draw.captions]))
        error = shared.diffusion.loss(given, shared.diffusion.target(batch.draw.latents, batch.noise, batch.times))
    assert float(terms["diffusion"].sum.detach()) == pytest.approx(float(error.sum()), rel=1e-5)
    assert terms["diffusion"].count == len(batch.draw)


@pytest.mark.parametrize("settings", [s for s in VARIANTS if isinstance(s, DualTowerSettings)], ids=str)
@torch.no_grad()
def test_text_alone_gives_the_base_model_s_logits_bit_for_bit(shared, settings):
    approach = build(shared, settings)
    tokens = torch.randint(3, 4000, (3, 37), generator=torch.Generator().manual_seed(0))
    base = shared.language_model.transformer
    expected = base.logits(base(tokens))
    assert torch.equal(approach.text_logits(tokens), expected)
    weight = base.blocks[2].up.weight
    kept = weight[0, 0].clone()
    weight[0, 0] += 0.1
    assert not torch.equal(approach.text_logits(tokens), expected)
    weight[0, 0] = kept


@torch.no_grad()
def test_text_around_pictures_equals_text_alone_before_them(shared):
    """Text before an image never sees it: a text, image, text prompt reads its first text as the base does."""
    approach = build(shared, DualTowerSettings())
    latent = small_batch(shared, rows=6).draw.latents[0]
    prompt = Prompt(segments=(("text", "a red circle"), ("image", latent), ("text", "what is this")))
    logits, state = approach.text_start([prompt, prompt])
    assert logits.shape == (2, shared.language_model.transformer.config.vocabulary)
    torch.testing.assert_close(logits[0], logits[1], atol=1e-5, rtol=1e-5)
    alone = Prefix.nothing(1)
    tokens, mask = shared.tokenise(["a red circle"])
    _, prefix = approach.towers.read_text(tokens, alone, mask, keep=("text",))
    for (k, _), (other, _) in zip(state.readers["text"], prefix.readers["text"], strict=True):
        torch.testing.assert_close(k[:1, :, : tokens.shape[1]], other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("settings", VARIANTS[:4], ids=str)
@torch.no_grad()
def test_neither_batch_nor_padding_changes_a_row(shared, settings):
    approach, batch = build(shared, settings), small_batch(shared, rows=6)
    texts = ["a cross", "three large blue squares and a small red circle on a dark background", ""]
    x_t, t = batch.noise[:3], batch.times[:3]
    together = approach.denoise(x_t, t, approach.condition([Prompt.text(text) for text in texts]))
    conditions = [approach.condition([Prompt.text(text)]) for text in texts]
    for row, condition in enumerate(conditions):
        alone = approach.denoise(x_t[row : row + 1], t[row : row + 1], condition)
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-4)
    joined = Prefix.cat(conditions).select(torch.tensor([2, 0, 1, 1]))
    again = approach.denoise(x_t[[2, 0, 1, 1]], t[[2, 0, 1, 1]], joined)
    torch.testing.assert_close(again, together[[2, 0, 1, 1]], atol=1e-5, rtol=1e-4)


def test_weights_and_rates_are_those_of_the_settings(shared):
    batch, draws = small_batch(shared, rows=6), lambda purpose: torch.Generator().manual_seed(0)
    rates: dict[str, Any] = {"words_learning_rate_ratio": 3.0, "caption_weight": 0.2}
    one = FullRetraining(
        shared, FullRetrainingSettings(replay_weight=0.3, prompt_weight=0.7, lm_learning_rate_ratio=0.5, **rates)
    )
    weights = {name: term.weight for name, term in one.losses(batch, draws).items()}
    assert weights == {"diffusion": 1.0, "prompt": 0.7, "caption": 0.2, "replay": 0.3}
    told = batch.draw.targets[~batch.empty] != -100  # a caption that is left out is not learned
    assert bool(batch.empty.any()) and one.counts(batch)["prompt"] == told.sum()
    assert {g.name: g.ratio for g in one.parameter_groups()} == {"words": 3.0, "language_model": 0.5, "new": 1.0}
    two = DualTower(shared, DualTowerSettings(**rates))
    assert {name: term.weight for name, term in two.losses(batch, draws).items()} == {"diffusion": 1.0, "caption": 0.2}
    assert {g.name: g.ratio for g in two.parameter_groups()} == {"words": 3.0, "new": 1.0}


def test_each_term_is_a_mean_over_what_it_predicts(shared):
    batch = small_batch(shared, rows=6, levels=2)

    def words(captions):  # and the end of each
        return [len(shared.language_model.encode(caption)) + 1 for caption in captions]

    drawn, described = words(batch.draw.captions), words(batch.describe.captions)
    assert batch.empty.tolist() == [False, True] + [False] * 4

    def counts(approach):
        losses = approach.losses(batch, lambda purpose: torch.Generator().manual_seed(0))
        return {name: float(term.count) for name, term in losses.items()}

    one = counts(FullRetraining(shared, FullRetrainingSettings(replay_share=0.6, prompt_weight=0.7)))
    # of three windows of 24 tokens, 0.6 of them are two, and the first token of each is given
    assert one == {"diffusion": 12, "caption": sum(described), "prompt": sum(drawn) - drawn[1], "replay": 46}
    assert counts(DualTower(shared, DualTowerSettings())) == {"diffusion": 12, "caption": sum(described)}


@torch.no_grad()
def test_replayed_text_costs_its_next_tokens(shared):
    approach, batch = FullRetraining(shared, FullRetrainingSettings(replay_share=0.6)), small_batch(shared, rows=6)
    term = approach.losses(batch, lambda purpose: torch.Generator().manual_seed(0))["replay"]
    log_p = approach.text_logits(batch.text[:2, :-1]).log_softmax(-1)
    nats = -log_p.gather(-1, batch.text[:2, 1:, None])
    assert float(term.sum) == pytest.approx(float(nats.sum()), rel=1e-4) and float(term.count) == nats.numel()


def test_text_that_is_longer_than_the_model_reads_is_not_replayed(shared):
    batch = dataclasses.replace(small_batch(shared, rows=6), text=torch.zeros(3, 400, dtype=torch.long))
    for of in (FullRetraining.counts, functools.partial(FullRetraining.losses, generators=small_generators())):
        with pytest.raises(UserError, match="replay_tokens is 399, expected at most the language model's context of "):
            of(FullRetraining(shared, FullRetrainingSettings(replay_share=0.6)), batch)


@torch.no_grad()
def test_a_low_rank_update_is_added_twice_over():
    layer = LowRank(torch.nn.Linear(2, 2, bias=False), 1)
    for weight, values in ((layer.base.weight, [[1.0, 0], [0, 1]]), (layer.down, [[1.0, 2]]), (layer.up, [[3.0], [5]])):
        weight.copy_(torch.tensor(values))
    assert layer(torch.tensor([[1.0, 1]])).tolist() == [[1 + 2 * 9, 1 + 2 * 15]]


def test_a_token_is_its_patch_its_place_and_the_time(shared):
    tokens = build(shared, FullRetrainingSettings()).tower.image
    x_t = small_batch(shared).noise[:2]
    made, _ = tokens(x_t, torch.tensor([0.1, 0.9]))
    time = tokens.time(torch.tensor([0.1, 0.9]))
    patches, _ = tokens.patches.encode(x_t, time)
    assert (time[0] - time[1]).abs().max() > 0.01
    torch.testing.assert_close(made[:, 1:-1], patches + tokens.place + time[:, None])
    for place, edge in ((0, tokens.begin), (-1, tokens.end)):
        torch.testing.assert_close(made[:, place], edge + time)


@pytest.mark.parametrize(
    ("kind", "settings"), [(DualTower, DualTowerSettings), (FullRetraining, FullRetrainingSettings)]
)
def test_a_picture_that_leaves_no_room_for_its_caption_is_refused(shared, kind, settings):
    large = dataclasses.replace(shared, latent_size=32)
    with pytest.raises(UserError, match="a picture of 256 tokens, the 1 tokens of .* context of 256 tokens: raise"):
        kind(large, settings())
    for spoken, mend in (("many words " * 30, "raise train.patch"), ("many words " * 90, "shorten it")):
        talkative = dataclasses.replace(shared, describe_prompt=spoken, latent_size=24)
        with pytest.raises(UserError, match=f"and a caption of 40 don't fit .* of 256 tokens: {mend}"):
            kind(talkative, settings())


def test_each_noised_picture_is_aligned_with_its_own_clean_one(shared):
    def encoder(pictures):
        return torch.from_numpy(pictures).flatten(1)[:, 1500:1508].float()

    seeing = dataclasses.replace(shared, encoder=Encoder(features=encoder, width=8, parameter_count=77))
    approach, batch = build(seeing, DualTowerSettings(alignment=0.4)), small_batch(seeing, rows=3, levels=2)
    hidden = torch.randn(6, shared.patchify.tokens + 2, shared.language_model.transformer.config.width)
    found = approach._misaligned(hidden, batch)
    for row in range(6):
        own = approach.align(hidden[row, 1:-1].mean(0))  # without the frame
        expected = 1 - torch.cosine_similarity(own, encoder(batch.draw.pictures)[row // 2], dim=0)
        torch.testing.assert_close(found[row], expected)
    term = approach.losses(batch, lambda purpose: torch.Generator().manual_seed(0))["alignment"]
    assert (term.weight, term.count) == (0.4, 6)
    seen = []

    def misaligned(hidden, batch):
        seen.append(hidden)
        return found

    approach._misaligned = misaligned
    approach.losses(batch, lambda purpose: torch.Generator().manual_seed(0))
    third = Tap(2)  # of six layers, the last of the first half, as X-Fusion's eighth of sixteen
    approach.diffusion_errors(
        batch, approach._read_text(*batch.drawn_prompt()), functools.partial(approach.towers.denoise, tap=third)
    )
    assert len(approach.towers.vision) == 6 and torch.equal(seen[0], third.hidden)
    debt = approach.borrowed()
    assert debt.pop("encoder") == 77 and build(seeing, DualTowerSettings()).borrowed() == debt
