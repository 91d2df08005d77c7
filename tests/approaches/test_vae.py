"""The latent codec: exact scaling, exact pixels, refusals, and a cache that is either whole or rebuilt."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DModel
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from approaches.shared import vae
from approaches.shared.vae import LatentCodec, new_autoencoder, pictures_at_once, to_uint8, to_unit
from bench.errors import UserError
from bench.files import hash_file

SCALE, SHIFT = 1.7, -0.3


def kl() -> Any:
    torch.manual_seed(0)
    model = new_autoencoder(channels=(16, 32, 32), latent_channels=4, size=16)
    model.register_to_config(scaling_factor=SCALE, shift_factor=SHIFT)
    return model


def tiny() -> Any:
    torch.manual_seed(0)
    channels = {"encoder_block_out_channels": (8, 8, 8), "decoder_block_out_channels": (8, 8, 8)}
    blocks = {"num_encoder_blocks": (1, 1, 1), "num_decoder_blocks": (1, 1, 1)}
    return AutoencoderTiny(**channels, **blocks)


def pictures(count: int = 5, size: int = 16) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.fixture
def codec() -> LatentCodec:
    return LatentCodec(kl(), weights_hash="w")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "latents"


@pytest.fixture
def calls(codec: LatentCodec, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batch sizes that the codec's model is asked to encode."""
    sizes: list[int] = []
    encode = codec.model.encode

    def counted(batch: torch.Tensor) -> Any:
        sizes.append(len(batch))
        return encode(batch)

    monkeypatch.setattr(codec.model, "encode", counted)
    return sizes


# Pixels and latents


def test_every_value_of_a_pixel_survives() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    unit = to_unit(values)
    assert unit.shape == (1, 3, 16, 16) and (float(unit.min()), float(unit.max())) == (-1.0, 1.0)
    assert np.array_equal(to_uint8(unit), values)
    shades = pictures()
    assert np.array_equal(to_uint8(to_unit(shades)), shades)  # channels stay in their places
    assert to_uint8(torch.tensor([-9.0, 9.0, 0.0]).view(1, 3, 1, 1)).ravel().tolist() == [0, 255, 128]


@torch.no_grad()
def test_scale_and_shift_are_applied_once_each_way(codec: LatentCodec) -> None:
    assert (codec.channels, codec.factor, codec.scale, codec.shift) == (4, 4, SCALE, SHIFT)
    x = to_unit(pictures())
    mode = codec.model.encode(x).latent_dist.mode()
    latents = codec.encode(x)
    assert latents.shape == (5, 4, 4, 4)
    torch.testing.assert_close(latents, (mode - SHIFT) * SCALE)
    rebuilt = codec.decode(latents)
    assert rebuilt.shape == x.shape
    torch.testing.assert_close(rebuilt, codec.model.decode(mode).sample, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_means_and_deviations_of_channels_are_applied_as_diffusers_pipelines_undo_them() -> None:
    means, deviations = [0.1, -0.2, 0.3, -0.4], [0.5, 2.0, 1.5, 0.25]
    model = kl()
    model.register_to_config(scaling_factor=0.5, shift_factor=None, latents_mean=means, latents_std=deviations)
    codec = LatentCodec(model, weights_hash="w")
    x = to_unit(pictures())
    latents = codec.encode(x)
    mean, deviation = (torch.tensor(each).view(1, 4, 1, 1) for each in (means, deviations))
    raw = latents * deviation / 0.5 + mean  # what StableDiffusionXLPipeline decodes
    torch.testing.assert_close(raw, model.encode(x).latent_dist.mode(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(codec.decode(latents), model.decode(raw).sample, atol=1e-5, rtol=1e-5)
    assert codec.encode_images(pictures()).shape == (5, 4, 4, 4)


def test_a_codec_is_frozen_and_its_answers_hold_no_graph(codec: LatentCodec) -> None:
    assert not any(parameter.requires_grad for parameter in codec.parameters())
    assert not codec.encode(to_unit(pictures())).requires_grad


def test_a_picture_does_not_depend_on_its_batch(codec: LatentCodec) -> None:
    images = pictures(7)
    whole = codec.encode_images(images)
    for batch in (1, 3):
        torch.testing.assert_close(codec.encode_images(images, batch=batch), whole, atol=1e-5, rtol=1e-5)
    decoded = codec.decode_images(whole)
    assert decoded.dtype == np.uint8 and decoded.shape == images.shape
    assert np.abs(codec.decode_images(whole, batch=2).astype(int) - decoded.astype(int)).max() <= 1


@pytest.mark.parametrize("shape", [(18, 16), (16, 18), (15, 15)])
def test_pictures_that_dont_divide_are_refused(codec: LatentCodec, shape: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=rf"pictures of \({shape[0]}, {shape[1]}\) pixels don't divide by the VAE's 4"):
        codec.encode(torch.zeros(1, 3, *shape))


# Loading


@pytest.mark.parametrize("make", [kl, tiny])
@torch.no_grad()
def test_a_diffusers_folder_loads_as_the_same_function(make: Any, tmp_path: Path) -> None:
    model = make().eval()
    model.save_pretrained(tmp_path)
    codec = LatentCodec.load(str(tmp_path))
    x = to_unit(pictures())
    encoded = model.encode(x)
    raw = encoded.latent_dist.mode() if make is kl else encoded.latents
    scale, shift = (SCALE, SHIFT) if make is kl else (1.0, 0.0)
    torch.testing.assert_close(codec.encode(x), (raw - shift) * scale)
    assert raw.shape == (5, codec.channels, 16 // codec.factor, 16 // codec.factor)
    assert codec.decode(codec.encode(x)).shape == x.shape
    assert codec.weights_hash == hash_file(tmp_path / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in codec.state_dict().values()} == {torch.float32}


def test_another_class_is_refused(tmp_path: Path) -> None:
    UNet2DModel(
        sample_size=8,
        block_out_channels=(8,),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    ).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="holds a UNet2DModel, expected AutoencoderKL or AutoencoderTiny"):
        LatentCodec.load(str(tmp_path))


@pytest.mark.parametrize("config", [None, "{", "[]", "{}"])
def test_a_folder_without_a_readable_config_is_refused(config: str | None, tmp_path: Path) -> None:
    kl().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.unlink() if config is None else path.write_text(config)
    with pytest.raises(UserError, match="config.json does not read|expected AutoencoderKL"):
        LatentCodec.load(str(tmp_path))


def test_cut_weights_are_refused_by_path_before_anything_is_written(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "vae"
    kl().save_pretrained(folder)
    path = folder / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="was cut short") as caught:
        LatentCodec.load(str(folder))
    assert str(path) in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    kl().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"latent_channels": 8}))
    with pytest.raises(UserError, match="can't be loaded") as caught:
        LatentCodec.load(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_weights_that_lack_a_tensor_are_refused(tmp_path: Path) -> None:
    kl().save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["decoder.conv_in.weight"]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(UserError, match="decoder.conv_in.weight"):
        LatentCodec.load(str(tmp_path))


# The cache


def test_the_second_call_reads_the_cache(codec: LatentCodec, cache: Path, calls: list[int]) -> None:
    images, told = pictures(7), list[int]()
    first = codec.encode_images(images, key="k", batch=3, progress=told.append)
    assert calls == told == [3, 3, 1] and len(list(cache.iterdir())) == 1
    again = codec.encode_images(images, key="k")
    assert torch.equal(again, first) and again.stride() == first.stride()  # kernels round by the order of strides
    assert calls == [3, 3, 1]


def test_without_a_key_nothing_is_kept(codec: LatentCodec, cache: Path, calls: list[int]) -> None:
    codec.encode_images(pictures())
    codec.encode_images(pictures())
    assert len(calls) == 2 and not cache.exists()


def test_everything_that_decides_latents_is_in_the_key(codec: LatentCodec, cache: Path, calls: list[int]) -> None:
    codec.encode_images(pictures(), key="k")
    codec.encode_images(pictures(), key="other data")
    codec.encode_images(pictures(size=20), key="k")
    codec.encode_images(pictures(4), key="k")
    codec.weights_hash = "v"
    codec.encode_images(pictures(), key="k")
    for said in ({"scaling_factor": 2.0}, {"shift_factor": 0.5}, {"act_fn": "relu"}):
        codec.model.register_to_config(**said)
        codec.encode_images(pictures(), key="k")
    codec.model.register_to_config(_name_or_path="elsewhere")  # which decides nothing
    codec.encode_images(pictures(), key="k")
    assert len(calls) == len(list(cache.iterdir())) == 8


def test_large_pictures_are_worked_through_fewer_at_a_time(codec: LatentCodec, calls: list[int]) -> None:
    assert [pictures_at_once(side) for side in (32, 256, 257, 512, 1024, 4096)] == [64, 64, 63, 16, 4, 1]
    codec.encode_images(pictures(3, size=1024))
    codec.encode_images(pictures(70))
    assert calls == [3, 64, 6]


@pytest.mark.parametrize("damage", ["cut", "padded", "foreign", "empty", "other name"])
def test_a_damaged_file_is_rebuilt(codec: LatentCodec, cache: Path, calls: list[int], damage: str) -> None:
    first = codec.encode_images(pictures(), key="k")
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    if damage == "other name":
        whole_damaged = whole.replace(b'"latents"', b'"lament!"')
        assert whole_damaged != whole
    else:
        whole_damaged = {"cut": whole[:-1], "padded": whole + b"\0", "foreign": b"x" * 99, "empty": b""}[damage]
    path.write_bytes(whole_damaged)
    assert torch.equal(codec.encode_images(pictures(), key="k"), first)
    assert len(calls) == 2 and path.read_bytes() == whole


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_kill_in_mid_write_leaves_nothing(
    codec: LatentCodec, cache: Path, calls: list[int], monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def killed(tensors: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(vae, "save_file", killed)
        with pytest.raises(error):
            codec.encode_images(pictures(), key="k")
    assert not list(cache.iterdir())
    codec.encode_images(pictures(), key="k")
    assert len(calls) == 2 and len(list(cache.iterdir())) == 1


def test_a_full_disk_is_told_before_writing(codec: LatentCodec, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 0))
    with pytest.raises(UserError, match="the cache of latents needs .* are free"):
        codec.encode_images(pictures(), key="k")
    assert not cache.exists()


def test_a_fresh_autoencoder_halves_once_a_level() -> None:
    for levels in (1, 2, 3):
        model = new_autoencoder(channels=(16,) * levels, latent_channels=3, size=16)
        codec = LatentCodec(model)
        assert isinstance(model, AutoencoderKL) and codec.factor == 2 ** (levels - 1)
        side = 16 // codec.factor
        assert codec.encode(to_unit(pictures(2))).shape == (2, 3, side, side)
