"""The transformer: the same function as transformers' own models, and what a decoder promises."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from approaches.shared.kernels import REFERENCE, choose
from approaches.shared.language_model import LanguageModel, named_hash
from approaches.shared.prefix import Prefix
from approaches.shared.reading import read
from approaches.shared.transformer import Transformer, TransformerConfig
from tests.approaches.checkpoints import SHAPE, drawn, write

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "grouped queries": (LlamaForCausalLM, LlamaConfig, {"num_key_value_heads": 2}),
    "multi-query, wide heads": (LlamaForCausalLM, LlamaConfig, {"num_key_value_heads": 1, "head_dim": 16}),
    "untied head": (LlamaForCausalLM, LlamaConfig, {"tie_word_embeddings": False}),
    "biases": (LlamaForCausalLM, LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    "llama3 positions": (LlamaForCausalLM, LlamaConfig, {"rope_parameters": LLAMA3}),
    "another theta": (
        LlamaForCausalLM,
        LlamaConfig,
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "rms_norm_eps": 1e-3},
    ),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {"num_key_value_heads": 2}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"num_key_value_heads": 2, "head_dim": 16}),
    "smollm3": (
        SmolLM3ForCausalLM,
        SmolLM3Config,
        {"num_key_value_heads": 2, "no_rope_layer_interval": 2, "pad_token_id": 256},
    ),
    "mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": None, "num_key_value_heads": 2}),
}
CONFIG = TransformerConfig(
    vocabulary=50, width=24, layers=3, heads=6, kv_heads=2, head_width=4, hidden=40, context=64, qkv_bias=True
)


def make(config: TransformerConfig = CONFIG, seed: int = 0) -> Transformer:
    model = Transformer(config, choose("cpu"))
    drawn(model, seed)
    return model


def ids(*shape: int, vocabulary: int = 50, seed: int = 1) -> Tensor:
    return torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(seed))


def close(got: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_loss_and_gradients_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    kind, config, changes = FAMILIES[family]
    theirs = drawn(kind(config(**{**SHAPE, **changes})))
    ours = LanguageModel.load(str(write(theirs, tmp_path))).transformer
    # Longer than the original context of the stretched positions, so that all three ranges of them count.
    tokens = ids(2, 100, vocabulary=SHAPE["vocab_size"])
    with torch.no_grad():
        expected = theirs(tokens).logits
        assert expected.std() > 0.5  # else an error would hide in small numbers
        close(ours.logits(ours(tokens)), expected, 1e-4)

    reference = theirs(tokens, labels=tokens).loss
    total, count = ours.loss(tokens)
    assert count == 2 * 99
    close(total / count, reference, 1e-5)
    reference.backward()
    (total / count).backward()
    for name, parameter in ours.named_parameters():
        expected = theirs.get_parameter(_their_name(name)).grad
        difference = (parameter.grad - expected).norm() / expected.norm().clamp(min=1e-6)
        assert difference < 1e-4, (name, float(difference))


def _their_name(name: str) -> str:
    outer = {"embed.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight"}
    if name in outer or name == "head.weight":
        return outer.get(name, "lm_head.weight")
    _, layer, part, kind = name.split(".")
    inner = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
    inner |= {norm: f"self_attn.{norm}" for norm in ("q_norm", "k_norm")}
    place = inner.get(part) or (f"self_attn.{part}_proj" if part in "qkvo" else f"mlp.{part}_proj")
    return f"model.layers.{layer}.{place}.{kind}"


def test_targets_to_ignore_dont_count_and_may_be_negative_inputs() -> None:
    model, tokens = make(), ids(3, 12)
    whole, count = model.loss(tokens)
    cut = tokens.clone()
    cut[:, 8:] = -100
    total, counted = model.loss(cut)
    assert (int(count), int(counted)) == (33, 21)
    alone, _ = model.loss(tokens[:, :8])
    close(total, alone, 1e-5)
    nothing, none = model.loss(torch.full((2, 5), -100))
    assert (nothing.item(), int(none)) == (0.0, 0)


@torch.no_grad()
@pytest.mark.parametrize("seed", range(5))
def test_text_read_in_chunks_equals_the_whole_forward(seed: int) -> None:
    model, tokens = make(), ids(2, 40, seed=seed)
    expected = model(tokens)
    draw = torch.Generator().manual_seed(seed)
    prefix, found = Prefix.nothing(2), []
    while prefix.tokens < 40:
        size = int(torch.randint(1, 12 if seed else 2, (), generator=draw))  # seed 0: one at a time
        hidden, prefix = read(model, tokens[:, prefix.tokens : prefix.tokens + size], prefix)
        found.append(hidden)
    close(torch.cat(found, dim=1), expected, 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("place", [1, 7, 15])
def test_a_later_token_changes_no_earlier_bit(place: int) -> None:
    model, tokens = make(), ids(2, 16)
    other = tokens.clone()
    other[:, place] = (other[:, place] + 1) % CONFIG.vocabulary
    a, b = model(tokens), model(other)
    assert torch.equal(a[:, :place], b[:, :place])
    assert (a[:, place:] != b[:, place:]).any(-1).all()


@torch.no_grad()
def test_a_row_does_not_depend_on_its_batch() -> None:
    model, tokens = make(), ids(5, 16)
    expected = model(tokens)
    for row in range(5):
        close(model(tokens[row : row + 1]), expected[row : row + 1], 1e-5)
    order = torch.tensor([3, 0, 0, 4])
    close(model(tokens[order]), expected[order], 1e-5)


@torch.no_grad()
def test_only_differences_of_positions_matter() -> None:
    model, tokens = make(), ids(2, 16)

    def at(positions: Tensor) -> Tensor:
        x, rope = model.embed(tokens), model.rotary(positions, torch.float32)
        for block in model.blocks:
            x = block(x, rope)
        return model.norm(x)

    assert torch.equal(at(torch.arange(16)), model(tokens))
    close(at(torch.arange(16) + 37), model(tokens), 1e-4)
    rows = torch.stack([torch.arange(16), torch.arange(16) + 5])
    close(at(rows), model(tokens), 1e-4)
    assert not torch.allclose(at(2 * torch.arange(16)), model(tokens), atol=1e-2)


@torch.no_grad()
def test_embeddings_stand_for_their_ids_and_every_kernel_agrees() -> None:
    model, tokens = make(), ids(2, 16)
    assert torch.equal(model(model.embed(tokens)), model(tokens))
    reference = Transformer(CONFIG, REFERENCE)
    reference.load_state_dict(model.state_dict())
    close(model(tokens), reference(tokens), 1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tied": False, "qkv_bias": False},
        {"output_bias": True, "mlp_bias": True, "layers": 1},
        {"kv_heads": 6, "head_width": 10},
        {"qk_norm": True, "unrotated": (1,)},
    ],
)
def test_parameter_count(changes: dict[str, Any]) -> None:
    c = replace(CONFIG, **changes)
    queries, keys = c.heads * c.head_width, c.kv_heads * c.head_width
    block = 2 * c.width + c.width * (2 * queries + 2 * keys) + 3 * c.width * c.hidden
    block += c.qkv_bias * (queries + 2 * keys) + c.output_bias * c.width + c.mlp_bias * (2 * c.hidden + c.width)
    block += c.qk_norm * 2 * c.head_width
    expected = c.vocabulary * c.width * (1 if c.tied else 2) + c.layers * block + c.width
    model = Transformer(c, REFERENCE)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected
    assert sum(value.numel() for value in model.state_dict().values()) == expected  # no buffers, no second copies


def test_initialise_is_a_function_of_its_generator() -> None:
    def fresh(seed: int, ambient: int) -> Transformer:
        torch.manual_seed(ambient)
        model = Transformer(replace(CONFIG, width=96, hidden=160, output_bias=True), REFERENCE)
        model.initialise(torch.Generator().manual_seed(seed))
        return model

    a = fresh(0, 1)
    assert named_hash(a.state_dict()) == named_hash(fresh(0, 2).state_dict()) != named_hash(fresh(1, 1).state_dict())
    for name, parameter in a.named_parameters():
        if parameter.ndim == 1:
            assert (parameter == (1.0 if "norm" in name else 0.0)).all(), name
        else:
            expected = 0.02 / (6**0.5 if name.endswith(("o.weight", "down.weight")) else 1)
            assert parameter.std().item() == pytest.approx(expected, rel=0.1), name


def test_any_one_bit_shows_in_the_hash_of_frozen_weights() -> None:
    model = make(replace(CONFIG, layers=1))
    before = named_hash(model.state_dict())
    assert before == named_hash(make(replace(CONFIG, layers=1)).state_dict())
    draw = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        bits = parameter.data.view(torch.int32).view(-1)
        place, bit = (int(torch.randint(limit, (), generator=draw)) for limit in (len(bits), 31))
        bits[place] ^= 1 << bit
        assert named_hash(model.state_dict()) != before, name
        bits[place] ^= 1 << bit
    assert named_hash(model.state_dict()) == before
    assert named_hash(model.bfloat16().state_dict()) != before
