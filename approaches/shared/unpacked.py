"""GGUF files unpacked once: reading one through transformers takes half a minute for SmolLM2-135M, the same weights as
safetensors two seconds. The folders lie in the cache, by the file's hash and the version of transformers."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from approaches.shared.sources import Source, check_safetensors
from bench.errors import UserError
from bench.files import cache_directory, hash_bytes, require_space

Loaded = tuple[Any, Any]  # a transformers model and its tokenizer


def unpacked(source: Source, weights_hash: str, load: Callable[[Source], Loaded]) -> Loaded:
    """The model and tokenizer of a GGUF file. load: reads either form. Where the cache can't hold it, or what it holds
    is damaged, the file itself is read."""
    folder = folder_of(weights_hash)
    if folder.is_dir():
        try:
            for file in folder.glob("*.safetensors"):
                check_safetensors(file)
            return load(Source(text=source.text, path=folder))
        except UserError:
            shutil.rmtree(folder, ignore_errors=True)
    found = load(source)
    _keep(*found, folder)
    return found


def folder_of(weights_hash: str) -> Path:
    """Where the file with this hash is unpacked, or will be."""
    from transformers import __version__

    return cache_directory() / "gguf" / hash_bytes(weights_hash, __version__)


def _keep(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write the folder beside and rename it, so that it is whole or not there; the first of several writers wins."""
    try:
        require_space(folder, 2 * sum(each.nbytes for each in model.parameters()), "the cache of unpacked GGUF files")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part-", ignore_cleanup_errors=True) as place:
            part = Path(place) / "whole"
            _plain(model).save_pretrained(part)
            tokenizer.save_pretrained(part)
            part.rename(folder)
    except (OSError, UserError):  # another one's is there already, or the disk has no room for it
        return


def _plain(model: Any) -> Any:
    """The same model without the mark of a quantised file, with which transformers saves none. Its weights are in
    single precision by now."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        plain = type(model)(config)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    return plain
