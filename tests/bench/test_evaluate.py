"""Evaluation: what a number means is held against cases whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from approaches.base import Prompt
from approaches.registry import APPROACHES
from bench.config import Config, DataConfig, DiffusionConfig, EvaluateConfig, TextConfig
from bench.console import Console
from bench.data.text import TextFile
from bench.evaluate import hold_out, measure, validation_losses
from bench.sampler import Sampling, draw
from tests.approaches.small import small_shared

CONFIG = Config(
    data=DataConfig(train_items=64, eval_items=64),
    text=TextConfig(name="file"),
    diffusion=DiffusionConfig(nfe=2),
    evaluate=EvaluateConfig(pictures=6, captions=6, documents=5, triples=12, batch=5),
)


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(f"Paragraph {i} tells of number {i * i}, and of nothing else." for i in range(300)))
    shared = small_shared()
    config = replace(CONFIG, text=replace(CONFIG.text, path=str(path)))
    return shared, hold_out(config, shared, TextFile.build(config.text), Console())


@pytest.mark.parametrize("name", list(APPROACHES))
def test_an_untrained_approach_has_every_number_and_hears_nothing(held, name):
    shared, fixed = held
    entry = APPROACHES[name]
    approach = entry.load().build(small_shared(), entry.load_settings()())
    base = small_shared().language_model
    found = measure(approach, fixed, CONFIG, base, Console()).metrics
    for metric in ("validation_loss", "caption_gap", "caption_loss", "perplexity_retention", "top1_agreement"):
        assert found[metric].value is not None, found[metric].reason
    assert found["caption_gap"].value == pytest.approx(0, abs=1e-6)  # the output starts at zero, whatever the caption
    assert found["perplexity_retention"].value == 1.0
    assert found["top1_agreement"].value == 1.0 and found["kl_base_adapted"].value == 0.0


def test_a_number_does_not_depend_on_the_batch_size(held):
    shared, fixed = held
    entry = APPROACHES["dual_tower"]
    approach = entry.load().build(small_shared(), entry.load_settings()()).eval()
    with torch.no_grad():
        for parameter in approach.parameters():
            if parameter.requires_grad:
                parameter.add_(0.03 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    one, many = validation_losses(approach, fixed, 1), validation_losses(approach, fixed, 12)
    np.testing.assert_allclose(one[0], many[0], rtol=1e-4)
    np.testing.assert_allclose(one[1], many[1], rtol=1e-4)
    prompts = [Prompt.text(captions[0]) for captions in fixed.test.captions[:5]]
    sampling = Sampling(diffusion=shared.diffusion, nfe=3, guidance=2.0)
    shape = tuple(fixed.noise.shape[1:])
    whole = draw(approach, prompts, sampling, shape=shape, seed=0, batch=5)
    parts = draw(approach, prompts, sampling, shape=shape, seed=0, batch=2)
    torch.testing.assert_close(whole.latents, parts.latents, atol=1e-4, rtol=1e-4)
    assert whole.nfe == [3] * 5
    other = draw(approach, prompts, sampling, shape=shape, seed=1, batch=5)
    assert not torch.allclose(whole.latents, other.latents)


def test_a_changed_language_model_loses_text(held):
    shared, fixed = held
    entry = APPROACHES["full_retraining"]
    approach = entry.load().build(small_shared(), entry.load_settings()())
    with torch.no_grad():
        for parameter in approach.language_model.parameters():
            parameter.mul_(1.2)
    found = measure(approach, fixed, CONFIG, shared.language_model, Console()).metrics
    values = {
        name: float(found[name].value or 0) for name in ("perplexity_retention", "kl_base_adapted", "top1_agreement")
    }
    assert 0 < values["perplexity_retention"] < 0.9
    assert values["kl_base_adapted"] > 0.05 and 0 < values["top1_agreement"] < 0.95
