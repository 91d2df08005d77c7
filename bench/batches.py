"""What every approach sees in a step: the same pictures, captions, times, noise and text, from (seed, step) alone.

B rows of a batch; L tokens of a caption; C H W a latent; R W windows of text. A batch is a pure function of (config,
data, step), so a resumed run sees what the unbroken one saw, and a hash over all steps proves that contenders did.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache, partial
from hashlib import sha256
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from approaches.base import Batch, Captioned, Generators
from approaches.shared.devices import sent
from approaches.shared.diffusion import Diffusion
from approaches.shared.language_model import LanguageModel, pad_rows
from approaches.shared.prompts import gap, lead
from approaches.shared.randomness import generator
from approaches.shared.vae import LatentCodec
from bench.collection import collect
from bench.config import Config, DiffusionConfig
from bench.console import Console
from bench.data.dataset import Dataset
from bench.data.text import TextCorpus
from bench.errors import UserError
from bench.files import atomic_path, cache_directory, hash_bytes, require_space
from bench.seeds import derive

CHUNK = 512  # documents tokenised at a time


def diffusion_of(config: DiffusionConfig) -> Diffusion:
    """The shared diffusion that a config describes; UserError where its fields don't fit each other."""
    return Diffusion(
        prediction=config.prediction,
        time_sampling=config.time_sampling,
        shift=config.shift,
        train_times=config.train_times,
        sampler=config.sampler,
    )


class Batches:
    """The batches of one training, by step.

    draw_rows, describe_rows: how a batch is shared out. tokens, mask: of all captions, N L; described: the same, as
    they are behind the words of train.describe_prompt. collection: the pictures.
    cut: captions that were longer than config.train.caption_tokens. with_pictures: batches carry their pictures.
    Building encodes the train split once a machine and tokenises the text once a machine; UserError where the dataset
    is empty or the text too short for one window.
    """

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        corpus: TextCorpus,
        language_model: LanguageModel,
        codec: LatentCodec,
        console: Console,
        *,
        with_pictures: bool = False,
    ) -> None:
        self.config, self.with_pictures = config, with_pictures
        self.diffusion = diffusion_of(config.diffusion)
        train = config.train
        self.describe_rows = train.describe_rows
        self.draw_rows = train.batch - self.describe_rows
        self.collection = collect(dataset, config.data.train_items, codec, console)
        of_each = [captions if train.captions == "any" else captions[:1] for captions in self.collection.captions]
        self.captions = tuple(chain.from_iterable(of_each))
        self.counts = np.array([len(captions) for captions in of_each])
        self.starts = np.cumsum(self.counts) - self.counts  # a picture's captions stand side by side
        self.tokens, self.mask, self.cut = tokenise(language_model, self.captions, train.caption_tokens)
        self.lead, self.described = lead(language_model, train.describe_prompt), (self.tokens, self.mask)
        if space := gap(language_model, train.describe_prompt):
            spaced = tuple(space + caption for caption in self.captions)
            self.described = tokenise(language_model, spaced, train.caption_tokens)[:2]
        self.text_hash = hash_bytes(corpus.content_hash("train"), tokenizer_hash(language_model))
        self.text = token_stream(language_model, corpus, self.text_hash, console)
        self.windows = (len(self.text) - 1) // train.replay_tokens
        if self.windows < 1:
            raise UserError(
                f"text corpus {corpus.name} has {len(self.text)} tokens to train on, fewer than a window's "
                f"{train.replay_tokens + 1} (train.replay_tokens)"
            )
        self.text_exclusions = dict(corpus.exclusions)

    def __call__(self, step: int) -> Batch:
        """The batch of a step, on the CPU."""
        indices = self.indices(step)
        draws = self.generators(step)
        luck = torch.rand(len(indices), generator=draws("batch/captions"), dtype=torch.float64).numpy()
        chosen = self.starts[indices] + (luck * self.counts[indices]).astype(np.int64)
        draw = self._rows(indices[: self.draw_rows], chosen[: self.draw_rows], (self.tokens, self.mask))
        levels = self.config.train.noise_levels
        describe = self._rows(indices[self.draw_rows :], chosen[self.draw_rows :], self.described)
        return Batch(
            step=step,
            draw=draw,
            times=self.diffusion.times(self.draw_rows, draws("batch/times"), levels=levels),
            noise=self.diffusion.noise_like(draw.latents.repeat_interleave(levels, 0), draws("batch/noise")),
            empty=torch.rand(self.draw_rows, generator=draws("batch/empty")) < self.config.train.empty_share,
            describe=led(describe, self.lead),
            text=self._text(step),
        )

    def indices(self, step: int) -> NDArray[np.int64]:
        """The numbers of the pictures of a step, B: every picture once an epoch, in an order of that epoch's own."""
        return visited(self.config.seed, "order", len(self.collection), step, self.config.train.batch)

    def generators(self, step: int, rank: int = 0) -> Generators:
        """The named generators of a step. Within what this returns, a purpose is one stream that goes on where its last
        draw ended: the parts of a batch draw what the whole would have drawn. A purpose that begins with `batch/` is
        the batch's own; one that begins with `whole/` begins anew for every part, the same in every process."""
        known: dict[str, torch.Generator] = {}

        def named(purpose: str) -> torch.Generator:
            if purpose.startswith("whole/"):
                return generator(self.config.seed, purpose.removeprefix("whole/"), step)
            if purpose not in known:
                known[purpose] = generator(self.config.seed, f"{purpose}/rank{rank}" if rank else purpose, step)
            return known[purpose]

        return named

    # ------------------------------------------------------------------------------------------------- proof

    @property
    def start_digest(self) -> str:
        """The digest before the first step: of the data that all batches are made of."""
        parts = (self.collection.data_hash, self.collection.latent_hash, self.text_hash, str(self.config.seed))
        return sha256("/".join(parts).encode()).hexdigest()

    def digest(self, before: str, batch: Batch) -> str:
        """The digest after a step: SHA-256 of the one before it, of which pictures and text the step saw, and of its
        times, noise and left-out captions. Equal digests mean equal batches in all steps so far. batch: whole, on the
        CPU."""
        whole = sha256(before.encode())
        whole.update(self.indices(batch.step).tobytes())
        for value in (batch.times, batch.noise, batch.empty, batch.draw.tokens, batch.describe.tokens, batch.text):
            whole.update(np.ascontiguousarray(value.numpy()).tobytes())
        return whole.hexdigest()

    def record(self) -> dict[str, Any]:
        """What decides the batches, and what was left out of them."""
        return {
            "data": self.collection.record(),
            "captions": {"longest": self.tokens.shape[1], "cut": self.cut},
            "rows": {"draw": self.draw_rows, "describe": self.describe_rows, "text": self.config.train.batch},
            "text": {
                "hash": self.text_hash,
                "tokens": len(self.text),
                "windows": self.windows,
                "exclusions": self.text_exclusions,
            },
        }

    # ------------------------------------------------------------------------------------------------- rows

    def _rows(self, indices: NDArray[np.int64], captions: NDArray[np.int64], words: tuple[Tensor, Tensor]) -> Captioned:
        """Pictures by their numbers, each with a caption by its. words: tokens and mask of all captions."""
        rows, texts = torch.from_numpy(indices), torch.from_numpy(captions)
        return Captioned(
            latents=self.collection.latents[rows],
            tokens=words[0][texts],
            mask=words[1][texts],
            captions=tuple(self.captions[index] for index in captions),
            scenes=tuple(self.collection.scenes[index] for index in indices),
            pictures=np.asarray(self.collection.pictures[indices]) if self.with_pictures else None,
        )

    def _text(self, step: int) -> Tensor:
        """R W: as many windows as the batch has rows, each of replay_tokens predictions."""
        length = self.config.train.replay_tokens
        numbers = visited(self.config.seed, "text order", self.windows, step, self.config.train.batch)
        return torch.from_numpy(self.text[numbers[:, None] * length + np.arange(length + 1)].astype(np.int64))


def part(batch: Batch, index: int, of: int) -> Batch:
    """The `index`-th of `of` consecutive parts, whose rows together are the batch's. UserError where there are more
    parts than rows of a kind."""
    fewest = min(rows for rows in (len(batch.draw), len(batch.describe), len(batch.text)) if rows)
    if of > fewest:
        raise UserError(
            f"a batch of {len(batch.draw)} pictures to draw and {len(batch.describe)} to describe can't be worked "
            f"through in {of} parts: raise train.batch, or lower train.accumulation"
        )
    if of == 1:
        return batch
    draw, describe, text = (
        slice(rows * index // of, rows * (index + 1) // of)
        for rows in (len(batch.draw), len(batch.describe), len(batch.text))
    )
    noised = slice(draw.start * batch.levels, draw.stop * batch.levels)
    return Batch(
        step=batch.step,
        draw=_sliced(batch.draw, draw),
        times=batch.times[noised],
        noise=batch.noise[noised],
        empty=batch.empty[draw],
        describe=_sliced(batch.describe, describe),
        text=batch.text[text],
        place=(index, of),
        parent=batch,
    )


def moved(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on a device, its whole where it was; to an accelerator without waiting for the
    copies."""
    if device.type == "cpu":
        return batch

    to = partial(sent, device=device)

    def rows(value: Captioned) -> Captioned:
        latents, tokens, mask = to(value.latents), to(value.tokens), to(value.mask)
        return dataclasses.replace(value, latents=latents, tokens=tokens, mask=mask)

    return dataclasses.replace(
        batch,
        draw=rows(batch.draw),
        times=to(batch.times),
        noise=to(batch.noise),
        empty=to(batch.empty),
        describe=rows(batch.describe),
        text=to(batch.text),
        parent=batch.whole,
    )


def tokenise(model: LanguageModel, captions: tuple[str, ...], longest: int) -> tuple[Tensor, Tensor, int]:
    """Start token, caption cut to `longest` tokens in all, end token: ids and mask, N L, padded on the right to the
    longest of all; and how many were cut."""
    rows, cut = [], 0
    for ids in _encoded(model, captions):
        cut += len(ids) > longest - 2
        rows.append([model.start_id, *ids[: longest - 2], model.end_id])
    return *pad_rows(rows), cut


def token_stream(model: LanguageModel, corpus: TextCorpus, key: str, console: Console) -> NDArray[np.int32]:
    """The training documents of a corpus as one row of ids, each document after the start token; kept on disk under
    `key`, which names text and tokenizer, and mapped from there."""
    path = cache_directory() / "tokens" / f"{key}.npy"
    with suppress(OSError, ValueError, EOFError):  # absent, or not whole: made again below
        return np.load(path, mmap_mode="c")  # type: ignore[no-any-return]
    texts = [document.text for document in corpus.documents("train")]
    pieces: list[NDArray[np.int32]] = []
    with console.progress(len(texts), f"tokens of {corpus.name}") as progress:
        for start in range(0, len(texts), CHUNK):
            rows = list(_encoded(model, tuple(texts[start : start + CHUNK])))
            pieces.append(np.fromiter(chain.from_iterable([model.start_id, *ids] for ids in rows), dtype=np.int32))
            progress.advance(len(rows))
    ids = np.concatenate(pieces)
    require_space(path.parent, ids.nbytes + 4096, "the cache of the text's tokens")
    with atomic_path(path) as whole, whole.open("wb") as file:
        np.save(file, ids)
    return ids


def tokenizer_hash(model: LanguageModel) -> str:
    """16 hex digits of everything that decides what tokens a text becomes."""
    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    words = sorted(model.tokenizer.get_vocab().items())
    return hash_bytes(str(model.start_id), str(model.end_id), repr(words) if backend is None else backend.to_str())


def _encoded(model: LanguageModel, texts: tuple[str, ...]) -> Iterator[list[int]]:
    """`model.encode` of each text, many at a time."""
    if texts:
        yield from model.tokenizer(list(texts), add_special_tokens=False)["input_ids"]


def led(rows: Captioned, words: list[int]) -> Captioned:
    """Rows whose captions come after these tokens in place of the start token."""
    before = torch.tensor(words).expand(len(rows), -1)
    tokens = torch.cat([before, rows.tokens[:, 1:]], 1)
    mask = torch.cat([torch.ones_like(before, dtype=torch.bool), rows.mask[:, 1:]], 1)
    return dataclasses.replace(rows, tokens=tokens, mask=mask, lead=len(words))


def _sliced(rows: Captioned, where: slice) -> Captioned:
    return dataclasses.replace(
        rows,
        latents=rows.latents[where],
        tokens=rows.tokens[where],
        mask=rows.mask[where],
        captions=rows.captions[where],
        scenes=rows.scenes[where],
        pictures=None if rows.pictures is None else rows.pictures[where],
    )


def visited(seed: int, purpose: str, total: int, step: int, count: int) -> NDArray[np.int64]:
    """The `count` numbers below `total` that a step visits, where each epoch visits all in its own shuffled order."""
    epochs, places = np.divmod(np.arange(step * count, (step + 1) * count), total)
    return np.array([_order(seed, purpose, int(e), total)[p] for e, p in zip(epochs, places, strict=True)])


@lru_cache(maxsize=8)
def _order(seed: int, purpose: str, epoch: int, total: int) -> NDArray[np.int64]:
    return np.random.default_rng(derive(seed, purpose, epoch)).permutation(total)
