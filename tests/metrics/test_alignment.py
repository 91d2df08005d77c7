"""CLIP's embeddings: what they take, that they are unit vectors of each picture alone, and what can't be loaded."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from approaches.shared.sources import shipped
from bench import reach
from bench.config import Config
from bench.data.shapes import Shapes
from bench.errors import UserError
from metrics import alignment
from metrics.alignment import CANDIDATES, Clip, clip_metrics
from metrics.differences import difference

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


def test_pictures_of_several_sizes_are_embedded_one_by_one(clip: Clip) -> None:
    large = [image.repeat(2, axis=0).repeat(2, axis=1) for image in IMAGES[:3]]
    found = clip.embed_images([*IMAGES[:3], *large], batch=4)
    torch.testing.assert_close(found[:3], clip.embed_images(IMAGES[:3]), atol=1e-5, rtol=0)
    torch.testing.assert_close(found[3:], clip.embed_images(np.stack(large)), atol=1e-5, rtol=0)
    with pytest.raises(UserError, match=r"these are float64 of shape \(32, 32, 3\)"):
        clip.embed_images([IMAGES[0], IMAGES[0] / 255])


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


@pytest.mark.parametrize("granted", [True, "yes", 1, None], ids=repr)
def test_a_folder_s_own_python_is_not_run(granted: Any, tmp_path: Path) -> None:
    """Its config may trust itself: open_clip hands tokenizer_kwargs on to transformers."""
    folder = tmp_path / "clip"
    shutil.copytree(shipped()["clip-tiny"], folder)
    config, tokens = folder / "open_clip_config.json", folder / "tokenizer_config.json"
    told = json.loads(config.read_text())
    told["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {} if granted is None else {"trust_remote_code": granted}
    config.write_text(json.dumps(told))
    named = {"auto_map": {"AutoTokenizer": [None, "evil_tok.EvilTok"]}, "tokenizer_class": "EvilTok"}
    tokens.write_text(json.dumps(json.loads(tokens.read_text()) | named))
    (folder / "evil_tok.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
        "from transformers import PreTrainedTokenizerFast\n"
        "class EvilTok(PreTrainedTokenizerFast):\n    pass\n"
    )
    with pytest.raises(UserError) as caught:
        Clip(str(folder))
    assert f"the CLIP model '{folder}' can't be loaded: " in one_line(caught)
    assert not (tmp_path / "ran").exists()


def test_a_text_model_s_own_python_is_not_run_and_nobody_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, text = tmp_path / "clip", tmp_path / "text"
    shutil.copytree(shipped()["clip-tiny"], folder)
    config = folder / "open_clip_config.json"
    told = json.loads(config.read_text())
    told["model_cfg"]["text_cfg"]["hf_model_name"] = str(text)
    config.write_text(json.dumps(told))
    text.mkdir()
    (text / "config.json").write_text('{"model_type": "odd", "auto_map": {"AutoConfig": "odd.Odd"}}')
    (text / "odd.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    asked: list[str] = []

    def yes(words: str = "") -> str:
        asked.append(words)
        return "y"

    monkeypatch.setattr("builtins.input", yes)
    with pytest.raises(UserError, match="custom code") as caught:
        Clip(str(folder))
    assert f"the CLIP model '{folder}' can't be loaded: " in one_line(caught)
    assert not asked and not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ViT-B-16-SigLIP/webli", {"trust_remote_code": False}),  # its tokenizer comes from the hub
        ("ViT-B-32/openai", None),  # and this one's from open_clip itself, which knows no such option
    ],
)
def test_a_tokenizer_from_the_hub_runs_no_code_either(
    name: str, options: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(reach, "_answers", lambda: False)
    monkeypatch.setattr(open_clip, "create_model_from_pretrained", lambda *_, **__: (nn.Identity(), None))
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *_, **given: asked.append(given))
    assert Clip(name).tokenizer is not None
    assert [{key: given[key] for key in ("trust_remote_code",)} for given in asked] == ([options] if options else [])


def test_an_error_without_words_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(open_clip, "create_model_from_pretrained", fail)
    with pytest.raises(UserError) as caught:
        Clip("ViT-B-32/openai")
    assert one_line(caught).endswith("AssertionError")


# ------------------------------------------------------------------------------------------------------- scores


def test_a_score_is_what_open_clip_gives_by_hand(clip: Clip) -> None:
    folder = f"local-dir:{shipped()['clip-tiny']}"
    model, preprocess = open_clip.create_model_from_pretrained(folder)
    tokens = open_clip.get_tokenizer(folder)(TEXTS)
    with torch.no_grad():
        pictures = model.encode_image(torch.stack([preprocess(Image.fromarray(image)) for image in IMAGES]))
        texts = model.encode_text(tokens)
    by_hand = (pictures * texts).sum(1) / (pictures.norm(dim=1) * texts.norm(dim=1))
    found = clip_metrics(clip, IMAGES, TEXTS)["clip_score"]
    np.testing.assert_allclose(found.details["cosines"], by_hand.numpy(), rtol=1e-6, atol=1e-6)
    assert found.value == pytest.approx(100 * float(by_hand.double().mean()), rel=1e-6)
    others = (pictures * texts.roll(-1, 0)).sum(1) / (pictures.norm(dim=1) * texts.roll(-1, 0).norm(dim=1))
    assert found.details["chance"] == pytest.approx(100 * float(others.double().mean()), rel=1e-5)
    assert found.details["weights"] == Clip(str(shipped()["clip-tiny"])).weights_hash


def test_true_pictures_score_above_chance_and_are_their_own_reference(clip: Clip) -> None:
    samples = Shapes.build(Config().data, "test").first(120)
    images, texts = np.stack([s.image for s in samples]), [s.captions[1] for s in samples]
    found = clip_metrics(clip, images, texts, images, keys=[s.key for s in samples])
    score, precision = found["clip_score"], found["clip_retrieval_precision"]
    assert score.value == score.details["reference"] and precision.value == precision.details["reference"]
    assert score.low is not None and score.low > score.details["chance"] + 10
    assert precision.details["candidates"] == CANDIDATES and 0 <= precision.details["chance"] < 0.03
    assert precision.value is not None and precision.value > 0.8
    wrong = clip_metrics(clip, np.roll(images, 1, axis=0), texts, images, keys=[s.key for s in samples])
    assert wrong["clip_retrieval_precision"].low == pytest.approx(0, abs=0.03)
    gap, lost = found["clip_score_gap"], wrong["clip_score_gap"]
    assert gap.value == gap.details["reference"] and gap.low is not None and gap.low > 10
    assert lost.low is not None and lost.high is not None and lost.low < 0 < lost.high
    judged = difference(score, wrong["clip_score"])
    assert judged.paired and judged.word == "better"
    assert all(difference(estimate, wrong[name]).paired for name, estimate in found.items())


def test_the_gap_is_a_pictures_score_by_its_caption_less_the_mean_by_the_others(clip: Clip) -> None:
    texts = [*TEXTS[:2], TEXTS[0]]  # a caption of the same words is no other
    found = clip_metrics(clip, IMAGES[:3], texts, IMAGES[:3])["clip_score_gap"]
    scores = 100 * (clip.embed_images(IMAGES[:3]).double() @ clip.embed_texts(texts).double().T).numpy()
    by_hand = np.array([scores[0, 0] - scores[0, 1], scores[1, 1] - scores[1, 0], scores[2, 2] - scores[2, 1]])
    assert found.value == pytest.approx(by_hand.mean(), rel=1e-6)
    assert found.details["reference"] == pytest.approx(by_hand.mean(), rel=1e-6) and found.details["candidates"] == 2


def test_an_item_of_the_gap_is_what_its_picture_and_its_words_do_to_it() -> None:
    """As the jackknife of the whole gap has it: a caption is a candidate of other pictures as well, once for all that
    have its words."""
    generator = torch.Generator().manual_seed(0)
    which = (torch.rand(60, generator=generator) ** 2 * 40).long().numpy()
    captions = [f"text {number}" for number in which]
    words = nn.functional.normalize(torch.randn(40, 8, generator=generator) + torch.rand(40, 1, generator=generator))
    texts = words[torch.from_numpy(which)]
    pictures = nn.functional.normalize(texts + 0.6 * torch.randn(60, 8, generator=generator) + 0.3)
    scores = 100 * (pictures.double() @ texts.double().T).numpy()

    def gap(kept: NDArray[np.int64]) -> float:
        firsts = [i for place, i in enumerate(kept) if which[i] not in which[kept[:place]]]
        others = [[j for j in firsts if which[j] != which[i]] for i in kept]
        return float(np.mean([scores[i, i] - scores[i, js].mean() for i, js in zip(kept, others, strict=True)]))

    every = np.arange(60)
    _, ahead = alignment._against(pictures, texts, alignment._others(captions, 0))
    items = ahead - alignment._lent(pictures, texts, captions)
    assert items.mean() == pytest.approx(ahead.mean()) == pytest.approx(gap(every))
    pseudo = np.array([60 * gap(every) - 59 * gap(np.delete(every, i)) for i in every])
    naive, projected = (np.corrcoef(pseudo, each)[0, 1] for each in (ahead, items))
    assert projected > 0.99 > naive
    assert items.std() == pytest.approx(pseudo.std(), rel=0.05)


def test_a_reference_is_what_the_true_pictures_get_whatever_was_drawn(clip: Clip) -> None:
    true, inverted = (clip_metrics(clip, drawn, TEXTS, IMAGES) for drawn in (IMAGES, 255 - IMAGES))
    for name, found in inverted.items():
        assert found.details["reference"] == pytest.approx(true[name].value, abs=1e-4), name
        assert found.value != pytest.approx(true[name].value, abs=0.01), name


def test_chance_is_what_pictures_get_that_were_drawn_for_another_caption() -> None:
    """Not 0 and 1 in a hundred: frequent captions are oftener a picture's own than a candidate."""
    generator = torch.Generator().manual_seed(0)
    which = (torch.rand(90, generator=generator) ** 3 * 25).long()
    words = nn.functional.normalize(torch.randn(25, 16, generator=generator), dim=-1)
    words[0] = nn.functional.normalize(words.sum(0), dim=0)  # the commonest caption is near to all pictures
    texts, others = words[which], alignment._others([f"text {number}" for number in which.tolist()], 0)
    pictures = nn.functional.normalize(0.2 * torch.randn(90, 16, generator=generator) + words.mean(0), dim=-1)  # deaf
    right, ahead = zip(
        *(alignment._against(pictures.roll(step, 0), texts, others) for step in range(1, 90)), strict=True
    )
    lucky, luckily = alignment._deaf(pictures, texts, others)
    assert lucky is not None and lucky == pytest.approx(np.mean(right)) and lucky > 1.5 / 25
    assert luckily is not None and luckily == pytest.approx(np.mean(ahead)) and luckily > 1
    assert alignment._deaf(pictures[:1], texts[:1], others[:1]) == (None, None)


def test_candidates_are_other_words_and_the_seeds_alone() -> None:
    captions = [f"text {number % 40}" for number in range(60)]
    others = alignment._others(captions, 0)
    assert others.shape == (60, 39)  # fewer distinct texts than CANDIDATES
    for number, row in enumerate(others):
        said = [captions[i] for i in row]
        assert len(set(said)) == 39 and captions[number] not in said
    many = [f"text {number}" for number in range(300)]
    one, again, other = (alignment._others(many, seed) for seed in (1, 1, 2))
    assert one.shape == (300, CANDIDATES - 1)
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    assert (one[0] != one[1]).mean() > 0.5  # each picture has its own


def test_a_tie_is_no_find_and_a_gap_is_to_the_mean() -> None:
    texts = torch.eye(3)[[0, 0, 1]]
    right, ahead = alignment._against(torch.eye(3)[[0, 0, 1]], texts, np.array([[1, 2], [2, 2], [0, 1]]))
    assert right.tolist() == [0.0, 1.0, 1.0] and ahead.tolist() == [50.0, 100.0, 100.0]


def test_one_caption_one_picture_and_no_pictures_have_reasons(clip: Clip) -> None:
    same = clip_metrics(clip, IMAGES[:3], ["a red circle"] * 3)
    assert same["clip_score"].value is not None
    for name in ("clip_retrieval_precision", "clip_score_gap"):
        assert same[name].value is None and "all captions are the same" in same[name].reason
    one = clip_metrics(clip, IMAGES[:1], TEXTS[:1])["clip_score"]
    assert one.value is not None and one.low is None and one.reason == "one item has no interval"
    assert clip_metrics(clip, IMAGES[:0], [])["clip_score"].reason == "no pictures"


def test_captions_past_the_context_are_counted(clip: Clip) -> None:
    words = ["a red circle", "a red circle and " * 30, "circle " * 27, "circle " * 28]
    assert [clip.cut([text]) for text in words] == [0, 1, 0, 1]  # one place of the 28 is the end's
    assert clip.cut(words) == 2 == clip_metrics(clip, IMAGES[:4], words)["clip_score"].details["cut"]
    assert clip.cut([]) == 0


def _closing(row: list[int], room: int) -> list[int]:
    """As open_clip's 'clips' mode: words, padding, a class token last."""
    return [*(row + [0] * room)[: room - 1], 9]


def _ended(row: list[int], room: int) -> list[int]:
    """As tokenizers that pad with the token that ends a text."""
    return (row[: room - 1] + [9] * room)[:room]


@pytest.mark.parametrize("way", [_closing, _ended])
def test_whatever_pads_and_ends_a_text_the_long_ones_are_counted(way: Callable[[list[int], int], list[int]]) -> None:
    def tokens(texts: list[str], context_length: int = 6) -> torch.Tensor:
        return torch.tensor([way([1] * len(text.split()), context_length) for text in texts])

    tokens.context_length = 6  # type: ignore[attr-defined]
    clip: Any = SimpleNamespace(tokenizer=tokens)
    texts = ["", "a red circle", "one two three four five", "one two three four five six", "word " * 30]
    assert [Clip.cut(clip, [text]) for text in texts] == [0, 0, 0, 1, 1] and Clip.cut(clip, texts) == 2


@pytest.mark.parametrize(
    ("location", "hint"),
    [("ViT-B-33/openai", "did you mean 'ViT-B-32/openai'?"), ("no/such", "expected one such as ViT-B-32/openai")],
)
def test_an_unknown_architecture_gets_a_sentence(location: str, hint: str) -> None:
    with pytest.raises(
        UserError, match=re.escape(f"'{location}' is of no architecture that open_clip has: {hint}")
    ) as caught:
        Clip(location)
    assert len(str(caught.value)) < 200  # and not all of open_clip's names


def test_a_wrong_gelu_is_refused_and_not_only_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def mismatched(*_: Any, **__: Any) -> Any:
        warnings.warn("QuickGELU mismatch between final model config (quick_gelu=False) and tag", stacklevel=1)
        raise AssertionError("the weights were loaded all the same")

    monkeypatch.setattr(open_clip, "create_model_from_pretrained", mismatched)
    with pytest.raises(UserError, match="can't be loaded: QuickGELU mismatch"):
        Clip("ViT-B-32/openai")
