"""Our extractors under torch-fidelity's interface, so that its numbers can be compared with ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from metrics.features import FeatureExtractor
from metrics.inception import Inception


def torch_fidelity_extractor(extractor: FeatureExtractor) -> str:
    """Register an extractor with torch-fidelity and return the name under which it is known there.

    Its only feature layer is "pooled"; `calculate_metrics(feature_extractor=NAME, ...)` then computes on it.
    """
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

    class Registered(FeatureExtractorBase):  # type: ignore[misc]
        """torch-fidelity's interface: uint8 N 3 H W in, a tuple of features out."""

        def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
            super().__init__(name, features_list)
            self.extractor = extractor

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("pooled",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "pooled"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            return (self.extractor(images),)

    name = f"{extractor.name}_{extractor.weights_hash}_{extractor.input_size}"  # torch-fidelity caches by name
    if name not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(name, Registered)
    return name


def save(folder: Path, images: NDArray[np.uint8]) -> str:
    """Pictures as files of a new folder, in their order; its path."""
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:04d}.png")
    return str(folder)


def early(inception: Inception) -> Inception:
    """With the features of its first layer, 64 of them: fewer than the tests have pictures."""
    inception.network.features_list, inception.feature_size = ["64"], 64
    return inception


def torch_fidelity_numbers(first: str, second: str, n: int, *, batch: int = 16, **settings: Any) -> dict[str, float]:
    """torch-fidelity's metrics of two folders of n pictures each; KID of all pairs."""
    import torch_fidelity

    found: dict[str, float] = torch_fidelity.calculate_metrics(
        input1=first,
        input2=second,
        cuda=False,
        verbose=False,
        cache=False,
        save_cpu_ram=True,
        batch_size=batch,
        kid_subsets=1,
        kid_subset_size=n,
        **settings,
    )
    return found
