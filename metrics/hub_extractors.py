"""DINOv2 and CLIP as feature extractors, by torch-fidelity's own code and resize, where their weights lie in torch's
hub folder already: nothing is downloaded here.

N pictures, C feature size."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import bench.torchvision_guard  # noqa: F401  (before torch_fidelity, which imports torchvision)
from bench.errors import UserError, first_line
from bench.files import hash_file
from metrics.features import check_images
from metrics.registry import CLIP_KEPT, DINOV2_KEPT, hub_folder


class HubExtractor(nn.Module):
    """One of torch-fidelity's networks, with the interface of `metrics.features.FeatureExtractor`."""

    resize = "TensorFlow 1 bilinear, no antialias, to the network's own side"

    def __init__(self, network: nn.Module, *, name: str, weights_hash: str) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.name, self.weights_hash = name, weights_hash
        self.feature_size = len(self._features(np.zeros((1, 32, 32, 3), dtype=np.uint8))[0])

    @torch.inference_mode()
    def extract(self, images: NDArray[np.uint8], batch: int = 32) -> NDArray[np.float32]:
        """Features (N C) of uint8 pictures (N H W 3, RGB, square), `batch` at a time. UserError for others."""
        check_images(images)
        if batch < 1:
            raise UserError(f"the extractor's batch is {batch}, expected at least 1")
        parts = [self._features(images[start : start + batch]) for start in range(0, len(images), batch)]
        return np.concatenate(parts) if parts else np.empty((0, self.feature_size), dtype=np.float32)

    @torch.inference_mode()
    def _features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        device = next((p.device for p in self.network.parameters()), torch.device("cpu"))
        pictures = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).to(device)
        found: NDArray[np.float32] = self.network(pictures)[0].float().cpu().numpy()
        return found


def dinov2(*, input_size: int = 224, device: torch.device | str = "cpu") -> HubExtractor:
    """DINOv2 ViT-B/14 (Oquab et al., arXiv 2304.07193), C = 768. input_size: the network's own, whatever is asked."""
    from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2

    return _open("dinov2", lambda: FeatureExtractorDinoV2("dinov2-vit-b-14", ["dinov2"]), DINOV2_KEPT).to(device)


def clip(*, input_size: int = 224, device: torch.device | str = "cpu") -> HubExtractor:
    """CLIP ViT-B/32's picture embedding (Radford et al., arXiv 2103.00020), C = 512. input_size: the network's own."""
    from torch_fidelity.feature_extractor_clip import FeatureExtractorCLIP

    path = str(hub_folder() / CLIP_KEPT)
    return _open(
        "clip", lambda: FeatureExtractorCLIP("clip-vit-b-32", ["clip"], feature_extractor_weights_path=path), CLIP_KEPT
    ).to(device)


def _open(name: str, make: Any, kept: str) -> HubExtractor:
    path = hub_folder() / kept
    try:
        weights_hash = hash_file(path)
        return HubExtractor(make(), name=name, weights_hash=weights_hash)
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} can't be read as {name}'s weights: {first_line(error)}") from error
