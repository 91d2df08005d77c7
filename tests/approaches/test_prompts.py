"""What stands between a picture and its caption."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from approaches.base import Prompt
from approaches.registry import APPROACHES
from approaches.shared.prompts import gap, lead, read_parts
from bench.batches import led
from tests.approaches.small import small_batch, small_generators, small_shared

WORDS = "picture: "
NAMES = ("full_retraining", "dual_tower", "projection", "modular")


def test_the_words_asked_for_stand_in_the_start_tokens_place() -> None:
    shared = small_shared()
    plain, asked = small_batch(shared, 4).describe, replace(shared, describe_prompt=WORDS)
    words = shared.language_model.encode("picture:")  # the space is the caption's
    model = shared.language_model
    assert len(words) > 1 and lead(model, WORDS) == words and lead(model, "") == [model.start_id]
    rows = led(plain, words)
    assert torch.equal(led(plain, [model.start_id]).tokens, plain.tokens) and rows.lead == len(words)
    assert torch.equal(rows.tokens[:, : len(words)], torch.tensor([words] * len(rows)))
    assert torch.equal(rows.tokens[:, len(words) :], plain.tokens[:, 1:])
    # What is predicted is the caption and its end, as before: not the words.
    assert torch.equal(rows.targets[:, len(words) - 1 :], plain.targets)
    assert bool((rows.targets[:, : len(words) - 1] == -100).all()) and rows.predicted == plain.predicted
    (_, (tokens, mask)) = read_parts(asked, [Prompt.image(plain.latents[0])], text_last=True)[1]
    assert tokens.tolist() == [words] and bool(mask.all())


def test_a_tokenizer_that_puts_a_space_before_every_text_gets_no_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """SentencePiece's, as Llama 2's: its "a" is the piece "\u2581a" already."""
    model = small_shared().language_model
    assert gap(model, WORDS) == " " and gap(model, "picture:") == gap(model, "") == ""
    monkeypatch.setattr(model.tokenizer, "convert_ids_to_tokens", lambda ids: ["\u2581a"])
    assert gap(model, WORDS) == "" and gap(model, "picture:\n ") == gap(model, "picture:\n") == "\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_caption_is_learned_where_it_is_written(name: str) -> None:
    """The loss of training is that of reading a picture, the words and then the caption."""
    shared = replace(small_shared(), describe_prompt=WORDS)
    approach = APPROACHES[name].load()(shared, APPROACHES[name].load_settings()()).eval()
    batch, words = small_batch(shared, 4), lead(shared.language_model, WORDS)
    with torch.no_grad():
        loss = approach.losses(batch, small_generators())["caption"]
        first, state = approach.text_start([Prompt.image(latent) for latent in batch.describe.latents])
        caption = batch.describe.tokens[:, len(words) :]
        rest, _ = approach.text_step(caption[:, :-1], state)
        logits = torch.cat([first[:, None], rest], 1).log_softmax(-1)
        counts = batch.describe.mask[:, len(words) :]
        nats = -(logits.gather(-1, caption[..., None])[..., 0] * counts).sum()
    assert float(loss.sum) == pytest.approx(float(nats), rel=1e-4)
    assert float(loss.count) == float(counts.sum())
