"""Pretraining the tiny CLIP on shapes and emoji: an open_clip model, in open_clip's layout.

The world is procedural, so a picture is drawn anew for every step (see bench.pretrain.clip_batches). Stage one matches
pictures and texts; stage two binds colours, counts and sides to things by pictures that stand beside their twins. A
caption that happens to be true of another picture of the batch is no negative.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

import bench.torchvision_guard  # noqa: F401  (before open_clip)
from approaches.shared.vae import to_unit
from bench.config import ClipPretrainConfig, Config, OptimizerConfig
from bench.console import Console
from bench.data.catalogue import open_dataset
from bench.data.dataset import Sample
from bench.data.negatives import HARD, false_caption
from bench.data.shapes import Shapes
from bench.environment import source_hash
from bench.files import atomic_path, hash_bytes, write_json
from bench.pretrain.card import begin, evaluations
from bench.pretrain.clip_batches import CAPTION, DESCRIPTION, SIDES, Batch, binding_batch, fits, matching_batch
from bench.seeds import derive
from bench.trainer import Fitted, adamw, convergence, fit
from metrics.alignment import Clip

MEAN, DEVIATION = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
SHARPNESS = 10.0  # of the sides read from an embedding of unit length
PAD, END = "<|pad|>", "<|endoftext|>"
WORLD = 1 << 40  # more pictures than any training asks for


def pretrain(config: Config, *, work: Path, out: Path, console: Console) -> dict[str, Any]:
    """Train the CLIP of a config, resumable in `work`, and write it to `out`; its card's facts."""
    import open_clip

    recipe = config.pretrain.clip
    world = Shapes(split="train", size=config.data.size, seed=config.data.seed, items=WORLD)
    hashes = {"shapes": Shapes.build(config.data, "train").content_hash()}
    emoji: list[Sample] = []
    if recipe.emoji_share:
        emoji_data = open_dataset(replace(config.data, name="emoji", path=None), "train")
        emoji, hashes["emoji"] = emoji_data.first(config.data.train_items), emoji_data.content_hash()
    tokenizer = _tokenizer(recipe, [world[i] for i in range(3000)], emoji)
    made = work / "clip"  # its tokenizer and config: beside the weights when these are there
    tokenizer.save_pretrained(made)
    write_json(made / "open_clip_config.json", open_clip_config(config))
    encode = open_clip.get_tokenizer(f"local-dir:{made}")
    torch.manual_seed(config.seed)  # open_clip draws its initial weights from the global generator
    model = open_clip.create_model(f"local-dir:{made}", load_weights=False)
    data_hash = hash_bytes(*hashes.values())
    places = nn.Linear(recipe.embedding, SIDES, bias=False)  # of the training alone: it is not written
    evaluate = _evaluation(config, model, encode)

    def stage(name: str, trained: nn.Module, loss: Callable[[int], Tensor], budget: OptimizerConfig) -> Fitted:
        fitted = fit(
            trained,
            loss,
            config=budget,
            optimizers=[adamw(trained, budget, betas=(0.9, 0.98))],
            evaluate=evaluate,
            evaluations=evaluations(budget.steps, 20),
            path=work / f"clip-{name}.safetensors",
            key=stage_key(name, recipe, config.seed, data_hash),
            console=console,
            description=f"clip, {name}",
        )
        trained.load_state_dict(fitted.average)
        return fitted

    draw = (recipe, world, emoji, config.seed)
    first = stage(
        "matching", model, lambda n: contrastive_loss(model, encode, matching_batch(*draw, n)), recipe.optimizer
    )
    second = stage(
        "binding",
        nn.ModuleDict({"clip": model, "places": places}),
        lambda n: contrastive_loss(model, encode, binding_batch(*draw, n), places),
        recipe.binding,
    )
    tensors = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    begin(out, "open_clip_model.safetensors")
    for file in made.iterdir():
        shutil.copyfile(file, out / file.name)
    with atomic_path(out / "open_clip_model.safetensors") as part:
        save_file(tensors, part, {"format": "pt"})
    return {
        "data": hashes,
        "quality": quality(config, out),
        **convergence(_joined(first, second), "retrieval"),
    }


def _evaluation(config: Config, model: Any, encode: Any) -> Callable[[], dict[str, float]]:
    """What the curve holds, of the validation split."""
    validation = Shapes.build(config.data, "validation").first(400)
    held_out = distinct(validation, 100, DESCRIPTION)
    pictures, texts = np.stack([s.image for s in held_out]), [s.captions[DESCRIPTION] for s in held_out]
    twins = {kind: _twins(validation, kind, held_out=False) for kind in HARD}

    def evaluate() -> dict[str, float]:
        return {
            "retrieval": retrieval(_embed(model, pictures), _texts(model, encode, texts)),
            "against_negatives": _chosen(model, encode, [twin for rows in twins.values() for twin in rows]),
            "sides": _chosen(model, encode, twins["sides swapped"]),
        }

    return evaluate


def _joined(first: Fitted, second: Fitted) -> Fitted:
    """Two trainings told as one."""
    later = [{**row, "step": first.curve[-1]["step"] + row["step"]} for row in second.curve]
    return Fitted(curve=first.curve + later, seconds=first.seconds + second.seconds, average=second.average)


def stage_key(stage: str, recipe: ClipPretrainConfig, seed: int, data_hash: str) -> str:
    """The key of a stage's checkpoint: of all that decides it, and for `matching` that is not what `binding` does."""
    values = asdict(recipe)
    if stage == "matching":
        del values["binding"]
    return hash_bytes(stage, json.dumps(values, sort_keys=True), str(seed), data_hash, source_hash())


def contrastive_loss(model: Any, encode: Any, batch: Batch, places: nn.Linear | None = None) -> Tensor:
    """CLIP's symmetric loss (arXiv 2103.00020), where each picture has its almost right caption among the texts too
    (arXiv 2210.01936), and texts that are true of a picture by chance are left out of its negatives.

    places: reads sides from an embedding, the same for pictures as for texts, so that both speak of them alike."""
    size = len(batch.texts)
    wrong = [i for i, text in enumerate(batch.negatives) if text]
    images = nn.functional.normalize(model.encode_image(to_unit(batch.pictures)), dim=-1)
    tokens = encode([*batch.texts, *(batch.negatives[i] for i in wrong)])
    texts = nn.functional.normalize(model.encode_text(tokens), dim=-1)
    scale = model.logit_scale.exp().clamp(max=100)
    logits = scale * images @ texts[:size].T
    chance = torch.as_tensor(batch.true) & ~torch.eye(size, dtype=torch.bool)
    logits = logits.masked_fill(chance, -math.inf)
    hard = logits.new_full((size, 1), -math.inf)
    hard[wrong, 0] = scale * (images[wrong] * texts[size:]).sum(-1)
    target = torch.arange(size)
    to_text = nn.functional.cross_entropy(torch.cat([logits, hard], dim=1), target)
    loss = (to_text + nn.functional.cross_entropy(logits.T, target)) / 2
    if batch.binding and wrong:
        loss = loss + nn.functional.softplus(hard[wrong, 0] - logits.diagonal()[wrong]).mean()
    if batch.binding and len(batch.twins):
        loss = loss + twin_loss(logits, torch.as_tensor(batch.twins))
    if places is not None and batch.reading:
        said = torch.as_tensor(batch.sides)
        loss = loss + batch.reading * (sides_loss(places(images), said) + sides_loss(places(texts[:size]), said))
    return loss


def sides_loss(read: Tensor, said: Tensor) -> Tensor:
    """Mean -log p of the sides that captions say, read from embeddings. read: B SIDES, logits over SHARPNESS. said: see
    Batch."""
    told_of = said != 0
    return nn.functional.softplus(-SHARPNESS * read[told_of] * said[told_of]).sum() / told_of.sum().clamp(min=1)


def twin_loss(logits: Tensor, twins: Tensor) -> Tensor:
    """Each of two twins against the other alone, -log p of the right one of two: the mean over pictures that choose a
    text plus the mean over texts that choose a picture. logits: picture, text. twins: P 2, places in both."""
    place, other = twins.flatten(), twins.flip(1).flatten()
    own = logits.diagonal()[place]
    choose = nn.functional.softplus(logits[place, other] - own) + nn.functional.softplus(logits[other, place] - own)
    return choose.mean()


def open_clip_config(config: Config) -> dict[str, Any]:
    """open_clip's own description of the model, its preprocessing and its tokenizer."""
    recipe = config.pretrain.clip
    return {
        "model_cfg": {
            "embed_dim": recipe.embedding,
            "vision_cfg": {
                "image_size": config.data.size,
                "layers": recipe.layers,
                "width": recipe.width,
                "head_width": 32,
                "patch_size": recipe.patch,
                "pool_type": "avg",
            },
            "text_cfg": {
                "context_length": recipe.context,
                "vocab_size": recipe.vocabulary,
                "hf_tokenizer_name": "clip-tiny",
                "width": recipe.text_width,
                "heads": recipe.text_width // 32,
                "layers": recipe.text_layers,
            },
        },
        "preprocess_cfg": {"mean": list(MEAN), "std": list(DEVIATION), "interpolation": "bicubic"},
    }


def distinct(samples: list[Sample], number: int, text: int) -> list[Sample]:
    """The first `number` samples whose captions[text] differ from one another."""
    chosen = {sample.captions[text]: sample for sample in reversed(samples)}
    return [sample for sample in samples if chosen[sample.captions[text]] is sample][:number]


def retrieval(images: Tensor, texts: Tensor) -> float:
    """Share of pictures whose own caption is the nearest of all. images, texts: N E, unit length."""
    nearest = (images @ texts.T).argmax(dim=1)
    return float((nearest == torch.arange(len(images))).float().mean())


def quality(config: Config, folder: Path) -> dict[str, Any]:
    """Of the written weights, on held-out pictures and on pairs and sentence forms never trained on.

    retrieval: share of pictures whose full description is the nearest among 100 distinct ones (chance 1%);
    retrieval_captions: share of pictures whose nearest among 100 distinct task captions is true of them (chance is
    above 1%, for a vague caption is true of many, and printed beside it);
    hard_negatives: share where the true caption beats its almost right twin, by kind (chance 50%)."""
    clip = Clip(str(folder))
    found: dict[str, Any] = {}
    for split in ("test", "pairs", "forms"):
        samples = Shapes.build(config.data, split).first(600)
        scores: dict[str, Any] = {}
        described = distinct(samples, 100, DESCRIPTION)
        images = clip.embed_images(np.stack([sample.image for sample in described]))
        texts = clip.embed_texts([sample.captions[DESCRIPTION] for sample in described])
        scores["retrieval"] = {"value": round(retrieval(images, texts), 4), "n": len(described)}
        captioned = distinct(samples, 100, CAPTION)
        images = clip.embed_images(np.stack([sample.image for sample in captioned]))
        best = (images @ clip.embed_texts([sample.caption for sample in captioned]).T).argmax(dim=1)
        true = np.array([[fits(picture, caption) for caption in captioned] for picture in captioned])
        scores["retrieval_captions"] = {
            "value": round(float(true[np.arange(len(captioned)), best.numpy()].mean()), 4),
            "chance": round(float(true.mean()), 4),
            "n": len(captioned),
        }
        scores["hard_negatives"] = _against_negatives(clip, samples, held_out=split == "forms")
        found[split] = scores
    if not config.pretrain.clip.emoji_share:
        return found
    emoji = open_dataset(replace(config.data, name="emoji", path=None), "test").first(100)
    texts = clip.embed_texts([sample.caption for sample in emoji])
    images = clip.embed_images(np.stack([sample.image for sample in emoji]))
    return found | {"emoji_test": {"value": round(retrieval(images, texts), 4), "n": len(emoji)}}


def _against_negatives(clip: Clip, samples: list[Sample], *, held_out: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    rights = []
    for kind in HARD:
        rows = _twins(samples, kind, held_out=held_out)
        if not rows:
            continue
        images = clip.embed_images(np.stack([row[0] for row in rows]))
        true, false = clip.embed_texts([row[1] for row in rows]), clip.embed_texts([row[2] for row in rows])
        right = ((images * true).sum(-1) > (images * false).sum(-1)).float()
        found[kind] = {"accuracy": round(float(right.mean()), 4), "n": len(rows)}
        rights.append(right)
    return found | {"mean": round(float(torch.cat(rights).mean()), 4)} if rights else found


def _twins(samples: list[Sample], kind: str, *, held_out: bool) -> list[tuple[NDArray[np.uint8], str, str]]:
    """(picture, true caption, false caption) of the samples to which a kind of hard negative applies."""
    rows = []
    for number, sample in enumerate(samples):
        assert sample.scene is not None
        pair = false_caption(sample.scene, kind, derive(0, f"negative/{kind}", number), held_out=held_out)
        if pair is not None:
            rows.append((sample.image, *pair))
    return rows


def _chosen(model: Any, encode: Any, twins: list[tuple[NDArray[np.uint8], str, str]]) -> float:
    """Share of pictures to which the true caption is nearer than the false one."""
    images = _embed(model, np.stack([twin[0] for twin in twins]))
    true = _texts(model, encode, [twin[1] for twin in twins])
    false = _texts(model, encode, [twin[2] for twin in twins])
    return float(((images * true).sum(-1) > (images * false).sum(-1)).float().mean())


def _tokenizer(recipe: ClipPretrainConfig, samples: list[Sample], emoji: list[Sample]) -> Any:
    """Byte-level BPE of at most `vocabulary` tokens; adds END (the largest id, where open_clip pools) to each text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary - 1,
        special_tokens=[PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [text for sample in [*samples, *emoji] for text in sample.captions]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(END, special=True)])
    end = tokenizer.token_to_id(END)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, end)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, model_max_length=recipe.context
    )


def _embed(model: Any, images: NDArray[np.uint8]) -> Tensor:
    return nn.functional.normalize(model.encode_image(to_unit(images)), dim=-1)


def _texts(model: Any, encode: Any, texts: list[str]) -> Tensor:
    return nn.functional.normalize(model.encode_text(encode(texts)), dim=-1)
