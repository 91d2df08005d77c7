"""What the tests of loading share: tiny random checkpoints in Hugging Face's layout, with a tokenizer of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END = "<|end|>"
VOCABULARY = 300
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": 256,
    "eos_token_id": 256,
    "tie_word_embeddings": True,
}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte a token, and END, which is 256."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END, special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END)


def drawn(model: Any, seed: int = 0) -> Any:
    """The model with every weight drawn wide enough that biases, gains and positions all show in the logits."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.2, generator=generator)
    return model.eval()


def write(model: Any, folder: Path) -> Path:
    """A folder as transformers writes it."""
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def llama(folder: Path, **changes: Any) -> Path:
    """A folder with a tiny Llama."""
    return write(drawn(LlamaForCausalLM(LlamaConfig(**{**SHAPE, **changes}))), folder)
