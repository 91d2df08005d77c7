"""Inception-v3 as FID means it: torch-fidelity's port of the TensorFlow network of 2015, its weights and its resize.

The weights come with no package (`metrics.inception_weights`); without them `fid` is missing and says so.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import bench.torchvision_guard  # noqa: F401  (before torch_fidelity, which imports torchvision)
from bench.errors import UserError, first_line
from bench.files import hash_file
from metrics.features import check_images
from metrics.inception_weights import WEIGHTS_PREFIX, find_weights


class Inception:
    """Inception-v3's features of uint8 pictures, of pool3, with the interface of `FeatureExtractor`.

    official: whether the weights are the TensorFlow ones, by their hash; on any other the name says
    "inception_v3_other".
    UserError where the weights are missing, damaged or another network's.
    """

    resize = "TensorFlow 1 bilinear, no antialias, to 299"

    def __init__(self, weights: Path | None = None, *, device: torch.device | str = "cpu") -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        path = find_weights(weights)
        try:
            torch.load(path, map_location="cpu", weights_only=True)  # torch-fidelity itself would unpickle anything
            network: Any = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(path))
        except (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
            raise UserError(f"{path} can't be read as Inception-v3's weights: {first_line(error)}") from error
        self.network = network.to(device)
        self.weights_hash = hash_file(path)
        self.official = self.weights_hash.startswith(WEIGHTS_PREFIX)
        self.name = "inception_v3" if self.official else "inception_v3_other"
        self.feature_size = 2048
        self.device = device

    @torch.inference_mode()
    def extract(self, images: NDArray[np.uint8], batch: int = 32) -> NDArray[np.float32]:
        """Features (N C) of uint8 pictures (N H W 3, RGB, square), `batch` at a time. UserError for others."""
        check_images(images)
        if batch < 1:
            raise UserError(f"the extractor's batch is {batch}, expected at least 1")
        found = np.empty((len(images), self.feature_size), dtype=np.float32)
        for start in range(0, len(images), batch):
            chunk = torch.from_numpy(np.array(images[start : start + batch])).permute(0, 3, 1, 2).to(self.device)
            found[start : start + batch] = self.network(chunk)[0].cpu().numpy()
        return found
