"""Pretraining the tiny language model on a text corpus and on what can be said about the world of shapes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import bench.torchvision_guard  # noqa: F401  (before transformers)
from approaches.shared.kernels import choose
from approaches.shared.language_model import LanguageModel, save_pretrained
from approaches.shared.randomness import generator
from approaches.shared.transformer import Transformer, TransformerConfig
from bench.batches import visited
from bench.config import Config, LmPretrainConfig, OptimizerConfig, fingerprint
from bench.console import Console
from bench.data.scene import PLAN_PROMPT, parse_plan, satisfied
from bench.data.shapes import Shapes
from bench.data.text import TextCorpus, open_text
from bench.data.world_text import world_documents
from bench.environment import source_hash
from bench.errors import UserError
from bench.files import hash_bytes
from bench.muon import muon_and_adamw
from bench.ngram import TrigramModel
from bench.pretrain.card import begin, evaluations
from bench.trainer import convergence, fit

PAD, END = "<|pad|>", "<|endoftext|>"
WORLD_DOCUMENTS = 40_000
TOKENIZER_BYTES = 6_000_000  # of the corpus; the vocabulary hardly changes with more
Ids = NDArray[np.int64]


def pretrain(config: Config, *, work: Path, out: Path, console: Console) -> dict[str, Any]:
    """Train tokenizer and language model of a config, resumable in `work`, and write both to `out` in Hugging Face's
    layout; its card's facts."""
    recipe = config.pretrain.lm
    corpus = open_text(config.text, console.info)
    world = list(islice(world_documents(config.data.seed, "train"), WORLD_DOCUMENTS))
    train = [document.text for document in corpus.documents("train")]
    tokenizer = train_tokenizer(train, world, vocabulary=recipe.vocabulary)
    streams = {"text": _stream(tokenizer, train), "world": _stream(tokenizer, world)}
    words = ", ".join(f"{len(ids):,} tokens of {name}" for name, ids in streams.items())
    console.info(f"lm: {words}")
    unseen = {
        "text": _stream(tokenizer, [document.text for document in corpus.documents("validation")]),
        "world": _stream(tokenizer, islice(world_documents(config.data.seed, "validation"), 400)),
    }
    for split, tokens in (("training", streams), ("validation", unseen)):
        _check_length(tokens, split, recipe.context)
    held_out = {name: _windows(unseen[name], recipe.context, count) for name, count in (("text", 48), ("world", 16))}
    model = Transformer(shape(recipe), choose("cpu"))
    model.initialise(generator(config.seed, "lm/weights"))
    data_hash = hash_bytes(*(ids.tobytes() for ids in streams.values()))
    fitted = fit(
        model,
        lambda step: _mean(model.loss(_batch(streams, recipe, config.seed, step))),
        config=recipe.optimizer,
        optimizers=optimizers_of(model, recipe.optimizer),
        evaluate=lambda: {f"perplexity_{name}": math.exp(_nll(model, ids)) for name, ids in held_out.items()},
        evaluations=evaluations(recipe.optimizer.steps, 20),
        path=work / "lm.safetensors",
        key=hash_bytes(fingerprint(recipe), str(config.seed), data_hash, source_hash()),
        console=console,
        description="lm",
    )
    model.load_state_dict(fitted.average)
    model.eval()
    begin(out, "model.safetensors")
    tokenizer.save_pretrained(out)
    end = int(tokenizer.eos_token_id)
    save_pretrained(model, out, dtype=torch.float16, start_id=end, end_id=end)
    return {
        "data": {"text": corpus.content_hash("train"), "tokens": data_hash},
        "quality": quality(config, out, corpus, streams["text"]),
        **convergence(fitted, "perplexity_text"),
    }


def optimizers_of(model: Transformer, config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for embeddings and gains. Words that stand in like places, "dark" and
    "light", differ in directions of small gradients, which AdamW alone hardly follows in so few steps."""
    hidden = [layer.weight for layer in model.blocks.modules() if isinstance(layer, nn.Linear)]
    return muon_and_adamw([(list(model.parameters()), config.lr)], hidden, config.weight_decay, betas=(0.9, 0.95))


def shape(recipe: LmPretrainConfig) -> TransformerConfig:
    """The transformer that a recipe describes."""
    return TransformerConfig(
        vocabulary=recipe.vocabulary,
        width=recipe.width,
        layers=recipe.layers,
        heads=recipe.heads,
        kv_heads=recipe.kv_heads,
        head_width=recipe.width // recipe.heads,
        hidden=recipe.hidden,
        context=recipe.context,
    )


def train_tokenizer(text: list[str], world: list[str], *, vocabulary: int) -> Any:
    """A byte-level BPE tokenizer of exactly `vocabulary` tokens, PAD the first and END the last, as a transformers fast
    tokenizer. END is last because CLIP's text tower pools at the largest id."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    sample, size = [], 0
    for document in text:
        sample.append(document)
        size += len(document)
        if size > TOKENIZER_BYTES:
            break
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 1,
        special_tokens=[PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*sample, *world[:4000]], trainer)
    missing = vocabulary - 1 - tokenizer.get_vocab_size()
    tokenizer.add_tokens([f"<|unused{i}|>" for i in range(missing)])  # only where the text is too short to fill it
    tokenizer.add_special_tokens([AddedToken(END, special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=PAD)


@torch.no_grad()
def rolling_nll(model: Transformer, ids: Ids, *, start: int, context: int) -> NDArray[np.float64]:
    """-log p in nats of each token, in disjoint windows of `context` predictions, each window after the one token
    before it (`start` for the first): lm-evaluation-harness' rolling windows at context length 1, but that a shorter
    one at the end reads no further back than the others."""
    whole = np.concatenate([[start], ids])
    values = []
    full = (len(ids) // context) * context
    windows = [whole[i : i + context + 1] for i in range(0, full, context)]
    groups = [np.stack(windows[i : i + 32]) for i in range(0, len(windows), 32)]
    if full < len(ids):
        groups.append(whole[full:][None])
    for group in groups:
        rows = torch.as_tensor(group)
        logits = model.logits(model(rows[:, :-1])).float()
        picked = logits.log_softmax(-1).gather(-1, rows[:, 1:, None])
        values.append(-picked.double().flatten().numpy())
    return np.concatenate(values) if values else np.zeros(0)


def quality(config: Config, folder: Path, corpus: TextCorpus, train: Ids) -> dict[str, Any]:
    """Perplexity and bits per byte of the written weights on the corpus' test split, beside a Kneser-Ney trigram model
    of the same tokens, trained on the whole training split; how many greedy plans parse and are right."""
    model = LanguageModel.load(str(folder))
    documents = [document.text for document in corpus.documents("test")]
    encoded = [np.array(model.encode(text), dtype=np.int64) for text in documents]
    context = config.pretrain.lm.context
    nats = sum(rolling_nll(model.transformer, ids, start=model.start_id, context=context).sum() for ids in encoded)
    trigram = TrigramModel.fit(train, config.pretrain.lm.vocabulary)
    trigram_nats = -sum(
        trigram.log_probabilities(np.concatenate([[model.start_id], ids]))[1:].sum() for ids in encoded if len(ids)
    )
    tokens, size = sum(map(len, encoded)), sum(len(text.encode()) for text in documents)
    found: dict[str, Any] = {"test_tokens": tokens, "test_bytes": size, "windows": context}
    for name, total in (("lm", nats), ("trigram", trigram_nats)):
        found[name] = {
            "perplexity": round(math.exp(total / tokens), 3),
            "bits_per_byte": round(total / math.log(2) / size, 4),
        }
    return found | {"plans": plan_quality(config, model)}


def plan_quality(config: Config, model: LanguageModel) -> dict[str, float]:
    """Greedy plans for held-out captions: the share that parses, and the share that fulfils its caption."""
    count = 100
    dataset = Shapes.build(replace(config.data, eval_items=count), "validation")
    parsed = right = 0
    for sample in dataset.first(count):
        assert sample.scene is not None
        said = model.continue_text(PLAN_PROMPT.format(caption=sample.caption), tokens=60)
        plan = parse_plan(said.split("\n")[0])
        if plan is not None:
            parsed += 1
            right += satisfied(plan[0], sample.scene.demands, sample.scene.relation)
    return {"parsed": parsed / count, "right": right / count, "n": count}


def _stream(tokenizer: Any, documents: Iterable[str]) -> Ids:
    """Documents as one row of ids, each after an END."""
    end = int(tokenizer.eos_token_id)
    parts: list[int] = []
    for encoding in tokenizer.backend_tokenizer.encode_batch_fast(list(documents), add_special_tokens=False):
        parts.append(end)
        parts.extend(encoding.ids)
    return np.array(parts, dtype=np.int64)


def _check_length(streams: dict[str, Ids], split: str, context: int) -> None:
    """UserError where a stream is shorter than one window of context + 1 ids."""
    for name, ids in streams.items():
        if len(ids) <= context:
            raise UserError(
                f"the {split} part of {name} has {len(ids)} tokens, fewer than a window's {context + 1}: give "
                "--text.path more, or lower pretrain.lm.context"
            )


def _windows(ids: Ids, context: int, count: int) -> Tensor:
    """`count` windows of context + 1 ids, evenly spread over the stream."""
    starts = np.linspace(0, len(ids) - context - 1, count).astype(int)
    return torch.as_tensor(np.stack([ids[start : start + context + 1] for start in starts]))


def _batch(streams: dict[str, Ids], recipe: LmPretrainConfig, seed: int, step: int) -> Tensor:
    """The ids of a step: whole windows of each stream in an order shuffled anew each epoch, shares as configured."""
    batch = recipe.optimizer.batch
    world = round(batch * recipe.world_share)
    rows = []
    for name, count in (("text", batch - world), ("world", world)):
        ids = streams[name]
        windows = visited(seed, f"lm/order/{name}", (len(ids) - 1) // recipe.context, step, count)
        rows += [ids[window * recipe.context : (window + 1) * recipe.context + 1] for window in windows]
    return torch.as_tensor(np.stack(rows))


def _mean(summed: tuple[Tensor, Tensor]) -> Tensor:
    return summed[0] / summed[1]


def _nll(model: Transformer, windows: Tensor) -> float:
    """Mean nats a token."""
    sums, counts = zip(*(model.loss(rows) for rows in windows.split(16)), strict=True)
    return float(sum(sums)) / float(sum(counts))
