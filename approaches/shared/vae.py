"""The latent codec: pictures to scaled latents and back, over diffusers' autoencoders.

B batch, H W picture side in pixels, C latent channels, h w latent side (h = H / factor). Pictures are float in [-1, 1]
or uint8; latents are shifted and scaled inside `encode` and `decode`, so that nobody outside knows the factors.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import bench.torchvision_guard  # noqa: F401  (before diffusers, which imports torchvision)
from approaches.shared.hub import pinned
from approaches.shared.sources import Source, check_folder, check_safetensors, resolve
from bench.errors import UserError, first_line
from bench.files import atomic_path, cache_directory, hash_bytes, require_space
from bench.reach import NO_ANSWER, hub_or_cache

AT_A_TIME, AT_SIDE = 64, 256  # pictures of up to so many pixels a side that are encoded or decoded together
CACHE_REVISION = 2


def pictures_at_once(side: int) -> int:
    """How many pictures of `side` pixels a side are encoded or decoded together: as many pixels as AT_A_TIME of AT_SIDE
    have, for a large VAE's activations take gigabytes."""
    return max(1, min(AT_A_TIME, AT_A_TIME * AT_SIDE**2 // side**2))


def to_unit(images: NDArray[np.uint8] | Tensor) -> Tensor:
    """uint8 pictures, B H W 3 -> float32 in [-1, 1], B 3 H W."""
    return torch.as_tensor(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(pictures: Tensor) -> NDArray[np.uint8]:
    """Float pictures in [-1, 1], B 3 H W -> uint8, B H W 3; values outside are clipped."""
    scaled = ((pictures.detach().float() + 1) * 127.5).round().clamp(0, 255)
    array: NDArray[np.uint8] = scaled.permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy()
    return array


class LatentCodec(nn.Module):
    """An AutoencoderKL or AutoencoderTiny with its scaling and shift inside.

    channels: C. factor: H / h. scale, shift: latent = (raw - shift) * scale. weights_hash: of the weight files.
    """

    model: Any

    def __init__(self, model: Any, *, weights_hash: str = "") -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        config: Any = model.config
        self.channels = int(config.latent_channels)
        self.factor = _factor(config)
        self.scale, self.shift = _normalisation(config)
        self.weights_hash = weights_hash

    @classmethod
    def load(cls, text: str) -> LatentCodec:
        """The codec from `shipped:NAME`, a diffusers folder, or a hub id. UserError where it can't be had."""
        source = pinned(resolve(text, field="model.vae"), field="model.vae")
        weights_hash = check_folder(source)
        return cls(_load(source), weights_hash=weights_hash)

    @property
    def device(self) -> torch.device:
        """Where it works."""
        place: torch.device = next(self.model.parameters()).device
        return place

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """B 3 H W in [-1, 1] -> B C h w: the posterior's mean, shifted and scaled."""
        if pictures.shape[-1] % self.factor or pictures.shape[-2] % self.factor:
            raise UserError(f"pictures of {tuple(pictures.shape[-2:])} pixels don't divide by the VAE's {self.factor}")
        scale, shift = self._normal(pictures)
        encoded = self.model.encode(pictures)
        raw: Tensor = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        latents: Tensor = (raw - shift) * scale
        return latents

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """B C h w -> B 3 H W, about [-1, 1], not clipped."""
        scale, shift = self._normal(latents)
        decoded: Tensor = self.model.decode(latents / scale + shift).sample
        return decoded

    def _normal(self, like: Tensor) -> tuple[Any, Any]:
        """Scale and shift, to be multiplied with and taken from latents B C h w."""
        if isinstance(self.scale, float):
            return self.scale, self.shift
        scale, shift = (torch.tensor(each, device=like.device)[:, None, None] for each in (self.scale, self.shift))
        return scale, shift

    def encode_images(
        self,
        images: NDArray[np.uint8],
        *,
        key: str | None = None,
        batch: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        """uint8 N H W 3 -> float32 N C h w on the CPU, encoded once: kept on disk where `key` (of the pictures'
        content: dataset hash, split, count) is given, under a name that holds the weights, their config and the sizes.
        batch: how many at a time, by default as `pictures_at_once` says."""
        path = None
        if key is not None:
            said = {name: value for name, value in self.model.config.items() if not name.startswith("_")}
            config = json.dumps(said, sort_keys=True, default=str)
            parts = [key, self.weights_hash, str(images.shape), config, str(CACHE_REVISION)]
            if self.device.type != "cpu":  # convolutions round otherwise there
                parts.append(self.device.type)
            path = cache_directory() / "latents" / f"{hash_bytes(*parts)}.safetensors"
            if (cached := _read_cache(path)) is not None:
                return cached
        device, batch = self.device, batch or pictures_at_once(images.shape[1])
        chunks = []
        for start in range(0, len(images), batch):
            chunks.append(self.encode(to_unit(images[start : start + batch]).to(device)).float().cpu())
            if progress is not None:
                progress(len(chunks[-1]))
        latents = torch.cat(chunks).contiguous()  # as they are read back: another order of strides rounds otherwise
        if path is not None:
            require_space(path.parent, latents.nbytes + 4096, "the cache of latents")
            with atomic_path(path) as part:
                save_file({"latents": latents}, part)
        return latents

    def decode_images(self, latents: Tensor, *, batch: int | None = None) -> NDArray[np.uint8]:
        """N C h w -> uint8 N H W 3. batch: as `encode_images`'s."""
        batch = batch or pictures_at_once(latents.shape[-1] * self.factor)
        return np.concatenate([to_uint8(self.decode(chunk.to(self.device))) for chunk in latents.split(batch)])


def _normalisation(config: Any) -> tuple[Any, Any]:
    """A VAE's scale and shift, by which its latents come to about unit size: a number each, or, where its config has
    the means and standard deviations of its channels, as Playground v2.5's does, a tuple with one for each, as
    diffusers' pipelines undo it: latents * std / scaling_factor + mean."""
    scale, shift = float(config.scaling_factor or 1.0), float(getattr(config, "shift_factor", None) or 0.0)
    means, deviations = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if not means or not deviations:
        return scale, shift
    return tuple(scale / float(each) for each in deviations), tuple(float(each) for each in means)


def _read_cache(path: Path) -> Tensor | None:
    """A cached file's latents; None, and the file removed, where it is damaged."""
    if not path.exists():
        return None
    try:
        check_safetensors(path)
        return load_file(path)["latents"]
    except (UserError, KeyError):
        path.unlink(missing_ok=True)
        return None


def _factor(config: Any) -> int:
    blocks = config.block_out_channels if "block_out_channels" in config else config.encoder_block_out_channels
    return int(2 ** (len(blocks) - 1))


def _load(source: Source) -> nn.Module:
    from diffusers import AutoencoderKL, AutoencoderTiny

    kinds = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
    place: dict[str, Any] = {"local_files_only": True}
    if source.path is None:
        place = {"subfolder": source.subfolder or None, "revision": source.revision}
    try:
        with hub_or_cache(needed=source.path is None) as reachable:
            declared = _class_name(source, place)
            if declared not in kinds:
                raise UserError(f"{source.text} holds a {declared}, expected {' or '.join(kinds)}")
            model, info = kinds[declared].from_pretrained(
                source.location,
                use_safetensors=True,
                torch_dtype=torch.float32,
                output_loading_info=True,
                **place,
            )
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # safetensors has errors of its own
        reason = first_line(error) if reachable else NO_ANSWER
        raise UserError(f"the VAE '{source.text}' can't be loaded: {reason}") from error
    if missing := sorted(info["missing_keys"]):  # diffusers would leave them at random values
        raise UserError(f"the VAE '{source.text}' lacks {len(missing)} tensors, among them {missing[0]}")
    loaded: nn.Module = model
    return loaded


def _class_name(source: Source, place: dict[str, Any]) -> Any:
    """The class that an autoencoder's config names."""
    from diffusers import AutoencoderKL

    if source.path is None:
        return AutoencoderKL.load_config(source.location, **place).get("_class_name")
    try:
        return json.loads((source.path / "config.json").read_text(encoding="utf-8")).get("_class_name")
    except (OSError, ValueError, RecursionError, AttributeError) as error:  # the last where it is no object
        raise UserError(f"{source.path} holds no diffusers autoencoder: config.json does not read") from error


def new_autoencoder(*, channels: tuple[int, ...], latent_channels: int, size: int) -> Any:
    """A fresh convolutional AutoencoderKL without attention: one residual block a level, factor 2^(levels - 1)."""
    from diffusers import AutoencoderKL

    model: Any = AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        latent_channels=latent_channels,
        layers_per_block=1,
        mid_block_add_attention=False,
        norm_num_groups=16,
        sample_size=size,
    )
    return model
