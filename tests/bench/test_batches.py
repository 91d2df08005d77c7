"""Batches: a pure function of (seed, step), the same for everyone, whose parts add up to the whole."""

from __future__ import annotations

import dataclasses
import errno
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import bench.batches
from approaches.base import Batch, Captioned, Shared
from approaches.shared.language_model import LanguageModel
from approaches.shared.vae import LatentCodec
from bench.batches import Batches, part, tokenizer_hash
from bench.collection import collect
from bench.config import Config, DataConfig, TextConfig, TrainConfig
from bench.console import Console
from bench.data.catalogue import open_dataset
from bench.data.dataset import Dataset, Sample
from bench.data.shapes import Shapes
from bench.data.text import TextFile
from bench.errors import UserError
from bench.seeds import derive
from tests.approaches.checkpoints import byte_tokenizer
from tests.approaches.small import small_shared

CONFIG = Config(
    data=DataConfig(train_items=50),
    text=TextConfig(name="file"),
    train=TrainConfig(batch=12, describe_share=0.34, empty_share=0.25, replay_tokens=8),
)


@lru_cache(maxsize=1)
def models() -> tuple[Shared, LanguageModel, LatentCodec]:
    shared = small_shared()
    return shared, shared.language_model, shared.codecs["image"]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    paragraphs = (" ".join(f"word{derive(i, 'text', j) % 97}" for j in range(60)) for i in range(120))
    path.write_text("\n\n".join(paragraphs), encoding="utf-8")
    return path


def build(text: Path, config: Config = CONFIG, *, with_pictures: bool = False) -> Batches:
    _, language_model, codec = models()
    corpus = TextFile.build(replace(config.text, path=str(text)))
    dataset = open_dataset(config.data, "train")
    return Batches(config, dataset, corpus, language_model, codec, Console(interval=1e9), with_pictures=with_pictures)


def tensors(batch: Batch) -> list[Tensor]:
    rows = [value for kind in (batch.draw, batch.describe) for value in (kind.latents, kind.tokens, kind.mask)]
    return [*rows, batch.times, batch.noise, batch.empty, batch.text]


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))


def test_a_batch_is_a_function_of_seed_and_step_alone(text: Path) -> None:
    first, second = build(text), build(text)
    steps = [5, 0, 3, 3]  # any order, from fresh or used objects
    assert all(same(first(step), second(step)) for step in steps)
    assert same(build(text)(3), first(3)) and not same(first(3), first(4))
    other = build(text, replace(CONFIG, seed=1))
    assert not torch.equal(other(3).noise, first(3).noise) and not np.array_equal(other.indices(3), first.indices(3))


def test_every_picture_comes_once_an_epoch_and_each_epoch_in_another_order(text: Path) -> None:
    batches = build(text)
    visited = np.concatenate([batches.indices(step) for step in range(25)])
    epochs = visited[:300].reshape(6, 50)
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 6


def test_rows_are_their_pictures(text: Path) -> None:
    shared, language_model, codec = models()
    batches = build(text, with_pictures=True)
    batch, indices = batches(2), batches.indices(2)
    assert (len(batch.draw), len(batch.describe), len(batch.text)) == (8, 4, 12)
    dataset = Shapes.build(CONFIG.data, "train")
    for rows, numbers in ((batch.draw, indices[:8]), (batch.describe, indices[8:])):
        expected = [dataset[int(number)] for number in numbers]
        assert all(text in sample.captions for text, sample in zip(rows.captions, expected, strict=True))
        assert rows.scenes == tuple(sample.scene for sample in expected)
        assert rows.pictures is not None
        assert np.array_equal(rows.pictures, np.stack([sample.image for sample in expected]))
        torch.testing.assert_close(rows.latents, codec.encode_images(rows.pictures), rtol=1e-4, atol=1e-5)
        behind = rows is batch.describe  # the words that it is described behind, and their space
        tokens, mask = shared.tokenise([" " * behind + caption for caption in rows.captions], end=True)
        first = len(language_model.encode("picture:")) if behind else 1
        width = first + tokens.shape[1] - 1
        assert rows.lead == first
        assert torch.equal(rows.tokens[:, first:width], tokens[:, 1:])
        assert torch.equal(rows.mask[:, first:width], mask[:, 1:]) and not bool(rows.mask[:, width:].any())
    assert batches.tokens.shape[1] == batch.draw.tokens.shape[1] == int(batches.mask.sum(1).max())
    assert batches(1).draw.tokens.shape == batch.draw.tokens.shape  # layouts are fixed
    assert build(text)(2).draw.pictures is None


def test_any_of_a_pictures_captions_is_seen_and_the_choice_is_drawn_anew(text: Path) -> None:
    batches, dataset = build(text), Shapes.build(CONFIG.data, "train")
    seen: dict[int, set[str]] = {}
    for step in range(60):
        batch = batches(step)
        for index, caption in zip(batches.indices(step), batch.draw.captions + batch.describe.captions, strict=True):
            seen.setdefault(int(index), set()).add(caption)
    assert all(seen[index] <= set(dataset[index].captions) for index in seen)
    assert sum(len(texts) == 2 for texts in seen.values()) > 45  # of 50; 14 visits each
    assert batches(3).draw.captions == build(text)(3).draw.captions
    first = build(text, replace(CONFIG, train=replace(CONFIG.train, captions="first")))
    assert all(first(7).draw.captions[i] == dataset[int(n)].caption for i, n in enumerate(first.indices(7)[:8]))


def test_long_captions_are_cut_before_their_end_token_and_counted(text: Path) -> None:
    _, language_model, _ = models()
    config = replace(CONFIG, train=replace(CONFIG.train, caption_tokens=8))
    batches = build(text, config)
    lengths = [len(language_model.encode(caption)) for caption in batches.captions]
    assert 0 < batches.cut == sum(length > 6 for length in lengths)
    assert batches.tokens.shape[1] == 8
    for row, mask, length in zip(batches.tokens, batches.mask, lengths, strict=True):
        assert int(mask.sum()) == min(8, length + 2)
        assert row[0] == language_model.start_id and row[int(mask.sum()) - 1] == language_model.end_id
    assert batches.record()["captions"] == {"longest": 8, "cut": batches.cut}


def test_words_stand_before_the_captions_that_are_described_and_no_others(text: Path) -> None:
    plain = build(text, replace(CONFIG, train=replace(CONFIG.train, describe_prompt="")))(0)
    asked = build(text)(0)
    model, rows = models()[1], asked.describe
    words = model.encode("picture:")
    assert same(replace(asked, describe=plain.describe), plain) and rows.lead == len(words)
    for tokens, mask, caption in zip(rows.tokens, rows.mask, rows.captions, strict=True):
        assert tokens[mask].tolist() == [*words, *model.encode(f" {caption}"), model.end_id]


def test_the_text_is_the_corpus_in_windows_that_do_not_overlap(text: Path) -> None:
    _, language_model, _ = models()
    batches = build(text)
    corpus = TextFile.build(replace(CONFIG.text, path=str(text)))
    documents = [language_model.encode(item.text) for item in corpus.documents("train")]
    expected = [token for document in documents for token in (language_model.start_id, *document)]
    assert batches.text.tolist() == expected
    steps = batches.windows // 12
    starts = Counter(tuple(row) for step in range(steps) for row in batches(step).text.tolist())
    windows = Counter(tuple(expected[i * 8 : i * 8 + 9]) for i in range(batches.windows))
    assert batches(0).text.shape == (12, 9) and not starts - windows


def test_times_noise_and_left_out_captions_have_their_distributions(text: Path) -> None:
    batches = build(text, replace(CONFIG, train=replace(CONFIG.train, batch=300)))
    drawn = [batches(step) for step in range(3)]
    levels = CONFIG.train.noise_levels
    assert levels > 1 and all(len(batch.times) == len(batch.noise) == levels * len(batch.draw) for batch in drawn)
    noise = torch.cat([batch.noise.flatten() for batch in drawn])
    assert abs(float(noise.mean())) < 0.02 and abs(float(noise.std()) - 1) < 0.02
    times, empty = torch.cat([batch.times for batch in drawn]), torch.cat([batch.empty for batch in drawn])
    shift = CONFIG.diffusion.shift
    even = times / (shift - (shift - 1) * times)  # before the shift
    places = (1 - even).view(-1, levels)  # each picture's levels lie one in each part of the distribution
    assert torch.equal(
        (places * levels).clamp(max=levels - 1e-4).floor().long(), torch.arange(levels).expand_as(places)
    )
    assert abs(float(even.mean()) - 0.5) < 0.05 and abs(float(even.std()) - 12**-0.5) < 0.02
    assert abs(float(empty.float().mean()) - 0.25) < 0.08
    prompt, mask = drawn[0].drawn_prompt()
    assert torch.equal(mask.sum(1) == 1, drawn[0].empty | (drawn[0].draw.prompt[1].sum(1) == 1))


@pytest.mark.parametrize("of", [1, 2, 3, 4])
def test_parts_are_the_batch_in_order(text: Path, of: int) -> None:
    batch = build(text, with_pictures=True)(1)
    parts = [part(batch, index, of) for index in range(of)]
    whole = zip(*map(tensors, parts), strict=True)
    assert all(torch.equal(torch.cat(pieces), value) for pieces, value in zip(whole, tensors(batch), strict=True))
    for kind in ("draw", "describe"):
        rows: list[Captioned] = [getattr(piece, kind) for piece in parts]
        expected: Captioned = getattr(batch, kind)
        assert sum((piece.captions for piece in rows), ()) == expected.captions
        assert sum((piece.scenes for piece in rows), ()) == expected.scenes
        pictures = [piece.pictures for piece in rows if piece.pictures is not None]
        assert expected.pictures is not None and np.array_equal(np.concatenate(pictures), expected.pictures)
        assert all(len(piece) for piece in rows)


def test_more_parts_than_rows_are_refused(text: Path) -> None:
    with pytest.raises(UserError, match=r"4 to describe can't be worked through in 5 parts"):
        part(build(text)(0), 0, 5)


def test_parts_draw_what_the_whole_would_have_drawn(text: Path) -> None:
    batches = build(text)
    named = batches.generators(7)
    parts = torch.cat([torch.rand(rows, generator=named("layout")) for rows in (3, 2, 3)])
    assert torch.equal(parts, torch.rand(8, generator=batches.generators(7)("layout")))
    assert not torch.equal(parts, torch.rand(8, generator=batches.generators(7)("another")))
    assert not torch.equal(parts, torch.rand(8, generator=batches.generators(7, rank=1)("layout")))


def test_the_digest_tells_any_difference_and_goes_on_after_a_stop(text: Path) -> None:
    batches = build(text)

    def run(made: Batches, steps: range, digest: str | None = None) -> str:
        digest = made.start_digest if digest is None else digest
        for step in steps:
            digest = made.digest(digest, made(step))
        return digest

    whole = run(batches, range(6))
    assert run(build(text), range(3, 6), run(build(text), range(3))) == whole
    batch = batches(5)
    before = run(batches, range(5))
    assert batches.digest(before, batch) == whole
    changed = {"times": batch.times + 1e-6, "noise": batch.noise.flip(0), "empty": ~batch.empty, "text": batch.text + 1}
    for name, value in changed.items():
        other = dataclasses.replace(batch, **{name: value})  # type: ignore[arg-type]
        assert batches.digest(before, other) != whole, name
    for config in (
        replace(CONFIG, seed=1),
        replace(CONFIG, data=replace(CONFIG.data, seed=1)),
        replace(CONFIG, train=replace(CONFIG.train, empty_share=0.9)),
    ):
        assert run(build(text, config), range(6)) != whole
    assert run(build(text, replace(CONFIG, preset="smoke")), range(6)) == whole


def test_the_second_building_makes_and_encodes_nothing_anew(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, scenes = build(text)(0), [Shapes.build(CONFIG.data, "train")[index].scene for index in range(50)]

    def never(*_: object, **__: object) -> Sample:
        raise AssertionError("made again")

    content = Shapes.build(CONFIG.data, "train").content_hash()
    monkeypatch.setattr(Shapes, "content_hash", lambda self: content)
    monkeypatch.setattr(Shapes, "__getitem__", never)
    monkeypatch.setattr(models()[2], "encode", never)
    encoded: list[str] = []
    tokeniser = bench.batches._encoded

    def noted(model: LanguageModel, texts: tuple[str, ...]) -> Iterator[list[int]]:
        encoded.extend(texts)
        return tokeniser(model, texts)

    monkeypatch.setattr(bench.batches, "_encoded", noted)
    again = build(text)
    assert same(again(0), expected) and list(again.collection.scenes) == scenes
    captions = list(again.captions)
    assert encoded == [*captions, *(f" {caption}" for caption in captions)]  # and none of the text


@pytest.mark.parametrize("damage", ["cut", "other", "gone"])
def test_a_damaged_cache_is_made_again(text: Path, own_cache: Path, damage: str) -> None:
    expected = build(text)(0)
    files = [path for kind in ("pictures", "tokens") for path in (own_cache / kind).iterdir()]
    assert {path.suffix for path in files} == {".npy", ".json"}
    for path in files:
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2] if damage == "cut" else b"no array")
    assert same(build(text)(0), expected)


def test_a_text_without_a_window_and_a_split_without_a_picture_are_refused(text: Path) -> None:
    with pytest.raises(UserError, match=r"fewer than a window's 1000001 \(train.replay_tokens\)"):
        build(text, replace(CONFIG, train=replace(CONFIG.train, replay_tokens=1_000_000)))
    dataset = Shapes(split="train", size=32, seed=0, items=0)
    with pytest.raises(UserError, match="shapes has no pictures for train"):
        collect(dataset, 10, models()[2], Console(interval=1e9))


def test_a_collection_is_a_splits_beginning_made_once_and_then_read() -> None:
    class Few(Dataset):
        """The first pictures of the world, without scenes."""

        name, split, size = "few", "train", 32

        def __init__(self) -> None:
            self.exclusions: Counter[str] = Counter({"too small": 2})
            self.made: list[int] = []

        @classmethod
        def build(cls, config: DataConfig, split: str) -> Few:
            return cls()

        def content_hash(self) -> str:
            return "few"

        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: int) -> Sample:
            self.made.append(index)
            return replace(Shapes.build(CONFIG.data, "train")[index], scene=None)

    few = Few()
    for _ in range(2):
        found = collect(few, 7, models()[2], Console(interval=1e9))
        assert len(found) == 5 and found.scenes == (None,) * 5 and found.exclusions == {"too small": 2}
        assert np.array_equal(found.pictures[4], Shapes.build(CONFIG.data, "train")[4].image)
    assert few.made == list(range(5))


def test_a_disk_that_fills_up_while_pictures_are_kept_is_a_sentence(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a mapping it would have been a signal that ends the process."""
    header, before = np.lib.format.write_array_header_1_0, set(own_cache.rglob("*.npy*"))

    def full(file: Any, told: Any) -> None:
        header(file, told)
        file.close()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    with pytest.raises(UserError, match="No space left on device"):
        collect(Shapes.build(CONFIG.data, "train"), 4, models()[2], Console(interval=1e9))
    assert set(own_cache.rglob("*.npy*")) == before


def test_the_digest_tells_words_and_pictures(text: Path) -> None:
    batches = build(text)
    batch, seen = batches(5), {batches.digest("", batches(5))}
    for kind in ("draw", "describe"):
        rows: Captioned = getattr(batch, kind)
        other: dict[str, Any] = {kind: dataclasses.replace(rows, tokens=rows.tokens + 1)}
        seen.add(batches.digest("", dataclasses.replace(batch, **other)))
    assert len(seen | {batches.digest("", dataclasses.replace(batch, step=6))}) == 4  # a step of other pictures


def test_whatever_decides_the_tokens_is_in_their_hash() -> None:
    model = models()[1]

    def hashed(start: int = model.start_id, end: int = model.end_id, tokenizer: Any = model.tokenizer) -> str:
        of: Any = SimpleNamespace(start_id=start, end_id=end, tokenizer=tokenizer)
        return tokenizer_hash(of)

    plain = [SimpleNamespace(get_vocab=lambda words=words: words) for words in ({"a": 0, "b": 1}, {"a": 1, "b": 0})]
    every = [hashed(), hashed(start=7), hashed(end=7), *(hashed(tokenizer=t) for t in (byte_tokenizer(), *plain))]
    assert hashed() == tokenizer_hash(model) and len(set(every)) == len(every)
