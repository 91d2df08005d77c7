"""CLIP's embeddings: what they take, that they are unit vectors of each picture alone, and what can't be loaded."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch

from approaches.shared.sources import shipped
from bench.config import Config
from bench.data.shapes import Shapes
from bench.errors import UserError
from metrics.alignment import Clip

SAMPLES = Shapes.build(Config().data, "test").first(9)
IMAGES = np.stack([sample.image for sample in SAMPLES])
TEXTS = [sample.caption for sample in SAMPLES]


@pytest.fixture(scope="module")
def clip() -> Clip:
    return Clip(str(shipped()["clip-tiny"]))


def one_line(caught: pytest.ExceptionInfo[UserError]) -> str:
    text = str(caught.value)
    assert text and "\n" not in text
    return text


@pytest.mark.parametrize(
    "images",
    [
        IMAGES.astype(np.float32) / 255,
        IMAGES.astype(np.int64),
        IMAGES[0],
        IMAGES.transpose(0, 3, 1, 2),
        IMAGES[..., :1],
    ],
    ids=["float", "int64", "no batch", "channels first", "grey"],
)
def test_what_is_no_batch_of_uint8_pictures_is_refused_in_a_sentence(clip: Clip, images: Any) -> None:
    with pytest.raises(UserError) as caught:
        clip.embed_images(images)
    assert f"{images.dtype} of shape {images.shape}" in one_line(caught)


def test_embeddings_are_unit_vectors(clip: Clip) -> None:
    for found in (clip.embed_images(IMAGES), clip.embed_texts(TEXTS)):
        assert found.shape[0] == len(SAMPLES) and found.dtype == torch.float32
        torch.testing.assert_close(found.norm(dim=-1), torch.ones(len(SAMPLES)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("batch", [1, 4, 9])
def test_an_embedding_does_not_depend_on_its_batch(clip: Clip, batch: int) -> None:
    whole = clip.embed_images(IMAGES)
    turned = clip.embed_images(IMAGES[::-1].copy(), batch=batch).flip(0)
    torch.testing.assert_close(clip.embed_images(IMAGES, batch=batch), whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(turned, whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(clip.embed_texts(TEXTS, batch=batch), clip.embed_texts(TEXTS), atol=1e-5, rtol=0)


def test_a_text_past_the_context_is_cut(clip: Clip) -> None:
    long = "a red circle and " * 500
    torch.testing.assert_close(clip.embed_texts([long]), clip.embed_texts([long + "a blue square"]))


@pytest.mark.parametrize("location", ["no-such-model", "ViT-B-32/no_such_tag", "/no/such/folder", ""])
def test_a_location_that_names_nothing_is_the_users_mistake(location: str) -> None:
    with pytest.raises(UserError) as caught:
        Clip(location)
    assert f"'{location}'" in one_line(caught)


@pytest.mark.parametrize("broken", ["empty folder", "no weights", "weights cut short", "config is not JSON"])
def test_a_broken_folder_is_the_users_mistake(broken: str, tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    folder.mkdir() if broken == "empty folder" else shutil.copytree(shipped()["clip-tiny"], folder)
    weights = folder / "open_clip_model.safetensors"
    if broken == "no weights":
        weights.unlink()
    if broken == "weights cut short":
        weights.write_bytes(weights.read_bytes()[:-100])
    if broken == "config is not JSON":
        (folder / "open_clip_config.json").write_text("{")
    with pytest.raises(UserError) as caught:
        Clip(str(folder))
    assert str(folder) in one_line(caught)


def test_an_error_without_words_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(open_clip, "create_model_from_pretrained", fail)
    with pytest.raises(UserError) as caught:
        Clip("ViT-B-32/openai")
    assert one_line(caught).endswith("AssertionError")
