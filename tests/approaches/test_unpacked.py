"""GGUF files are read once, and then come from the cache, unchanged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from approaches.shared import unpacked as module
from approaches.shared.sources import Source, shipped
from approaches.shared.unpacked import unpacked
from bench.errors import UserError

Load = Callable[[Source], tuple[Any, Any]]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    return tmp_path / "gguf"


@pytest.fixture
def reads() -> tuple[Load, list[Path]]:
    """What reads either form, and the places it was asked to read. The file itself stands for the shipped model, marked
    as transformers marks what came from a quantised file."""
    places: list[Path] = []

    def load(source: Source) -> tuple[Any, Any]:
        assert source.path is not None
        places.append(source.path)
        folder = source.path if source.path.is_dir() else shipped()["lm-tiny"]
        try:
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        except (OSError, ValueError) as error:  # as the language model's own reading does
            raise UserError("no model there") from error
        if not source.path.is_dir():
            model.config.quantization_config = {"quant_method": "gguf"}
        return model.eval(), AutoTokenizer.from_pretrained(folder)

    return load, places


def test_a_file_is_read_once_and_the_cache_gives_the_same(cache: Path, reads: tuple[Load, list[Path]]) -> None:
    load, places = reads
    source = Source(text="some.gguf", path=Path("some.gguf"))
    first, tokenizer = unpacked(source, "its hash", load)
    again, tokenizer_again = unpacked(source, "its hash", load)
    assert places == [Path("some.gguf"), next(cache.iterdir())]
    kept = again.state_dict()
    assert kept.keys() == first.state_dict().keys()
    assert all(torch.equal(kept[name], value) for name, value in first.state_dict().items())
    text = "a red circle left of a blue square"
    assert tokenizer_again.encode(text) == tokenizer.encode(text)
    assert (tokenizer_again.bos_token_id, tokenizer_again.eos_token_id) == (
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
    )
    unpacked(source, "another file's hash", load)
    assert places[-1] == Path("some.gguf")


def test_a_damaged_cache_is_made_again(cache: Path, reads: tuple[Load, list[Path]]) -> None:
    load, places = reads
    source = Source(text="some.gguf", path=Path("some.gguf"))
    unpacked(source, "its hash", load)
    weights = next(cache.glob("*/*.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    unpacked(source, "its hash", load)
    assert places == [Path("some.gguf"), Path("some.gguf")]
    assert weights.read_bytes() == whole
    shutil.rmtree(weights.parent)
    weights.parent.mkdir()  # what an older program left, say: a folder without weights
    unpacked(source, "its hash", load)
    assert places[2:] == [weights.parent, Path("some.gguf")]
    assert weights.read_bytes() == whole


def test_a_full_disk_only_costs_time(
    cache: Path, reads: tuple[Load, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise UserError("needs 1 MB, and 0 MB are free")

    monkeypatch.setattr(module, "require_space", full)
    load, places = reads
    source = Source(text="some.gguf", path=Path("some.gguf"))
    for _ in range(2):
        unpacked(source, "its hash", load)
    assert places == [Path("some.gguf"), Path("some.gguf")]
    assert not cache.exists()
