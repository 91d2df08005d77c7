"""Our extractors under torch-fidelity's interface, so that its numbers can be compared with ours."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from metrics.features import FeatureExtractor


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
