"""Configuration: frozen, keyword-only dataclasses; a JSON round trip; a fingerprint. Standard library only.

A config says everything that decides a result. It has no side effects, reads no environment and imports no torch.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from bench.files import hash_bytes
from bench.plain import build
from bench.ranges import Count, Depth, Range, Seed, Share, Width


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Captioned pictures."""

    name: str = "shapes"
    """Dataset: see `python -m bench list`."""
    path: str | None = None
    """Folder, shard pattern or hub id, for the datasets that read one."""
    size: Annotated[int, Range(8, 1024, multiple=4)] = 32
    """Side of the pictures in pixels."""
    seed: Seed = 0
    """Seed of the world and of the splits."""
    train_items: Count = 20_000
    """Pictures in the training split of a procedural dataset; a bound on the others'."""
    eval_items: Count = 2_000
    """The same for every other split."""

    def bound(self, split: str) -> int:
        """The most pictures of a split."""
        return self.train_items if split == "train" else self.eval_items


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Text for replay and perplexity."""

    name: str = "pydocs"
    """Corpus: see `python -m bench list`."""
    path: str | None = None
    """File, folder or hub id, for the corpora that read one."""
    limit: Annotated[int, Range(0, 10**12)] = 0
    """Most characters of each split, and pydocs reads no more than they take; 0 for no bound."""
    seed: Seed = 0
    """Seed of the split."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The models that every approach starts from: `shipped:NAME`, a local folder, or a hub id (owner/name,
    owner/name@revision, and :folder behind either). --lm, --vae and --clip are short for these flags."""

    lm: str = "shipped:lm-tiny"
    """Language model (llama, qwen, mistral, smollm): shipped:NAME, package:smollm2, a folder, a GGUF file, a hub id."""
    vae: str = "shipped:vae-tiny"
    """Latent codec (AutoencoderKL or AutoencoderTiny)."""
    clip: str = "shipped:clip-tiny"
    """CLIP model for scores: shipped:NAME, a folder with open_clip_config.json and weights, or MODEL/WEIGHTS."""
    encoder: str = ""
    """Feature extractor that an approach may align its image tokens to: see `python -m bench list`; "" for none."""


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """Noising, prediction target, sampler; the same for every approach."""

    prediction: Literal["flow", "epsilon", "v_prediction"] = "flow"
    """What the network predicts: the flow noise - x_0, the noise, or v."""
    time_sampling: Literal["logit_normal", "uniform"] = "uniform"
    """How training times are drawn (SD3, arXiv 2403.03206). logit_normal leaves out times near 1, at which a caption
    decides most in latents of few colours."""
    shift: Annotated[float, Range(0, 100, above=True)] = 2.0
    """Flow matching's time shift (SD3); above 1 for larger pictures, and for captions to be heard; too high a one
    leaves no steps for what is sharp in a picture."""
    train_times: Annotated[int, Range(2, 100_000)] = 1000
    """Discrete times of the epsilon and v schedules."""
    sampler: Literal["euler", "heun", "ddim", "dpmpp"] = "euler"
    """euler, heun and dpmpp for flow; ddim and dpmpp for epsilon and v_prediction."""
    nfe: Annotated[int, Range(1, 10_000)] = 12
    """Network evaluations a picture, guidance's empty prompt not counted."""
    guidance: Annotated[float, Range(0, 1000)] = 2.0
    """Classifier-free guidance scale; 1 is none."""


@dataclass(frozen=True, kw_only=True)
class KernelConfig:
    """Which implementation of each hot operation; auto takes what was fastest on such a device."""

    attention: Literal["auto", "flex", "sdpa", "eager"] = "auto"
    cross_entropy: Literal["auto", "liger", "chunked", "eager"] = "auto"
    norm: Literal["auto", "liger", "fused", "eager"] = "auto"
    swiglu: Literal["auto", "liger", "compiled", "eager"] = "auto"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training that every approach gets; learning rates are in the approaches' own settings."""

    budget: Literal["images", "steps", "flops", "seconds"] = "images"
    """What is made equal: images seen, optimiser steps, floating-point operations, or seconds of training."""
    amount: Annotated[float, Range(0, 1e24, above=True)] = 10_800.0
    """How much of it."""
    batch: Annotated[int, Range(3, 1_000_000)] = 24
    """Captioned pictures a step, over all ranks and accumulated parts: some to draw, the rest to describe."""
    describe_share: Share = 0.34
    """Share of a batch's rows that are described (image to text); X-Fusion's 1 in 3."""
    captions: Literal["any", "first"] = "any"
    """Which of a picture's captions a step sees: any of them, drawn anew at every visit, or always the first."""
    noise_levels: Annotated[int, Range(1, 1024)] = 4
    """Noise levels, and noises, at which a step shows each drawn picture. Its caption is read once for all of them, so
    that a further one costs the image tokens only (MAR, arXiv 2406.11838, takes 4)."""
    empty_share: Share = 0.1
    """Share of drawn rows whose caption is left out, for classifier-free guidance."""
    caption_tokens: Annotated[int, Range(4, 100_000)] = 40
    """Longest caption in tokens, its start and end among them; longer ones are cut, and counted."""
    describe_prompt: str = "picture: "
    """Words between a picture and its caption, as the shipped language model has read captions; without any the start
    token stands there, which language models learn to take for a new document."""
    replay_tokens: Annotated[int, Range(8, 1_000_000)] = 64
    """Length of a window of text replay, for the approaches that replay text."""
    patch: Annotated[int, Range(1, 64)] = 2
    """Side of a patch of the latent: one image token."""
    patch_channels: Annotated[int, Range(0, 65_536)] = 64
    """Channels of the U-Net blocks that make tokens of latents and back (Transfusion's better variant); 0 for a linear
    layer."""
    warmup: Annotated[int, Range(0, 10**9)] = 50
    """Steps of linear warm-up; then half a cosine down to 1%."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """muon for the matrices inside blocks and adamw for all else, or adamw for all."""
    weight_decay: Annotated[float, Range(0, 100)] = 0.01
    beta2: Annotated[float, Range(0, 0.999999)] = 0.99
    """AdamW's memory of squared gradients; of gradients it is 0.9."""
    clip: Annotated[float, Range(0, 1e9, above=True)] = 1.0
    """Largest norm of the gradient."""
    ema: Annotated[float, Range(0, 1)] = 0.995
    """Decay of the moving average of the trained weights, which is what is measured; 0 for none."""
    accumulation: Annotated[int, Range(1, 100_000)] = 1
    """Parts that a batch is worked through in, for less memory."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the forward pass; auto is bf16 on CUDA, fp32 elsewhere."""
    compile: Literal["auto", "on", "off"] = "off"
    """torch.compile on the approach's blocks, half a minute or more before the first step; auto is on where CUDA is."""
    validations: Annotated[int, Range(1, 10_000)] = 5
    """Times that the validation loss is taken during training, the end among them."""
    checkpoint_seconds: Annotated[float, Range(0, 1e9)] = 60.0
    """Least time between two checkpoints."""
    tracker: str = ""
    """A tracker that accelerate knows, such as tensorboard; none by default."""

    @property
    def describe_rows(self) -> int:
        """How many of a batch's pictures are described; the rest is drawn."""
        return round(self.batch * self.describe_share)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How much is measured after training."""

    pictures: Annotated[int, Range(1, 10_000_000)] = 512
    """Pictures drawn from held-out captions."""
    captions: Annotated[int, Range(1, 10_000_000)] = 256
    """Held-out pictures described."""
    documents: Annotated[int, Range(1, 10_000_000)] = 96
    """Held-out documents of the text corpus, for perplexity retention."""
    other_texts: tuple[str, ...] = ("readmes", "world")
    """Corpora that are not replayed, for retention on what nothing reminds of, as many documents of each: see
    `python -m bench list`; also file:PATH, folder:PATH, hub:ID, or nothing for none."""
    triples: Annotated[int, Range(1, 10_000_000)] = 512
    """Fixed (picture, time, noise) triples of the validation loss."""
    batch: Annotated[int, Range(1, 100_000)] = 128
    """Rows at a time while measuring."""
    pairs: Annotated[int, Range(0, 10_000_000)] = 128
    """Pictures drawn of combinations that training never showed, where the dataset holds some back; never more than
    `pictures`, and 0 for none."""
    memorised: Annotated[int, Range(1, 10_000_000)] = 128
    """Drawn pictures whose nearest training picture is looked for."""
    extractor: str = "efficientnet_lite0"
    """Feature extractor of the fd_ and kid_ metrics and of precision, recall, density and coverage: see
    `python -m bench list`."""
    extractor_input: Annotated[int, Range(32, 1024)] = 128
    """Side in pixels that pictures are resized to for the extractor."""
    memorised_input: Annotated[int, Range(32, 1024)] = 64
    """The same side for the search for memorised pictures, among 100,000 training pictures at most."""
    inception: str = ""
    """File of Inception-v3's TensorFlow weights, for fid; "" looks in $BENCH_INCEPTION and where torch-fidelity keeps
    what it downloads."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Budget and optimiser of one training."""

    steps: Count = 1000
    batch: Annotated[int, Range(1, 1_000_000)] = 64
    lr: Annotated[float, Range(0, 10, above=True)] = 1e-3
    warmup: Annotated[int, Range(0, 10**9)] = 100
    weight_decay: Annotated[float, Range(0, 100)] = 0.01
    ema: Annotated[float, Range(0, 1)] = 0.999
    """Decay of the moving average of the weights; 0 for none."""


@dataclass(frozen=True, kw_only=True)
class VaePretrainConfig:
    """Recipe of a shipped VAE."""

    channels: tuple[Width, ...] = (32, 64, 80)
    latent_channels: Annotated[int, Range(1, 1024)] = 4
    latent_noise: Annotated[float, Range(0, 10)] = 0.4
    """Noise on the latents that the decoder learns from, at most, in their own standard deviations: it takes the place
    of AutoencoderKL's divergence. A latent that a diffusion model drew is never exact, and a decoder that was never
    shown such latents makes smudges of them (arXiv 2507.15856, 2510.11690)."""
    scale_weight: Annotated[float, Range(0, 1000)] = 1.0
    """Of the same error between latents and pictures shrunk to half their side: without it neighbouring latents have
    little in common, and a diffusion model learns slowly what to draw (arXiv 2502.14831, 2502.09509)."""
    emoji_share: Share = 0.3
    """Share of emoji in every batch; the rest is shapes."""
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(steps=5000, batch=16, lr=2e-3, warmup=200)
    )


@dataclass(frozen=True, kw_only=True)
class LmPretrainConfig:
    """Recipe of a shipped language model."""

    vocabulary: Annotated[int, Range(300, 1_000_000)] = 4096
    width: Width = 192
    layers: Depth = 6
    heads: Depth = 6
    kv_heads: Depth = 2
    hidden: Width = 512
    context: Annotated[int, Range(8, 1_000_000)] = 256
    world_share: Share = 0.3
    """Share of training tokens that describe the world of shapes; the rest is the text corpus."""
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(steps=1400, batch=16, lr=3e-3, warmup=100, weight_decay=0.1, ema=0.0)
    )


@dataclass(frozen=True, kw_only=True)
class ClipPretrainConfig:
    """Recipe of a shipped CLIP."""

    patch: Annotated[int, Range(1, 256)] = 4
    width: Width = 128
    layers: Depth = 4
    text_width: Width = 128
    text_layers: Depth = 3
    embedding: Width = 128
    context: Annotated[int, Range(4, 100_000)] = 28
    vocabulary: Annotated[int, Range(300, 1_000_000)] = 1024
    emoji_share: Share = 0.15
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            steps=2600, batch=128, lr=1e-3, warmup=200, weight_decay=0.05, ema=0.998
        )
    )
    binding: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(steps=1500, batch=96, lr=1e-3, warmup=50, weight_decay=0.05, ema=0.99)
    )
    """The second stage: pictures beside their twins, of which each one's caption is almost right of the other."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """What `python -m bench pretrain` makes."""

    vae: VaePretrainConfig = field(default_factory=VaePretrainConfig)
    lm: LmPretrainConfig = field(default_factory=LmPretrainConfig)
    clip: ClipPretrainConfig = field(default_factory=ClipPretrainConfig)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides a result."""

    preset: str = "tiny"
    """The preset that this config started from."""
    seed: Seed = 0
    data: DataConfig = field(default_factory=DataConfig)
    text: TextConfig = field(default_factory=TextConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    kernels: KernelConfig = field(default_factory=KernelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)


T = TypeVar("T")


def to_json(config: Any) -> str:
    """A config as JSON with sorted keys; equal configs give equal text."""
    return json.dumps(dataclasses.asdict(config), sort_keys=True, allow_nan=False)


def from_values(kind: type[T], values: Any) -> T:
    """The config in plain JSON values, as in `to_json`'s text; what they leave out is by default. UserError on an
    unknown field, or a value of the wrong type."""
    built: T = build(kind, values)
    return built


def fingerprint(config: Any) -> str:
    """16 hex digits of everything in the config."""
    return hash_bytes(type(config).__name__, to_json(config))
