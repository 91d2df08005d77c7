"""Small stand-ins for other people's models and data, in the file layouts that those come in, and small sizes for a
run on them."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bench.torchvision_guard  # noqa: F401  (before transformers and diffusers)
from approaches.shared.sources import shipped
from bench import runner, stages, worker
from bench.console import Console

WIDTHS = {
    "width": 32, "layers": 1, "heads": 2, "encoder_layers": 1, "queries": 4, "captioner_width": 32,
    "captioner_layers": 1, "checker_width": 32, "checker_layers": 1,
}  # fmt: skip
"""Fields of approaches' settings that decide how large what they add is."""
SIZES = {
    "data.size": 32, "data.train-items": 24, "data.eval-items": 8, "train.budget": "steps", "train.amount": 2,
    "train.batch": 6, "train.warmup": 1, "train.caption-tokens": 24, "train.replay-tokens": 16,
    "train.validations": 1, "diffusion.nfe": 2, "evaluate.pictures": 4, "evaluate.captions": 4,
    "evaluate.documents": 3, "evaluate.triples": 4, "evaluate.batch": 4,
}  # fmt: skip
"""Flags of a run of two steps."""


def flags(values: dict[str, object]) -> list[str]:
    """Spelt out."""
    return [str(part) for name, value in values.items() for part in (f"--{name}", value)]


def language_model(folder: Path) -> Path:
    """A Llama with Llama 3's rotary positions, its safetensors in shards behind an index, and a tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    rope = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 4.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 128}  # fmt: skip
    config = LlamaConfig(
        vocab_size=4096, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=512, rope_parameters=rope,
        tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="64KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(shipped()["lm-tiny"] / name, folder / name)
    assert len(list(folder.glob("*.safetensors"))) > 1 and (folder / "model.safetensors.index.json").exists()
    return folder


def autoencoder(folder: Path) -> Path:
    """Stable Diffusion's class and levels, which shrink a picture by 8, few channels wide."""
    from diffusers import AutoencoderKL

    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8), layers_per_block=2, norm_num_groups=4, scaling_factor=0.18215,
    )  # fmt: skip
    model.save_pretrained(folder)
    return folder


def clip(folder: Path) -> Path:
    """An open_clip folder."""
    shutil.copytree(shipped()["clip-tiny"], folder)
    return folder


def _picture(number: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (40, 36, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def shards(folder: Path) -> Path:
    """Two tar shards to train on and one for each other split."""
    folder.mkdir(parents=True)
    for number, (name, count) in enumerate((("train-000", 12), ("train-001", 12), ("val-000", 8), ("test-000", 8))):
        with tarfile.open(folder / f"cc-{name}.tar", "w") as tar:
            for index in range(100 * number, 100 * number + count):
                for kind, data in (("png", _picture(index)), ("txt", f"a photo of thing {index}".encode())):
                    entry = tarfile.TarInfo(f"{index:06d}.{kind}")
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
    return folder


def pictures(folder: Path) -> Path:
    """Pictures with metadata.jsonl, in a sub-folder a split."""
    for number, (split, count) in enumerate((("train", 24), ("validation", 8), ("test", 8))):
        (folder / split).mkdir(parents=True)
        rows = []
        for index in range(100 * number, 100 * number + count):
            (folder / split / f"{index}.png").write_bytes(_picture(index))
            rows.append(json.dumps({"file_name": f"{index}.png", "text": f"a photo of thing {index}"}))
        (folder / split / "metadata.jsonl").write_text("\n".join(rows))
    return folder


def _documents(count: int, first: int = 0) -> list[str]:
    return [f"document {n} says {n * n} things, and then some more of them" for n in range(first, first + count)]


def texts(folder: Path) -> Path:
    """A folder of text files."""
    folder.mkdir(parents=True)
    for number, text in enumerate(_documents(40)):
        (folder / f"{number}.txt").write_text(text)
    return folder


def wikitext(folder: Path) -> Path:
    """A dataset with the splits and the blank rows of WikiText, as datasets saves one."""
    datasets = pytest.importorskip("datasets", reason="the package datasets is missing")
    parts = {}
    for number, (split, count) in enumerate((("train", 40), ("validation", 8), ("test", 8))):
        lines = [line for text in _documents(count, 100 * number) for line in ("", f" = Heading {number} = \n", text)]
        parts[split] = datasets.Dataset.from_dict({"text": lines * 20})
    datasets.DatasetDict(parts).save_to_disk(str(folder))
    return folder


def work_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs do their work in this process, which has its imports done, in place of a worker of their own."""

    def work(folder: Path, console: Console) -> int:
        return worker.guarded(folder, console, stages.work)

    monkeypatch.setattr(runner, "_work", work)
