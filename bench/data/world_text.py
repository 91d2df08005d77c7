"""What can be said about the world of shapes in words alone: captions, plans and descriptions, for a language model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice

import numpy as np

from bench.config import TextConfig
from bench.data.captions import caption, description
from bench.data.dataset import SPLITS
from bench.data.scene import PLAN_PROMPT, plan_text
from bench.data.shapes import draw_scene
from bench.data.text import Document, Progress, TextCorpus, bounded, silent
from bench.errors import UserError, nearest
from bench.seeds import derive

SIZES = {"train": 20_000, "validation": 1_000, "test": 1_000}  # documents


def world_document(seed: int, split: str, index: int) -> str:
    """Some lines about one scene, a pure function of the arguments: a caption and its plan, a plan and its description,
    or a caption and the description. Held-out pairs and sentence forms never occur."""
    generator = np.random.default_rng(derive(seed, f"world/{split}", index))
    scene = draw_scene(generator, held_out=False)
    said = PLAN_PROMPT.format(caption=caption(scene, generator, held_out=False))
    plan, whole = plan_text(scene) + "\n", f"description: {description(scene)}\n"
    kind = generator.random()
    if kind < 0.6:
        return said + plan
    if kind < 0.8:
        return plan + whole
    return said + whole


def world_documents(seed: int, split: str) -> Iterator[str]:
    """Documents 0, 1, 2, ... of a split, without end."""
    index = 0
    while True:
        yield world_document(seed, split, index)
        index += 1


class WorldText(TextCorpus):
    """These documents as a corpus, SIZES of them, made when they are asked for. seed, limit: see TextConfig."""

    name = "world"

    def __init__(self, seed: int, limit: int = 0) -> None:
        self.seed, self.limit = seed, limit
        self.exclusions = Counter()
        self._made: dict[str, list[Document]] = {}

    @classmethod
    def build(cls, config: TextConfig, progress: Progress = silent) -> WorldText:
        """It needs nothing."""
        return cls(config.seed, config.limit)

    def documents(self, split: str) -> list[Document]:
        """See TextCorpus; UserError on an unknown split."""
        if split not in SIZES:
            raise UserError(f"unknown split '{split}': {nearest(split, SPLITS)}")
        if split not in self._made:
            found = self._first(split, SIZES[split])
            self._made[split] = bounded(found, self.limit, self.exclusions) if self.limit else found
        return self._made[split]

    def some(self, split: str, count: int) -> list[Document]:
        """See TextCorpus: no others are made, where no limit chooses among them."""
        if self.limit or split in self._made or split not in SIZES:
            return super().some(split, count)
        return self._first(split, min(count, SIZES[split]))

    def _first(self, split: str, count: int) -> list[Document]:
        texts = enumerate(islice(world_documents(self.seed, split), count))
        named = ((f"{split}/{index:06d}", text.strip()) for index, text in texts)
        return [Document(key=key, group=key, text=text) for key, text in named]
