"""Making the shipped weights, with micro recipes: what is written loads, is described truthfully, and the measures that
cards quote are what they say."""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from approaches.shared.kernels import choose
from approaches.shared.language_model import LanguageModel
from approaches.shared.sources import Source, check_folder
from approaches.shared.transformer import Transformer, TransformerConfig
from approaches.shared.vae import LatentCodec, new_autoencoder, to_unit
from bench import pretrain
from bench.config import Config, OptimizerConfig, TextConfig
from bench.console import Console
from bench.data import fonts
from bench.data.shapes import Shapes
from bench.data.text import open_text
from bench.errors import UserError
from bench.files import read_json
from bench.presets import preset
from bench.pretrain import lm
from bench.pretrain.arguments import MODELS, PretrainArguments
from bench.pretrain.card import evaluations, finished
from bench.pretrain.clip import contrastive_loss, sides_loss, twin_loss
from bench.pretrain.clip_batches import SIDES, Batch
from bench.pretrain.vae import _mixed, _write, psnr, reconstruction_loss
from bench.trainer import Fitted
from metrics.alignment import Clip
from tests.approaches.checkpoints import drawn

ENGLISH = "the of a model reads each line and writes what it found there, then another file is opened or closed"


def text_folder(folder: Path) -> Path:
    """Forty files of about a thousand characters of English words."""
    folder.mkdir()
    draw = random.Random(0)
    for number in range(40):
        (folder / f"{number}.txt").write_text(" ".join(draw.choices(ENGLISH.split(), k=200)) + ".\n")
    return folder


def micro(texts: Path) -> Config:
    """A config whose three trainings take seconds, without emoji."""
    config = preset("smoke")
    few = OptimizerConfig(steps=3, batch=4, lr=2e-3, warmup=1, ema=0.5)
    recipes = config.pretrain
    return replace(
        config,
        data=replace(config.data, train_items=64, eval_items=48),
        text=TextConfig(name="folder", path=str(texts)),
        pretrain=replace(
            recipes,
            vae=replace(recipes.vae, channels=(16, 16, 16), emoji_share=0.0, optimizer=few),
            lm=replace(
                recipes.lm, vocabulary=320, width=48, layers=2, heads=3, kv_heads=3, hidden=64, context=32,
                optimizer=replace(few, ema=0.0),
            ),
            clip=replace(
                recipes.clip, width=32, layers=1, text_width=32, text_layers=1, embedding=16, vocabulary=400,
                emoji_share=0.0, optimizer=replace(few, batch=8), binding=replace(few, steps=2, batch=8),
            ),
        ),
    )  # fmt: skip


@dataclass(frozen=True)
class Made:
    """A finished pretraining."""

    config: Config
    out: Path

    def folder(self, kind: str) -> Path:
        return self.out / f"{kind}-smoke"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """All three models, made on a machine without a colour-emoji font."""
    folder = tmp_path_factory.mktemp("pretrain")
    config = micro(text_folder(folder / "texts"))
    arguments = PretrainArguments(out=folder / "weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fonts, "find_font", lambda: None)
        patch.setattr(lm, "WORLD_DOCUMENTS", 500)
        arguments.check(config)
        assert pretrain.main(arguments, config, Console(interval=1e9)) == 0
    yield Made(config=config, out=arguments.out)


def test_pictures_that_would_not_be_read_are_refused(made: Made) -> None:
    config = replace(made.config, data=replace(made.config.data, path="pictures"))
    with pytest.raises(UserError, match="--data.path pictures: pretrain draws its own pictures"):
        PretrainArguments(out=made.out).check(config)


@pytest.mark.parametrize(("split", "context"), [("validation", 30_000), ("training", 1_000_000)])
def test_text_shorter_than_a_window_is_refused(made: Made, split: str, context: int) -> None:
    streams = {"text": np.arange(20_000 if split == "validation" else 900_000)}
    with pytest.raises(UserError, match=rf"the {split} part of text has .* fewer than a window's {context + 1}"):
        lm._check_length(streams, split, context)
    lm._check_length(streams, split, len(streams["text"]) - 1)


def test_what_is_finished_is_not_made_again_but_another_recipe_is(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.out.rglob("*") if path.is_file()}
    assert pretrain.main(PretrainArguments(out=made.out), made.config, Console(interval=1e9)) == 0
    assert {path: path.stat().st_mtime_ns for path in made.out.rglob("*") if path.is_file()} == before
    assert capsys.readouterr().out.count("done already, by this recipe of this data") == 3
    assert all(finished(kind, made.config, made.folder(kind)) for kind in MODELS)
    assert not finished("lm", replace(made.config, seed=made.config.seed + 1), made.folder("lm"))
    assert not finished("lm", made.config, made.folder("vae")) and not finished("lm", made.config, made.out)
    other = replace(made.config, text=replace(made.config.text, path="elsewhere"))
    assert not finished("lm", other, made.folder("lm")) and finished("vae", other, made.folder("vae"))
    assert not finished("vae", replace(made.config, data=replace(made.config.data, seed=9)), made.folder("vae"))
    copy = tmp_path / "lm"
    shutil.copytree(made.folder("lm"), copy)
    assert finished("lm", made.config, copy)
    (copy / "tokenizer.json").unlink()
    assert not finished("lm", made.config, copy)


@pytest.mark.parametrize("kind", ["lm", "clip"])
def test_a_pretraining_that_is_cut_off_leaves_the_model_before_it_whole(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    """A new tokenizer beside old weights would read other words than the card was measured on."""
    out = tmp_path / "weights"
    shutil.copytree(made.out, out)
    (out / f"{kind}-smoke" / "tokenizer.json").write_text("an older one")

    def cut_off(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"bench.pretrain.{kind}.fit", cut_off)
    monkeypatch.setattr(lm, "WORLD_DOCUMENTS", 500)
    before = {path: path.read_bytes() for path in (out / f"{kind}-smoke").iterdir()}
    with pytest.raises(KeyboardInterrupt):
        pretrain.main(PretrainArguments(out=out, only=(kind,)), made.config, Console(interval=1e9))
    assert {path: path.read_bytes() for path in (out / f"{kind}-smoke").iterdir()} == before


# What is written


def test_cards_quote_what_the_written_weights_do_on_held_out_data(made: Made) -> None:
    """Counted again from the files: not on what was trained on, and not by weights before their average."""
    told = read_json(made.folder("vae") / "card.json")["quality"]["psnr_shapes"]
    codec = LatentCodec.load(str(made.folder("vae")))

    def by(split: str) -> float:
        samples = Shapes.build(made.config.data, split).first(told["n"])
        return psnr(codec.model, np.stack([sample.image for sample in samples]))[0]

    assert told["value"] == pytest.approx(by("test"), abs=1e-3)
    assert told["value"] != pytest.approx(by("train"), abs=1e-3)
    told = read_json(made.folder("lm") / "card.json")["quality"]
    corpus = open_text(made.config.text, print)
    model = LanguageModel.load(str(made.folder("lm")))
    sizes = {
        split: sum(len(model.encode(document.text)) for document in corpus.documents(split))
        for split in ("train", "test")
    }
    assert told["test_tokens"] == sizes["test"] != sizes["train"]


def test_one_folder_a_model_and_nothing_else(made: Made) -> None:
    assert {path.name for path in made.out.iterdir()} == {f"{kind}-smoke" for kind in MODELS}


@pytest.mark.parametrize("kind", MODELS)
def test_a_card_says_what_was_made_and_from_what(made: Made, kind: str) -> None:
    folder = made.folder(kind)
    card = read_json(folder / "card.json")
    assert card["kind"] == kind and card["preset"] == "smoke" and card["seed"] == made.config.seed
    assert card["weights"] == check_folder(Source(text=str(folder), path=folder))
    assert set(card["provenance"]["commit"]) >= {"id", "dirty"}
    corpus, world = open_text(made.config.text), Shapes.build(made.config.data, "train")
    if kind == "lm":
        assert card["data"]["text"] == corpus.content_hash("train")
    else:
        assert card["data"] == {"shapes": world.content_hash()}  # and no emoji: none were asked for
    recipe = getattr(made.config.pretrain, kind)
    assert card["recipe"]["optimizer"]["steps"] == recipe.optimizer.steps
    steps = recipe.optimizer.steps + (recipe.binding.steps if kind == "clip" else 0)
    assert card["curve"][-1]["step"] == steps
    page = (folder / "README.md").read_text()
    assert all(digest in page for digest in card["data"].values())


def test_the_average_is_what_is_written_and_whitening_leaves_what_it_decodes(tmp_path: Path) -> None:
    config = preset("smoke")
    model, average = (new_autoencoder(channels=(16, 16), latent_channels=4, size=8) for _ in range(2))
    images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), np.uint8)
    recipe = replace(config.pretrain.vae, emoji_share=0.0)
    fitted = Fitted(curve=[], seconds=0.0, average=dict(average.state_dict()))
    _write(model, fitted, {"shapes": images}, recipe, tmp_path)
    written = LatentCodec.load(str(tmp_path))
    with torch.no_grad():
        pictures = to_unit(images[:4])
        expected = average.decode(average.encode(pictures).latent_dist.mode()).sample
        torch.testing.assert_close(written.decode(written.encode(pictures)), expected, atol=5e-3, rtol=5e-3)


def test_the_written_codec_centres_its_latents(made: Made) -> None:
    codec = LatentCodec.load(str(made.folder("vae")))
    images = np.stack([sample.image for sample in Shapes.build(made.config.data, "train").first(64)])
    latents = codec.encode_images(images)
    assert latents.shape == (64, made.config.pretrain.vae.latent_channels, 8, 8)
    assert abs(float(latents.mean())) < 0.02 and abs(float(latents.std()) - 1) < 0.02  # float16 weights, float32 scale


def test_the_written_language_model_has_the_vocabulary_of_its_recipe(made: Made) -> None:
    model = LanguageModel.load(str(made.folder("lm")))
    size = made.config.pretrain.lm.vocabulary
    assert len(model.tokenizer) == size
    assert model.tokenizer.convert_ids_to_tokens(size - 1) == lm.END
    assert model.start_id == model.end_id == size - 1
    text = "a large red circle, 42 à côté\n\tplan:"
    assert model.decode(model.encode(text)) == text


def test_the_written_clip_embeds_in_the_width_of_its_recipe(made: Made) -> None:
    clip = Clip(str(made.folder("clip")))
    images = np.stack([sample.image for sample in Shapes.build(made.config.data, "test").first(3)])
    width = made.config.pretrain.clip.embedding
    assert clip.embed_images(images).shape == clip.embed_texts(["a red circle"] * 3).shape == (3, width)
    tokens = clip.tokenizer(["a red circle", "two crosses"])
    assert (tokens.max(dim=1).values == len(clip.tokenizer.tokenizer) - 1).all()  # END, where open_clip pools


def test_a_corpus_too_short_for_the_vocabulary_still_gives_exactly_as_many_tokens() -> None:
    tokenizer = lm.train_tokenizer(["ab"], [], vocabulary=400)
    assert len(tokenizer) == 400 and tokenizer.convert_tokens_to_ids(lm.END) == 399
    assert tokenizer.convert_tokens_to_ids(lm.PAD) == 0


# Measures


@pytest.mark.parametrize("length", [0, 5, 8, 9, 24, 29])
def test_rolling_nll_is_that_of_each_window_on_its_own(length: int) -> None:
    config = TransformerConfig(
        vocabulary=50, width=16, layers=2, heads=2, kv_heads=1, head_width=8, hidden=24, context=8
    )
    model: Transformer = drawn(Transformer(config, choose("cpu")))
    ids = np.random.default_rng(length).integers(50, size=length)
    expected = []
    with torch.no_grad():
        for begin in range(0, length, 8):
            before = 49 if begin == 0 else int(ids[begin - 1])
            seen = [before]
            for token in ids[begin : begin + 8].tolist():
                logits = model.logits(model(torch.tensor([seen])))[0, -1]
                expected.append(float(logits.logsumexp(-1) - logits[token]))
                seen.append(token)
    np.testing.assert_allclose(lm.rolling_nll(model, ids, start=49, context=8), expected, atol=1e-5)


class Brighter:
    """An autoencoder that gives back its input, brighter by some of 255 levels."""

    def __init__(self, levels: int) -> None:
        self.levels = levels

    def encode(self, pictures: Tensor) -> Any:
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: pictures))

    def decode(self, latents: Tensor) -> Any:
        return SimpleNamespace(sample=latents + self.levels / 127.5)


@pytest.mark.parametrize("levels", [1, 4, 40])
def test_psnr_of_a_constant_error(levels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256 - levels, size=(70, 8, 8, 3)).astype(np.uint8)
    mean, error = psnr(Brighter(levels), images)
    assert mean == pytest.approx(20 * math.log10(255 / levels), abs=1e-9)
    assert error == pytest.approx(0, abs=1e-9)


def test_psnr_is_a_mean_over_pictures_with_its_standard_error() -> None:
    class Black(Brighter):
        def decode(self, latents: Tensor) -> Any:
            return SimpleNamespace(sample=torch.full_like(latents, -1.0))

    grey = np.stack([np.full((8, 8, 3), level, dtype=np.uint8) for level in (10, 20, 30)])
    # 20 log10(255 / level): 28.1308, 22.1102 and 18.5884 dB, whose standard deviation is 4.8255
    assert psnr(Black(0), grey) == pytest.approx((22.9431, 4.8255 / 3**0.5), abs=1e-3)


def test_psnr_rounds_and_clips_as_a_picture_does() -> None:
    white = np.full((2, 8, 8, 3), 255, dtype=np.uint8)
    assert psnr(Brighter(40), white)[0] == pytest.approx(10 * math.log10(255**2 / 1e-3))  # no error: the bound


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.25, 1), (1.0, 4)])
def test_a_batch_has_exactly_its_share_of_emoji(share: float, count: int) -> None:
    images = {
        name: np.full((5, 4, 4, 3), value, dtype=np.uint8)
        for name, value in (("shapes", 10), ("emoji", 200))
        if share or name == "shapes"
    }
    few = OptimizerConfig(steps=1, batch=4)
    recipe = replace(preset("smoke").pretrain.vae, emoji_share=share, optimizer=few)
    batch = _mixed(images, recipe, torch.Generator().manual_seed(0))
    assert batch.shape == (4, 4, 4, 3) and int((batch[:, 0, 0, 0] == 200).sum()) == count


# CLIP's loss: with pictures that are unit axes, the cosine of picture i and text j is the text's component i.


class Axes:
    """A CLIP whose pictures are the first axes and whose texts are given."""

    def __init__(self, texts: Tensor) -> None:
        self.texts = texts
        self.logit_scale = torch.tensor(math.log(10.0))

    def encode_image(self, pictures: Tensor) -> Tensor:
        return torch.eye(len(pictures), self.texts.shape[1])

    def encode_text(self, tokens: list[int]) -> Tensor:
        return self.texts[tokens]


def loss_of(texts: Tensor, *, chance: bool = False, negatives: bool = False, binding: bool = False) -> float:
    """Of three pictures and texts, the first text true of the second picture by chance, or an almost right caption of
    the last picture among the texts."""
    true = np.eye(3, dtype=bool)
    true[1, 0] = chance
    batch = Batch(
        pictures=np.zeros((3, 4, 4, 3), dtype=np.uint8),
        texts=["0", "1", "2"],
        negatives=["", "", "3" if negatives else ""],
        true=true,
        binding=binding,
    )
    return float(contrastive_loss(Axes(texts), lambda words: [int(word) for word in words], batch))


def cosines() -> Tensor:
    """Four unit texts of width 5."""
    return torch.nn.functional.normalize(torch.randn(4, 5, generator=torch.Generator().manual_seed(1)), dim=-1)


def test_a_text_true_by_chance_is_no_negative() -> None:
    texts = cosines()
    changed = texts.clone()
    changed[0, [1, 4]] = texts[0, [4, 1]]  # moves the cosine of text 0 with picture 1 alone: no picture is axis 4
    assert loss_of(changed, chance=True) == loss_of(texts, chance=True)
    assert abs(loss_of(changed) - loss_of(texts)) > 1e-3


@pytest.mark.parametrize("binding", [False, True])
def test_the_loss_is_clips_with_one_more_text_for_a_picture_that_has_a_twin(binding: bool) -> None:
    texts = cosines()
    logits = 10 * texts[:, :3].double().numpy().T  # picture, text
    rows = [list(logits[i, :3]) + ([logits[i, 3]] if i == 2 else []) for i in range(3)]
    to_text = np.mean([math.log(sum(map(math.exp, row))) - row[i] for i, row in enumerate(rows)])
    to_picture = np.mean([math.log(np.exp(logits[:, j]).sum()) - logits[j, j] for j in range(3)])
    twin = math.log1p(math.exp(logits[2, 3] - logits[2, 2])) if binding else 0.0
    expected = (to_text + to_picture) / 2 + twin
    assert loss_of(texts, negatives=True, binding=binding) == pytest.approx(expected, rel=1e-5)


def test_twins_are_told_apart_in_both_directions() -> None:
    """-log p of the right one of two, of each picture between two texts and of each text between two pictures."""
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(2)).double()
    expected = []
    for a, b in ((0, 1), (3, 2)):
        for own, other in ((a, b), (b, a)):
            for wrong in (logits[own, other], logits[other, own]):
                right = float(logits[own, own])
                expected.append(math.log(math.exp(right) + math.exp(float(wrong))) - right)
    found = float(twin_loss(logits, torch.tensor([[0, 1], [3, 2]])))
    assert found == pytest.approx(2 * sum(expected) / len(expected))


def test_sides_are_read_where_they_are_said() -> None:
    said, read = torch.zeros(2, SIDES), torch.randn(2, SIDES, generator=torch.Generator().manual_seed(3))
    assert float(sides_loss(read, said)) == 0.0
    said[0, 1], said[1, 4] = 1, -1
    known = [math.log1p(math.exp(-10 * float(read[0, 1]))), math.log1p(math.exp(10 * float(read[1, 4])))]
    assert float(sides_loss(read, said)) == pytest.approx(sum(known) / 2, rel=1e-5)


@pytest.mark.parametrize(("steps", "times"), [(1, 4), (12, 4), (50, 5), (2000, 20)])
def test_a_short_training_is_evaluated_less_often(steps: int, times: int) -> None:
    assert evaluations(steps, 20) == times


class Passing(Brighter):
    """Its latents are its pictures, at some scale, and it knows that scale."""

    def __init__(self, scale: float) -> None:
        super().__init__(0)
        self.scale = scale

    def encode(self, pictures: Tensor) -> Any:
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=pictures * self.scale))

    def decode(self, latents: Tensor) -> Any:
        return SimpleNamespace(sample=latents / self.scale)


def noised_loss(scale: float, noise: float) -> float:
    drawn_pictures = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    draw = torch.Generator().manual_seed(2)
    loss = reconstruction_loss(Passing(scale), drawn_pictures, latent_noise=noise, scale_weight=0.0, draw=draw)
    return float(loss)


def test_latent_noise_is_measured_in_the_latents_own_spread() -> None:
    assert noised_loss(1.0, 0.4) == pytest.approx(noised_loss(100.0, 0.4), rel=1e-4)  # growing does not drown it
    assert noised_loss(1.0, 0.8) == pytest.approx(2 * noised_loss(1.0, 0.4), rel=0.01)
    assert noised_loss(1.0, 0.0) == pytest.approx(1e-4, rel=0.01)  # the root's floor: nothing is lost


def test_latent_noise_is_of_every_level_up_to_its_limit() -> None:
    pictures = torch.rand(4000, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    seen = []

    class Watching(Passing):
        def decode(self, latents: Tensor) -> Any:
            seen.append((latents - pictures).flatten(1).std(1) / pictures.std())
            return super().decode(latents)

    draw = torch.Generator().manual_seed(2)
    reconstruction_loss(Watching(1.0), pictures, latent_noise=0.4, scale_weight=0.0, draw=draw)
    assert float(seen[0].mean()) == pytest.approx(0.2, rel=0.05) and float(seen[0].min()) < 0.02
