"""What an approach is: one interface, so that trainer, sampler, metrics and reports never name one.

Shapes, in every approach's file: B rows, L text tokens (padding on the right), V vocabulary, D width; C H W a latent,
N image tokens; t in [0, 1], 0 clean, 1 noise. `mask` is bool, True for what counts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from approaches.settings import Settings
from approaches.shared.diffusion import Diffusion, Sampled
from approaches.shared.encoder import Encoder
from approaches.shared.kernels import Kernels
from approaches.shared.language_model import LanguageModel, named_hash, pad_rows
from approaches.shared.patches import PatchEmbedding, Patchify
from approaches.shared.vae import LatentCodec
from bench.data.scene import Scene
from bench.seeds import derive

Capability = Literal["denoise", "generate", "caption", "complete"]
Generators = Callable[[str], torch.Generator]
"""purpose -> this step's random generator for it, the same for every approach. Each process has its own stream, and the
parts of a batch draw from it one after another. A purpose that begins with "whole/" gives every part in every process
the same stream from its beginning: draw for the whole batch, then keep the part's rows (`Batch.rows`)."""
NoiseFor = Callable[[Sequence[int], int], Tensor]
"""(indices of prompts, round) -> their noise, B C H W; a prompt's noise depends on its index and the round only."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One request. segments: ordered (modality, content): ("text", str) or ("image", a clean latent, C H W).

    scene: what the text describes, where that is known and the approach is an oracle: see `Approach.prompts`.
    """

    segments: tuple[tuple[str, Any], ...]
    scene: Scene | None = None

    @classmethod
    def text(cls, text: str, scene: Scene | None = None) -> Prompt:
        """Words alone."""
        return cls(segments=(("text", text),), scene=scene)

    @classmethod
    def image(cls, latent: Tensor) -> Prompt:
        """A picture to be described."""
        return cls(segments=(("image", latent),))

    @property
    def words(self) -> str:
        """The text segments, joined."""
        return " ".join(content for modality, content in self.segments if modality == "text")


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """Captioned pictures: rows of a batch.

    latents: B C H W, clean. tokens: B L int64, each row the start token, the caption, the end token, then padding.
    mask: B L bool, True up to the end token. pictures: uint8 B H W 3, or None. lead: tokens in the start's place.
    """

    latents: Tensor
    tokens: Tensor
    mask: Tensor
    captions: tuple[str, ...]
    scenes: tuple[Scene | None, ...]
    pictures: NDArray[np.uint8] | None = None
    lead: int = 1

    @property
    def prompt(self) -> tuple[Tensor, Tensor]:
        """Start token (where `lead` is above 1, words in its place) and caption without the end token, B L-1, and their
        mask: what a picture is drawn from, and what a caption's next tokens are predicted from."""
        return self.tokens[:, :-1], self.mask[:, 1:]

    @property
    def targets(self) -> Tensor:
        """B L-1: the next token of each of `prompt`'s, -100 for padding and before the caption."""
        counts = self.mask[:, 1:] & (torch.arange(1, self.mask.shape[1], device=self.mask.device) >= self.lead)
        return self.tokens[:, 1:].masked_fill(~counts, -100)

    @property
    def predicted(self) -> Tensor:
        """How many of `targets` count: the tokens that a caption's loss is a mean over."""
        return self.mask[:, self.lead :].sum()

    def __len__(self) -> int:
        return len(self.latents)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What every approach sees in one step, the same for all.

    draw: rows to draw, each at K levels of noise side by side: `times` (B K) and `noise` (B K C H W, B and K in one);
    `empty` (B bool) marks those whose caption is left out. describe: rows to describe, from clean latents. text: R
    windows of plain text, a token longer than train.replay_tokens, for those that replay. place: (index, parts), of a
    part of a batch. parent: what `whole` gives.
    """

    step: int
    draw: Captioned
    times: Tensor
    noise: Tensor
    empty: Tensor
    describe: Captioned
    text: Tensor
    place: tuple[int, int] = (0, 1)
    parent: Batch | None = None

    @property
    def whole(self) -> Batch:
        """All of the batch that this is a part of, on the CPU: what is drawn for a whole batch is drawn from it."""
        return self if self.parent is None else self.parent

    @property
    def levels(self) -> int:
        """K, levels of noise a drawn picture."""
        return len(self.times) // len(self.draw)

    def rows(self, count: int) -> slice:
        """Which of `count` rows of the whole batch are this part's."""
        index, of = self.place
        return slice(count * index // of, count * (index + 1) // of)

    def drawn_prompt(self) -> tuple[Tensor, Tensor]:
        """`draw.prompt`, where rows marked empty keep their start token only."""
        tokens, mask = self.draw.prompt
        kept = torch.arange(mask.shape[1], device=mask.device) == 0
        return tokens, mask & (kept | ~self.empty[:, None])


@dataclass(frozen=True)
class Loss:
    """One term: its sum over the `count` things that it is a mean of, and its weight in the whole. The whole is
    sum over terms of weight * (all ranks' and parts' sums) / (all their counts)."""

    sum: Tensor
    count: Tensor | float
    weight: float = 1.0


Sampler = Callable[["Approach", Any, Tensor], Sampled]
"""(approach, condition, noise of as many rows, B C H W) -> latents, by the shared sampling loop: the same solver,
evaluations and guidance for everyone. Who draws otherwise may read its `nfe` and `guidance`."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """Pictures and what they cost. latents: B C H W. nfe: of each picture. tokens: written by a language model on the
    way, in all. seconds: named shares of the time. trace: for each prompt, plain JSON that a reader may want. first:
    the latents before any was drawn again, where that may happen."""

    latents: Tensor
    nfe: tuple[int, ...]
    tokens: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    trace: tuple[Mapping[str, Any], ...] = ()
    first: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """Trained parameters with a learning rate of their own. ratio: of settings.learning_rate."""

    name: str
    parameters: tuple[nn.Parameter, ...]
    ratio: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What all approaches reuse, built once a run.

    codecs: by modality. latent_size: side of a latent. patch_channels: of the U-Net blocks that make image tokens; 0 is
    a linear layer. encoder: for alignment, where the config names one. describe_prompt: words between a picture and its
    caption; "" is the start token.
    """

    language_model: LanguageModel
    codecs: Mapping[str, LatentCodec]
    diffusion: Diffusion
    kernels: Kernels
    latent_size: int
    patch: int
    patch_channels: int
    caption_tokens: int
    seed: int
    encoder: Encoder | None = None
    describe_prompt: str = ""

    @property
    def patchify(self) -> Patchify:
        """Latents to image tokens and back."""
        return Patchify(self.codecs["image"].channels, self.latent_size, self.patch)

    def patch_embedding(self, width: int) -> PatchEmbedding:
        """Latents to image tokens of a width and back, trained by whoever asks for it; draws from `fresh`."""
        return PatchEmbedding(self.patchify, width, self.patch_channels)

    @contextmanager
    def fresh(self, purpose: str) -> Iterator[None]:
        """Inside, torch's global generator is the stream (seed, purpose): for layers that draw their own weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.seed, f"weights/{purpose}"))
            yield

    def cut(self, text: str) -> str:
        """As much of a text as `tokenise` reads."""
        ids = self.language_model.encode(text)
        room = self.caption_tokens - 2
        return text if len(ids) <= room else self.language_model.decode(ids[:room])

    def tokenise(self, texts: Sequence[str], *, end: bool = False) -> tuple[Tensor, Tensor]:
        """Start token, text (cut so that `caption_tokens` hold both ends), and the end token where asked for: ids and
        mask, B L, padded on the right to the longest."""
        model = self.language_model
        room = self.caption_tokens - 2
        rows = [[model.start_id, *model.encode(text)[:room], *[model.end_id] * end] for text in texts]
        return pad_rows(rows)


class Approach(nn.Module, ABC):
    """A language model that also draws. Subclasses take (shared, settings) and override what they can do.

    The language model lives in the module, as `language_model`; the codec does not: no approach changes it.
    """

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"denoise", "generate", "caption", "complete"})

    def __init__(self, shared: Shared, settings: Settings) -> None:
        """The approach before training. UserError where settings and shared models don't fit each other."""
        super().__init__()
        self.shared, self.settings = shared, settings
        self.language_model = shared.language_model

    # ------------------------------------------------------------------------------------------------ training

    @abstractmethod
    def losses(self, batch: Batch, generators: Generators) -> dict[str, Loss]:
        """One step's terms. `diffusion` is a mean over drawn rows' levels of noise, others over what they predict."""

    def counts(self, batch: Batch) -> Mapping[str, Tensor | float]:
        """The counts of `losses`, by term, from a batch alone. Empty where only `losses` can tell: then a batch in
        several parts takes one forward pass more, to know the counts before the first backward."""
        return {}

    def diffusion_errors(self, batch: Batch, condition: Any, denoise: Callable[..., Tensor] | None = None) -> Tensor:
        """The diffusion loss of every drawn picture at each of its noise levels, (B K), under what was read of its
        caption once. denoise: called as `self.denoise` is, which it is by default."""
        diffusion, x_0, noise, t = self.shared.diffusion, batch.draw.latents, batch.noise, batch.times
        if batch.levels > 1:
            which = torch.arange(len(x_0), device=x_0.device).repeat_interleave(batch.levels)
            x_0, condition = x_0[which], condition.select(which)
        prediction = (denoise or self.denoise)(diffusion.add_noise(x_0, noise, t), t, condition)
        return diffusion.loss(prediction, diffusion.target(x_0, noise, t))

    def parameter_groups(self) -> list[ParameterGroup]:
        """Everything that is trained, each parameter once."""
        return self.grouped({})

    def grouped(self, ratios: Mapping[str, tuple[nn.Module | None, float]]) -> list[ParameterGroup]:
        """A group for each named module, at the ratio given, of what it trains and no earlier group took; the rest is
        the group `new`. Empty groups are left out."""
        left, groups = {id(p): p for p in self.parameters() if p.requires_grad}, []
        for name, (module, ratio) in ratios.items():
            own = () if module is None else tuple(left.pop(id(p)) for p in module.parameters() if id(p) in left)
            groups.append(ParameterGroup(name=name, parameters=own, ratio=ratio))
        groups.append(ParameterGroup(name="new", parameters=tuple(left.values())))
        return [group for group in groups if group.parameters]

    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """The repeated layers: the units for compiling and sharding. Whatever uses a layer's weights calls the layer,
        or one of the methods that its class names in `entries`."""

    def hidden_matrices(self) -> list[Tensor]:
        """The trained matrices that layers inside `blocks` multiply by: what Muon is for."""
        layers = (layer for block in self.blocks() for layer in block.modules() if isinstance(layer, nn.Linear))
        return [layer.weight for layer in layers if layer.weight.requires_grad]

    def borrowed(self) -> dict[str, int]:
        """What came already trained, and its number of parameters. Who brings models of its own names these instead."""
        return {
            "language_model": sum(p.numel() for p in self.shared.language_model.parameters()),
            "vae": sum(p.numel() for p in self.shared.codecs["image"].parameters()),
        }

    def trained_state(self) -> dict[str, Tensor]:
        """The trained parameters by name: what a checkpoint holds; all else is built anew from its source."""
        return {name: value.detach() for name, value in self.named_parameters() if value.requires_grad}

    def frozen_hash(self) -> str:
        """Of every parameter that is not trained; of the whole ones, where they are sharded, all ranks together."""
        frozen = {name.replace(".", "/"): p for name, p in self.named_parameters() if not p.requires_grad}
        return named_hash({name: p.full_tensor() if hasattr(p, "full_tensor") else p for name, p in frozen.items()})

    # ------------------------------------------------------------------------------------------ text to image

    @property
    def oracle(self) -> bool:
        """Whether its prompts tell it the true scenes: then what it draws is an upper bound, and no result."""
        return False

    def prompts(self, texts: Sequence[str], scenes: Sequence[Scene | None]) -> list[Prompt]:
        """A prompt of each text, with what it describes for an oracle alone."""
        told = scenes if self.oracle else [None] * len(texts)
        return [Prompt.text(text, scene) for text, scene in zip(texts, told, strict=True)]

    def condition(self, prompts: Sequence[Prompt]) -> Any:
        """All that depends on prompts alone, a row a prompt; "" is guidance's. Like approaches.shared.prefix.Prefix it
        has `len`, `select(index)`: rows, perhaps repeated, and a static `cat(parts)`: joined, padded, masked."""
        raise NotImplementedError(f"{type(self).__name__} has no condition")

    def denoise(self, x_t: Tensor, t: Tensor, condition: Any) -> Tensor:
        """The scheduler's prediction, B C H W, for x_t (B C H W) at t (B)."""
        raise NotImplementedError(f"{type(self).__name__} has no denoiser")

    def generate(self, prompts: Sequence[Prompt], noise_for: NoiseFor, sampler: Sampler) -> Generation:
        """Latents for prompts, the shared VAE's. By default the shared loop, once; else all chance comes from noise_for
        (`torch.special.ndtr` makes uniforms of it, further rounds give more), and nfe is what a picture took."""
        sampled = sampler(self, self.condition(prompts), noise_for(range(len(prompts)), 0))
        return Generation(latents=sampled.x_0, nfe=(sampled.nfe,) * len(prompts))

    # ------------------------------------------------------------------------------- image to text, text to text

    def text_start(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Any]:
        """Read prompts, all with the same modalities: logits of the next text token, B V, and the state to go on from.
        Where the last segment is an image the text begins with `lead`'s tokens (approaches.shared.prompts)."""
        raise NotImplementedError(f"{type(self).__name__} writes no text")

    def text_step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Read further tokens, B T: logits of the token after each, B T V, and the new state."""
        raise NotImplementedError(f"{type(self).__name__} writes no text")

    def text_logits(self, tokens: Tensor) -> Tensor:
        """Next-token logits over the base vocabulary for text-only rows of full length, B T -> B T V, through the whole
        adapted model. A frozen approach gives the base model's, bit for bit."""
        raise NotImplementedError(f"{type(self).__name__} reads no text")
