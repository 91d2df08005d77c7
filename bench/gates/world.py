"""The small world that every case of the gates works in: the smoke preset made smaller, on the CPU, the same data and
text on every machine. Built piece by piece, when a case asks for it."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import torch

from approaches.base import Approach, Prompt, Shared
from approaches.registry import APPROACHES
from bench.assembly import load_shared
from bench.batches import Batches
from bench.collection import Collection, collect
from bench.config import Config, DataConfig, EvaluateConfig, TextConfig
from bench.console import Console
from bench.data.catalogue import open_dataset
from bench.data.text import TextCorpus, open_text
from bench.data.world_text import world_documents
from bench.files import write_text
from bench.presets import preset
from bench.run_arguments import settings_of
from bench.training import ApproachTrainee, accelerator_for

CPU = torch.device("cpu")
DOCUMENTS = 600
ROWS = 4  # prompts and pictures of whatever is no training step


class World:
    """folder: for what the world writes, and nobody else's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._approaches: dict[str, Approach] = {}

    @cached_property
    def config(self) -> Config:
        """The smoke preset, smaller. Text is of the world of shapes: what is installed here must not decide it."""
        smoke, text = preset("smoke"), self.folder / "world.txt"
        write_text(text, "\n\n".join(islice(world_documents(0, "train"), DOCUMENTS)))
        return replace(
            smoke,
            data=DataConfig(train_items=48, eval_items=16),
            text=TextConfig(name="file", path=str(text)),
            diffusion=replace(smoke.diffusion, nfe=2),
            train=replace(smoke.train, batch=6, noise_levels=2, warmup=1, precision="fp32"),
            evaluate=EvaluateConfig(pictures=8, captions=8, documents=2, triples=16, batch=16),
        )

    @cached_property
    def corpus(self) -> TextCorpus:
        """The text that is replayed and judged."""
        return open_text(self.config.text)

    @cached_property
    def batches(self) -> Batches:
        """The batches of a training."""
        shared, dataset = self.common, open_dataset(self.config.data, "train")
        codec = shared.codecs["image"]
        return Batches(self.config, dataset, self.corpus, shared.language_model, codec, quiet())

    @cached_property
    def test(self) -> Collection:
        """Held-out pictures, captions, scenes and latents."""
        dataset = open_dataset(self.config.data, "test")
        return collect(dataset, self.config.data.eval_items, self.common.codecs["image"], quiet())

    @cached_property
    def common(self) -> Shared:
        """The shared models for whoever changes nothing in them."""
        shared = self.share()
        shared.language_model.eval().requires_grad_(False)
        return shared

    def share(self) -> Shared:
        """The shared models anew, for whoever freezes or trains them."""
        return load_shared(self.config, CPU)

    def fresh(self, name: str) -> Approach:
        """An approach before training, with the settings of the preset."""
        entry = APPROACHES[name]
        approach: Approach = entry.load()(self.share(), settings_of(name, self.config))
        return approach

    def approach(self, name: str) -> Approach:
        """One that is built once: for whoever leaves its weights alone."""
        if name not in self._approaches:
            self._approaches[name] = self.fresh(name)
        return self._approaches[name]

    def trainee(self, approach: Approach) -> ApproachTrainee:
        """What takes its training steps."""
        return ApproachTrainee(approach, self.batches, self.config, accelerator_for(self.config, self.folder))

    def prompts(self) -> list[Prompt]:
        """Held-out captions of different lengths, ROWS of them."""
        return [Prompt.text(self.test.captions[i][0]) for i in range(ROWS)]


def quiet() -> Console:
    """A console whose progress nobody waits for."""
    return Console(as_json=True, interval=float("inf"))
