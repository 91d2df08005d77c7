"""Pretraining the latent codec on shapes and emoji."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from approaches.shared.randomness import generator
from approaches.shared.vae import LatentCodec, new_autoencoder, to_uint8, to_unit
from bench.config import Config, VaePretrainConfig, fingerprint
from bench.console import Console
from bench.data.catalogue import open_dataset
from bench.environment import source_hash
from bench.files import atomic_path, hash_bytes, write_json
from bench.pretrain.card import evaluations
from bench.trainer import Fitted, adamw, convergence, fit


def pretrain(config: Config, *, work: Path, out: Path, console: Console) -> dict[str, Any]:
    """Train the VAE of a config, resumable in `work`, write it to `out` in diffusers' layout; its card's facts."""
    recipe = config.pretrain.vae
    images, hashes = _training_pictures(config, console)
    held_out = {name: _pictures(config, name, "validation", 256) for name in images}
    torch.manual_seed(config.seed)  # diffusers draws its initial weights from the global generator
    model = new_autoencoder(channels=recipe.channels, latent_channels=recipe.latent_channels, size=config.data.size)
    model.to(memory_format=torch.channels_last)
    data_hash = hash_bytes(*hashes.values())

    def loss(step: int) -> Tensor:
        draw = generator(config.seed, "vae/batch", step)
        batch = to_unit(_mixed(images, recipe, draw)).contiguous(memory_format=torch.channels_last)
        return reconstruction_loss(
            model, batch, latent_noise=recipe.latent_noise, scale_weight=recipe.scale_weight, draw=draw
        )

    fitted = fit(
        model,
        loss,
        config=recipe.optimizer,
        optimizers=[adamw(model, recipe.optimizer)],
        evaluate=lambda: {f"psnr_{name}": psnr(model, pictures)[0] for name, pictures in held_out.items()},
        evaluations=evaluations(recipe.optimizer.steps, 12),
        path=work / "vae.safetensors",
        key=hash_bytes(fingerprint(recipe), fingerprint(config.data), str(config.seed), data_hash, source_hash()),
        console=console,
        description="vae",
    )
    _write(model, fitted, images, recipe, out)
    return {"data": hashes, "quality": quality(config, out), **convergence(fitted, "psnr_shapes")}


def reconstruction_loss(
    model: Any, pictures: Tensor, *, latent_noise: float, scale_weight: float, draw: torch.Generator
) -> Tensor:
    """The error of pictures decoded from noised latents, plus the weighted error of the same latents shrunk to half
    their side and then decoded, against pictures shrunk likewise (arXiv 2502.14831). A picture's noise has at most
    `latent_noise` standard deviations of each channel's latents in the batch."""
    latents = model.encode(pictures).latent_dist.mean
    level = latent_noise * torch.rand(len(latents), 1, 1, 1, generator=draw)
    latents = latents + level * latents.std(dim=(0, 2, 3), keepdim=True) * torch.randn(latents.shape, generator=draw)
    loss = decoding_error(model, latents, pictures)
    if scale_weight:
        loss = loss + scale_weight * decoding_error(model, F.avg_pool2d(latents, 2), F.avg_pool2d(pictures, 2))
    return loss


def decoding_error(model: Any, latents: Tensor, pictures: Tensor) -> Tensor:
    """Mean over pictures of the root mean square error (what PSNR is the logarithm of), plus half the mean absolute
    error."""
    difference = model.decode(latents).sample - pictures
    error: Tensor = difference.square().mean(dim=(1, 2, 3)).add(1e-8).sqrt().mean() + 0.5 * difference.abs().mean()
    return error


@torch.no_grad()
def psnr(model: Any, images: NDArray[np.uint8]) -> tuple[float, float]:
    """Peak signal-to-noise ratio in dB of the mean-latent reconstruction after rounding to uint8: the mean over
    pictures, and its standard error. images: uint8 N H W 3."""
    values: list[Tensor] = []
    for start in range(0, len(images), 64):
        pictures = to_unit(images[start : start + 64])
        rebuilt = torch.as_tensor(to_uint8(model.decode(model.encode(pictures).latent_dist.mode()).sample))
        error = (rebuilt.double() - torch.as_tensor(images[start : start + 64]).double()).square().mean(dim=(1, 2, 3))
        values.append(10 * torch.log10(255**2 / error.clamp(min=1e-3)))
    whole = torch.cat(values)
    return float(whole.mean()), float(whole.std() / len(whole) ** 0.5)


def quality(config: Config, folder: Path) -> dict[str, Any]:
    """PSNR of the written weights on held-out pictures: of the test splits, and of pairs never trained on."""
    codec = LatentCodec.load(str(folder))
    found = {}
    measured = [("shapes", "test", 1000), ("shapes", "pairs", 500)]
    if config.pretrain.vae.emoji_share:
        measured.append(("emoji", "test", 1000))
    for name, split, count in measured:
        pictures = _pictures(config, name, split, count)
        mean, error = psnr(codec.model, pictures)
        label = name if split == "test" else f"{name}_{split}"
        found[f"psnr_{label}"] = {"value": round(mean, 3), "standard_error": round(error, 3), "n": len(pictures)}
    return found


def _pictures(config: Config, name: str, split: str, count: int) -> NDArray[np.uint8]:
    dataset = open_dataset(replace(config.data, name=name, path=None), split)
    return np.stack([sample.image for sample in dataset.first(count)])


def _training_pictures(config: Config, console: Console) -> tuple[dict[str, NDArray[np.uint8]], dict[str, str]]:
    images, hashes = {}, {}
    for name in ("shapes", "emoji") if config.pretrain.vae.emoji_share else ("shapes",):
        dataset = open_dataset(replace(config.data, name=name, path=None), "train")
        images[name] = np.stack([sample.image for sample in dataset.first(config.data.train_items)])
        hashes[name] = dataset.content_hash()
        console.info(f"vae: {len(images[name])} training pictures of {name}")
    return images, hashes


def _mixed(images: dict[str, NDArray[np.uint8]], recipe: VaePretrainConfig, draw: torch.Generator) -> Tensor:
    """A batch with exactly the configured share of emoji, uint8 B H W 3; the emoji mirrored half of the time."""
    count = round(recipe.optimizer.batch * recipe.emoji_share)
    parts = []
    for name, share in (("shapes", recipe.optimizer.batch - count), ("emoji", count)):
        if not share:
            continue
        chosen = torch.randint(len(images[name]), (share,), generator=draw)
        part = torch.as_tensor(images[name][chosen.numpy()])
        if name == "emoji":
            flip = torch.rand(share, generator=draw) < 0.5
            part = torch.where(flip[:, None, None, None], part.flip(2), part)
        parts.append(part)
    return torch.cat(parts)


@torch.no_grad()
def _write(
    model: Any, fitted: Fitted, images: dict[str, NDArray[np.uint8]], recipe: VaePretrainConfig, out: Path
) -> None:
    """The averaged weights, whitened, and the config, whose scale is 1 and shift 0 then."""
    model.load_state_dict(fitted.average)
    model.eval().to(memory_format=torch.contiguous_format)
    whiten(model, *latent_moments(model, images, recipe.emoji_share))
    save(model, out)


@torch.no_grad()
def latent_moments(model: Any, images: dict[str, NDArray[np.uint8]], emoji_share: float) -> tuple[Tensor, Tensor]:
    """Mean, C, and covariance, C C, over all places of the latents of training pictures, double, with that share of
    emoji."""
    sums = []
    for name, pictures in images.items():
        parts = np.array_split(pictures[:2000], 32)
        latents = torch.cat([model.encode(to_unit(part)).latent_dist.mode() for part in parts])
        rows = latents.double().movedim(1, -1).flatten(0, -2)
        share = emoji_share if name == "emoji" else 1 - emoji_share * ("emoji" in images)
        sums.append((share * rows.mean(0), share * rows.T @ rows / len(rows)))
    mean, square = (torch.stack(parts).sum(0) for parts in zip(*sums, strict=True))
    return mean, square - mean[:, None] * mean


@torch.no_grad()
def whiten(model: Any, mean: Tensor, covariance: Tensor) -> None:
    """Turn and stretch an AutoencoderKL's latents so that these moments become 0 and the identity, in place, by its two
    1 x 1 convolutions around the latent: what it decodes is the same. The posterior's spread is dropped.

    Left as it is, one direction (light or dark) holds nine tenths of the variance of the latents of shapes: noise hides
    colours and edges long before it hides that, and a diffusion loss hardly weighs them."""
    values, vectors = torch.linalg.eigh(covariance)
    into, back = (vectors / values.sqrt()).T, vectors * values.sqrt()
    channels = len(mean)
    before, after = model.quant_conv, model.post_quant_conv
    weight, bias = before.weight[:channels, :, 0, 0].double(), before.bias[:channels].double()
    before.weight[:channels, :, 0, 0], before.bias[:channels] = into @ weight, into @ (bias - mean)
    before.weight[channels:], before.bias[channels:] = 0.0, -30.0
    weight = after.weight[:, :, 0, 0].double()
    after.bias += (weight @ mean).to(after.bias)
    after.weight[:, :, 0, 0] = (weight @ back).to(after.weight)


def save(model: Any, out: Path) -> None:
    """Weights as float16 (float32 beside the latent, where rounding would show) and config, in diffusers' layout."""
    narrow = {name for name in model.state_dict() if "quant_conv" not in name}
    state = {n: (v.half() if n in narrow else v.float()).contiguous() for n, v in model.state_dict().items()}
    config = dict(json.loads(model.to_json_string()))
    config |= {"scaling_factor": 1.0, "shift_factor": 0.0, "_name_or_path": ""}
    with atomic_path(out / "diffusion_pytorch_model.safetensors") as part:
        save_file(state, part, {"format": "pt"})
    write_json(out / "config.json", config)
