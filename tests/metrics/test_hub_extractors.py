"""DINOv2 and CLIP through torch-fidelity: without their weights they say where those go; with stand-ins in place the
features are torch-fidelity's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.errors import UserError
from metrics.features import open_extractor
from metrics.fidelity import extract, fidelity_metrics
from metrics.registry import CLIP_KEPT, DINOV2_CODE, DINOV2_KEPT, EXTRACTORS

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)


class StandIn(nn.Module):
    """A network with torch-fidelity's interface: the mean colours of a picture's quarters, 12 features."""

    made: ClassVar[list[tuple[Any, ...]]] = []  # what each was asked for

    def __init__(self, name: str, features: list[str], **more: Any) -> None:
        super().__init__()
        self.made.append((name, features, more))
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        assert images.dtype == torch.uint8 and images.shape[1] == 3
        return (nn.functional.adaptive_avg_pool2d(images.float() * self.weight, 2).flatten(1),)


@pytest.mark.parametrize("name", ["dinov2", "clip"])
def test_without_weights_it_says_where_they_go(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert str(tmp_path / "hub" / "checkpoints") in EXTRACTORS[name].obstacle()
    with pytest.raises(UserError, match="come with no package"):
        open_extractor(name)


@pytest.mark.parametrize("name", ["dinov2", "clip"])
def test_with_weights_the_features_are_torch_fidelitys(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch_fidelity.feature_extractor_clip as clips
    import torch_fidelity.feature_extractor_dinov2 as dinos

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(dinos, "FeatureExtractorDinoV2", StandIn)
    monkeypatch.setattr(clips, "FeatureExtractorCLIP", StandIn)
    (tmp_path / "hub" / DINOV2_CODE).mkdir(parents=True)
    for kept in (DINOV2_KEPT, CLIP_KEPT):
        (tmp_path / "hub" / kept).parent.mkdir(exist_ok=True)
        (tmp_path / "hub" / kept).write_bytes(b"stands in")
    assert EXTRACTORS[name].obstacle() == ""
    extractor = open_extractor(name, input_size=64)
    path = {"feature_extractor_weights_path": str(tmp_path / "hub" / CLIP_KEPT)}  # without it, it would be downloaded
    asked = {"dinov2": ("dinov2-vit-b-14", ["dinov2"], {}), "clip": ("clip-vit-b-32", ["clip"], path)}
    assert StandIn.made[-1] == asked[name]
    assert (extractor.name, extractor.feature_size) == (name, 12)
    theirs = StandIn("", [])(torch.from_numpy(IMAGES).permute(0, 3, 1, 2))[0].detach().numpy()
    for batch in (1, 7, 32):
        np.testing.assert_allclose(extractor.extract(IMAGES, batch), theirs, rtol=1e-6)
    found = fidelity_metrics(*(extract(extractor, part) for part in (IMAGES[:10], IMAGES[10:])))
    assert found[f"fd_{name}"].value is not None and found[f"fd_{name}"].details["weights"] == extractor.weights_hash
    with pytest.raises(UserError, match="uint8"):
        extractor.extract(IMAGES.astype(np.float32))


def test_a_file_that_holds_no_weights_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    kept = tmp_path / "hub" / CLIP_KEPT
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"no archive")
    with pytest.raises(UserError, match="can't be read as clip's weights"):
        open_extractor("clip")
