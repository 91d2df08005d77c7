"""What measuring needs and no weights give: approaches at a shape, with random weights, on random latents.

B rows, L text tokens, C H W a latent.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch

from approaches.base import Approach, Batch, Captioned, Generators, Shared
from approaches.registry import APPROACHES
from approaches.shared.diffusion import Diffusion
from approaches.shared.kernels import choose
from approaches.shared.language_model import LanguageModel
from approaches.shared.randomness import generator
from approaches.shared.transformer import Transformer, TransformerConfig
from approaches.shared.vae import LatentCodec
from bench.config import Config, TrainConfig
from bench.counting import longest_caption
from bench.data.shapes import Shapes


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How large everything is. settings: of the approaches, where they have a field of that name. side: of a latent.
    lap: steps between two looks at the clock, for which an accelerator is waited for."""

    name: str
    language_model: TransformerConfig
    side: int
    rows: int
    window: int
    caption_tokens: int = 40
    patch_channels: int = 64
    lap: int = 1
    settings: dict[str, Any] = field(default_factory=dict)


SHAPES = {
    "tiny": Shape(
        name="tiny",
        language_model=TransformerConfig(
            vocabulary=4096, width=192, layers=6, heads=6, kv_heads=2, head_width=32, hidden=512, context=256
        ),
        side=8,
        rows=32,
        window=64,
    ),
    # SmolLM2-135M (its config.json), 64 px at f = 4
    "small": Shape(
        name="small",
        language_model=TransformerConfig(
            vocabulary=49_152, width=576, layers=30, heads=9, kv_heads=3, head_width=64, hidden=1536, context=2048
        ),
        side=16,
        rows=64,
        window=256,
        lap=2,
        settings={"width": 576, "layers": 12, "heads": 9},
    ),
    # Llama-3.2-1B (its config.json), 256 px at f = 8
    "1b": Shape(
        name="1b",
        language_model=TransformerConfig(
            vocabulary=128_256, width=2048, layers=16, heads=32, kv_heads=8, head_width=64, hidden=8192, context=4096
        ),
        side=32,
        rows=32,
        window=512,
        lap=2,
        patch_channels=256,
        settings={"width": 1536, "layers": 24, "heads": 24},
    ),
}


LEVELS = TrainConfig().noise_levels
DIFFERENT = 4  # batches, which then come again


class Data:
    """Batches as `bench.batches.Batches` gives them, of captions of the shapes world and random latents. levels: of
    noise a drawn picture. different: batches, which then come again; each is made when it is first asked for."""

    start_digest = ""

    def __init__(self, shape: Shape, shared: Shared, levels: int = LEVELS, different: int = DIFFERENT) -> None:
        self.shape, self.shared, self.levels, self.different = shape, shared, levels, different
        self.longest = _longest()
        self.describe = round(shape.rows * TrainConfig().describe_share)
        self._made: dict[int, Batch] = {}

    def __call__(self, step: int) -> Batch:
        """The batch of a step, on the CPU."""
        which = step % self.different
        if which not in self._made:
            self._made[which] = self._batch(which)
        return self._made[which]

    def _batch(self, step: int) -> Batch:
        draws = self.generators(step)
        rows = self.shape.rows - self.describe
        draw, describe = self._rows(step, 0, rows, draws), self._rows(step, rows, self.describe, draws)
        vocabulary = self.shape.language_model.vocabulary
        return Batch(
            step=step,
            draw=draw,
            times=self.shared.diffusion.times(rows, draws("times"), levels=self.levels),
            noise=self.shared.diffusion.noise_like(draw.latents.repeat_interleave(self.levels, 0), draws("noise")),
            empty=torch.rand(rows, generator=draws("empty")) < TrainConfig().empty_share,
            describe=describe,
            text=torch.randint(vocabulary, (self.shape.rows, self.shape.window + 1), generator=draws("text")),
        )

    def _rows(self, step: int, first: int, count: int, draws: Generators) -> Captioned:
        world = [_world()[step * self.shape.rows + first + index] for index in range(count)]
        captions = tuple(row.captions[index % len(row.captions)] for index, row in enumerate(world))
        tokens, mask = self.shared.tokenise(captions, end=True)
        wide = torch.zeros(2, count, self.longest, dtype=torch.long)
        wide[0, :, : tokens.shape[1]], wide[1, :, : tokens.shape[1]] = tokens, mask
        side, channels = self.shape.side, self.shared.codecs["image"].channels
        return Captioned(
            latents=torch.randn(count, channels, side, side, generator=draws("latents")),
            tokens=wide[0],
            mask=wide[1].bool(),
            captions=captions,
            scenes=tuple(row.scene for row in world),
        )

    def generators(self, step: int, rank: int = 0) -> Generators:
        """See Batches."""
        return lambda purpose: generator(0, purpose.removeprefix("whole/"), step)

    def digest(self, before: str, batch: Batch) -> str:
        """Nothing is proved here."""
        return before


@lru_cache(maxsize=1)
def _longest() -> int:
    """What a run pads its captions to."""
    return longest_caption(Config())[0]


@lru_cache(maxsize=1)
def _world() -> Shapes:
    return Shapes(split="train", size=32, seed=0, items=1_000_000)


@lru_cache(maxsize=1)
def shipped() -> tuple[Any, LatentCodec]:
    """The tokenizer and the codec that every shape takes."""
    return LanguageModel.load("shipped:lm-tiny").tokenizer, LatentCodec.load("shipped:vae-tiny")


def share(shape: Shape, device: torch.device, **kernels: Any) -> Shared:
    """What approaches of a shape share, on a device: a language model of random weights, drawn there, with the shipped
    one's tokenizer."""
    chosen = choose(device, **kernels)
    tokenizer, codec = shipped()
    with device:
        transformer = Transformer(shape.language_model, chosen)
    transformer.initialise(torch.Generator(device).manual_seed(0))
    return Shared(
        language_model=LanguageModel(transformer, tokenizer, weights_hash="random"),
        codecs={"image": codec.to(device)},
        diffusion=Diffusion(),
        kernels=chosen,
        latent_size=shape.side,
        patch=2,
        patch_channels=shape.patch_channels,
        caption_tokens=shape.caption_tokens,
        seed=0,
    )


def build(name: str, shape: Shape, shared: Shared) -> Approach:
    """An approach at a shape."""
    entry = APPROACHES[name]
    settings = entry.load_settings()()
    own = {key: value for key, value in shape.settings.items() if hasattr(settings, key)}
    made: Approach = entry.load()(shared, replace(settings, **own))
    return made


def numel(module: torch.nn.Module) -> int:
    """Parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
