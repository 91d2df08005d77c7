"""What every approach is measured on: a pure function of the config, the same for all of them.

N items; C H W a latent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from approaches.base import Approach, Prompt, Shared
from approaches.shared.randomness import generator
from bench.collection import Collection, collect
from bench.config import Config
from bench.console import Console
from bench.data.catalogue import DATASETS, UNSEEN, UNSEEN_LOOKED, open_dataset
from bench.data.other_texts import other_texts
from bench.data.text import Document, TextCorpus
from bench.files import hash_bytes

WINDOW = 256  # tokens that a language model reads at a time, at most
LONGEST = 4  # windows of a document
LOGITS = 2**25  # of a batch of texts, at most: 128 MB in single precision


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Held-out documents: their keys, their token ids without the start token, and the UTF-8 bytes of what the ids
    say. window: tokens that a model reads at a time. cut: how many documents were longer than LONGEST windows."""

    keys: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]
    window: int
    cut: int = 0


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What every approach is measured on.

    validation: pictures of the fixed triples, with times (N) and noise (N C H W). test: pictures whose captions are
    drawn, and which are described. others: of text that is not replayed, by label.
    """

    validation: Collection
    times: Tensor
    noise: Tensor
    test: Collection
    texts: Texts
    others: Mapping[str, Texts] = field(default_factory=dict)


def hold_out(config: Config, shared: Shared, corpus: TextCorpus, console: Console) -> HeldOut:
    """The held-out things of a config."""
    codec, sizes = shared.codecs["image"], config.evaluate
    validation = collect(open_dataset(config.data, "validation"), sizes.triples, codec, console)
    test = collect(open_dataset(config.data, "test"), max(sizes.pictures, sizes.captions), codec, console)
    draws = generator(config.seed, "validation/times"), generator(config.seed, "validation/noise")
    times = shared.diffusion.times(len(validation), draws[0])
    noise = shared.diffusion.noise_like(validation.latents, draws[1])
    texts = _texts(shared, corpus.some("test", config.evaluate.documents))
    return HeldOut(validation=validation, times=times, noise=noise, test=test, texts=texts)


def hold_out_others(config: Config, shared: Shared, corpus: TextCorpus, console: Console) -> dict[str, Texts]:
    """The documents of evaluate.other_texts, by label, without what overlaps the training documents of a corpus. Their
    keys hold their contents, so that numbers of the same names and other texts are not compared as pairs."""
    found = other_texts(config, corpus, console.info)
    keyed = {
        label: [replace(item, key=f"{item.key} {hash_bytes(item.text)}") for item in documents]
        for label, documents in found.items()
    }
    return {label: _texts(shared, documents) for label, documents in keyed.items()}


@torch.no_grad()
def triple_losses(
    approach: Approach, held: HeldOut, rows: Sequence[int], prompts: Sequence[Prompt], batch: int
) -> NDArray[np.float64]:
    """The diffusion loss of these fixed triples under these prompts, one each, `batch` at a time."""
    diffusion, device = approach.shared.diffusion, next(approach.parameters()).device
    losses = []
    for start in range(0, len(rows), batch):
        some = torch.tensor(rows[start : start + batch])
        latents, noise = held.validation.latents[some].to(device), held.noise[some].to(device)
        times = held.times[some].to(device)
        x_t, target = diffusion.add_noise(latents, noise, times), diffusion.target(latents, noise, times)
        prediction = approach.denoise(x_t, times, approach.condition(prompts[start : start + batch]))
        losses.append(diffusion.loss(prediction, target).cpu())
    return torch.cat(losses).double().numpy()


def _texts(shared: Shared, documents: Sequence[Document]) -> Texts:
    model = shared.language_model
    window = min(WINDOW, model.transformer.config.context)
    whole = [tuple(model.encode(document.text)) for document in documents]
    ids = [row[: LONGEST * window] for row in whole]
    said = [
        document.text if len(row) == len(full) else model.decode(list(row))
        for document, row, full in zip(documents, ids, whole, strict=True)
    ]
    return Texts(
        keys=tuple(document.key for document in documents),
        ids=tuple(ids),
        sizes=tuple(len(text.encode()) for text in said),
        window=window,
        cut=sum(len(row) > LONGEST * window for row in whole),
    )


def others(config: Config, shared: Shared, count: int, console: Console) -> Collection:
    """Real pictures that neither training nor the drawn captions are of: `count` of the validation split's."""
    return collect(open_dataset(config.data, "validation"), count, shared.codecs["image"], console)


def training(config: Config, shared: Shared, console: Console) -> Collection:
    """What the approaches were trained on."""
    return collect(open_dataset(config.data, "train"), config.data.train_items, shared.codecs["image"], console)


def unseen(config: Config, shared: Shared, count: int, console: Console) -> Collection | None:
    """The first `count` pictures whose captions ask for what training never combined, fewer where UNSEEN_LOOKED times
    as many hold fewer; None where the dataset has no such split."""
    kind = DATASETS[config.data.name].load()
    if UNSEEN not in kind.splits:
        return None
    found = collect(open_dataset(config.data, UNSEEN), UNSEEN_LOOKED * count, shared.codecs["image"], console)
    return found.of([row for row, scene in enumerate(found.scenes) if kind.asks_unseen(scene)][:count])
