"""The pretrained language model: weights and tokenizer from any Llama-family checkpoint that transformers loads, run
by our own transformer."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stderr
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import bench.torchvision_guard  # noqa: F401  (before transformers, which imports torchvision)
from approaches.shared.decoding import decode
from approaches.shared.hub import pinned
from approaches.shared.kernels import Kernels, choose
from approaches.shared.reading import next_logits, read
from approaches.shared.sources import FAMILIES, Source, check_folder, check_layers, resolve
from approaches.shared.transformer import RopeScaling, Transformer, TransformerConfig
from approaches.shared.unpacked import unpacked
from bench.errors import UserError
from bench.files import atomic_path, hash_bytes, hash_file, write_json
from bench.reach import NO_ANSWER, hub_or_cache

# Hugging Face's name of each tensor of a layer, and ours.
_LAYER_NAMES = {
    "input_layernorm": "attention_norm",
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.q_norm": "q_norm",
    "self_attn.k_norm": "k_norm",
    "self_attn.o_proj": "o",
    "post_attention_layernorm": "mlp_norm",
    "mlp.gate_proj": "gate",
    "mlp.up_proj": "up",
    "mlp.down_proj": "down",
}


class LanguageModel(nn.Module):
    """A decoder with its tokenizer. weights_hash: of the files it came from."""

    def __init__(self, transformer: Transformer, tokenizer: Any, *, weights_hash: str = "") -> None:
        super().__init__()
        self.transformer = transformer
        self.tokenizer = tokenizer
        self.weights_hash = weights_hash

    @classmethod
    def load(cls, text: str, *, kernels: Kernels | None = None) -> LanguageModel:
        """From `shipped:NAME`, `package:smollm2`, a folder, a GGUF file, or a hub id, in float32. UserError where it
        can't be had or is of no family that we run."""
        source = pinned(resolve(text, field="model.lm"), field="model.lm")
        if source.gguf is not None:
            weights_hash = hash_file(source.gguf)
            model, tokenizer = unpacked(source, weights_hash, _from_transformers)
        else:
            weights_hash = check_folder(source)
            model, tokenizer = _from_transformers(source)
        transformer = Transformer(config_of(model), kernels or choose("cpu"))
        _check_tokenizer(tokenizer, transformer.config.vocabulary, text)
        if bad := next((name for name, value in model.state_dict().items() if not value.isfinite().all()), ""):
            raise UserError(f"the language model '{text}' holds values that are no numbers, in {bad}")
        transformer.load_state_dict(our_names(model.state_dict(), tied=transformer.config.tied))
        return cls(transformer, tokenizer, weights_hash=weights_hash)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def decode(self, ids: list[int]) -> str:
        """The text of token ids, special tokens left out."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text

    @property
    def start_id(self) -> int:
        """The token that a text starts after: beginning of text, else end of text."""
        start = self.tokenizer.bos_token_id
        return int(self.end_id if start is None else start)

    @property
    def end_id(self) -> int:
        """The end-of-text token."""
        return int(self.tokenizer.eos_token_id)

    @torch.no_grad()
    def continue_text(self, text: str, *, tokens: int) -> str:
        """The text's greedy continuation by at most `tokens` tokens, up to the end-of-text token."""
        hidden, prefix = read(self.transformer, torch.tensor([[self.start_id, *self.encode(text)]]))
        (found,) = decode(
            (self.transformer.logits(hidden[:, -1]), prefix),
            partial(next_logits, self.transformer),
            limit=tokens,
            end_id=self.end_id,
        )
        return self.decode(found)


def named_hash(tensors: Mapping[str, Tensor]) -> str:
    """16 hex digits of every tensor's name and bytes: equal exactly where the tensors are."""
    parts: list[bytes | str] = []
    for name, value in sorted(tensors.items()):
        flat = value.detach().cpu().contiguous().reshape(-1)  # a scalar has no bytes to be seen as otherwise
        parts += [name, str(value.dtype), flat.view(torch.uint8).numpy().tobytes()]
    return hash_bytes(*parts)


def config_of(model: Any) -> TransformerConfig:
    """Our config of a transformers model. UserError where it has a part that our transformer lacks."""
    config = model.config
    if config.model_type not in FAMILIES:
        raise UserError(f"model.lm is a {config.model_type} model, expected one of: {', '.join(FAMILIES)}")
    if config.hidden_act != "silu":
        raise UserError(f"model.lm's activation is {config.hidden_act}, expected silu")
    window = getattr(config, "sliding_window", None)
    if window is not None and getattr(config, "use_sliding_window", True):
        raise UserError(f"model.lm uses a sliding attention window ({window}), which is not supported")
    names = model.state_dict()
    rope: dict[str, Any] = dict(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {})
    return TransformerConfig(
        vocabulary=model.get_input_embeddings().weight.shape[0],
        width=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_width=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        hidden=config.intermediate_size,
        context=config.max_position_embeddings,
        rope_theta=float(rope["rope_theta"] if "rope_theta" in rope else getattr(config, "rope_theta", 10_000.0)),
        rope_scaling=_rope_scaling(rope),
        norm_eps=config.rms_norm_eps,
        tied=bool(config.tie_word_embeddings),
        qkv_bias="model.layers.0.self_attn.q_proj.bias" in names,
        output_bias="model.layers.0.self_attn.o_proj.bias" in names,
        mlp_bias="model.layers.0.mlp.gate_proj.bias" in names,
        qk_norm="model.layers.0.self_attn.q_norm.weight" in names,
        unrotated=tuple(i for i, rotates in enumerate(getattr(config, "no_rope_layers", None) or ()) if not rotates),
    )


def our_names(state: dict[str, Tensor], *, tied: bool) -> dict[str, Tensor]:
    """Hugging Face's Llama-family state dict under our names."""
    renamed = {"embed.weight": state["model.embed_tokens.weight"], "norm.weight": state["model.norm.weight"]}
    if not tied:
        renamed["head.weight"] = state["lm_head.weight"]
    for name, value in state.items():
        if name.startswith("model.layers."):
            layer, _, rest = name.removeprefix("model.layers.").partition(".")
            part, _, kind = rest.rpartition(".")
            if part in _LAYER_NAMES:
                renamed[f"blocks.{layer}.{_LAYER_NAMES[part]}.{kind}"] = value
    return renamed


def their_names(transformer: Transformer) -> dict[str, Tensor]:
    """Our weights under Hugging Face's names."""
    ours = transformer.state_dict()
    back = {our: their for their, our in _LAYER_NAMES.items()}
    renamed = {"model.embed_tokens.weight": ours["embed.weight"], "model.norm.weight": ours["norm.weight"]}
    if not transformer.config.tied:
        renamed["lm_head.weight"] = ours["head.weight"]
    for name, value in ours.items():
        if name.startswith("blocks."):
            _, layer, part, kind = name.split(".")
            renamed[f"model.layers.{layer}.{back[part]}.{kind}"] = value
    return renamed


def save_pretrained(transformer: Transformer, folder: Path, *, dtype: torch.dtype, start_id: int, end_id: int) -> None:
    """Write weights and config in the layout of transformers' LlamaForCausalLM."""
    config = transformer.config
    beyond = {"qkv_bias": False, "output_bias": False, "mlp_bias": False, "qk_norm": False}
    if config != replace(config, rope_scaling=None, unrotated=(), **beyond):
        raise ValueError("only plain Llama shapes are written")
    write_json(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": config.vocabulary,
            "hidden_size": config.width,
            "intermediate_size": config.hidden,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "num_key_value_heads": config.kv_heads,
            "head_dim": config.head_width,
            "hidden_act": "silu",
            "max_position_embeddings": config.context,
            "rms_norm_eps": config.norm_eps,
            "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
            "rope_theta": config.rope_theta,
            "tie_word_embeddings": config.tied,
            "bos_token_id": start_id,
            "eos_token_id": end_id,
            "dtype": str(dtype).removeprefix("torch."),
        },
    )
    tensors = {name: value.detach().to(dtype).contiguous() for name, value in their_names(transformer).items()}
    with atomic_path(folder / "model.safetensors") as part:
        save_file(tensors, part, {"format": "pt"})


def _rope_scaling(rope: dict[str, Any]) -> RopeScaling | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind != "llama3":
        raise UserError(f"model.lm scales its rotary positions by '{kind}', expected default or llama3")
    return RopeScaling(
        factor=float(rope["factor"]),
        low_frequency_factor=float(rope["low_freq_factor"]),
        high_frequency_factor=float(rope["high_freq_factor"]),
        original_context=int(rope["original_max_position_embeddings"]),
    )


def _check_tokenizer(tokenizer: Any, vocabulary: int, text: str) -> None:
    """UserError where a tokenizer can't end a text, or knows words that its model does not."""
    if tokenizer.eos_token_id is None:
        raise UserError(f"the language model '{text}' has a tokenizer without an end-of-text token (eos_token)")
    largest = max(tokenizer.get_vocab().values())
    if largest >= vocabulary:
        raise UserError(
            f"the language model '{text}' has a tokenizer of {largest + 1} tokens, more than the model's {vocabulary}"
        )


def _from_transformers(source: Source) -> tuple[Any, Any]:
    """The model and tokenizer as transformers loads them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, PretrainedConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    gguf = source.gguf
    location = source.location if gguf is None else str(gguf.parent)
    place: dict[str, Any] = {"local_files_only": True, **({} if gguf is None else {"gguf_file": gguf.name})}
    if source.path is None:
        place = {"subfolder": source.subfolder, "revision": source.revision}
    place["trust_remote_code"] = False  # left open, it asks at a terminal whether a model's own Python may run
    safe = {"use_safetensors": True} if gguf is None else {}
    try:
        with hub_or_cache(needed=source.path is None) as reachable:
            if gguf is None:
                check_layers(PretrainedConfig.get_config_dict(location, **place)[0], source)
            tokenizer = AutoTokenizer.from_pretrained(location, **place)
            with redirect_stderr(io.StringIO()) if gguf is not None else nullcontext():  # a bar that no setting hides
                loaded: Any = AutoModelForCausalLM.from_pretrained(
                    location, dtype=torch.float32, output_loading_info=True, **place, **safe
                )
        model, info = loaded
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # tokenizers, safetensors and the hub's strict configs have no base in common
        reason = _reason(error) if reachable else NO_ANSWER
        raise UserError(f"the language model '{source.text}' can't be loaded: {reason}") from error
    if model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
        model.config.tie_word_embeddings = False  # a head of its own is one, whatever its config.json says
    if missing := sorted(info["missing_keys"]):  # transformers would leave them at random values
        raise UserError(f"the language model '{source.text}' lacks {len(missing)} tensors, among them {missing[0]}")
    return model.eval(), tokenizer


def _reason(error: Exception) -> str:
    """What a library says, on one line."""
    said = " ".join(str(error).split()) or type(error).__name__
    if "ignore_mismatched_sizes" in said:  # and it points to a table above
        return "its weights have other shapes than its config.json says"
    return said if len(said) <= 300 else said[:300] + " ..."


def pad_rows(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Rows of ids as one long tensor and its mask, B L, zeros on the right up to the longest row."""
    lengths = np.array([*map(len, rows)])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.zeros(mask.shape, dtype=np.int64)
    ids[mask] = np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=int(lengths.sum()))
    return torch.from_numpy(ids), torch.from_numpy(mask)
